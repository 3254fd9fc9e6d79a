//! How tensors' rows are read and written, and how they go into a cache.

use super::{Fill, Source};
use crate::kernel::key::{AppendConfig, Pairing, RowAccess};
use crate::tensor::dtype::Dtype;

impl Source {
    /// `load_TENSOR4` for a tensor of that type.
    pub(super) fn rows(&mut self, access: RowAccess, dtype: Dtype, tensor: &str, length: &str) {
        // A length that is a constant is all that there is room for.
        let whole = length.starts_with("HEAD_DIM");
        let load = match (dtype, access) {
            (Dtype::I8 | Dtype::I4, _) if whole => shader!("rows/load_quantized_whole"),
            (Dtype::I8 | Dtype::I4, _) => shader!("rows/load_quantized"),
            (_, RowAccess::Scalar) => shader!("rows/load_scalar"),
            (_, RowAccess::Vec4 | RowAccess::Wide) if whole => shader!("rows/load_vec4_whole"),
            (_, RowAccess::Vec4 | RowAccess::Wide) => shader!("rows/load_vec4"),
        };
        self.reads(access, dtype, tensor, false);
        self.template(&load, &[Fill::Tensor(tensor), Fill::RowLength(length)]);
    }

    /// `run_TENSOR4` on top of that, for kernels that read so many neighbouring vectors at a time.
    pub(super) fn runs(
        &mut self,
        access: RowAccess,
        dtype: Dtype,
        tensor: &str,
        (run, run_length): (&str, usize),
        length: &str,
    ) {
        let whole = access == RowAccess::Vec4 && length.starts_with("HEAD_DIM");
        let part = match dtype {
            Dtype::I8 if run_length > 1 => shader!("rows/run_i8"),
            Dtype::I4 if run_length > 1 => shader!("rows/run_i4"),
            Dtype::I8 | Dtype::I4 => shader!("rows/run"),
            _ if whole => shader!("rows/run_whole"),
            _ => shader!("rows/run"),
        };
        let values = [Fill::Tensor(tensor), Fill::Run(run), Fill::RowLength(length)];
        self.template(&part, &values);
    }

    /// The same for a tensor that is written: `store_TENSOR4`, and `load_TENSOR4` to read it back.
    pub(super) fn written_rows(
        &mut self,
        access: RowAccess,
        dtype: Dtype,
        tensor: &str,
        length: &str,
    ) {
        let access = access.written();
        self.reads(access, dtype, tensor, true);
        let (load, store, write) = match (access, dtype) {
            (RowAccess::Scalar, Dtype::F32) => (
                shader!("rows/load_scalar"),
                shader!("rows/store_scalar"),
                shader!("rows/f32_scalar_write"),
            ),
            (RowAccess::Scalar, _) => (
                shader!("rows/load_scalar"),
                shader!("rows/store_scalar"),
                shader!("rows/half_scalar_write"),
            ),
            (_, Dtype::F32) => (
                shader!("rows/load_vec4"),
                shader!("rows/store_vec4"),
                shader!("rows/f32_vec4_write"),
            ),
            _ => (
                shader!("rows/load_vec4"),
                shader!("rows/store_vec4"),
                shader!("rows/half_vec4_write"),
            ),
        };
        for part in [write, load, store] {
            let values = [Fill::Half(dtype.name()), Fill::Tensor(tensor), Fill::RowLength(length)];
            self.template(&part, &values);
        }
    }

    /// `read_TENSOR` or `read_TENSOR4`: elements as f32.
    pub(super) fn reads(&mut self, access: RowAccess, dtype: Dtype, tensor: &str, atomic: bool) {
        match dtype {
            Dtype::F32 => {}
            Dtype::I8 => return self.template(&shader!("rows/i8"), &[Fill::Tensor(tensor)]),
            Dtype::I4 => return self.template(&shader!("rows/i4"), &[Fill::Tensor(tensor)]),
            Dtype::F16 => self.once(&shader!("rows/f16")),
            Dtype::Bf16 => self.once(&shader!("rows/bf16")),
        }
        let read = match (access, dtype) {
            (RowAccess::Scalar, Dtype::F32) => shader!("rows/f32_scalar"),
            (RowAccess::Scalar, _) => shader!("rows/half_scalar"),
            (RowAccess::Vec4, Dtype::F32) => shader!("rows/f32_vec4"),
            (RowAccess::Vec4, _) => shader!("rows/half_vec4"),
            (RowAccess::Wide, Dtype::F32) => shader!("cpu/rows/f32_wide"),
            (RowAccess::Wide, _) => shader!("cpu/rows/half_wide"),
        };
        let word = match atomic {
            true => format!("atomicLoad(&{tensor}[at / 2u])"),
            false => format!("{tensor}[at / 2u]"),
        };
        let values = [Fill::Word(&word), Fill::Half(dtype.name()), Fill::Tensor(tensor)];
        self.template(&read, &values);
    }

    /// The parts of the kernel that appends to a cache.
    pub(super) fn append(&mut self, config: &AppendConfig) {
        self.constant("PARTS", config.parts);
        self.line(&format!("const ROTATES_Q: bool = {};", config.rotates_q));
        self.line(&format!("const HAS_VALUES: bool = {};", config.values));
        if let Some(pairing) = config.pairing {
            self.part(&shader!("cache/rotary"));
            self.part(&match pairing {
                Pairing::Half => shader!("cache/pairs_half"),
                Pairing::Interleaved => shader!("cache/pairs_interleaved"),
            });
        }
        self.incoming(config, "new_k", "params.head_dim", true);
        self.appended(config, config.cache, "new_k", "k", "params.head_dim");
        if config.values {
            self.incoming(config, "new_v", "params.head_dim_v", false);
            self.appended(config, config.cache, "new_v", "v", "params.head_dim_v");
        } else {
            self.nothing_appended("v");
        }
        if config.rotates_q {
            self.incoming(config, "q", "params.head_dim", true);
            self.appended(config, config.tokens, "q", "rotated_q", "params.head_dim");
        } else {
            self.nothing_appended("rotated_q");
        }
        self.part(&shader!("cache/capacity"));
        if config.windows {
            // Strides of quantized rows count rows.
            let stride = if config.cache.is_quantized() { "1u" } else { "params.head_dim" };
            self.title("generated: kernel::source");
            self.line(&format!("fn cache_row_stride() -> u32 {{\n    return {stride};\n}}"));
        }
        self.part(&shader!("cache/append"));
    }

    /// `append_TENSOR` of a tensor that isn't there.
    fn nothing_appended(&mut self, to: &str) {
        self.title("generated: kernel::source");
        self.line(&format!(
            "fn append_{to}(part: u32, to: vec2<u32>, place: vec2<u32>, h: u32, position: u32) {{}}"
        ));
    }

    /// `incoming_TENSOR4`: rows of the new tokens; keys and queries are rotated.
    fn incoming(&mut self, config: &AppendConfig, tensor: &str, length: &str, rotated: bool) {
        self.rows(config.access, config.tokens, tensor, length);
        let rows = match rotated && config.pairing.is_some() {
            true => shader!("cache/turned_rows"),
            false => shader!("cache/plain_rows"),
        };
        let incoming = match rotated && config.hadamard {
            true => shader!("cache/hadamard_rows"),
            false => shader!("cache/no_hadamard"),
        };
        for part in [rows, incoming] {
            self.template(&part, &[Fill::Tensor(tensor)]);
        }
    }

    /// `append_TENSOR`: rows from one tensor to another.
    fn appended(
        &mut self,
        config: &AppendConfig,
        dtype: Dtype,
        from: &str,
        to: &str,
        length: &str,
    ) {
        let store = match dtype {
            Dtype::I8 => shader!("cache/store_row_i8"),
            Dtype::I4 => shader!("cache/store_row_i4"),
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => shader!("cache/store_row"),
        };
        match dtype.is_quantized() {
            true => self.reads(config.access, dtype, to, false),
            false => self.written_rows(config.access, dtype, to, length),
        }
        self.template(&store, &[Fill::From(from), Fill::Tensor(to), Fill::RowLength(length)]);
    }
}
