//! Buffers: their bytes, which of them hold nothing yet, and which of them a shader may not write.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// A buffer that shaders read and write.
///
/// ```
/// use wgsl_sanitizer::Buffer;
/// let buffer = Buffer::from_slice(&[1.0f32, 2.0, 3.0, 4.0].map(f32::to_ne_bytes).concat());
/// // Nothing has written the last value yet, and the shader may write nothing else.
/// buffer.poison(12..16);
/// buffer.protect(0..12);
/// ```
#[derive(Debug)]
pub struct Buffer {
    len: u64,
    words: Box<[AtomicU32]>,
    /// Of each word: bit i says that byte i holds nothing, bit 4 + i that it may not be written.
    states: Box<[AtomicU8]>,
}

impl Buffer {
    /// A buffer of `len` zeros. All of its bytes count as written.
    pub fn new(len: u64) -> Self {
        let words = len.div_ceil(4) as usize;
        Self {
            len,
            words: (0..words).map(|_| AtomicU32::new(0)).collect(),
            states: (0..words).map(|_| AtomicU8::new(0)).collect(),
        }
    }

    /// A buffer that holds `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let buffer = Self::new(bytes.len() as u64);
        buffer.write(0, bytes);
        buffer
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it holds.
    pub fn to_vec(&self) -> Vec<u8> {
        self.read(0..self.len)
    }

    /// What it holds in a range of bytes, as far as it reaches.
    pub fn read(&self, range: Range<u64>) -> Vec<u8> {
        let end = range.end.min(self.len);
        let mut bytes = Vec::with_capacity(end.saturating_sub(range.start) as usize);
        let mut at = range.start;
        while at < end {
            if at.is_multiple_of(4) && at + 4 <= end {
                let word = self.words[(at / 4) as usize].load(Ordering::Relaxed);
                bytes.extend(word.to_le_bytes());
                at += 4;
            } else {
                bytes.push(self.byte(at));
                at += 1;
            }
        }
        bytes
    }

    /// Writes bytes from the host, as far as the buffer reaches; they count as written, whether protected or not.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let end = (offset + bytes.len() as u64).min(self.len);
        let mut at = offset;
        let mut bytes = bytes;
        while at.is_multiple_of(4) && at + 4 <= end {
            let Some((word, rest)) = bytes.split_first_chunk::<4>() else { break };
            self.words[(at / 4) as usize].store(u32::from_le_bytes(*word), Ordering::Relaxed);
            (at, bytes) = (at + 4, rest);
        }
        for (at, byte) in (at..end).zip(bytes) {
            let (word, shift) = ((at / 4) as usize, at % 4 * 8);
            let old = self.words[word].load(Ordering::Relaxed);
            let new = old & !(0xff << shift) | u32::from(*byte) << shift;
            self.words[word].store(new, Ordering::Relaxed);
        }
        self.mark(offset..end, 1, false);
    }

    /// Marks bytes as written by nothing: to read them is a finding.
    pub fn poison(&self, range: Range<u64>) {
        self.mark(range, 1, true);
    }

    /// Marks bytes as not to be written: to write them is a finding.
    pub fn protect(&self, range: Range<u64>) {
        self.mark(range, 16, true);
    }

    /// Takes [`Buffer::protect`] back.
    pub fn unprotect(&self, range: Range<u64>) {
        self.mark(range, 16, false);
    }

    /// The ranges of bytes that nothing has written.
    pub fn poisoned(&self) -> Vec<Range<u64>> {
        self.poisoned_within(0..self.len)
    }

    fn poisoned_within(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        while at < range.end.min(self.len) {
            if at.is_multiple_of(4)
                && self.states[(at / 4) as usize].load(Ordering::Relaxed) & 15 == 0
            {
                at += 4;
                continue;
            }
            if self.is_marked(at, 1) {
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end += 1,
                    _ => ranges.push(at..at + 1),
                }
            }
            at += 1;
        }
        ranges
    }

    /// Whether some byte of a range holds nothing.
    pub fn is_poisoned(&self, range: Range<u64>) -> bool {
        !self.poisoned_within(range).is_empty()
    }

    /// Copies bytes with their marks of being written or not, as far as both buffers reach.
    pub fn copy_from(&self, offset: u64, source: &Self, range: Range<u64>) {
        let end = range.end.min(source.len).max(range.start);
        let bytes = source.read(range.start..end);
        let poisoned = source.poisoned_within(range.start..end);
        self.write(offset, &bytes);
        for part in poisoned {
            self.poison(part.start - range.start + offset..part.end - range.start + offset);
        }
    }

    fn byte(&self, at: u64) -> u8 {
        let word = self.words[(at / 4) as usize].load(Ordering::Relaxed);
        (word >> (at % 4 * 8)) as u8
    }

    fn is_marked(&self, at: u64, mark: u8) -> bool {
        self.states[(at / 4) as usize].load(Ordering::Relaxed) & mark << (at % 4) != 0
    }

    fn mark(&self, range: Range<u64>, mark: u8, set: bool) {
        let end = range.end.min(self.len);
        let mut at = range.start;
        while at < end {
            let state = &self.states[(at / 4) as usize];
            let (bits, next) = match at % 4 {
                0 if at + 4 <= end => (mark * 0b1111, at + 4),
                byte => (mark << byte, at + 1),
            };
            match set {
                true => state.fetch_or(bits, Ordering::Relaxed),
                false => state.fetch_and(!bits, Ordering::Relaxed),
            };
            at = next;
        }
    }

    /// The bytes of a word that a scalar of `bytes` bytes at `at` takes.
    fn bits(at: u64, bytes: u32) -> u8 {
        if bytes == 2 { 0b11 << (at % 4) } else { 0b1111 }
    }

    /// A scalar of 2 or 4 bytes, at a multiple of its size.
    pub(crate) fn load(&self, at: u64, bytes: u32) -> u32 {
        let word = self.words[(at / 4) as usize].load(Ordering::Relaxed);
        if bytes == 2 { word >> (at % 4 * 8) & 0xffff } else { word }
    }

    /// Writes a scalar of 2 or 4 bytes, which counts as written from then on unless `is_undefined`.
    pub(crate) fn store(&self, at: u64, bytes: u32, value: u32, is_undefined: bool) {
        let word = &self.words[(at / 4) as usize];
        if bytes == 2 {
            let shift = at % 4 * 8;
            let put = |old| Some(old & !(0xffff << shift) | (value & 0xffff) << shift);
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, put);
        } else {
            word.store(value, Ordering::Relaxed);
        }
        let state = &self.states[(at / 4) as usize];
        let bits = Self::bits(at, bytes);
        let old = state.load(Ordering::Relaxed);
        if is_undefined {
            state.fetch_or(bits, Ordering::Relaxed);
        } else if old & bits != 0 {
            state.fetch_and(!bits, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_undefined(&self, at: u64, bytes: u32) -> bool {
        self.states[(at / 4) as usize].load(Ordering::Relaxed) & Self::bits(at, bytes) != 0
    }

    pub(crate) fn is_protected(&self, at: u64, bytes: u32) -> bool {
        self.states[(at / 4) as usize].load(Ordering::Relaxed) >> 4 & Self::bits(at, bytes) != 0
    }
}
