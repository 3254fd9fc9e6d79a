//! From a recording to what Whisper hears: 80 mel bands, a hundred times a second.

use std::f64::consts::PI;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use realfft::RealFftPlanner;
use rubato::{FftFixedIn, Resampler as _};

/// Samples per second.
pub const RATE: usize = 16_000;
/// Mel bands.
pub(super) const BANDS: usize = 80;
/// Samples from one frame to the next, and those that a frame looks at.
const HOP: usize = 160;
const WINDOW: usize = 400;
const BINS: usize = WINDOW / 2 + 1;

/// A recording as f32 at 16 kHz, its channels mixed.
///
/// # Errors
/// Where the file can't be read, or isn't a wav file of whole numbers or f32.
pub fn read_wav(path: &Path) -> Result<Vec<f32>> {
    let name = || path.display().to_string();
    let mut wav = hound::WavReader::open(path).with_context(name)?;
    let spec = wav.spec();
    ensure!(spec.channels > 0 && spec.sample_rate > 0, "{}: no channels, or no rate", name());
    let samples: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => wav.samples().collect::<Result<_, _>>(),
        hound::SampleFormat::Int => {
            let scale = 2f32.powi(1 - i32::from(spec.bits_per_sample));
            wav.samples::<i32>().map(|sample| Ok(sample? as f32 * scale)).collect()
        }
    }
    .with_context(name)?;
    let channels = usize::from(spec.channels);
    let mixed: Vec<f32> =
        samples.chunks(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect();
    ensure!(!mixed.is_empty(), "{}: no sound in it", name());
    match spec.sample_rate as usize {
        RATE => Ok(mixed),
        rate => resample(&mixed, rate).with_context(name),
    }
}

fn resample(samples: &[f32], rate: usize) -> Result<Vec<f32>> {
    // An even number of the smallest steps that both rates share, so that the filter's middle lies on a sample of each.
    let step = rate / greatest_common_divisor(rate, RATE);
    let steps = 2 * 1024usize.div_ceil(step);
    let mut resampler = FftFixedIn::<f32>::new(rate, RATE, steps * step, 1, 1)?;
    let length = samples.len() * RATE / rate;
    let delay = resampler.output_delay();
    let mut resampled = Vec::with_capacity(length + delay);
    let mut rest = samples;
    while resampled.len() < length + delay {
        let size = resampler.input_frames_next().min(rest.len());
        let (chunk, behind) = rest.split_at(size);
        // Behind the end there is silence, which pushes out what is still inside.
        let input = (size > 0).then_some([chunk]);
        let output = resampler.process_partial(input.as_ref().map(<[_; 1]>::as_slice), None)?;
        resampled.extend(&output[0]);
        rest = behind;
    }
    Ok(resampled[delay..][..length].to_vec())
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The logarithms of the mel bands' energies, `[frames, BANDS]`, brought to about −1 to 1 as Whisper was trained: what is
/// more than 80 dB below the loudest counts as that.
pub fn log_mel(samples: &[f32]) -> Vec<f32> {
    // As faster-whisper does it: a frame more at the end, and the ends mirrored.
    let mut padded = samples.to_vec();
    padded.resize(samples.len() + HOP, 0.0);
    let frames = padded.len() / HOP;
    let mirrored = |at: isize| {
        let last = padded.len() as isize - 1;
        let at = at.abs().min(2 * last);
        padded[(if at > last { 2 * last - at } else { at }).max(0) as usize]
    };
    let filters = filters();
    let window: Vec<f64> =
        (0..WINDOW).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / WINDOW as f64).cos()).collect();
    let fft = RealFftPlanner::<f64>::new().plan_fft_forward(WINDOW);
    let (mut input, mut output) = (fft.make_input_vec(), fft.make_output_vec());
    let mut bands = Vec::with_capacity(frames * BANDS);
    for frame in 0..frames {
        let first = (frame * HOP) as isize - (WINDOW / 2) as isize;
        for (at, (sample, window)) in (first..).zip(input.iter_mut().zip(&window)) {
            *sample = f64::from(mirrored(at)) * window;
        }
        fft.process(&mut input, &mut output).expect("the buffers are the plan's own");
        for filter in filters.chunks(BINS) {
            let energy: f64 = filter.iter().zip(&output).map(|(w, x)| w * x.norm_sqr()).sum();
            bands.push(energy.max(1e-10).log10() as f32);
        }
    }
    let floor = bands.iter().copied().fold(f32::MIN, f32::max) - 8.0;
    bands.iter_mut().for_each(|band| *band = (band.max(floor) + 4.0) / 4.0);
    bands
}

/// Slaney's mel filters, `[BANDS, BINS]`: triangles, evenly spaced in mel, each of the same area.
fn filters() -> Vec<f64> {
    // Linear up to 1 kHz, which is mel 15, and logarithmic above.
    let hertz = |mel: f64| match mel {
        mel if mel < 15.0 => mel * 200.0 / 3.0,
        mel => 1000.0 * (6.4f64.ln() / 27.0 * (mel - 15.0)).exp(),
    };
    let highest = 15.0 + 27.0 * (RATE as f64 / 2000.0).ln() / 6.4f64.ln();
    let edge = |at: usize| hertz(highest * at as f64 / (BANDS + 1) as f64);
    let filter = |band: usize| {
        let [low, middle, high] = [0, 1, 2].map(|at| edge(band + at));
        (0..BINS).map(move |bin| {
            let frequency = bin as f64 * RATE as f64 / WINDOW as f64;
            let (up, down) =
                ((frequency - low) / (middle - low), (high - frequency) / (high - middle));
            up.min(down).max(0.0) * 2.0 / (high - low)
        })
    };
    (0..BANDS).flat_map(filter).collect()
}
