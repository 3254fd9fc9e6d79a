//! What holds for every leaf of [`LEAVES`]; what a leaf keeps is tested in `eval` and on devices.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::{LEAVES, Leaf, LeafSpec, MaskLeaf, Random, Shader};
use crate::auxiliary::{AuxData, AuxShape};
use crate::error::Result;
use crate::mask::layout::{MaskLayout, Tiling};
use crate::mask::slots::HEADER_SLOTS;
use crate::mask::tile::TileGrid;
use crate::mask::{Evaluator, Mask};
use crate::tensor::sequences::SequenceForms;
use crate::tensor::shape::Shape;

/// The buffer of a mask, with sizes that are given.
fn layout(mask: &Mask, shape: &Shape, data: &AuxShape, largest_map: u64) -> Result<MaskLayout> {
    let tensors = (mask.aux_specs(shape).iter())
        .map(|tensor| tensor.resolve(data.sizes(tensor.input)))
        .collect::<Result<Vec<_>>>()?;
    let tiling = Tiling { grid: TileGrid { block_q: 4, block_kv: 4 }, largest_map };
    MaskLayout::new(mask, &tensors.iter().collect::<Vec<_>>(), None, None, shape, Some(tiling))
}

/// Calls `test` with each leaf's arguments and data at random, a few times.
fn for_each_leaf(
    shape: &Shape,
    times: u64,
    mut test: impl FnMut(&'static dyn LeafSpec, &Leaf, &AuxData),
) {
    for seed in 0..times {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut draw = |range: RangeInclusive<i64>| rng.random_range(range);
        for &spec in LEAVES {
            let (mask, data) = MaskLeaf(spec).random(shape, &mut Random::new(&mut draw));
            let Mask::Leaf(leaf) = mask else { panic!("{mask} isn't a leaf") };
            test(spec, &leaf, &data);
        }
    }
}

/// A leaf whose file is there but which isn't in the table would be unknown to the parser, the help and these tests.
#[test]
fn every_file_is_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mask/leaf");
    let mut files = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read_to_string(&path).unwrap().contains("\nimpl LeafSpec for ") {
            files.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    files.sort();
    let mut names: Vec<_> = LEAVES.iter().map(|leaf| leaf.name()).collect();
    names.sort_unstable();
    assert_eq!(files, names, "each file is named as its leaf, and its leaf is in LEAVES");
}

#[test]
fn every_leaf_prints_what_parses() {
    let shape = Shape::new(2, 4, 9, 8).seq_len_kv(12);
    let same = |leaf: Leaf| {
        let (text, mask) = (leaf.to_string(), Mask::Leaf(leaf));
        assert_eq!(text.parse::<Mask>().as_ref(), Ok(&mask), "{text}");
        mask
    };
    for_each_leaf(&shape, 30, |spec, leaf, _| {
        same(*leaf);
        let own = leaf.numbered(7);
        assert_eq!(same(own) == Mask::Leaf(*leaf), !leaf.reads_data(), "{own}");
        assert!(spec.arguments().len() <= leaf.values().len());
    });
    for leaf in Mask::leaves() {
        for (usage, _) in leaf.help() {
            let name = usage.split('(').next();
            assert_eq!(name, Some(leaf.name()), "{usage}");
        }
        assert!(!leaf.help().is_empty());
    }
}

#[test]
fn every_sample_can_be_evaluated() {
    for leaf in Mask::leaves() {
        let samples = leaf.samples();
        assert!(samples.iter().any(|sample| sample.name == leaf.name()), "{}", leaf.name());
        for sample in samples {
            let text = sample.mask.to_string();
            assert!(text.contains(leaf.name()), "{text}");
            assert_eq!(text.parse().as_ref(), Ok(&sample.mask));
            let evaluator = Evaluator::new(&sample.mask, &sample.data, &sample.shape);
            let evaluator = evaluator.unwrap_or_else(|error| panic!("{text}: {error}"));
            let (rows, columns) = (sample.shape.seq_len_q, sample.shape.seq_len_kv);
            let cells = (0..rows).flat_map(|q| (0..columns).map(move |kv| (q, kv)));
            let kept = cells.filter(|&(q, kv)| evaluator.keep(0, 0, q, kv)).count();
            assert!(kept > 0 && (kept < rows * columns || text == "all"), "{text} shows nothing");
            assert_eq!(sample.reads().len(), sample.mask.aux_tensors().len());
        }
    }
}

/// What a leaf draws at random fits the shape: else tests with it would try refusals alone.
#[test]
fn random_data_fit() {
    let shape = Shape::new(3, 4, 9, 8).seq_len_kv(12).num_kv_heads(2);
    for_each_leaf(&shape, 50, |_, leaf, data| {
        let mask = Mask::Leaf(*leaf);
        let bound = Evaluator::new(&mask, data, &shape);
        assert!(bound.is_ok(), "{leaf}: {}", bound.unwrap_err());
        let inputs: Vec<_> = leaf.tensors(&shape).iter().map(|tensor| tensor.input).collect();
        assert!(inputs.iter().all(|&input| data.len(input).is_some()), "{leaf} reads {inputs:?}");
    });
}

/// Heads and sequences that a leaf says are alike share a tile map: they must be.
#[test]
fn leaves_differ_by_batch_and_head_as_they_say() {
    let shape = Shape::new(3, 4, 9, 8).seq_len_kv(12).num_kv_heads(2);
    let mut found: BTreeMap<&str, [bool; 2]> = BTreeMap::new();
    let mut said: BTreeMap<&str, [bool; 2]> = BTreeMap::new();
    for_each_leaf(&shape, 40, |spec, leaf, data| {
        let mask = Mask::Leaf(*leaf);
        let evaluator = Evaluator::new(&mask, data, &shape).unwrap();
        let plane = |b, h| -> Vec<bool> {
            let cells = (0..9).flat_map(|q| (0..12).map(move |kv| (q, kv)));
            cells.map(|(q, kv)| evaluator.keep(b, h, q, kv)).collect()
        };
        let by_batch = (1..3).any(|b| plane(b, 0) != plane(0, 0));
        let by_head = (0..3).any(|b| (1..4).any(|h| plane(b, h) != plane(b, 0)));
        let sizes = mask
            .aux_specs(&shape)
            .into_iter()
            .map(|tensor| (tensor.input, tensor.sizes(data.sizes(tensor.input)).unwrap()));
        let differs = leaf.differs(&sizes.collect());
        assert!(differs.batch || !by_batch, "{leaf} differs by batch, and says it doesn't");
        assert!(differs.heads || !by_head, "{leaf} differs by head, and says it doesn't");
        let note = |seen: &mut BTreeMap<_, [bool; 2]>, [batch, heads]: [bool; 2]| {
            let entry = seen.entry(spec.name()).or_default();
            *entry = [entry[0] | batch, entry[1] | heads];
        };
        note(&mut found, [by_batch, by_head]);
        note(&mut said, [differs.batch, differs.heads]);
    });
    assert_eq!(said, found, "no leaf says that it differs where it never does");
}

/// The highest slot that a leaf's WGSL reads, counted from its first.
fn highest_slot(source: &str) -> Option<usize> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = code.collect::<Vec<_>>().join("\n");
    let later = text
        .split("slot + ")
        .skip(1)
        .filter_map(|rest| rest.split('u').next().and_then(|number| number.parse::<usize>().ok()));
    let first = text.contains("(slot)").then_some(0);
    later.chain(first).max()
}

/// A leaf lists its slots once, and its WGSL reads all of them and no other.
#[test]
fn every_slot_is_read_and_no_other() {
    let shape = Shape::new(2, 4, 9, 8).seq_len_kv(12);
    for_each_leaf(&shape, 20, |spec, leaf, _| {
        let count = leaf.slots().len();
        match spec.shader() {
            Shader::Everything => assert_eq!(count, 0),
            Shader::Functions { name, source } => {
                assert_eq!(highest_slot(source).map_or(0, |slot| slot + 1), count, "{leaf}");
                for function in ["keep", "tile", "hull"] {
                    assert!(source.contains(&format!("fn {name}_{function}(slot: u32, b: u32")));
                }
            }
        }
    });
}

/// The numbers that the text calls a leaf's functions with are the places of its words in the mask buffer.
#[test]
fn text_and_buffer_agree_about_slots() {
    let shape = Shape::new(2, 4, 9, 8).seq_len_kv(12);
    // What stands before moves the leaf's slots; what stands behind would be read if it had too few.
    let before = Mask::window(1, 2).self_only_if_alone();
    for_each_leaf(&shape, 10, |spec, leaf, data| {
        let mask = before.clone() & (Mask::Leaf(*leaf) | Mask::chunk(77));
        let layout = layout(&mask, &shape, &data.shape(), u64::MAX).unwrap();
        let text = crate::mask::emit::MaskText::new(&mask, SequenceForms::default()).functions;
        let slots_before = 2 + 3;
        if let Shader::Functions { name, .. } = spec.shader() {
            let call = format!("{name}_keep({}u, b", HEADER_SLOTS + slots_before);
            assert!(text.contains(&call), "{leaf}: {call}");
        }
        let behind = HEADER_SLOTS + slots_before + leaf.slots().len();
        assert!(text.contains(&format!("chunk_keep({behind}u, b")), "{leaf}");
        assert_eq!(layout.head[behind], 77, "{leaf}");
        assert_eq!(layout.head.len(), behind + 1);
        // The data follow.
        let first = layout.inputs.iter().map(|region| region.at).min();
        assert!(first.is_none_or(|at| at == layout.head.len()), "{leaf}: {first:?}");
    });
}

#[test]
fn a_leaf_may_appear_twice_with_data_of_its_own() {
    let shape = Shape::new(1, 1, 1, 8).seq_len_kv(4);
    let kept = |text: &str, data: &AuxData| -> Vec<bool> {
        let mask: Mask = text.parse().unwrap();
        let evaluator = Evaluator::new(&mask, data, &shape).unwrap();
        (0..4).map(|kv_idx| evaluator.keep(0, 0, 0, kv_idx)).collect()
    };
    let data = AuxData::new()
        .key_lengths([2])
        .with_numbered(2, AuxData::new().key_lengths([3]))
        .with_numbered(3, AuxData::new().token_ids([9, 9, 9, 1], 9));
    assert_eq!(kept("key_lengths & key_lengths", &data), [true, true, false, false]);
    assert_eq!(kept("key_lengths(data=2)", &data), [true, true, true, false]);
    let mask = "key_lengths(data=2) & !key_lengths | token_padding(data=3)";
    assert_eq!(kept(mask, &data), [false, false, true, true]);
    let inputs: Vec<String> =
        mask.parse::<Mask>().unwrap().aux_tensors().iter().map(ToString::to_string).collect();
    assert_eq!(inputs, ["key_lengths", "key_lengths_2", "token_ids_3", "pad_id_3"]);

    let mask = "key_lengths(data=4)".parse().unwrap();
    let error = Evaluator::new(&mask, &data, &shape).unwrap_err().to_string();
    assert!(error.starts_with("key_lengths_4: expected data"), "{error}");
    let whole = (Mask::KeyLengths & !Mask::causal()).self_only_if_alone().numbered(2);
    assert_eq!(whole.to_string(), "self_only_if_alone(key_lengths(data=2) & !causal)");
    assert_eq!(whole.numbered(1), (Mask::KeyLengths & !Mask::causal()).self_only_if_alone());

    for (text, part) in [
        ("causal(data=2)", "no argument named `data`"),
        ("key_lengths(data=0)", "data: expected a number from 1 to"),
        ("key_lengths(2)", "at most 0"),
        ("key_lengths(data=2, data=3)", "at most 0"),
    ] {
        let error = text.parse::<Mask>().unwrap_err();
        assert!(error.message.contains(part), "{error}");
    }
}

/// Leaves that read one tensor agree on its sizes.
#[test]
fn shared_tensors_have_sizes_that_all_take() {
    let shape = Shape::new(1, 1, 2, 8).seq_len_kv(2);
    let mask = Mask::ColumnRanges | Mask::column_ranges_bidirectional();
    let bounds = |bounds| {
        let data = AuxData::new().column_ranges([1, 1, 2, bounds], vec![0; 2 * bounds]);
        Evaluator::new(&mask, &data, &shape).map(|_| ())
    };
    assert_eq!(bounds(2), Ok(()));
    let error = bounds(4).unwrap_err().to_string();
    assert!(error.contains("seq_len_kv = 2, 2], found [1, 1, 2, 4]"), "{error}");

    let shape = Shape::new(1, 1, 8, 8);
    let lists = |block: usize| {
        let blocks = 8usize.div_ceil(block);
        AuxData::new().block_indices([1, 1, blocks, 1], (0..blocks as i32).collect::<Vec<_>>())
    };
    let data = lists(2).with_numbered(2, lists(4));
    let mask = Mask::block_sparse(2) | Mask::block_sparse(4);
    let error = Evaluator::new(&mask, &data, &shape).unwrap_err().to_string();
    assert_eq!(
        error,
        "block_indices: expected the sizes of `block_sparse(2)`: for data of its own write \
         `block_sparse(4,data=2)`, found those of `block_sparse(4)`"
    );
    let mask = Mask::block_sparse(2) | Mask::block_sparse(4).numbered(2);
    let evaluator = Evaluator::new(&mask, &data, &shape).unwrap();
    assert!(evaluator.keep(0, 0, 0, 3) && !evaluator.keep(0, 0, 0, 4));
}

/// Sizes that a plan is given are checked like those of data.
#[test]
fn sizes_for_plans_are_checked() {
    let shape = Shape::new(2, 2, 3, 8);
    let of = |data: &AuxShape| layout(&Mask::Dense, &shape, data, u64::MAX);
    use crate::auxiliary::AuxTensor;
    let dense = |sizes: [usize; 4]| of(&AuxShape::new().with(AuxTensor::Dense, sizes));
    assert_eq!(of(&AuxShape::new()).unwrap().broadcast, [2, 2]);
    assert_eq!(dense([2, 1, 3, 3]).unwrap().broadcast, [2, 1]);
    assert_eq!(dense([1, 1, 1, 3]).unwrap().broadcast, [1, 1]);
    let error = dense([3, 1, 1, 3]).unwrap_err().to_string();
    assert_eq!(error, "dense: expected sizes that broadcast to [2, 2, 3, 3], found [3, 1, 1, 3]");
}
