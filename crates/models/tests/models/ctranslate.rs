//! Files of CTranslate2, read and refused.

use half::f16;
use models::ctranslate::ModelFile;

fn file() -> Vec<u8> {
    let text = |text: &str| {
        let length = text.len() as u16 + 1;
        [&length.to_le_bytes()[..], text.as_bytes(), &[0]].concat()
    };
    let word = |word: u32| word.to_le_bytes().to_vec();
    let halves: Vec<u8> =
        [1.5f32, -2.0].iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    [
        [word(6), text("WhisperSpec"), word(3), word(2)].concat(),
        [text("a/weight"), vec![1], word(2), vec![4], word(4), halves].concat(),
        [text("heads"), vec![0, 2], word(2), vec![6, 0]].concat(),
    ]
    .concat()
}

#[test]
fn a_file_is_read() {
    let file = ModelFile::from_bytes(file()).unwrap();
    assert_eq!(file.kind(), "WhisperSpec");
    assert_eq!(file.values("a/weight", &[2]).unwrap(), [1.5, -2.0]);
    assert_eq!(file.short("heads").unwrap(), 6);
    assert!(file.values("a/weight", &[3]).unwrap_err().to_string().contains("sizes [2]"));
    assert!(file.values("b", &[3]).unwrap_err().to_string().contains("no tensor b"));
}

#[test]
fn files_that_were_cut_off_are_refused() {
    let whole = file();
    for length in 0..whole.len() {
        ModelFile::from_bytes(whole[..length].to_vec()).map(drop).unwrap_err();
    }
}
