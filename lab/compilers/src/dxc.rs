//! DXC, Microsoft's compiler from HLSL to DXIL, through its shared library's COM interfaces.
//!
//! Crates that know these interfaces expect a library from 1.7.2212 on, since when they look on Linux as on Windows. The
//! library that is at hand is older: its interfaces have a destructor's two entries behind those of IUnknown.

use std::ffi::c_void;
use std::mem::size_of;
use std::path::Path;
use std::ptr::{null, null_mut};

use anyhow::{Context, Result, ensure};
use libloading::Library;

use super::objection::Objection;
use super::translate::Hlsl;

/// Entries of IUnknown, the destructor's included.
const UNKNOWN: usize = 5;
const RELEASE: usize = 2;

// IDxcLibrary
const CREATE_BLOB_ON_HEAP_COPY: usize = UNKNOWN + 4;
// IDxcCompiler
const COMPILE: usize = UNKNOWN;
// IDxcOperationResult
const GET_STATUS: usize = UNKNOWN;
const GET_RESULT: usize = UNKNOWN + 1;
const GET_ERROR_BUFFER: usize = UNKNOWN + 2;
// IDxcBlob
const GET_BUFFER_POINTER: usize = UNKNOWN;
const GET_BUFFER_SIZE: usize = UNKNOWN + 1;

/// The code page of UTF-8.
const UTF8: u32 = 65001;

#[repr(C)]
struct Guid(u32, u16, u16, [u8; 8]);

const CLASS_LIBRARY: Guid =
    Guid(0x6245_d6af, 0x66e0, 0x48fd, [0x80, 0xb4, 0x4d, 0x27, 0x17, 0x96, 0x74, 0x8c]);
const CLASS_COMPILER: Guid =
    Guid(0x73e2_2d93, 0xe6ce, 0x47f3, [0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0]);
const INTERFACE_LIBRARY: Guid =
    Guid(0xe520_4dc7, 0xd18c, 0x4c3c, [0xbd, 0xfb, 0x85, 0x16, 0x73, 0x98, 0x0f, 0xe7]);
const INTERFACE_COMPILER: Guid =
    Guid(0x8c21_0bf3, 0x011f, 0x4422, [0x8d, 0x70, 0x6f, 0x9a, 0xcb, 0x8d, 0xb6, 0x17]);

/// A COM object: a pointer to the table of its methods.
struct Object(*mut *const *const c_void);

impl Object {
    /// The method at this place of the table.
    ///
    /// # Safety
    /// `F` must be that method's type, the object itself its first argument.
    unsafe fn method<F: Copy>(&self, place: usize) -> F {
        const { assert!(size_of::<F>() == size_of::<*const c_void>()) };
        // SAFETY: the object has a table, which has this method, whose type is F.
        unsafe { std::mem::transmute_copy::<*const c_void, F>(&*(*self.0).add(place)) }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        type Release = unsafe extern "C" fn(*mut c_void) -> u32;
        // SAFETY: IUnknown::Release; this is the one reference that the object was created with.
        unsafe { self.method::<Release>(RELEASE)(self.0.cast()) };
    }
}

/// The library.
pub(crate) struct Dxc(Library);

impl Dxc {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        // SAFETY: DXC's library initialises itself and nothing else.
        let library = unsafe { Library::new(path) }
            .with_context(|| format!("loading DXC from {}", path.display()))?;
        let dxc = Self(library);
        // What it is wrong about, it should be wrong about before the first kernel.
        let broken = Hlsl { text: "no HLSL".into(), entry_point: "main".into() };
        ensure!(dxc.compile(&broken, false).is_err(), "DXC compiles what is no HLSL");
        Ok(dxc)
    }

    /// With the options that wgpu gives.
    pub(crate) fn compile(&self, hlsl: &Hlsl, half: bool) -> Result<(), Objection> {
        let failed = |error: anyhow::Error| Objection::new("DXC", &format!("{error:#}"));
        let (code, errors) = self.run(hlsl, half).map_err(failed)?;
        match errors {
            Some(errors) => Err(Objection::new("DXC", &errors)),
            None if !code.starts_with(b"DXBC") => Err(Objection::new("DXC", "it gave no DXIL")),
            None => Ok(()),
        }
    }

    /// The code, or what the compiler objected to.
    fn run(&self, hlsl: &Hlsl, half: bool) -> Result<(Vec<u8>, Option<String>)> {
        type CreateBlob =
            unsafe extern "C" fn(*mut c_void, *const c_void, u32, u32, *mut *mut c_void) -> i32;
        type Compile = unsafe extern "C" fn(
            *mut c_void,
            *mut c_void,       // the source
            *const i32,        // its name
            *const i32,        // the entry point
            *const i32,        // the profile
            *const *const i32, // arguments
            u32,
            *const c_void, // defines
            u32,
            *mut c_void, // include handler
            *mut *mut c_void,
        ) -> i32;
        type GetStatus = unsafe extern "C" fn(*mut c_void, *mut i32) -> i32;

        let library = self.create(&CLASS_LIBRARY, &INTERFACE_LIBRARY)?;
        let compiler = self.create(&CLASS_COMPILER, &INTERFACE_COMPILER)?;
        let size = u32::try_from(hlsl.text.len()).context("a text of 4 GiB")?;
        // SAFETY: IDxcLibrary::CreateBlobWithEncodingOnHeapCopy reads `size` bytes.
        let source = created(|to| unsafe {
            let create = library.method::<CreateBlob>(CREATE_BLOB_ON_HEAP_COPY);
            create(library.0.cast(), hlsl.text.as_ptr().cast(), size, UTF8, to)
        })?;

        let profile = if half { "cs_6_2" } else { "cs_6_0" };
        let [name, entry_point, profile] = ["kernel", &hlsl.entry_point, profile].map(wide);
        let mut arguments = vec!["-HV", "2018", "-no-warnings", "-Ges"];
        arguments.extend(half.then_some("-enable-16bit-types"));
        let arguments: Vec<Vec<i32>> = arguments.into_iter().map(wide).collect();
        let arguments: Vec<*const i32> = arguments.iter().map(|text| text.as_ptr()).collect();
        // SAFETY: IDxcCompiler::Compile; every text ends with 0, and all of them outlive the call.
        let result = created(|to| unsafe {
            compiler.method::<Compile>(COMPILE)(
                compiler.0.cast(),
                source.0.cast(),
                name.as_ptr(),
                entry_point.as_ptr(),
                profile.as_ptr(),
                arguments.as_ptr(),
                arguments.len() as u32,
                null(),
                0,
                null_mut(),
                to,
            )
        })?;
        let mut status = 0;
        // SAFETY: IDxcOperationResult::GetStatus.
        check(unsafe { result.method::<GetStatus>(GET_STATUS)(result.0.cast(), &mut status) })?;
        if status < 0 {
            let errors = bytes_of(&result, GET_ERROR_BUFFER)?;
            return Ok((Vec::new(), Some(String::from_utf8_lossy(&errors).into_owned())));
        }
        Ok((bytes_of(&result, GET_RESULT)?, None))
    }

    fn create(&self, class: &Guid, interface: &Guid) -> Result<Object> {
        type Create = unsafe extern "C" fn(*const Guid, *const Guid, *mut *mut c_void) -> i32;
        // SAFETY: DxcCreateInstance is documented with this type.
        created(|to| unsafe {
            match self.0.get::<Create>(b"DxcCreateInstance\0") {
                Ok(create) => create(class, interface, to),
                Err(_) => -1,
            }
        })
    }
}

/// The object that a call leaves at the place that it is given.
fn created(call: impl FnOnce(*mut *mut c_void) -> i32) -> Result<Object> {
    let mut object = null_mut();
    check(call(&mut object))?;
    ensure!(!object.is_null(), "DXC created nothing");
    Ok(Object(object.cast()))
}

/// What is in the blob that a method of the result gives.
fn bytes_of(result: &Object, method: usize) -> Result<Vec<u8>> {
    type GetBlob = unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32;
    type GetPointer = unsafe extern "C" fn(*mut c_void) -> *const u8;
    type GetSize = unsafe extern "C" fn(*mut c_void) -> usize;
    // SAFETY: IDxcOperationResult::GetResult and GetErrorBuffer have this type; they add a reference.
    let blob = created(|to| unsafe { result.method::<GetBlob>(method)(result.0.cast(), to) })?;
    // SAFETY: IDxcBlob's two methods; the bytes are there as long as the blob.
    Ok(unsafe {
        let pointer = blob.method::<GetPointer>(GET_BUFFER_POINTER)(blob.0.cast());
        let size = blob.method::<GetSize>(GET_BUFFER_SIZE)(blob.0.cast());
        if size == 0 { Vec::new() } else { std::slice::from_raw_parts(pointer, size).to_vec() }
    })
}

fn check(status: i32) -> Result<()> {
    ensure!(status >= 0, "DXC answered {status:#x}");
    Ok(())
}

/// A text as Linux's wchar_t, with the 0 at its end.
fn wide(text: &str) -> Vec<i32> {
    text.chars().map(|c| c as i32).chain([0]).collect()
}
