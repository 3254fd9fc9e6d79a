//! Compiled pipelines on disk, so that a program's second start finds them.
//!
//! A file per adapter: a line that says what it is and of which version, a checksum, and what wgpu gave. A file that isn't as it was written is
//! left aside, since drivers needn't check what they are handed; whether it is for this very driver, wgpu checks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What every version begins with; the version follows in decimal digits, then a new line.
const TITLE: &[u8] = b"wgpu-attention pipelines ";
/// The version of the files: of what follows the first line. Others are left aside.
const VERSION: &[u8] = b"2";
/// The length of the checksum, behind the first line.
const CHECKSUM: usize = 8;

/// The pipelines of one device, in memory and on disk.
#[derive(Debug)]
pub(crate) struct PipelineStore {
    pub(crate) cache: wgpu::PipelineCache,
    path: PathBuf,
    /// What was found at the start.
    pub(crate) found: String,
    /// Whether there was a file that couldn't be used.
    pub(crate) is_replaced: bool,
}

impl PipelineStore {
    /// Reads what is there; or in words, why there can't be a store.
    pub(crate) fn open(device: &wgpu::Device, folder: &Path) -> Result<Self, String> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return Err("the device was opened without Features::PIPELINE_CACHE".to_owned());
        }
        let name = wgpu::util::pipeline_cache_key(&device.adapter_info());
        let name = name.ok_or("wgpu keeps no pipelines of this backend")?;
        // Other users of wgpu may keep theirs in the same folder, under the adapter's name alone.
        let path = folder.join(format!("wgpu-attention.{name}"));
        let (data, found) = match read(&path) {
            Ok(data) => {
                let found = format!("{} bytes from {}", data.len(), path.display());
                (Some(data), found)
            }
            Err(reason) => (None, format!("started afresh: {}: {reason}", path.display())),
        };
        let is_replaced = data.is_none() && path.exists();
        let create = |data: Option<&[u8]>| {
            let descriptor =
                wgpu::PipelineCacheDescriptor { label: Some("attention"), data, fallback: true };
            crate::device::scoped(device, "opening the pipeline cache", || {
                // SAFETY: the data is what `get_data` gave for an adapter of this kind, as its checksum tells.
                #[expect(unsafe_code)]
                let cache = unsafe { device.create_pipeline_cache(&descriptor) };
                cache
            })
        };
        match create(data.as_deref()) {
            Ok(cache) => Ok(Self { cache, path, found, is_replaced }),
            Err(error) => create(None)
                .map(|cache| {
                    let found = format!("started afresh: {error}");
                    Self { cache, path, found, is_replaced: true }
                })
                .map_err(|error| error.to_string()),
        }
    }

    /// Writes everything that has been compiled: whole, or not at all.
    pub(crate) fn save(&self) -> Result<()> {
        // A driver may have nothing to say.
        let Some(data) = self.cache.get_data() else {
            return Ok(());
        };
        write(&self.path, &data).map_err(|error| Error::File {
            path: self.path.display().to_string(),
            message: error.to_string(),
        })
    }
}

/// FNV-1a of 64 bits: it tells a damaged file from a whole one, and is the same in every release.
fn checksum(data: &[u8]) -> [u8; CHECKSUM] {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    data.iter().fold(0xcbf2_9ce4_8422_2325, step).to_le_bytes()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut contents = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is none yet".to_owned(),
        _ => error.to_string(),
    })?;
    let version = (contents.strip_prefix(TITLE))
        .and_then(|rest| rest.split(|&byte| byte == b'\n').next())
        .filter(|version| {
            (1..=9).contains(&version.len()) && version.iter().all(u8::is_ascii_digit)
        })
        .ok_or("it isn't a file of compiled pipelines")?;
    if version != VERSION {
        let [version, known] = [version, VERSION].map(String::from_utf8_lossy);
        return Err(format!("it is of version {version}, but version {known} is read here"));
    }
    let line = TITLE.len() + VERSION.len() + 1;
    if contents.len() < line + CHECKSUM {
        return Err("it is damaged".to_owned());
    }
    let data = contents.split_off(line + CHECKSUM);
    match contents[line..] == checksum(&data) {
        true => Ok(data),
        false => Err("it is damaged".to_owned()),
    }
}

fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Beside its place and then moved there, so that nobody reads half a file, whoever else writes one.
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let written = fs::write(&beside, [TITLE, VERSION, b"\n", &checksum(data), data].concat());
    let moved = written.and_then(|()| fs::rename(&beside, path));
    if moved.is_err() {
        // What is left of it would stay for good.
        let _ = fs::remove_file(&beside);
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_it_was_written_is_left_aside() {
        let folder = std::env::temp_dir().join(format!("wgpu-attention-{}", std::process::id()));
        let path = folder.join("inner/pipelines");
        assert_eq!(read(&path).unwrap_err(), "there is none yet");
        write(&path, b"compiled").unwrap();
        write(&path, b"compiled again").unwrap();
        assert_eq!(read(&path).unwrap(), b"compiled again");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert!(read(&path).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).is_err(), "cut at {at}");
        }
        for (other, told) in [
            (&b"wgpu-attention pipelines 1\n01234567compiled"[..], "of version 1, but version 2"),
            (b"wgpu-attention pipelines 10\n", "of version 10, but version 2"),
            (b"wgpu-attention pipelines x\n", "isn't a file of compiled pipelines"),
            (b"something else", "isn't a file of compiled pipelines"),
            (b"", "isn't a file of compiled pipelines"),
        ] {
            fs::write(&path, other).unwrap();
            let message = read(&path).unwrap_err();
            assert!(message.contains(told), "{message}");
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
