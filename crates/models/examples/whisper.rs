//! Whisper tiny.en writes down what is said in a recording.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use models::fetch;
use models::whisper::{RATE, Whisper, Window, read_wav};
use operators::Gpu;
use wgpu_attention_tools::picture::{Heatmap, Panel};

/// Speech to text.
#[derive(Parser)]
#[command(name = "cargo xtask example whisper --")]
struct Options {
    /// A wav file with English speech [default: 10 seconds of Beckett, fetched].
    file: Option<PathBuf>,

    /// Draw what each word of the first window listened to.
    #[arg(long, value_name = "PNG")]
    attention: Option<PathBuf>,

    /// Run twice, and print the seconds that the second run took instead of text: the first compiles the kernels.
    #[arg(long)]
    seconds: bool,

    /// A folder with model.bin, config.json and tokenizer.json of an English Whisper for CTranslate2 [default: fetched].
    #[arg(long)]
    model: Option<PathBuf>,
}

/// Pieces of 20 ms that are drawn as one column.
const DRAWN_TOGETHER: usize = 5;

fn main() -> Result<()> {
    let options = Options::parse();
    let file = match options.file {
        Some(file) => file,
        None => fetch::SPEECH.fetch()?.join("beckett.wav"),
    };
    let samples = read_wav(&file)?;
    let folder = options.model.map_or_else(|| fetch::WHISPER.fetch(), Ok)?;
    let gpu = Gpu::open()?;
    let mut whisper = Whisper::open(&gpu, &folder)?;
    if options.seconds {
        whisper.transcribe(&samples, false, |_| {})?;
        let clock = Instant::now();
        whisper.transcribe(&samples, false, |_| {})?;
        println!("{:.3}", clock.elapsed().as_secs_f64());
        return Ok(());
    }
    let clock = Instant::now();
    let listen = options.attention.is_some();
    let windows =
        whisper.transcribe(&samples, listen, |window| println!("{}", window.text.trim()))?;
    let time = clock.elapsed().as_secs_f64();
    let seconds = samples.len() as f64 / RATE as f64;
    eprintln!(
        "\non {}: {seconds:.1} s of sound in {time:.1} s, {:.2} s for each",
        gpu.name(),
        time / seconds
    );
    if let Some(path) = options.attention {
        ensure!(!windows.is_empty(), "there is no sound to draw");
        draw(&whisper, &windows[0])?.save(&path)?;
        eprintln!("picture: {}", path.display());
    }
    Ok(())
}

fn draw(whisper: &Whisper<'_>, window: &Window) -> Result<Heatmap> {
    let (rows, columns) = (window.tokens.len(), window.columns());
    let weights = window.listening.as_deref().unwrap_or_default();
    ensure!(weights.len() == rows * columns, "nothing was said in the first window");
    let joined: Vec<f32> = (weights.chunks(columns))
        .flat_map(|row| row.chunks(DRAWN_TOGETHER).map(|piece| piece.iter().sum::<f32>()))
        .collect();
    let count = columns.div_ceil(DRAWN_TOGETHER);
    // A second is 10 columns.
    let seconds =
        (0..count).map(|at| if at % 10 == 0 { format!("{} s", at / 10) } else { String::new() });
    let panel = Panel::new(rows, count, joined)
        .row_labels(window.tokens.iter().map(|&token| whisper.word(token)))
        .column_labels(seconds);
    Ok(Heatmap::new("What each word listened to")
        .subtitle("Whisper tiny.en's cross-attention, the mean of its alignment heads")
        .legend("weight")
        .axes("token", "sound")
        .largest_panel(1000.0)
        .square_root()
        .panel(panel))
}
