//! naga's writers, set up as wgpu sets them up for texts whose indices it trusts.

use std::fmt::Display;

use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};

use super::objection::Objection;

/// Kernels are compiled by `create_shader_module_trusted`.
const UNCHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Unchecked,
    buffer: BoundsCheckPolicy::Unchecked,
    image_load: BoundsCheckPolicy::Unchecked,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// A kernel's text, parsed and validated.
pub(crate) struct Text {
    module: Module,
    info: ModuleInfo,
    entry_point: String,
}

impl Text {
    pub(crate) fn parse(wgsl: &str, entry_point: &str) -> Result<Self, Objection> {
        let mut front = naga::front::wgsl::Frontend::new_with_options(naga::front::wgsl::Options {
            parse_doc_comments: false,
            capabilities: Capabilities::all(),
        });
        let module = front.parse(wgsl).map_err(|error| refused(error.emit_to_string(wgsl)))?;
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
        let info =
            validator.validate(&module).map_err(|error| refused(error.emit_to_string(wgsl)))?;
        Ok(Self { module, info, entry_point: entry_point.to_owned() })
    }

    pub(crate) fn spirv(&self) -> Result<Vec<u32>, Objection> {
        let options = spv::Options {
            lang_version: (1, 3),
            flags: spv::WriterFlags::empty(),
            fake_missing_bindings: true,
            bounds_check_policies: UNCHECKED,
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            ..Default::default()
        };
        let pipeline = spv::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: self.entry_point.clone(),
        };
        spv::write_vec(&self.module, &self.info, &options, Some(&pipeline)).map_err(refused)
    }

    pub(crate) fn hlsl(&self, half: bool) -> Result<Hlsl, Objection> {
        let shader_model = if half { hlsl::ShaderModel::V6_2 } else { hlsl::ShaderModel::V6_0 };
        let options = hlsl::Options {
            shader_model,
            fake_missing_bindings: true,
            zero_initialize_workgroup_memory: false,
            restrict_indexing: false,
            force_loop_bounding: false,
            ..Default::default()
        };
        let pipeline = hlsl::PipelineOptions {
            entry_point: Some((ShaderStage::Compute, self.entry_point.clone())),
        };
        let mut text = String::new();
        let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
        let written = writer.write(&self.module, &self.info, None).map_err(refused)?;
        let entry_point = (written.entry_point_names.into_iter().next())
            .ok_or_else(|| refused("no entry point was written"))?
            .map_err(refused)?;
        Ok(Hlsl { text, entry_point })
    }

    pub(crate) fn msl(&self, lang_version: (u8, u8)) -> Result<(), Objection> {
        let options = msl::Options {
            lang_version,
            fake_missing_bindings: true,
            bounds_check_policies: UNCHECKED,
            zero_initialize_workgroup_memory: false,
            force_loop_bounding: false,
            ..Default::default()
        };
        let pipeline = msl::PipelineOptions {
            entry_point: Some((ShaderStage::Compute, self.entry_point.clone())),
            ..Default::default()
        };
        let (_, written) =
            msl::write_string(&self.module, &self.info, &options, &pipeline).map_err(refused)?;
        written.entry_point_names.into_iter().try_for_each(|name| name.map(|_| ()).map_err(refused))
    }

    pub(crate) fn glsl(&self) -> Result<String, Objection> {
        let options = glsl::Options {
            version: glsl::Version::new_gles(310),
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        };
        let pipeline = glsl::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: self.entry_point.clone(),
            multiview: None,
        };
        let mut text = String::new();
        glsl::Writer::new(&mut text, &self.module, &self.info, &options, &pipeline, UNCHECKED)
            .map_err(refused)?
            .write()
            .map_err(refused)?;
        Ok(text)
    }
}

/// What DXC is given.
pub(crate) struct Hlsl {
    pub(crate) text: String,
    pub(crate) entry_point: String,
}

fn refused(error: impl Display) -> Objection {
    Objection::new("naga", &error.to_string())
}
