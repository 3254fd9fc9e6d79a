//! Kernels of cooperative matrices: how subgroups share rows, and what is staged for them.

use super::{Fill, Source};

impl Source {
    /// The types of cooperative matrices, and what enables them; it comes before every declaration.
    pub(super) fn matrices(&mut self, size: usize) {
        self.line("enable f16;\nenable wgpu_cooperative_matrix;\n");
        for (name, scalar, role) in
            [("Left", "f16", "A"), ("Right", "f16", "B"), ("Sum", "f32", "C")]
        {
            self.line(&format!("alias {name} = coop_mat{size}x{size}<{scalar}, {role}>;"));
        }
    }

    /// How `own` rows are shared by subgroups, and rows of the other side come in parts.
    pub(super) fn matrix_constants(
        &mut self,
        own: usize,
        size: usize,
        part: usize,
        (least, most): (usize, usize),
        votes: bool,
    ) {
        self.flag("VOTES", votes);
        self.constant("INVOCATIONS", own / size * most);
        self.constant("MATRIX", size);
        self.constant("PART", part);
        self.constant("VECTORS", part / 4 / (least / size));
    }

    /// How subgroups share rows of matrices, and what all kernels of matrices have in workgroup memory.
    pub(super) fn lanes(&mut self, size: usize, (least, most): (usize, usize)) {
        self.title("generated: kernel::source");
        self.flag("SUBGROUPS_ARE_FIXED", least == most);
        // A constant where there is one, by which compilers unroll loops.
        let lanes = match least == most {
            true => format!("{}u", most / size),
            false => "subgroup_size / MATRIX".to_owned(),
        };
        self.line(&format!(
            "fn lanes_per_row(subgroup_size: u32) -> u32 {{\n    return {lanes};\n}}\n"
        ));
        self.part(&shader!("tile/turns"));
        self.part(&shader!("tile/side"));
        self.part(&shader!("matrix/lanes"));
        self.part(&shader!("matrix/strips"));
        self.part(&shader!("matrix/kept"));
        self.part(&shader!("matrix/nonfinite_rows"));
    }

    /// A tile of rows of `tensor`.
    pub(super) fn matrix_rows(&mut self, tensor: &str, capacity: &str) {
        let values = [Fill::Tensor(tensor), Fill::Capacity(capacity)];
        self.template(&shader!("matrix/rows"), &values);
    }

    /// `stage_FROM`: rows of a tensor to where a tile of `tensor` lies.
    pub(super) fn staged_rows(&mut self, [from, tensor]: [&str; 2], side: &str, capacity: &str) {
        let to = [Fill::From(from), Fill::Tensor(tensor)];
        let values = [&to[..], &[Fill::Side(side), Fill::Capacity(capacity)]].concat();
        self.template(&shader!("matrix/stage_rows"), &values);
    }

    /// A transposed tile of `tensor`.
    pub(super) fn turned(&mut self, tensor: &str, capacity: &str) {
        let values = [Fill::Tensor(tensor), Fill::Capacity(capacity)];
        self.template(&shader!("matrix/turned"), &values);
    }

    /// `stage_tile_of_TENSOR`: to its tile of rows, to its transposed one, or to both.
    pub(super) fn staged_tile(
        &mut self,
        tensor: &str,
        side: &str,
        capacity: &str,
        [rows, turned]: [bool; 2],
    ) {
        let of = [Fill::Tensor(tensor), Fill::Side(side), Fill::Capacity(capacity)];
        let to = [Fill::Where("ROWS", rows), Fill::Where("TURNED", turned)];
        self.template(&shader!("matrix/stage_blocks"), &[&of[..], &to].concat());
    }
}
