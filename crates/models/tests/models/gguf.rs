//! Files of llama.cpp, read and refused.

use models::gguf::Gguf;
use operators::Gpu;

/// A file with one number, one text, and a tensor of two rows of 4.
fn file() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    text(&mut bytes, "layers");
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(30u32.to_le_bytes());
    text(&mut bytes, "names");
    bytes.extend([9u32, 8].map(u32::to_le_bytes).as_flattened());
    bytes.extend(2u64.to_le_bytes());
    text(&mut bytes, "a");
    text(&mut bytes, "bc");
    text(&mut bytes, "w");
    bytes.extend(2u32.to_le_bytes());
    bytes.extend([4u64, 2].map(u64::to_le_bytes).as_flattened());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend((0..8).flat_map(|i| (i as f32).to_le_bytes()));
    bytes
}

#[test]
fn a_file_is_read() {
    let file = Gguf::from_bytes(file()).unwrap();
    assert_eq!(file.size("layers").unwrap(), 30);
    assert_eq!(file.texts("names").unwrap(), ["a", "bc"]);
    assert_eq!(file.dims("w").unwrap(), [2, 4]);
    for (result, part) in [
        (file.size("names").map(drop), "names is no number"),
        (file.text("layers").map(drop), "layers is no text"),
        (file.text("width").map(drop), "says nothing of width"),
        (file.dims("x").map(drop), "no tensor x"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn files_that_were_cut_off_are_refused() {
    let whole = file();
    for length in 0..whole.len() - 32 {
        Gguf::from_bytes(whole[..length].to_vec()).map(drop).unwrap_err();
    }
    // The header is whole, the tensor isn't.
    let file = Gguf::from_bytes(whole[..whole.len() - 1].to_vec()).unwrap();
    let gpu = Gpu::open().unwrap();
    let error = file.matrix(&gpu, "w", [2, 4]).unwrap_err().to_string();
    assert!(error.contains("w goes beyond the file's end"), "{error}");
    assert!(Gguf::from_bytes(b"PK".to_vec()).is_err());
}
