use safetensors::tensor::TensorView;

use super::*;
use crate::auxiliary::AuxData;
use crate::mask::Mask;
use crate::tensor::shape::{Layout, Shape};

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
    assert_eq!((operands.shape, operands.o_dims()), (shape, [2, 4, 3, 6]));
    assert_eq!(operands.v, ramp(2 * 2 * 5 * 6));
    let bshd = file(&qkv([2, 3, 4, 8], [2, 5, 2, 8], [2, 5, 2, 6]));
    let operands = bshd.operands(Layout::Bshd).unwrap();
    assert_eq!((operands.shape, operands.o_dims()), (shape, [2, 3, 4, 6]));
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
        "key_lengths: expected elements of i32, found f32",
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

#[test]
fn i64_is_taken_where_it_fits() {
    let bytes = |value: i64| {
        let data = value.to_le_bytes();
        let view = TensorView::new(Dtype::I64, vec![1], &data).unwrap();
        safetensors::serialize([("ids", view)], None).unwrap()
    };
    let read = |value| TensorFile::from_bytes("test", bytes(value)).unwrap().read_i32("ids");
    assert_eq!(read(-7).unwrap().values, [-7]);
    assert_eq!(
        read(1 << 40).unwrap_err().to_string(),
        "ids[0]: expected a value within i32, found 1099511627776"
    );
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
