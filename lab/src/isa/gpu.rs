//! The GPUs that kernels are compiled for.

use drivers::GpuDriver::{self, Anv, Honeykrisp, Nvk, Radv, Turnip};

/// A GPU that isn't there, as its driver is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) name: &'static str,
    /// What it's sold as.
    pub(crate) chips: &'static str,
    pub(crate) driver: GpuDriver,
    /// By which variables the driver is told.
    variables: &'static [(&'static str, &'static str)],
}

impl Gpu {
    const fn new(
        name: &'static str,
        chips: &'static str,
        driver: GpuDriver,
        variables: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { name, chips, driver, variables }
    }

    /// Variables that choose the GPU.
    pub(crate) fn environment(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.variables.iter().copied()
    }

    /// The variable by which the driver's compiler prints what it made, machine code and statistics.
    pub(crate) const fn printing(self) -> (&'static str, &'static str) {
        match self.driver {
            Nvk => ("NAK_DEBUG", "print"),
            Radv => ("RADV_DEBUG", "asm,shaderstats"),
            Honeykrisp => ("AGX_MESA_DEBUG", "shaders,shaderdb"),
            Turnip => ("IR3_SHADER_DEBUG", "cs,shaderdb"),
            Anv => ("INTEL_DEBUG", "cs"),
        }
    }

    /// Whether its driver lists cooperative matrices.
    pub(crate) fn has_matrices(self) -> bool {
        let with = ["tu104", "ga102", "navi31", "strix1", "gfx1201"];
        with.contains(&self.name)
    }

    /// Whether the driver is told to compile for subgroups of 32, which it does for kernels that use none.
    pub(crate) fn is_wave32(self) -> bool {
        self.name.ends_with("-wave32")
    }
}

/// Every GPU of the report: of each vendor, what its packaged driver and shim know.
pub(crate) const GPUS: [Gpu; 18] = [
    Gpu::new("tu104", "Turing: RTX 2080", Nvk, &[("NOUVEAU_CHIPSET", "0x164")]),
    Gpu::new("ga102", "Ampere: RTX 3090", Nvk, &[("NOUVEAU_CHIPSET", "0x172")]),
    Gpu::new("polaris10", "GCN 4: RX 480, RX 580", Radv, &[("AMDGPU_GPU_ID", "polaris10")]),
    Gpu::new("vega10", "GCN 5: RX Vega 56 and 64", Radv, &[("AMDGPU_GPU_ID", "vega10")]),
    Gpu::new("navi21", "RDNA 2: RX 6800, RX 6900", Radv, &[("AMDGPU_GPU_ID", "navi21")]),
    Gpu::new("navi31", "RDNA 3: RX 7900", Radv, &[("AMDGPU_GPU_ID", "navi31")]),
    Gpu::new(
        "navi31-wave32",
        "the same with subgroups of 32",
        Radv,
        &[("AMDGPU_GPU_ID", "navi31"), ("RADV_PERFTEST", "cswave32")],
    ),
    Gpu::new("strix1", "RDNA 3.5: Ryzen AI 300", Radv, &[("AMDGPU_GPU_ID", "strix1")]),
    Gpu::new("gfx1201", "RDNA 4: RX 9070", Radv, &[("AMDGPU_GPU_ID", "gfx1201")]),
    Gpu::new("m1", "Apple M1", Honeykrisp, &[]),
    Gpu::new("a630", "Adreno 630: Snapdragon 845", Turnip, &[("FD_GPU_ID", "630")]),
    Gpu::new("a660", "Adreno 660: Snapdragon 888", Turnip, &[("FD_GPU_ID", "660")]),
    Gpu::new("a730", "Adreno 730: Snapdragon 8 Gen 1", Turnip, &[("FD_GPU_ID", "730")]),
    Gpu::new("a740", "Adreno 740: Snapdragon 8 Gen 2", Turnip, &[("FD_GPU_ID", "740")]),
    Gpu::new("a750", "Adreno 750: Snapdragon 8 Gen 3", Turnip, &[("FD_GPU_ID", "750")]),
    Gpu::new("a830", "Adreno 830: Snapdragon 8 Elite", Turnip, &[("FD_GPU_ID", "830")]),
    Gpu::new("tgl", "Xe-LP: Core i7-1165G7", Anv, &[("INTEL_SHIM", "0x9a49,6")]),
    Gpu::new("dg2", "Xe-HPG: Arc A770", Anv, &[("INTEL_SHIM", "0x56a0,32")]),
];
