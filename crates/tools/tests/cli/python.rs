//! Files as programs in Python write them.

use safetensors::tensor::Dtype;
use wgpu_attention::{
    AuxData, Inputs, Layout, Mask, Problem, ScoreModifiers, Shape, Upstream, reference,
};
use wgpu_attention_tools::files::{TensorFile, TensorWriter};

use crate::call::{failure, stdout, warnings, words};
use crate::scratch::{
    KEY_PADDING, SHAPE, Scratch, assert_near, dims, everything, noise, operands, plain,
};

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Small whole numbers as elements of each of these types.
fn of_types(types: &[Dtype], values: &[i8]) -> Vec<(Dtype, Vec<u8>)> {
    let encoded = |&dtype: &Dtype| {
        let element = |&value: &i8| match dtype {
            Dtype::BOOL | Dtype::U8 | Dtype::I8 => value.to_le_bytes().to_vec(),
            Dtype::U16 | Dtype::I16 => i16::from(value).to_le_bytes().to_vec(),
            Dtype::U32 | Dtype::I32 => i32::from(value).to_le_bytes().to_vec(),
            Dtype::U64 | Dtype::I64 => i64::from(value).to_le_bytes().to_vec(),
            Dtype::F32 => f32::from(value).to_le_bytes().to_vec(),
            Dtype::F16 => half::f16::from(value).to_le_bytes().to_vec(),
            Dtype::BF16 => half::bf16::from(value).to_le_bytes().to_vec(),
            other => panic!("{other}"),
        };
        (dtype, values.iter().flat_map(element).collect())
    };
    types.iter().map(encoded).collect()
}

const INTEGERS: [Dtype; 8] =
    [Dtype::I8, Dtype::U8, Dtype::I16, Dtype::U16, Dtype::I32, Dtype::U32, Dtype::I64, Dtype::U64];

/// What tokenizers give, of every type, is `key_padding`.
#[test]
fn an_attention_mask_is_key_padding() {
    let [q, k, v] = operands(Layout::Bhsd);
    let data = AuxData::new().key_padding(KEY_PADDING.map(|keep| keep != 0));
    let problem = Problem::new(SHAPE).mask(Mask::KeyPadding & Mask::causal());
    let inputs = Inputs::new(&q.1, &k.1, &v.1).aux(&data);
    let reference = reference::attention(&problem, &inputs).unwrap();
    let flags = KEY_PADDING.map(|flag| flag as i8);
    let types = [Dtype::I64, Dtype::I32, Dtype::BOOL, Dtype::F32, Dtype::F16, Dtype::BF16];
    for (dtype, encoded) in of_types(&types, &flags) {
        let scratch = Scratch::of_bytes(&[
            ("q", Dtype::F32, &q.0, bytes(&q.1)),
            ("k", Dtype::F32, &k.0, bytes(&k.1)),
            ("v", Dtype::F32, &v.0, bytes(&v.1)),
            ("attention_mask", dtype, &[2, 5], encoded),
        ]);
        let options = ["--mask", "key_padding & causal"];
        assert_eq!(warnings(scratch.run_arguments(&options)), [""; 0]);
        let written = TensorFile::open(scratch.path("out")).unwrap();
        assert_near("o", &written.read_f32("o").unwrap().values, &reference.o);
    }
}

#[test]
fn lengths_ids_and_flags_are_of_any_integer_type() {
    let any = [&INTEGERS[..], &[Dtype::BOOL]].concat();
    for (mask, name, sizes, values, grid) in [
        ("key_lengths", "key_lengths", &[1][..], &[1][..], "XXX"),
        ("prefix", "prefix_lengths", &[1], &[1], "XXX"),
        ("key_padding", "key_padding", &[1, 4], &[0, 1, 0, 1], ""),
        ("token_padding", "token_ids", &[1, 4], &[1, 0, 0, 1], ""),
        ("documents", "document_ids", &[1, 4], &[1, 1, 0, 0], ""),
        ("block_bidirectional", "block_ids", &[1, 4], &[1, 1, 0, 0], ""),
        ("buckets", "bucket_ids", &[1, 1, 1, 4], &[1, 0, 1, 0], ""),
        ("column_ranges", "column_ranges", &[1, 1, 4, 1], &[1, 0, 1, 0], ""),
        ("dense", "dense", &[4, 4], &[0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1], ""),
        ("dense", "attn_mask", &[4], &[1, 0, 1, 0], ""),
    ] {
        let drawn: Vec<String> = (of_types(&any, values).into_iter())
            .map(|(dtype, encoded)| {
                let scratch = Scratch::of_bytes(&[(name, dtype, sizes, encoded)]);
                let input = scratch.input.display().to_string();
                let options = ["--data", &input, "--pad-id", "0", "--format", "grid"];
                stdout(["mask", mask, "--seq", "4"].into_iter().chain(options))
            })
            .collect();
        assert!(drawn.iter().all(|drawing| *drawing == drawn[0]), "{mask}: {drawn:?}");
        assert!(drawn[0].contains('X') && drawn[0].contains('.'), "{mask}: {}", drawn[0]);
        let first: String = words(drawn[0].lines().next().unwrap()).concat();
        assert!(first.ends_with(grid), "{mask}: {}", drawn[0]);
    }
    // What doesn't fit is named.
    let scratch = Scratch::of_bytes(&[(
        "key_lengths",
        Dtype::I64,
        &[1],
        (1i64 << 40).to_le_bytes().to_vec(),
    )]);
    let input = scratch.input.display().to_string();
    let message = failure(["mask", "key_lengths", "--seq", "4", "--data", &input], 1);
    assert!(message.contains("key_lengths[0]: expected a value within i32, found 1099511627776"));
}

/// `[batch, 1, seq_len_q, seq_len_kv]`, as models make it of the tokenizer's.
#[test]
fn an_attention_mask_of_four_dimensions_is_dense() {
    let flags: Vec<bool> = (0..30).map(|cell| cell % 5 <= cell / 5 % 3 + 2).collect();
    let scratch = Scratch::new(&plain(Layout::Bhsd).bool("attention_mask", &[2, 1, 3, 5], &flags));
    let told = warnings(scratch.run_arguments(&[]));
    assert_eq!(told, ["`attention_mask` is not used: --mask dense would read it"]);
    let dense = scratch.run(&["--mask", "dense"]).read_f32("o").unwrap();
    assert_eq!(dense, scratch.run(&["--mask", "causal"]).read_f32("o").unwrap());
    let flat = Scratch::new(&plain(Layout::Bhsd).i32("attention_mask", &[2, 5], &[1; 10]));
    let message = flat.refused(&["--mask", "dense"]);
    assert!(message.contains("no tensor `dense`"), "{message}");
}

/// A function's tensors: each type is read as f32, i32 or u32.
#[test]
fn functions_read_tensors_of_any_type() {
    let floats = [Dtype::F32, Dtype::F16, Dtype::BF16];
    let (signed, unsigned): (Vec<_>, Vec<_>) = INTEGERS
        .into_iter()
        .partition(|dtype| [Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64].contains(dtype));
    for (element, types) in
        [("f32", &floats[..]), ("i32", &signed), ("u32", &[&unsigned[..], &[Dtype::BOOL]].concat())]
    {
        for (dtype, encoded) in of_types(types, &[0, 1, 1]) {
            let scratch = Scratch::of_bytes(&[("flags", dtype, &[3], encoded)]);
            let function = scratch.path("keep.wgsl");
            let text = format!(
                "fn keep(b: u32, h: u32, q_idx: u32, kv_idx: u32) -> bool {{\n\
                 let own: {element} = flags(kv_idx); return own == {element}(1); }}"
            );
            std::fs::write(&function, text).unwrap();
            let (input, function) = (scratch.input.display(), function.display());
            let line = format!(
                "mask wgsl --seq 1 --seq-kv 3 --format keep --data {input} --wgsl-mask {function}"
            );
            assert_eq!(stdout(words(&line)), "[[0 1 1]]\n", "{dtype}");
        }
    }
}

/// Flags of floats are flags; what is added to scores is told apart, and can be added.
#[test]
fn masks_of_floats_are_told_apart() {
    let rows = |masked: f32| -> Vec<f32> {
        (0..15).map(|cell| if cell % 5 > cell / 5 + 2 { masked } else { 0.0 }).collect()
    };
    let [q, k, v] = operands(Layout::Bhsd);
    let problem = Problem::new(SHAPE).mask(Mask::causal());
    let truth = reference::attention(&problem, &Inputs::new(&q.1, &k.1, &v.1)).unwrap();
    for name in ["dense", "attn_mask"] {
        for masked in [f32::NEG_INFINITY, f32::MIN] {
            let writer = plain(Layout::Bhsd).f32(name, &[3, 5], &rows(masked));
            let scratch = Scratch::new(&writer);
            let message = scratch.refused(&["--mask", "dense"]);
            let advice = format!("--tensor bias={name} adds them");
            let expected = "expected elements of bool, an integer type, or floats of 0 and 1";
            assert!(message.contains(expected) && message.contains(&advice), "{message}");
            let unused = warnings(scratch.run_arguments(&[]));
            assert!(unused.len() == 1 && unused[0].ends_with(&advice), "{unused:?}");

            let option = format!("bias={name}");
            let arguments = scratch.run_arguments(&["--tensor", &option]);
            assert_eq!(warnings(arguments), [""; 0]);
            let written = TensorFile::open(scratch.path("out")).unwrap();
            assert_near("o", &written.read_f32("o").unwrap().values, &truth.o);
        }
        let flags: Vec<f32> = rows(1.0).into_iter().map(|x| 1.0 - x).collect();
        let scratch = Scratch::new(&plain(Layout::Bhsd).f32(name, &[3, 5], &flags));
        let written = scratch.run(&["--mask", "dense"]);
        assert_near("o", &written.read_f32("o").unwrap().values, &truth.o);
    }
}

#[test]
fn what_is_not_used_is_told() {
    let extra = plain(Layout::Bhsd)
        .i32("key_lengths", &[2], &[4, 2])
        .bool("attn_mask", &[5], &[true; 5])
        .i32("document_ids_q", &[2, 3], &[0; 6])
        .i32("document_ids_kv", &[2, 5], &[0; 10])
        .i32("key_lenghts", &[2], &[4, 2])
        .i32("cu_seqlens_q", &[2], &[0, 3])
        .i32("seq_lens", &[2], &[4, 2])
        .bool("key_padding_mask", &[2, 5], &[false; 10])
        .f32("dout", &[1], &[1.0])
        .f32("hidden", &[1], &[1.0])
        .f32("w", &[1], &[1.0])
        // What a run has written isn't meant to be read.
        .f32("weights", &[1], &[1.0]);
    let scratch = Scratch::new(&extra);
    let told = warnings(scratch.run_arguments(&[]));
    let expected = [
        "`attn_mask` is not used: --mask dense would read it",
        "`cu_seqlens_q` is not used: --tensor q_starts=cu_seqlens_q would read it as `q_starts`",
        "`document_ids_kv` is not used: --mask documents would read it",
        "`document_ids_q` is not used: --mask documents would read it",
        "`dout` is not used: --outputs dq,dk,dv would read it",
        "`key_lenghts` is not used: nothing reads this name (did you mean `key_lengths`?)",
        "`key_lengths` is not used: --mask key_lengths would read it",
        "`key_padding_mask` is not used: where nn.MultiheadAttention's is True the key is masked",
        "`seq_lens` is not used: --tensor key_lengths=seq_lens --mask key_lengths would read it as",
        "not used: `hidden`, `w`",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    let used = warnings(scratch.run_arguments(&["--mask", "documents & dense & key_lengths"]));
    assert!(!used.concat().contains("document_ids") && !used.concat().contains("`key_lengths` is"));
    assert_eq!(warnings(scratch.run_arguments(&["--quiet"])), [""; 0]);
    let record = stdout(scratch.run_arguments(&["--json"]));
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["warnings"].as_array().unwrap().len(), expected.len());

    // The advice is followed.
    let options = ["--tensor", "key_lengths=seq_lens", "--mask", "key_lengths"];
    let followed = warnings(scratch.run_arguments(&options));
    assert!(!followed.concat().contains("seq_lens"), "{followed:?}");
}

/// `[batch, seq, heads * dim]` gives what the same numbers give in `[batch, seq, heads, dim]`.
#[test]
fn heads_may_be_merged() {
    let split = operands(Layout::Bshd);
    let expected = Scratch::new(&plain(Layout::Bshd)).run(&["--layout", "bshd"]);
    let expected = expected.read_f32("o").unwrap();
    let merged = |writer: TensorWriter, (name, (dims, values)): (&str, &([usize; 4], Vec<f32>))| {
        writer.f32(name, &[dims[0], dims[1], dims[2] * dims[3]], values)
    };
    let writer = ["q", "k", "v"].into_iter().zip(&split).fold(TensorWriter::new(), merged);
    let dout = noise(2 * 3 * 4 * 7, 8);
    let scratch = Scratch::new(&writer.f32("dout", &[2, 3, 28], &dout));
    for options in ["--heads 4", "--heads 4 --kv-heads 2"] {
        let written = scratch.run(&words(options));
        let o = written.read_f32("o").unwrap();
        assert_eq!((o.dims, &o.values), (vec![2, 3, 28], &expected.values));
    }
    let gradients = scratch.run(&words("--heads 4 --outputs dq,dk"));
    assert_eq!(gradients.dims("dq"), Some(&[2, 3, 24][..]));
    assert_eq!(gradients.dims("dk"), Some(&[2, 5, 12][..]));
    std::fs::remove_file(scratch.path("out")).unwrap();
    let message = scratch.refused(&[]);
    assert!(message.contains("for [batch, seq, heads * dim] give --heads N"), "{message}");
    let message = scratch.refused(&["--heads", "5"]);
    assert!(message.contains("a multiple of num_heads = 5"), "{message}");
    let message = scratch.refused(&["--heads", "4", "--kv-heads", "4"]);
    assert!(message.contains("num_kv_heads: expected 2, as head_dim is 6"), "{message}");
    failure(scratch.run_arguments(&["--kv-heads", "2"]), 2);
    failure(scratch.run_arguments(&["--heads", "4", "--layout", "bhsd"]), 2);
}

/// Every form of a bias gives what the full one gives, and its gradient has the form of the bias.
#[test]
fn a_bias_broadcasts_along_every_dimension() {
    let [q, k, v] = operands(Layout::Bhsd);
    let dout = noise(2 * 4 * 3 * 7, 8);
    for sizes in [&[2, 4, 3, 5][..], &[3, 5], &[5], &[4, 1, 1], &[2, 1, 3, 1], &[]] {
        let values = noise(sizes.iter().product(), 9);
        let mut full_sizes = [1; 4];
        full_sizes[4 - sizes.len()..].copy_from_slice(sizes);
        let place = |cell: usize| {
            let at = [cell / 60, cell / 15 % 4, cell / 5 % 3, cell % 5];
            full_sizes.iter().zip(at).fold(0, |i, (&size, at)| i * size + at % size)
        };
        let full: Vec<f32> = (0..120).map(|cell| values[place(cell)]).collect();
        let writer = plain(Layout::Bhsd).f32("bias", sizes, &values);
        let scratch = Scratch::new(&writer.f32("dout", &[2, 4, 3, 7], &dout));
        let written = scratch.run(&["--outputs", "o,dbias"]);

        let data = AuxData::new().bias([2, 4, 3, 5], full);
        let score = ScoreModifiers::default().bias(true);
        let problem = Problem::new(SHAPE).score(score).aux_shape(data.shape());
        let inputs = Inputs::new(&q.1, &k.1, &v.1).aux(&data);
        let truth = reference::attention(&problem, &inputs).unwrap();
        assert_near("o", &written.read_f32("o").unwrap().values, &truth.o);
        let gradients = reference::gradients(&problem, &inputs, &Upstream::new(&dout)).unwrap();
        let mut dbias = vec![0.0; values.len()];
        for (cell, gradient) in gradients.dbias.iter().enumerate() {
            dbias[place(cell)] += gradient;
        }
        let found = written.read_f32("dbias").unwrap();
        assert_eq!(found.dims, sizes);
        assert_near("dbias", &found.values, &dbias);
    }
    let transposed = plain(Layout::Bhsd).f32("bias", &[2, 4, 5, 3], &noise(120, 9));
    let message = Scratch::new(&transposed).refused(&[]);
    assert!(message.contains("bias: expected sizes that broadcast to [2, 4, 3, 5]"), "{message}");
}

#[test]
fn sequences_may_have_slopes_of_their_own() {
    let [q, k, v] = operands(Layout::Bhsd);
    let slopes = [0.1, 0.2, 0.3, 0.4, 1.5, 0.0, -0.5, 2.0];
    let dout = noise(2 * 4 * 3 * 7, 8);
    let writer = plain(Layout::Bhsd).f32("alibi_slopes", &[2, 4], &slopes);
    let scratch = Scratch::new(&writer.f32("dout", &[2, 4, 3, 7], &dout));
    let data = AuxData::new().alibi_slopes_per_sequence([2, 4], slopes);
    // The same as a bias.
    let cells = (0..120).map(|cell| {
        let (own, kv_idx) = ((cell / 5 % 3 + 2) as f32, (cell % 5) as f32);
        -slopes[cell / 15] * (own - kv_idx).abs()
    });
    let bias = AuxData::new().bias([2, 4, 3, 5], cells);
    let problem = |score| Problem::new(SHAPE).mask(Mask::causal()).score(score);
    let alibi = problem(ScoreModifiers::default().alibi(true)).aux_shape(data.shape());
    let biased = problem(ScoreModifiers::default().bias(true)).aux_shape(bias.shape());
    let inputs = Inputs::new(&q.1, &k.1, &v.1);
    let truth = reference::attention(&biased, &inputs.aux(&bias)).unwrap();
    let same = reference::attention(&alibi, &inputs.aux(&data)).unwrap();
    let upstream = Upstream::new(&dout);
    let gradients = reference::gradients(&biased, &inputs.aux(&bias), &upstream).unwrap();
    for kernel in ["broadcast", "tiled", "decode", "decode_lanes"] {
        let options = ["--mask", "causal", "--outputs", "o,dq,dk", "--kernel", kernel];
        let written = match kernel {
            "broadcast" | "decode_lanes" => {
                // For CPU adapters alone.
                let output = crate::call::call(scratch.run_arguments(&options));
                if !output.status.success() {
                    continue;
                }
                TensorFile::open(scratch.path("out")).unwrap()
            }
            _ => scratch.run(&options),
        };
        for (name, truth) in [("o", &truth.o), ("dq", &gradients.dq), ("dk", &gradients.dk)] {
            assert_near(name, &written.read_f32(name).unwrap().values, truth);
        }
    }
    assert_near("o", &same.o.iter().map(|&x| x as f32).collect::<Vec<_>>(), &truth.o);
    std::fs::remove_file(scratch.path("out")).unwrap();
    let wrong = plain(Layout::Bhsd).f32("alibi_slopes", &[4, 2], &slopes);
    let message = Scratch::new(&wrong).refused(&[]);
    assert!(
        message.contains("alibi_slopes: expected [batch or 1 = 1 or 2, num_heads = 4]"),
        "{message}"
    );
}

#[test]
fn a_softcap_of_0_is_none() {
    let scratch = Scratch::new(&everything(Layout::Bhsd));
    let o = |options: &str| scratch.run(&words(options)).read_f32("o").unwrap().values;
    assert_eq!(o("--softcap 0"), o(""));
    assert_ne!(o("--softcap 0.5"), o(""));
}

/// Names of operands that others use, and numbers that are too wide.
#[test]
fn what_else_is_in_the_way_is_told() {
    let shape = Shape::new(1, 1, 2, 2);
    let sizes = dims([1, 1, 2, 2], Layout::Bhsd);
    let ones = vec![1.0; shape.q_len().unwrap()];
    let long = TensorWriter::new().f32("query", &sizes, &ones).f32("key", &sizes, &ones);
    let scratch = Scratch::new(&long.f32("value", &sizes, &ones));
    let message = scratch.refused(&[]);
    let options = "--tensor q=query --tensor k=key --tensor v=value";
    assert!(message.contains(options), "{message}");
    assert_eq!(scratch.run(&words(options)).read_f32("o").unwrap().values, ones);
    let message = failure(words("mask key_lengths --seq 3 --tensor key_lengths=x"), 1);
    assert!(message.contains("give it with --data"), "{message}");
    let double = Scratch::of_bytes(&[
        ("q", Dtype::F64, &sizes, vec![0; 32]),
        ("k", Dtype::F32, &sizes, vec![0; 16]),
        ("v", Dtype::F32, &sizes, vec![0; 16]),
    ]);
    let message = double.refused(&[]);
    assert!(message.contains("found f64; store it as f32 (in NumPy, `.astype(\"float32\")`)"));
}
