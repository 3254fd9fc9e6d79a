//! A column of the tables in docs/portability.md, and the check that makes it.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::run::Run;

/// A driver or a compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Check {
    /// The device tests on lavapipe of Debian 12, Mesa 22.3
    LavapipeOldest,
    /// The device tests on lavapipe of Debian 12's backports, Mesa 25.0
    LavapipeOlder,
    /// The device tests on lavapipe, the newest that there is
    Lavapipe,
    /// The device tests on SwiftShader
    Swiftshader,
    /// The device tests on llvmpipe, through wgpu's OpenGL backend
    Gl,
    /// The device tests on lavapipe under Vulkan's validation layer, synchronisation included
    Validation,
    /// The compilers of Mesa's drivers, for GPUs of five vendors
    Gpus,
    /// SPIR-V, through spirv-val
    Spirv,
    /// HLSL, through DXC for shader model 6.0
    #[value(name = "hlsl-6.0")]
    Hlsl60,
    /// HLSL, through DXC for shader model 6.2 with 16-bit types
    #[value(name = "hlsl-6.2")]
    Hlsl62,
    /// Metal's language 2.4, written by naga; no compiler for it is at hand
    #[value(name = "msl-2.4")]
    Msl24,
    /// Metal's language 3.1, written by naga; no compiler for it is at hand
    #[value(name = "msl-3.1")]
    Msl31,
    /// GLSL ES 3.1, through glslang
    #[value(name = "glsl-es-3.1")]
    Glsl,
    /// Tint, Chromium's compiler, as Dawn has it for Node
    Tint,
    /// The crate built for browsers, in headless Chromium, compared with the reference there
    Browser,
}

impl Check {
    /// What naga writes, or what is compiled from it.
    pub(super) const TRANSLATED: [Self; 6] =
        [Self::Spirv, Self::Hlsl60, Self::Hlsl62, Self::Msl24, Self::Msl31, Self::Glsl];

    /// Whether it runs the device tests.
    pub(super) fn runs_tests(self) -> bool {
        matches!(
            self,
            Self::LavapipeOldest
                | Self::LavapipeOlder
                | Self::Lavapipe
                | Self::Swiftshader
                | Self::Gl
                | Self::Validation
        )
    }

    /// The name on the command line.
    pub(super) fn name(self) -> String {
        // No value is skipped.
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Column {
    /// The column's head.
    pub(super) title: String,
    /// What ran, in a line: versions, numbers.
    pub(super) summary: String,
    /// By the kernel's name.
    pub(super) cells: BTreeMap<String, Cell>,
    /// What failed outside of a cell.
    pub(super) failures: Vec<String>,
    /// The device tests that it is about, if any.
    pub(super) run: Option<Run>,
}

/// What became of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cell {
    /// It ran, and so many tests found it right.
    Right(usize),
    /// So many of its texts were compiled.
    Compiled(usize),
    /// It isn't for this place, for this reason.
    Refused(String),
    Failed(String),
}

impl Column {
    /// Everything that failed, in words.
    pub(super) fn failures(&self) -> Vec<String> {
        let cells = self.cells.iter().filter_map(|(kernel, cell)| match cell {
            Cell::Failed(message) => Some(format!("{kernel}: {message}")),
            _ => None,
        });
        cells.chain(self.failures.iter().cloned()).collect()
    }
}
