use safetensors::tensor::TensorView;

use super::*;
use wgpu_attention::Mask;
use wgpu_attention::Problem;
use wgpu_attention::ScoreModifiers;
use wgpu_attention::{AuxData, AuxTensor};
use wgpu_attention::{Layout, Shape};

fn file(writer: &TensorWriter) -> TensorFile {
    TensorFile::from_bytes("test", writer.to_bytes().unwrap()).unwrap()
}

fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| i as f32).collect()
}

/// q, k and v of sizes `[batch, heads, seq, dim]` that are all different.
fn qkv(q: [usize; 4], k: [usize; 4], v: [usize; 4]) -> TensorWriter {
    [("q", q), ("k", k), ("v", v)].into_iter().fold(TensorWriter::new(), |writer, (name, dims)| {
        writer.f32(name, &dims, &ramp(dims.iter().product()))
    })
}

#[test]
fn operands_in_both_layouts() {
    let shape = Shape::new(2, 4, 3, 8).num_kv_heads(2).seq_len_kv(5).head_dim_v(6);
    let bhsd = file(&qkv([2, 4, 3, 8], [2, 2, 5, 8], [2, 2, 5, 6]));
    let operands = bhsd.operands(Layout::Bhsd).unwrap();
    assert_eq!((operands.shape, operands.o_dims()), (shape, vec![2, 4, 3, 6]));
    assert_eq!(operands.v, ramp(2 * 2 * 5 * 6));
    let bshd = file(&qkv([2, 3, 4, 8], [2, 5, 2, 8], [2, 5, 2, 6]));
    let operands = bshd.operands(Layout::Bshd).unwrap();
    assert_eq!((operands.shape, operands.o_dims()), (shape, vec![2, 3, 4, 6]));
}

#[test]
fn sizes_of_tensors_without_elements_do_not_overflow() {
    let file = file(&TensorWriter::new().i32("key_lengths", &[usize::MAX, 0], &[]));
    let shape = file.mask_shape(&Mask::KeyLengths, 4, 5).unwrap();
    assert_eq!(shape.batch, usize::MAX);
    let refused = file.mask_data(&Mask::KeyLengths, &shape, None).unwrap_err().to_string();
    assert!(refused.starts_with("key_lengths: expected [batch = "), "{refused}");
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let message =
        |writer: &TensorWriter| file(writer).operands(Layout::Bhsd).unwrap_err().to_string();
    assert_eq!(
        message(&qkv([2, 4, 3, 8], [2, 4, 3, 7], [2, 4, 3, 8])),
        "k: expected [2, num_kv_heads, seq_len_kv, 8], as q is [2, 4, 3, 8], found [2, 4, 3, 7]"
    );
    assert_eq!(
        message(&qkv([2, 4, 3, 8], [2, 4, 3, 8], [2, 4, 2, 8])),
        "v: expected [2, 4, 3, head_dim_v], as k is [2, 4, 3, 8], found [2, 4, 2, 8]"
    );
    assert_eq!(
        message(&qkv([2, 4, 3, 8], [2, 3, 3, 8], [2, 3, 3, 8])),
        "num_heads: expected a multiple of num_kv_heads = 3, found 4"
    );
    assert_eq!(
        message(&qkv([1; 4], [1; 4], [1; 4]).f32("q", &[2, 3], &ramp(6))),
        "q: expected 4 dimensions, [batch, heads, seq, dim], found [2, 3]"
    );
    assert_eq!(
        message(&qkv([1; 4], [1; 4], [1; 4]).i32("v", &[1; 4], &[1])),
        "v: expected elements of f32, f16 or bf16, found i32"
    );
    assert_eq!(
        message(&TensorWriter::new().f32("q", &[1; 4], &[1.0]).f32("keys", &[1; 4], &[1.0])),
        "test: there is no tensor `k`; there is keys, q"
    );
}

#[test]
fn mask_data_by_name() {
    let shape = Shape::new(2, 3, 2, 4).seq_len_kv(3);
    let file = file(
        &TensorWriter::new()
            .i32("key_lengths", &[2], &[3, 1])
            .i32("prefix_lengths", &[2], &[0, 2])
            .u8("key_padding", &[2, 3], &[1, 2, 0, 1, 0, 0])
            .i32("token_ids", &[2, 3], &[5, 6, 0, 7, 0, 0])
            .i32("document_ids_q", &[2, 2], &[0, 1, 0, 0])
            .i32("document_ids", &[2, 3], &[0, 0, 1, 0, 0, 1])
            .bool("dense", &[3, 1, 3], &[true; 9])
            .metadata("pad_id", "0"),
    );
    let data = |mask: &str| file.mask_data(&mask.parse().unwrap(), &shape, None).unwrap();
    assert_eq!(
        data("key_lengths & prefix"),
        AuxData::new().key_lengths([3, 1]).prefix_lengths([0, 2])
    );
    assert_eq!(
        data("key_padding"),
        AuxData::new().key_padding([true, true, false, true, false, false])
    );
    assert_eq!(data("token_padding"), AuxData::new().token_ids([5, 6, 0, 7, 0, 0], 0));
    // The keys' own ids aren't there, so what queries and keys have in common serves.
    assert_eq!(
        data("documents"),
        AuxData::new().document_ids_q_kv([0, 1, 0, 0], [0, 0, 1, 0, 0, 1])
    );
    assert_eq!(data("dense"), AuxData::new().dense([1, 3, 1, 3], [true; 9]));
    let seen = file.mask_shape(&"dense & key_lengths".parse().unwrap(), 2, 3).unwrap();
    assert_eq!(seen, Shape::new(2, 3, 2, 1).seq_len_kv(3));
}

#[test]
fn mask_data_that_does_not_fit_is_named() {
    let shape = Shape::new(2, 1, 3, 4);
    let check = |mask: &str, writer: &TensorWriter, expected: &str| {
        let error = file(writer).mask_data(&mask.parse().unwrap(), &shape, None).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let writer = TensorWriter::new();
    check("key_lengths", &writer, "test: there is no tensor `key_lengths`; there is nothing");
    check(
        "key_padding",
        &writer.clone().u8("key_padding", &[3, 2], &[1; 6]),
        "key_padding: expected [batch = 2, seq_len_kv = 3], found [3, 2]",
    );
    check(
        "key_lengths",
        &writer.clone().f32("key_lengths", &[2], &[1.0; 2]),
        "key_lengths: expected elements of an integer type or bool, found f32",
    );
    let ids = writer.clone().i32("token_ids", &[2, 3], &[1; 6]);
    let expected = "the token id of padding, given or in the file's metadata";
    check("token_padding", &ids, &format!("pad_id: expected {expected}, found none"));
    check(
        "token_padding",
        &ids.metadata("pad_id", "none"),
        &format!("pad_id: expected {expected}, found `none`"),
    );
    check(
        "dense",
        &writer.u8("dense", &[1; 5], &[1]),
        "dense: expected at most 4 dimensions, found [1, 1, 1, 1, 1]",
    );
}

/// A file with one tensor of this type.
fn of_type(dtype: Dtype, count: usize, bytes: &[u8]) -> TensorFile {
    let view = TensorView::new(dtype, vec![count], bytes).unwrap();
    let bytes = safetensors::serialize([("x", view)], None).unwrap();
    TensorFile::from_bytes("test", bytes).unwrap()
}

#[test]
fn integers_of_every_type_are_taken_where_they_fit() {
    for (dtype, bytes) in [
        (Dtype::BOOL, vec![1, 0]),
        (Dtype::U8, vec![1, 0]),
        (Dtype::I8, vec![1, 0]),
        (Dtype::U16, [1u16, 0].map(u16::to_le_bytes).concat()),
        (Dtype::I16, [1i16, 0].map(i16::to_le_bytes).concat()),
        (Dtype::U32, [1u32, 0].map(u32::to_le_bytes).concat()),
        (Dtype::I32, [1i32, 0].map(i32::to_le_bytes).concat()),
        (Dtype::U64, [1u64, 0].map(u64::to_le_bytes).concat()),
        (Dtype::I64, [1i64, 0].map(i64::to_le_bytes).concat()),
    ] {
        let file = of_type(dtype, 2, &bytes);
        assert_eq!(file.read_i32("x").unwrap().values, [1, 0], "{dtype}");
        assert_eq!(file.read_u32("x").unwrap().values, [1, 0], "{dtype}");
        assert_eq!(file.read_bool("x").unwrap().values, [true, false], "{dtype}");
    }
    // The least and the largest.
    let read = |dtype, bytes: &[u8]| of_type(dtype, 1, bytes).read_i32("x");
    assert_eq!(read(Dtype::I8, &[0x80]).unwrap().values, [-128]);
    assert_eq!(read(Dtype::I64, &i64::from(i32::MIN).to_le_bytes()).unwrap().values, [i32::MIN]);
    for (dtype, bytes, found) in [
        (Dtype::I64, (1i64 << 40).to_le_bytes().to_vec(), "1099511627776"),
        (Dtype::U32, u32::MAX.to_le_bytes().to_vec(), "4294967295"),
        (Dtype::U64, u64::MAX.to_le_bytes().to_vec(), "18446744073709551615"),
    ] {
        let error = read(dtype, &bytes).unwrap_err().to_string();
        assert_eq!(error, format!("x[0]: expected a value within i32, found {found}"));
    }
    let negative = of_type(Dtype::I16, 1, &(-1i16).to_le_bytes()).read_u32("x").unwrap_err();
    assert_eq!(negative.to_string(), "x[0]: expected a value within u32, found -1");
}

#[test]
fn floats_are_flags_where_they_are_0_and_1() {
    let flags = |values: &[f32]| {
        let writer = TensorWriter::new().f32("x", &[values.len()], values);
        file(&writer).read_bool("x").map(|tensor| tensor.values)
    };
    assert_eq!(flags(&[1.0, 0.0, -0.0]).unwrap(), [true, false, false]);
    assert!(flags(&[]).unwrap().is_empty());
    let half = TensorWriter::new().floats("x", &[2], &[0.0, 1.0], Stored::Bf16);
    assert_eq!(file(&half).read_bool("x").unwrap().values, [false, true]);
    let expected = "x: expected elements of bool, an integer type, or floats of 0 and 1, found";
    for (values, found) in [
        (&[0.0, f32::NEG_INFINITY][..], "f32 with -inf"),
        (&[0.0, f32::MIN], "f32 with -340282350000000000000000000000000000000"),
        (&[0.5], "f32 with 0.5"),
        (&[f32::NAN], "f32 with NaN"),
        // As flags they keep nothing, added they keep everything.
        (&[0.0, 0.0], "f32 of 0 alone"),
    ] {
        assert_eq!(flags(values).unwrap_err().to_string(), format!("{expected} {found}"));
    }
    let double = of_type(Dtype::F64, 1, &1f64.to_le_bytes());
    assert!(double.read_f32("x").unwrap_err().to_string().contains("store it as f32"));
    assert!(double.read_bool("x").unwrap_err().to_string().contains("store it as f32"));
}

#[test]
fn heads_that_are_merged() {
    let merged = |q: [usize; 3], k: [usize; 3], v: [usize; 3]| {
        let add = |writer: TensorWriter, (name, dims): (&str, [usize; 3])| {
            writer.f32(name, &dims, &ramp(dims.iter().product()))
        };
        file(&[("q", q), ("k", k), ("v", v)].into_iter().fold(TensorWriter::new(), add))
    };
    let file = merged([2, 3, 32], [2, 5, 16], [2, 5, 12]);
    let shape = Shape::new(2, 4, 3, 8).num_kv_heads(2).seq_len_kv(5).head_dim_v(6);
    for kv_heads in [None, Some(2)] {
        let operands = file.merged_operands(4, kv_heads).unwrap();
        assert_eq!((operands.shape, operands.layout), (shape, Layout::Bshd));
        assert_eq!(operands.o_dims(), [2, 3, 24]);
        assert_eq!(operands.k, ramp(2 * 5 * 16));
    }
    let refused = |file: &TensorFile, heads, kv_heads| {
        file.merged_operands(heads, kv_heads).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&file, 3, None),
        "q: expected [batch, seq, a multiple of num_heads = 3], found [2, 3, 32]"
    );
    assert_eq!(
        refused(&file, 0, None),
        "q: expected [batch, seq, a multiple of num_heads = 1], found [2, 3, 32]"
    );
    assert_eq!(
        refused(&file, 4, Some(4)),
        "num_kv_heads: expected 2, as head_dim is 8 and k is [2, 5, 16], found 4"
    );
    assert_eq!(
        refused(&file, 1, None),
        "k: expected [batch, seq, a multiple of head_dim = 32], found [2, 5, 16]"
    );
    let short = merged([2, 3, 32], [2, 5, 16], [2, 4, 12]);
    assert_eq!(
        refused(&short, 4, None),
        "v: expected [2, 5, 2 * head_dim_v], as k is [2, 5, 16], found [2, 4, 12]"
    );
    assert_eq!(
        refused(&self::file(&qkv([1; 4], [1; 4], [1; 4])), 1, None),
        "q: expected 3 dimensions, [batch, seq, num_heads * dim], found [1, 1, 1, 1]"
    );
}

#[test]
fn a_bias_broadcasts_along_every_dimension() {
    let shape = Shape::new(2, 3, 2, 4).seq_len_kv(5);
    let bias = |dims: &[usize]| {
        let file = file(&TensorWriter::new().f32("bias", dims, &ramp(dims.iter().product())));
        let problem = Problem::new(shape).score(ScoreModifiers::default().bias(true));
        file.input_data(&problem, None)?.check(&problem.aux_specs(), &shape)?;
        file.input_data(&problem, None)
    };
    for dims in [&[][..], &[5], &[1], &[2, 1], &[3, 1, 5], &[2, 1, 1, 1], &[2, 3, 2, 5]] {
        let data = bias(dims).unwrap().shape();
        let mut full = [1; 4];
        full[4 - dims.len()..].copy_from_slice(dims);
        assert_eq!(data.sizes(AuxTensor::Bias), Some(&full[..]), "{dims:?}");
    }
    // By the row alone: each value for all keys.
    let expected = AuxData::new().bias([1, 1, 2, 1], [0.0, 1.0]);
    assert_eq!(bias(&[2, 1]).unwrap(), expected);
    // As many elements, but transposed.
    let refused = bias(&[2, 3, 5, 2]).unwrap_err().to_string();
    assert_eq!(refused, "bias: expected sizes that broadcast to [2, 3, 2, 5], found [2, 3, 5, 2]");
}

#[test]
fn damaged_files_are_refused() {
    let whole = qkv([1; 4], [1; 4], [1; 4]).to_bytes().unwrap();
    for length in 0..whole.len() {
        let error = TensorFile::from_bytes("cut", whole[..length].to_vec()).unwrap_err();
        let Error::File { path, message } = error else { panic!("{error:?}") };
        assert_eq!(path, "cut");
        assert!(message.contains("truncated") || message.contains("header"), "{message}");
    }
    let longer = [whole.as_slice(), b"more"].concat();
    let error = TensorFile::from_bytes("longer", longer).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    for (at, byte) in (0..whole.len()).flat_map(|at| [0, 0x22, 0x39, 0xff].map(|byte| (at, byte))) {
        let mut changed = whole.clone();
        changed[at] = byte;
        // Whether it is refused or read as something else: nothing may panic.
        if let Ok(file) = TensorFile::from_bytes("changed", changed) {
            let _ = file.operands(Layout::Bhsd);
        }
    }
}

#[test]
fn hostile_headers_are_refused() {
    let refused = |header: &str| {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        TensorFile::from_bytes("hostile", bytes).unwrap_err();
    };
    let info = |dims: &str, end: &str| {
        format!(r#"{{"q":{{"dtype":"F32","shape":{dims},"data_offsets":[0,{end}]}}}}"#)
    };
    refused(&info("[18446744073709551615, 18446744073709551615]", "4"));
    refused(&info("[4611686018427387903]", "18446744073709551612"));
    refused(&info("[-1]", "4"));
    refused(&info("[1]", "4"));
    refused(&"[".repeat(100_000));
    refused("");
    // Tensors whose sizes only just don't overflow, one by one, and do so together.
    let part = usize::MAX / 8;
    let parts: Vec<_> = (0..9)
        .map(|i| {
            let (start, end) = (part.wrapping_mul(i), part.wrapping_mul(i + 1));
            format!(r#""t{i}":{{"dtype":"U8","shape":[{part}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    refused(&format!("{{{}}}", parts[..8].join(",")));
    refused(&format!("{{{}}}", parts.join(",")));
    TensorFile::from_bytes("huge", u64::MAX.to_le_bytes().to_vec()).unwrap_err();
}

#[test]
fn saving_replaces_a_file_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.safetensors");
    for value in [1.0, 2.0] {
        TensorWriter::new().f32("o", &[1], &[value]).save(&path).unwrap();
        assert_eq!(TensorFile::open(&path).unwrap().read_f32("o").unwrap().values, [value]);
    }
    TensorWriter::new().f32("o", &[2], &[3.0]).save(&path).unwrap_err();
    assert_eq!(TensorFile::open(&path).unwrap().read_f32("o").unwrap().values, [2.0]);
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    let error = TensorWriter::new().save(folder.path().join("missing/out")).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
}
