//! Recordings, as Whisper hears them.

use std::f64::consts::PI;

use models::whisper::{RATE, log_mel, read_wav};

/// Mel bands, and samples from one frame to the next.
const BANDS: usize = 80;
const HOP: usize = 160;

#[test]
fn a_tone_lies_in_its_band() {
    let tone: Vec<f32> =
        (0..RATE).map(|i| (2.0 * PI * 1000.0 * i as f64 / RATE as f64).sin() as f32).collect();
    let bands = log_mel(&tone);
    assert_eq!(bands.len(), (RATE + HOP) / HOP * BANDS);
    let middle = &bands[50 * BANDS..][..BANDS];
    let loudest = (0..BANDS).max_by(|&a, &b| middle[a].total_cmp(&middle[b])).unwrap();
    // 1 kHz is mel 15 of 45.2 in 81 steps, the middle of band 15 · 81 / 45.2 − 1.
    assert!((25..=27).contains(&loudest), "{loudest}");
}

#[test]
fn resampling_keeps_a_tone() {
    let tone = |rate: usize, count: usize| -> Vec<f32> {
        (0..count).map(|i| (2.0 * PI * 440.0 * i as f64 / rate as f64).sin() as f32).collect()
    };
    let path = std::env::temp_dir().join(format!("a-tone-{}.wav", std::process::id()));
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 48_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut wav = hound::WavWriter::create(&path, spec).unwrap();
    tone(48_000, 48_000).into_iter().for_each(|sample| wav.write_sample(sample).unwrap());
    wav.finalize().unwrap();
    let resampled = read_wav(&path);
    std::fs::remove_file(&path).unwrap();
    let resampled = resampled.unwrap();
    assert_eq!(resampled.len(), RATE);
    let expected = tone(RATE, RATE);
    let largest = (resampled[2000..14_000].iter().zip(&expected[2000..]))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(largest < 2e-3, "{largest}");
}
