//! What measurements on a device said about kernels, to be preferred to the tile table.

#[cfg(feature = "profiles")]
use std::path::Path;

#[cfg(feature = "profiles")]
use crate::error::{Error, Result};
use crate::problem::Problem;
use crate::tensor::dtype::Dtypes;

/// The fastest kernels for some problems on one device, as `wgpu-attention tune` found them. Plans go
/// by it where it is given to [`crate::kernel::KernelOptions`]; [`crate::AttentionPlan::explain`] says whether one did.
///
/// A measurement speaks for problems with the same head sizes and types whose numbers of rows (batch · heads · queries)
/// and of keys are within a factor of 8 of those that were measured; of several, the nearest one. For all others the
/// tile table decides, and wherever the device or its driver is another one.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    device: DeviceId,
    choices: Vec<Choice>,
}

/// Which device and driver a profile is for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "profiles", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct DeviceId {
    name: String,
    vendor: u32,
    device: u32,
    backend: String,
    driver: String,
    driver_info: String,
}

impl DeviceId {
    pub(crate) fn new(info: &wgpu::AdapterInfo) -> Self {
        Self {
            name: info.name.clone(),
            vendor: info.vendor,
            device: info.device,
            backend: info.backend.to_string(),
            driver: info.driver.clone(),
            driver_info: info.driver_info.clone(),
        }
    }
}

/// What was fastest for one problem.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "profiles", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Choice {
    pub(crate) rows: u64,
    pub(crate) keys: u64,
    pub(crate) head_dim: usize,
    pub(crate) head_dim_v: usize,
    /// Of q, k, v and o.
    pub(crate) dtypes: [String; 4],
    /// For readers; it doesn't decide.
    pub(crate) mask: String,
    pub(crate) best: Measured,
    /// The best one, too.
    pub(crate) measured: Vec<Measured>,
}

/// A kernel with its tiles, by the names that `ForwardConfig::tiles` gives them, and how long it took.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "profiles", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Measured {
    pub(crate) kernel: String,
    pub(crate) tiles: String,
    /// Nanoseconds that the device worked.
    pub(crate) ns: u64,
}

/// What a profile says on a problem.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Advice<'a> {
    Use(&'a Choice),
    /// It is for another device.
    Foreign,
    /// It has measured nothing like it.
    Silent,
}

/// How far from a measurement a problem may be, as a factor of rows and of keys.
const REACH: f64 = 8.0;

impl Choice {
    pub(crate) fn new(problem: &Problem, mut measured: Vec<Measured>) -> Option<Self> {
        measured.sort_by_key(|measured| measured.ns);
        let best = measured.first()?.clone();
        let [rows, keys] = extent(problem);
        let shape = &problem.shape;
        Some(Self {
            rows,
            keys,
            head_dim: shape.head_dim,
            head_dim_v: shape.head_dim_v,
            dtypes: names(&problem.dtypes),
            mask: problem.mask.to_string(),
            best,
            measured,
        })
    }

    /// How far the problem is, if this speaks for it.
    fn distance(&self, problem: &Problem) -> Option<f64> {
        let shape = &problem.shape;
        let [rows, keys] = extent(problem);
        let factor = |a: u64, b: u64| (a.max(1) as f64 / b.max(1) as f64).log2().abs();
        let (rows, keys) = (factor(self.rows, rows), factor(self.keys, keys));
        let alike = self.head_dim == shape.head_dim
            && self.head_dim_v == shape.head_dim_v
            && self.dtypes == names(&problem.dtypes)
            && rows.max(keys) <= REACH.log2();
        alike.then_some(rows + keys)
    }
}

fn extent(problem: &Problem) -> [u64; 2] {
    let shape = &problem.shape;
    let product = |sizes: [usize; 3]| sizes.iter().fold(1u64, |p, &n| p.saturating_mul(n as u64));
    [product([shape.batch, shape.num_heads, shape.seq_len_q]), shape.seq_len_kv as u64]
}

fn names(dtypes: &Dtypes) -> [String; 4] {
    [dtypes.q, dtypes.k, dtypes.v, dtypes.o].map(|dtype| dtype.name().to_owned())
}

impl Profile {
    /// A profile of a device that says nothing yet: [`Profile::measured`] adds to it.
    pub fn new(device: &wgpu::Device) -> Self {
        Self::of(DeviceId::new(&device.adapter_info()), Vec::new())
    }

    pub(crate) const fn of(device: DeviceId, choices: Vec<Choice>) -> Self {
        Self { device, choices }
    }

    pub(crate) fn add(&mut self, choice: Choice) {
        self.choices.push(choice);
    }

    /// What it says on a problem on a device.
    pub(crate) fn advice(&self, device: &DeviceId, problem: &Problem) -> Advice<'_> {
        if *device != self.device {
            return Advice::Foreign;
        }
        let near = (self.choices.iter())
            .filter_map(|choice| Some((choice, choice.distance(problem)?)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b));
        near.map_or(Advice::Silent, |(choice, _)| Advice::Use(choice))
    }
}

/// The file's version: of its fields, and of the words that name kernels and tiles. Others are refused.
///
/// Version 1 named tiles by the types of the release that wrote it.
#[cfg(feature = "profiles")]
const VERSION: u32 = 2;

#[cfg(feature = "profiles")]
#[derive(serde::Serialize, serde::Deserialize)]
struct File {
    wgpu_attention_profile: u32,
    device: DeviceId,
    choices: Vec<Choice>,
}

#[cfg(feature = "profiles")]
impl Profile {
    /// Reads a profile of JSON.
    ///
    /// # Errors
    /// [`Error::File`] where it can't be read or isn't a profile of this version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |message: String| Error::File { path: path.display().to_string(), message };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| failed(format!("it isn't JSON: {error}")))?;
        match value["wgpu_attention_profile"].as_u64() {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => {
                let written = if version < u64::from(VERSION) { "an earlier" } else { "a later" };
                return Err(failed(format!(
                    "a profile of version {version}, written by {written} release, but version {VERSION} is read here: measure \
                     again with `wgpu-attention tune`"
                )));
            }
            None => {
                return Err(failed("it isn't a profile: wgpu_attention_profile is missing".into()));
            }
        }
        let File { device, choices, .. } =
            serde_json::from_value(value).map_err(|error| failed(error.to_string()))?;
        Ok(Self { device, choices })
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// [`Error::File`] where it can't be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = File {
            wgpu_attention_profile: VERSION,
            device: self.device.clone(),
            choices: self.choices.clone(),
        };
        let written = serde_json::to_string_pretty(&file)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(path, text + "\n"));
        written.map_err(|error| Error::File {
            path: path.display().to_string(),
            message: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::shape::Shape;

    fn device(driver_info: &str) -> DeviceId {
        DeviceId {
            name: "gpu".to_owned(),
            vendor: 1,
            device: 2,
            backend: "vulkan".to_owned(),
            driver: "driver".to_owned(),
            driver_info: driver_info.to_owned(),
        }
    }

    fn choice(seq_len: usize, kernel: &str) -> Choice {
        let measured = [(kernel, 1), ("slow", 2)].map(|(kernel, ns)| Measured {
            kernel: kernel.to_owned(),
            tiles: String::new(),
            ns,
        });
        Choice::new(&problem(seq_len), measured.into_iter().rev().collect()).unwrap()
    }

    fn problem(seq_len: usize) -> Problem {
        Problem::new(Shape::new(1, 8, seq_len, 64))
    }

    #[test]
    fn the_nearest_measurement_on_the_same_device_advises() {
        let choices = vec![choice(256, "short"), choice(4096, "long")];
        let profile = Profile::of(device("1"), choices);
        let used = |problem: &Problem| match profile.advice(&device("1"), problem) {
            Advice::Use(choice) => Some(choice.best.kernel.as_str()),
            _ => None,
        };
        assert_eq!(used(&problem(300)), Some("short"));
        assert_eq!(used(&problem(2000)), Some("long"));
        assert_eq!(used(&problem(16)), None);
        assert_eq!(used(&Problem::new(Shape::new(1, 8, 256, 32))), None);
        assert_eq!(used(&problem(256).dtypes(crate::Dtype::F16)), None);
        assert!(matches!(profile.advice(&device("2"), &problem(256)), Advice::Foreign));
    }

    #[cfg(feature = "profiles")]
    #[test]
    fn files_come_back_and_others_are_refused() {
        let path = std::env::temp_dir().join(format!("profile-{}.json", std::process::id()));
        let profile = Profile::of(device("1"), vec![choice(256, "short")]);
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), profile);
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Profile::load(&path).unwrap_err().to_string()
        };
        assert!(refused("{").contains("it isn't JSON"));
        assert!(refused("[]").contains("it isn't a profile"));
        for (version, written) in [(1, "an earlier"), (3, "a later")] {
            let message = refused(&format!("{{\"wgpu_attention_profile\":{version}}}"));
            let told = format!("version {version}, written by {written} release, but version 2");
            assert!(message.contains(&told) && message.contains("tune"), "{message}");
        }
        assert!(refused("{\"wgpu_attention_profile\":2}").contains("missing field"));
        // As releases of version 1 wrote it.
        let old = r#"{"wgpu_attention_profile":1,"device":{"name":"gpu","vendor":1,"device":2,"backend":"vulkan",
            "driver":"driver","driver_info":"1"},"choices":[{"rows":8,"keys":8,"head_dim":64,"head_dim_v":64,
            "dtypes":["f32","f32","f32","f32"],"mask":"all","best":{"kernel":"tiled","tiles":
            "64 queries x 32 keys, Tiled { columns: 8, chunk: 16, v_keys: 16 }","ns":1},"measured":[]}]}"#;
        assert!(refused(old).contains("a profile of version 1"), "{}", refused(old));
        std::fs::remove_file(&path).unwrap();
        assert!(Profile::load(&path).is_err());
    }
}
