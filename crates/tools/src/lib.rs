//! The library behind the command line `wgpu-attention`: reads and writes tensor [`files`], draws [`picture`]s of masks and
//! weights, and [`measure`]s kernels and devices.
//!
//! ```no_run
//! use wgpu_attention::{Layout, Mask, Session};
//! use wgpu_attention_tools::files::TensorFile;
//! let file = TensorFile::open("data/minilm-layer0.safetensors")?;
//! let operands = file.operands(Layout::Bhsd)?;
//! let problem = operands.problem(Mask::KeyLengths);
//! let data = file.input_data(&problem, None)?;
//! let session = Session::open_blocking(&Default::default())?;
//! let output = session.run_blocking(&problem, &operands.inputs(&data), &Default::default())?;
//! # Ok::<(), wgpu_attention::Error>(())
//! ```

pub mod files;
pub mod measure;
pub mod picture;
