//! `run`: every output of a file's tensors.

use wgpu_attention::{
    AuxData, Dtype, Inputs, Layout, Mask, Problem, ScoreModifiers, Shape, Upstream, reference,
};
use wgpu_attention_tools::files::{TensorFile, TensorWriter};

use crate::call::{MINILM, stdout, words};
use crate::scratch::{SHAPE, Scratch, assert_near, dims, everything, mask_data, noise, operands};

/// The real model's tensors give what was recorded.
#[test]
fn a_run_gives_what_a_real_model_gave() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let options = ["--mask", "key_lengths", "--outputs", "o,lse,weights"];
    stdout(["run", MINILM, "--out", out.to_str().unwrap()].into_iter().chain(options));

    let (recorded, written) = (TensorFile::open(MINILM).unwrap(), TensorFile::open(out).unwrap());
    assert_eq!(written.names(), ["lse", "o", "weights"]);
    let (expected, found) = (recorded.read_f32("o").unwrap(), written.read_f32("o").unwrap());
    assert_eq!(found.dims, expected.dims);
    let expected: Vec<f64> = expected.values.into_iter().map(f64::from).collect();
    assert_near("o", &found.values, &expected);

    let operands = recorded.operands(Layout::Bhsd).unwrap();
    let data = recorded.mask_data(&Mask::KeyLengths, &operands.shape, None).unwrap();
    let problem = operands.problem(Mask::KeyLengths);
    let reference = reference::attention(&problem, &operands.inputs(&data)).unwrap();
    let lse = written.read_f32("lse").unwrap();
    assert_eq!(lse.dims, [4, 12, 27]);
    assert_near("lse", &lse.values, &reference.lse);
    let weights = written.read_f32("weights").unwrap();
    assert_eq!(weights.dims, [4, 12, 27, 27]);
    assert_near("weights", &weights.values, &reference.weights);
}

#[test]
fn every_output_in_both_layouts_is_the_reference() {
    let text = "dense & (causal | prefix) & token_padding";
    let options = ["--mask", text, "--pad-id", "-1", "--scale", "-0.5"];
    let options = [&options[..], &words("--outputs o,lse,scores,masked_scores,weights,o")].concat();
    for (layout, name) in [(Layout::Bhsd, "bhsd"), (Layout::Bshd, "bshd")] {
        let scratch = Scratch::new(&everything(layout));
        let written = scratch.run(&[&options[..], &["--layout", name]].concat());

        let [q, k, v] = operands(layout);
        let data = mask_data();
        let inputs = Inputs::new(&q.1, &k.1, &v.1).aux(&data);
        let mask = text.parse().unwrap();
        let problem = Problem::new(SHAPE).layout(layout).mask(mask).scale(-0.5);
        let reference = reference::attention(&problem, &inputs).unwrap();
        assert_eq!(written.names(), ["lse", "masked_scores", "o", "scores", "weights"]);
        let check = |name: &str, sizes: &[usize], expected: &[f64]| {
            let found = written.read_f32(name).unwrap();
            assert_eq!(found.dims, sizes, "{name}");
            assert_near(name, &found.values, expected);
        };
        check("o", &dims([2, 4, 3, 7], layout), &reference.o);
        check("lse", &[2, 4, 3], &reference.lse);
        check("scores", &[2, 4, 3, 5], &reference.scores);
        check("masked_scores", &[2, 4, 3, 5], &reference.masked_scores);
        check("weights", &[2, 4, 3, 5], &reference.weights);
    }
}

/// Score modifiers apply where the file has their data, and every mask finds its own.
#[test]
fn score_modifiers_and_every_mask_read_their_data() {
    let [q, k, v] = operands(Layout::Bhsd);
    let bias = noise(4 * 3 * 5, 9);
    let (slopes, sinks) = ([0.1, 0.2, 0.3, 0.4], [0.0, 1.0, -1.0, 0.5]);
    let blocks = ([0, 0, -1, 1, 1, -1], [0, 0, 1, 1, -1, 2, 1, 1, 0, -1]);
    let buckets: Vec<i32> = (0..20).map(|at| at * 7 % 3).collect();
    let columns: Vec<i32> = (0..10).flat_map(|at| [at % 3, 3]).collect();
    let parents = [-1, 0, 0, -1, -1, 1];
    let writer = everything(Layout::Bhsd)
        .f32("bias", &[4, 3, 5], &bias)
        .f32("alibi_slopes", &[4], &slopes)
        .f32("sinks", &[4], &sinks)
        .i32("block_ids_q", &[2, 3], &blocks.0)
        .i32("block_ids_kv", &[2, 5], &blocks.1)
        .i32("bucket_ids", &[2, 1, 2, 5], &buckets)
        .i32("column_ranges", &[2, 1, 5, 2], &columns)
        .i32("tree_parents", &[2, 3], &parents);
    let scratch = Scratch::new(&writer);
    let data = mask_data()
        .bias([1, 4, 3, 5], bias)
        .alibi_slopes(slopes)
        .sinks(sinks)
        .block_ids_q_kv(blocks.0, blocks.1)
        .bucket_ids([2, 1, 2, 5], buckets)
        .column_ranges([2, 1, 5, 2], columns)
        .tree_parents(parents);
    let score = ScoreModifiers::default().softcap(2.0).bias(true).alibi(true).sinks(true);
    for text in
        ["tree", "per_head(buckets, column_ranges | block_bidirectional)", "chunk(2) | global(1)"]
    {
        let options = ["--mask", text, "--softcap", "2", "--outputs", "o,lse,weights"];
        let written = scratch.run(&options);
        let problem = Problem::new(SHAPE).mask(text.parse().unwrap()).score(score);
        let inputs = Inputs::new(&q.1, &k.1, &v.1).aux(&data);
        let reference = reference::attention(&problem, &inputs).unwrap();
        assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);
        assert_near("lse", &written.read_f32("lse").unwrap().values, &reference.lse);
        assert_near("weights", &written.read_f32("weights").unwrap().values, &reference.weights);
    }
}

/// The seed is given, or the file's, or 0; without a share, nothing is dropped.
#[test]
fn dropout_by_a_seed() {
    let [q, k, v] = operands(Layout::Bhsd);
    let with_seed = everything(Layout::Bhsd).i32("dropout_seed", &[2], &[5, -1]);
    let of_file = 5 | 0xffff_ffff << 32;
    for (writer, options, p, seed) in [
        (everything(Layout::Bhsd), "--dropout 0.4 --seed 12", 0.4, 12),
        (everything(Layout::Bhsd), "--dropout 0.4", 0.4, 0),
        (with_seed.clone(), "--dropout 0.4", 0.4, of_file),
        (with_seed.clone(), "--dropout 0.4 --seed 12", 0.4, 12),
        (with_seed, "--scale 0.5", 0.0, 0),
    ] {
        let options = format!("--outputs o,weights {options}");
        let written = Scratch::new(&writer).run(&words(&options));
        let data = AuxData::new().dropout_seed(seed);
        let inputs = Inputs::new(&q.1, &k.1, &v.1).aux(&data);
        let mut problem = Problem::new(SHAPE).dropout(p);
        if p == 0.0 {
            problem = problem.scale(0.5);
        }
        let reference = reference::attention(&problem, &inputs).unwrap();
        assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);
        assert_near("weights", &written.read_f32("weights").unwrap().values, &reference.weights);
    }
}

#[test]
fn functions_of_the_users_own() {
    let scratch =
        Scratch::new(&everything(Layout::Bhsd).f32("slopes", &[4], &[0.1, 0.2, 0.3, 0.4]));
    let write = |name: &str, text: &str| {
        std::fs::write(scratch.path(name), text).unwrap();
        scratch.path(name).display().to_string()
    };
    let keep = write(
        "keep.wgsl",
        "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {\n\
         return i32(kv_idx) < key_lengths(b); }",
    );
    let score = write(
        "score.wgsl",
        "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {\n\
         return score - slopes(h) * abs(f32(q_idx) + 2.0 - f32(kv_idx)); }",
    );
    let options = ["--mask", "causal & wgsl", "--wgsl-mask", &keep, "--wgsl-score", &score];
    let written = scratch.run(&options);
    let [q, k, v] = operands(Layout::Bhsd);
    let data = mask_data().alibi_slopes([0.1, 0.2, 0.3, 0.4]);
    let problem = Problem::new(SHAPE)
        .mask("causal & key_lengths".parse().unwrap())
        .score(ScoreModifiers::default().alibi(true));
    let inputs = Inputs::new(&q.1, &k.1, &v.1).aux(&data);
    let reference = reference::attention(&problem, &inputs).unwrap();
    assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);

    let input = scratch.input.display().to_string();
    let drawn = stdout([
        "mask",
        "wgsl",
        "--seq",
        "5",
        "--wgsl-mask",
        &keep,
        "--data",
        &input,
        "--format",
        "grid",
    ]);
    assert!(drawn.contains("t=1:  .  .  .  .  X"), "{drawn}");

    std::fs::remove_file(scratch.path("out")).unwrap();
    let wrong = write("wrong.wgsl", "fn keep() -> bool {\n return nothing; }");
    let message = scratch.refused(&["--wgsl-mask", &wrong]);
    assert!(message.contains("nothing") && message.contains("wgsl:2"), "{message}");
    let message = scratch.refused(&["--mask", "wgsl"]);
    assert!(message.contains("`wgsl` needs a function's text"), "{message}");
}

#[test]
fn tensors_of_16_bits_go_in_and_out() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let [q, k, v] = operands(Layout::Bhsd).map(|(sizes, values)| {
            let rounded: Vec<f32> = values.into_iter().map(|x| dtype.round(x)).collect();
            (sizes, rounded)
        });
        let writer = TensorWriter::new()
            .floats("q", &q.0, &q.1, dtype)
            .floats("k", &k.0, &k.1, dtype)
            .f32("v", &v.0, &v.1);
        let written = Scratch::new(&writer).run(&["--mask", "causal", "--outputs", "o,lse"]);
        assert_eq!(written.dtype("o"), Some(dtype));
        assert_eq!(written.dtype("lse"), Some(Dtype::F32));
        let problem = Problem::new(SHAPE).mask(Mask::causal());
        let reference = reference::attention(&problem, &Inputs::new(&q.1, &k.1, &v.1)).unwrap();
        assert_near("lse", &written.read_f32("lse").unwrap().values, &reference.lse);
        for (found, expected) in written.read_f32("o").unwrap().values.iter().zip(&reference.o) {
            assert!((f64::from(*found) - expected).abs() < 0.01, "{found} instead of {expected}");
        }
    }
}

/// Keys and values as a cache would hold them.
#[test]
fn keys_and_values_rounded_to_a_type() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let recorded = TensorFile::open(MINILM).unwrap();
    let mut operands = recorded.operands(Layout::Bhsd).unwrap();
    let data = recorded.mask_data(&Mask::KeyLengths, &operands.shape, None).unwrap();
    let problem = operands.problem(Mask::KeyLengths);
    operands.k = Dtype::I4.round_rows(&operands.k, operands.shape.head_dim);
    operands.v = Dtype::I4.round_rows(&operands.v, operands.shape.head_dim_v);
    let reference = reference::attention(&problem, &operands.inputs(&data)).unwrap();

    let options = ["--mask", "key_lengths", "--kv-dtype", "i4"];
    let said = stdout(["run", MINILM, "--out", out.to_str().unwrap()].into_iter().chain(options));
    assert!(
        said.contains("rounded to i4: k is off by 7.") && said.contains("o therefore by"),
        "{said}"
    );
    let o = TensorFile::open(out).unwrap().read_f32("o").unwrap();
    assert_near("o", &o.values, &reference.o);
}

#[test]
fn a_run_gives_gradients() {
    let shape = Shape::new(1, 2, 5, 4).seq_len_kv(6);
    let numbers = |seed: usize, len: usize| -> Vec<f32> {
        (0..len).map(|at| ((at * 37 + seed * 11) % 29) as f32 / 10.0 - 1.4).collect()
    };
    let (q, k, v) = (numbers(1, 40), numbers(2, 48), numbers(3, 48));
    let (bias, sinks, slopes) = (numbers(4, 60), numbers(5, 2), numbers(8, 2));
    let (dout, dlse) = (numbers(6, 40), numbers(7, 10));
    let contents = TensorWriter::new()
        .f32("q", &[1, 2, 5, 4], &q)
        .f32("k", &[1, 2, 6, 4], &k)
        .f32("v", &[1, 2, 6, 4], &v)
        .f32("bias", &[1, 2, 5, 6], &bias)
        .f32("sinks", &[2], &sinks)
        .f32("alibi_slopes", &[2], &slopes)
        .f32("dlse", &[1, 2, 5], &dlse);
    let options = words("--mask causal --outputs o,dq,dk,dv,dbias,dsinks,dalibi_slopes,dq");
    let message = Scratch::new(&contents).refused(&options);
    assert!(message.contains("dout"), "{message}");
    let scratch = Scratch::new(&contents.f32("dout", &[1, 2, 5, 4], &dout));
    let written = scratch.run(&options);

    let data = AuxData::new().bias([1, 2, 5, 6], bias).sinks(sinks).alibi_slopes(slopes);
    let problem = Problem::new(shape)
        .mask(Mask::causal())
        .score(ScoreModifiers::default().bias(true).alibi(true).sinks(true))
        .aux_shape(data.shape());
    let inputs = Inputs::new(&q, &k, &v).aux(&data);
    let upstream = Upstream::new(&dout).dlse(&dlse);
    let truth = reference::gradients(&problem, &inputs, &upstream).unwrap();
    for (name, truth, dims) in [
        ("dq", &truth.dq, vec![1, 2, 5, 4]),
        ("dk", &truth.dk, vec![1, 2, 6, 4]),
        ("dv", &truth.dv, vec![1, 2, 6, 4]),
        ("dbias", &truth.dbias, vec![1, 2, 5, 6]),
        ("dsinks", &truth.dsinks, vec![2]),
        ("dalibi_slopes", &truth.dalibi_slopes, vec![2]),
    ] {
        let tensor = written.read_f32(name).unwrap();
        assert_eq!(tensor.dims, dims, "{name}");
        for (x, y) in tensor.values.iter().zip(truth) {
            assert!((f64::from(*x) - y).abs() < 1e-5, "{name}: {x} instead of {y}");
        }
    }
    let plain = TensorWriter::new()
        .f32("q", &[1, 2, 5, 4], &q)
        .f32("k", &[1, 2, 6, 4], &k)
        .f32("v", &[1, 2, 6, 4], &v)
        .f32("dout", &[1, 2, 5, 3], &dout[..30]);
    let message = Scratch::new(&plain).refused(&words("--outputs dsinks"));
    assert!(message.contains("dsinks: the file has no sinks"), "{message}");
    let message = Scratch::new(&plain).refused(&words("--outputs dv"));
    assert!(message.contains("dout: expected [1, 2, 5, 4], found [1, 2, 5, 3]"), "{message}");
}

/// A table that a score function reads has the gradient that a bias of its values has, summed.
#[test]
fn a_run_gives_gradients_of_what_a_function_reads() {
    let table = [0.5, -0.25, 1.0, 0.75, -1.5, 0.125];
    let numbers = |seed: usize, len: usize| -> Vec<f32> {
        (0..len).map(|at| ((at * 37 + seed * 11) % 29) as f32 / 10.0 - 1.4).collect()
    };
    let [q, k, v, dout] =
        [(1, 40), (2, 48), (3, 48), (6, 40)].map(|(seed, len)| numbers(seed, len));
    let scratch = Scratch::new(
        &TensorWriter::new()
            .f32("q", &[1, 2, 5, 4], &q)
            .f32("k", &[1, 2, 6, 4], &k)
            .f32("v", &[1, 2, 6, 4], &v)
            .f32("dout", &[1, 2, 5, 4], &dout)
            .f32("table", &[2, 3], &table),
    );
    let text = |learned: &str| {
        let text = format!(
            "fn score_mod(score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{
                 return score + table(h * 3u + (q_idx + kv_idx) % 3u); }}
             fn score_mod_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 {{ return grad; }}
             {learned}"
        );
        std::fs::write(scratch.path("score.wgsl"), text).unwrap();
        scratch.path("score.wgsl").display().to_string()
    };
    let score = text("");
    let options = ["--mask", "causal", "--wgsl-score", &score, "--outputs", "dcustom"];
    let message = scratch.refused(&options);
    assert!(message.contains("dcustom: no tensor that --wgsl-score reads"), "{message}");
    text(
        "fn table_index(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> u32 { return h * 3u + (q_idx + kv_idx) % 3u; }
         fn table_grad(grad: f32, score: f32, b: u32, h: u32, q_idx: u32, kv_idx: u32) -> f32 { return grad; }",
    );
    let found = scratch.run(&options).read_f32("dtable").unwrap();

    let place = |at: usize| at / 30 * 3 + (at / 6 % 5 + at % 6) % 3;
    let data = AuxData::new().bias([1, 2, 5, 6], (0..60).map(|at| table[place(at)]));
    let problem = Problem::new(Shape::new(1, 2, 5, 4).seq_len_kv(6)).mask(Mask::causal());
    let problem = problem.score(ScoreModifiers::default().bias(true)).aux_shape(data.shape());
    let inputs = Inputs::new(&q, &k, &v).aux(&data);
    let cells = reference::gradients(&problem, &inputs, &Upstream::new(&dout)).unwrap().dbias;
    let mut truth = [0.0; 6];
    cells.iter().enumerate().for_each(|(at, cell)| truth[place(at)] += cell);
    assert_eq!(found.dims, [2, 3]);
    for (x, y) in found.values.iter().zip(truth) {
        assert!((f64::from(*x) - y).abs() < 1e-5, "{x} instead of {y}");
    }
}

#[test]
fn a_run_needs_no_options() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    // Something old is replaced.
    std::fs::write(scratch.path("out"), "old").unwrap();
    let written = scratch.run(&[]);
    assert_eq!(written.names(), ["o"]);
    let [q, k, v] = operands(Layout::Bhsd);
    let inputs = Inputs::new(&q.1, &k.1, &v.1);
    let reference = reference::attention(&Problem::new(SHAPE), &inputs).unwrap();
    assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);

    let forced = scratch.run(&["--kernel", "tiled", "--device", "0"]);
    assert_near("o", &forced.read_f32("o").unwrap().values, &reference.o);
}

#[test]
fn empty_tensors_are_no_error() {
    for (batch, seq_len_q) in [(0, 3), (2, 0)] {
        let values = vec![1.0; batch * 2 * 3 * 4];
        let contents = TensorWriter::new()
            .f32("q", &[batch, 2, seq_len_q, 4], &values[..batch * 2 * seq_len_q * 4])
            .f32("k", &[batch, 2, 3, 4], &values)
            .f32("v", &[batch, 2, 3, 4], &values);
        let written = Scratch::new(&contents).run(&["--outputs", "o,lse,weights"]);
        assert_eq!(written.dims("o"), Some(&[batch, 2, seq_len_q, 4][..]));
        assert_eq!(written.dims("weights"), Some(&[batch, 2, seq_len_q, 3][..]));
    }
}

/// Sequences that lie one behind the other: what each gives alone, and no row more.
#[test]
fn run_takes_packed_sequences() {
    let starts = [0, 2, 2, 5];
    let run = |rows: std::ops::Range<usize>, packed: bool| {
        let dims = [1, rows.len(), 2, 4];
        let part = |seed| noise(5 * 2 * 4, seed)[rows.start * 8..rows.end * 8].to_vec();
        let writer = TensorWriter::new().f32("q", &dims, &part(1)).f32("k", &dims, &part(2)).f32(
            "v",
            &dims,
            &part(3),
        );
        let writer = match packed {
            true => writer.i32("q_starts", &[4], &starts).i32("kv_starts", &[4], &starts),
            false => writer,
        };
        let options = ["--layout", "bshd", "--mask", "causal", "--outputs", "o,lse"];
        let file = Scratch::new(&writer).run(&options);
        (file.read_f32("o").unwrap(), file.read_f32("lse").unwrap())
    };
    let (o, lse) = run(0..5, true);
    assert_eq!((&o.dims[..], &lse.dims[..]), (&[1, 5, 2, 4][..], &[1, 2, 5][..]));
    for rows in [0..2, 2..5] {
        let (alone, lse_alone) = run(rows.clone(), false);
        assert_eq!(o.values[rows.start * 8..rows.end * 8], alone.values);
        for h in 0..2 {
            let own = &lse_alone.values[h * rows.len()..][..rows.len()];
            assert_eq!(&lse.values[h * 5 + rows.start..h * 5 + rows.end], own);
        }
    }
}
