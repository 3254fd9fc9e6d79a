use arbitrary::{Result, Unstructured};
use wgpu_attention::mask::Evaluator;
use wgpu_attention::wgsl::WgslFunction;
use wgpu_attention::{Error, Layout, Mask, ScoreModifiers, Shape};
use wgpu_attention_tools::files::{Tensor, TensorFile, TensorWriter};

/// Masks that read every tensor there is a name for.
const MASKS: [&str; 13] = [
    "causal",
    "key_lengths",
    "key_padding",
    "token_padding",
    "prefix | causal",
    "documents",
    "dense",
    "block_bidirectional",
    "buckets",
    "column_ranges",
    "column_ranges(bidirectional)",
    "tree",
    "per_head(dense, key_lengths)",
];

/// Any bytes as a file of tensors: an error, or tensors that are what their sizes say, and operands and masks that are
/// refused or can be evaluated.
pub fn tensors(data: &[u8]) {
    read(data.to_vec());
    // The same with a length of the header that fits, which is hard to come by.
    if let (Some(prefix), Some(end)) =
        (data.first_chunk::<8>(), data.iter().rposition(|&b| b == b'}'))
    {
        let length = (end as u64).saturating_sub(prefix.len() as u64 - 1).to_le_bytes();
        if length != *prefix {
            read([length.as_slice(), &data[prefix.len()..]].concat());
        }
    }
}

/// Well-formed headers of any names, types, sizes and places, on any bytes.
pub fn tensor_headers(data: &[u8]) {
    if let Ok(file) = file(&mut Unstructured::new(data)) {
        read(file);
    }
}

/// A file's bytes.
fn file(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const NAMES: [&str; 24] = [
        "q",
        "k",
        "v",
        "bias",
        "dense",
        "key_lengths",
        "key_padding",
        "token_ids",
        "prefix_lengths",
        "document_ids",
        "document_ids_q",
        "document_ids_kv",
        "block_ids",
        "bucket_ids",
        "column_ranges",
        "tree_parents",
        "q_starts",
        "kv_starts",
        "q_lengths",
        "kv_lengths",
        "kv_first",
        "block_tables",
        "slopes",
        "ids",
    ];
    const TYPES: [(&str, usize); 8] = [
        ("F32", 4),
        ("F16", 2),
        ("BF16", 2),
        ("I32", 4),
        ("I64", 8),
        ("U8", 1),
        ("BOOL", 1),
        ("F64", 8),
    ];
    const LARGE: [usize; 6] =
        [1 << 29, (1 << 31) - 1, 1 << 32, (1 << 61) + 1, usize::MAX / 2, usize::MAX];
    let mut header = Vec::new();
    let mut end = 0_usize;
    for name in NAMES {
        if !u.ratio(1, 3)? {
            continue;
        }
        let (dtype, bytes) = *u.choose(&TYPES)?;
        let dims = (0..u.int_in_range(0..=5)?)
            .map(
                |_| if u.ratio(1, 16)? { u.choose(&LARGE).copied() } else { u.int_in_range(0..=5) },
            )
            .collect::<Result<Vec<usize>>>()?;
        let size = dims.iter().fold(bytes, |size, &dim| size.wrapping_mul(dim));
        let start = if u.ratio(1, 32)? { u.arbitrary()? } else { end };
        end = start.wrapping_add(size);
        header.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{dims:?},"data_offsets":[{start},{end}]}}"#
        ));
    }
    if u.arbitrary()? {
        let pad: i32 = u.arbitrary()?;
        header.push(format!(r#""__metadata__":{{"pad_id":"{pad}","tokens":"[[\"a\"]]"}}"#));
    }
    let header = format!("{{{}}}", header.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    // As many bytes as the header asks for, unless that's absurd; small integers more often than not, then zeros.
    let small = u.ratio(3, 4)?;
    let (start, len) = (file.len(), end.min(1 << 16));
    let given = len.min(u.len());
    let bytes = u.bytes(given)?.iter().enumerate();
    file.extend(bytes.map(|(at, &byte)| match small {
        true if at % 4 != 0 => 0,
        true => byte % 6,
        false => byte,
    }));
    file.resize(start + len, 0);
    Ok(file)
}

fn read(bytes: Vec<u8>) {
    let length = bytes.len();
    let Ok(file) = TensorFile::from_bytes("fuzz", bytes) else {
        return;
    };
    let mut writer = TensorWriter::new();
    for name in file.names() {
        let dims = file.dims(&name).expect("a name of its own").to_vec();
        let floats = whole(file.read_f32(&name), &dims, length);
        let integers = whole(file.read_i32(&name), &dims, length);
        let flags = whole(file.read_bool(&name), &dims, length);
        assert!(integers.is_none() || flags.is_some(), "integers are flags");
        writer = match (floats, integers, flags) {
            (Some(tensor), _, _) => writer.f32(&name, &dims, &tensor.values),
            (None, Some(tensor), _) => writer.i32(&name, &dims, &tensor.values),
            (None, None, Some(tensor)) => writer.bool(&name, &dims, &tensor.values),
            (None, None, None) => writer,
        };
    }
    written_and_read_again(&file, &writer);
    let _ = (file.tokens(), file.metadata("pad_id"));
    let function =
        WgslFunction::new("fn keep() { slopes(1); ids(1); dense(1); }").expect("functions alone");
    if let Ok(function) = file.with_buffers(function) {
        // Integers may be larger than the buffer's.
        let _ = file.custom_data(&function, Default::default());
    }
    let [bhsd, bshd] = [Layout::Bhsd, Layout::Bshd].map(|layout| file.operands(layout).ok());
    let shapes = [bhsd, bshd, file.merged_operands(2, None).ok()];
    for operands in shapes.iter().flatten() {
        assert_eq!(operands.q.len(), operands.shape.q_len().expect("the shape was validated"));
        assert_eq!(operands.k.len(), operands.shape.k_len().expect("the shape was validated"));
        assert_eq!(operands.v.len(), operands.shape.v_len().expect("the shape was validated"));
        for score in [
            ScoreModifiers::default().bias(true),
            ScoreModifiers::default().alibi(true).sinks(true),
        ] {
            let _ = file.input_data(&operands.problem(Mask::All).score(score), None);
        }
    }
    for text in MASKS {
        let mask: Mask = text.parse().expect("the masks are constants");
        let shapes = shapes.iter().flatten().map(|operands| operands.shape);
        for shape in shapes.chain(file.mask_shape(&mask, 4, 5)) {
            evaluate(&file, &mask, &shape);
        }
    }
}

/// A tensor that could be read has the sizes that the header says, all its elements, and no more of them than bytes.
fn whole<T>(tensor: Result<Tensor<T>, Error>, dims: &[usize], bytes: usize) -> Option<Tensor<T>> {
    let tensor = tensor.ok()?;
    assert_eq!(tensor.dims, dims);
    assert_eq!(tensor.values.len(), dims.iter().product::<usize>());
    assert!(tensor.values.len() <= bytes);
    Some(tensor)
}

/// What was read is what is read from what it was written to.
fn written_and_read_again(file: &TensorFile, writer: &TensorWriter) {
    let bytes = writer.to_bytes().expect("the sizes are those of the values");
    let again = TensorFile::from_bytes("again", bytes).expect("it was written whole");
    for name in again.names() {
        let bits = |file: &TensorFile| {
            let tensor = file.read_f32(&name).ok()?;
            Some(tensor.values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let ints = |file: &TensorFile| Some(file.read_i32(&name).ok()?.values);
        let bools = |file: &TensorFile| Some(file.read_bool(&name).ok()?.values);
        assert_eq!((bits(file), bools(file)), (bits(&again), bools(&again)), "{name}");
        // Some are flags alone, as they don't fit i32.
        assert!(ints(file).is_none() || ints(file) == ints(&again), "{name}");
    }
}

/// The mask at each cell, where its data is there and fits.
fn evaluate(file: &TensorFile, mask: &Mask, shape: &Shape) {
    let Ok(data) = file.mask_data(mask, shape, None) else {
        return;
    };
    let Ok(evaluator) = Evaluator::new(mask, &data, shape) else {
        return;
    };
    // A file has few bytes, but what reads no data may have any sizes.
    let few = |size: usize| size.min(8);
    for b in 0..few(shape.batch) {
        for h in 0..few(shape.num_heads) {
            for q_idx in 0..few(shape.seq_len_q) {
                for kv_idx in 0..few(shape.seq_len_kv) {
                    evaluator.keep(b, h, q_idx, kv_idx);
                }
            }
        }
    }
}
