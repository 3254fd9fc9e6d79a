//! Files for the program to read, and what they hold.

use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;
use wgpu_attention::{AuxData, Layout, Shape};
use wgpu_attention_tools::files::{TensorFile, TensorWriter};

use crate::call::{failure, stdout};

/// A folder with a file in it.
pub(crate) struct Scratch {
    pub(crate) folder: TempDir,
    pub(crate) input: PathBuf,
}

impl Scratch {
    pub(crate) fn new(contents: &TensorWriter) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.safetensors");
        contents.save(&input).unwrap();
        Self { folder, input }
    }

    /// With tensors of any type, by their bytes.
    pub(crate) fn of_bytes(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Self {
        let views = tensors.iter().map(|(name, dtype, dims, bytes)| {
            (*name, TensorView::new(*dtype, dims.to_vec(), bytes).unwrap())
        });
        let contents = safetensors::serialize(views, None).unwrap();
        let scratch = Self::new(&TensorWriter::new());
        std::fs::write(&scratch.input, contents).unwrap();
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `run IN --out OUT` with these options.
    pub(crate) fn run_arguments(&self, options: &[&str]) -> Vec<String> {
        let mut arguments = vec!["run".to_owned(), self.input.display().to_string()];
        arguments.extend(["--out".to_owned(), self.path("out").display().to_string()]);
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        arguments
    }

    pub(crate) fn run(&self, options: &[&str]) -> TensorFile {
        let text = stdout(self.run_arguments(options));
        let lines: Vec<&str> = text.lines().collect();
        let [written, kernel] = lines[..] else { panic!("{text}") };
        assert!(written.contains("out: ") && written.contains(" ["), "{text}");
        assert!(kernel.starts_with("kernel `") && kernel.contains(" ms"), "{text}");
        TensorFile::open(self.path("out")).unwrap()
    }

    /// The message of a run that fails and writes nothing.
    pub(crate) fn refused(&self, options: &[&str]) -> String {
        let message = failure(self.run_arguments(options), 1);
        assert!(!self.path("out").exists());
        message
    }
}

/// q, k and v alone.
pub(crate) fn plain(layout: Layout) -> TensorWriter {
    let [q, k, v] = operands(layout);
    TensorWriter::new().f32("q", &q.0, &q.1).f32("k", &k.0, &k.1).f32("v", &v.0, &v.1)
}

/// Numbers between −2 and 2 that look random, the same every time.
pub(crate) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 4.0 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn assert_near(name: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let same = f64::from(found) == expected;
        assert!(
            same || (f64::from(found) - expected).abs() <= 1e-5,
            "{name}[{index}]: {found} instead of {expected}"
        );
    }
}

/// A small problem with grouped heads, more keys than queries, and everything that masks can name.
pub(crate) const SHAPE: Shape = Shape::new(2, 4, 3, 6).num_kv_heads(2).seq_len_kv(5).head_dim_v(7);

pub(crate) const KEY_LENGTHS: [i32; 2] = [4, 0];
pub(crate) const PREFIX_LENGTHS: [i32; 2] = [1, 2];
pub(crate) const KEY_PADDING: [u8; 10] = [1, 1, 1, 0, 0, 0, 1, 0, 1, 1];
pub(crate) const TOKEN_IDS: [i32; 10] = [7, 8, 9, -1, -1, 5, 6, -1, 4, 4];
pub(crate) const DOCUMENTS_Q: [i32; 6] = [0, 0, 1, 3, 2, 2];
pub(crate) const DOCUMENTS_KV: [i32; 10] = [0, 0, 1, 1, 2, 2, 2, 3, 3, 0];
/// `[num_heads, 1, seq_len_kv]`
pub(crate) const DENSE: [bool; 20] = {
    let mut cells = [false; 20];
    let mut index = 0;
    while index < 20 {
        cells[index] = index % 3 != 0;
        index += 1;
    }
    cells
};

pub(crate) fn mask_data() -> AuxData {
    AuxData::new()
        .key_lengths(KEY_LENGTHS)
        .prefix_lengths(PREFIX_LENGTHS)
        .key_padding(KEY_PADDING.map(|keep| keep != 0))
        .token_ids(TOKEN_IDS, -1)
        .document_ids_q_kv(DOCUMENTS_Q, DOCUMENTS_KV)
        .dense([1, 4, 1, 5], DENSE)
}

pub(crate) fn dims([batch, heads, seq, dim]: [usize; 4], layout: Layout) -> [usize; 4] {
    match layout {
        Layout::Bhsd => [batch, heads, seq, dim],
        Layout::Bshd => [batch, seq, heads, dim],
    }
}

pub(crate) fn operands(layout: Layout) -> [([usize; 4], Vec<f32>); 3] {
    let Shape {
        batch, num_heads, num_kv_heads, seq_len_q, seq_len_kv, head_dim, head_dim_v, ..
    } = SHAPE;
    let sizes = [
        [batch, num_heads, seq_len_q, head_dim],
        [batch, num_kv_heads, seq_len_kv, head_dim],
        [batch, num_kv_heads, seq_len_kv, head_dim_v],
    ];
    let mut seed = 0;
    sizes.map(|sizes| {
        seed += 1;
        (dims(sizes, layout), noise(sizes.iter().product(), seed))
    })
}

pub(crate) fn everything(layout: Layout) -> TensorWriter {
    plain(layout)
        .i32("key_lengths", &[2], &KEY_LENGTHS)
        .i32("prefix_lengths", &[2], &PREFIX_LENGTHS)
        .u8("key_padding", &[2, 5], &KEY_PADDING)
        .i32("token_ids", &[2, 5], &TOKEN_IDS)
        .i32("document_ids_q", &[2, 3], &DOCUMENTS_Q)
        .i32("document_ids_kv", &[2, 5], &DOCUMENTS_KV)
        .bool("dense", &[4, 1, 5], &DENSE)
}
