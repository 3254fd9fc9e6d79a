//! The tokenizer that a GGUF file brings along: byte-level BPE.

use anyhow::{Context as _, Result, bail, ensure};
use minijinja::{Environment, context};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::gguf::Gguf;

/// Kinds of tokens in GGUF that aren't made by merging.
const CONTROL: f64 = 3.0;
const GIVEN: f64 = 4.0;

/// Text to tokens and back.
#[derive(Debug)]
pub struct Tokens {
    tokenizer: Tokenizer,
    template: Option<String>,
    count: usize,
    end: u32,
}

impl Tokens {
    /// # Errors
    /// Where the file has no tokenizer, or one of another kind.
    pub(super) fn of(file: &Gguf) -> Result<Self> {
        let kind = file.text("tokenizer.ggml.model")?;
        let before = file.text("tokenizer.ggml.pre").unwrap_or("default");
        if kind != "gpt2" || before != "smollm" {
            bail!(
                "a tokenizer {kind} ({before}), where byte-level BPE, gpt2 (smollm), is expected"
            );
        }
        let words = file.texts("tokenizer.ggml.tokens")?;
        let kinds = file.numbers("tokenizer.ggml.token_type")?;
        ensure!(
            kinds.len() == words.len(),
            "kinds of {} tokens out of {}",
            kinds.len(),
            words.len()
        );
        let added: Vec<Value> = (words.iter().zip(&kinds).enumerate())
            .filter(|(_, (_, kind))| [CONTROL, GIVEN].contains(kind))
            .map(|(id, (word, &kind))| {
                json!({
                    "id": id, "content": word, "special": kind == CONTROL, "normalized": false,
                    "single_word": false, "lstrip": false, "rstrip": false,
                })
            })
            .collect();
        let vocabulary: Map<String, Value> =
            words.iter().enumerate().map(|(id, &word)| (word.to_owned(), id.into())).collect();
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
        let description = json!({
            "version": "1.0",
            "added_tokens": added,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{ "type": "Digits", "individual_digits": true }, bytes],
            },
            "decoder": bytes,
            "model": {
                "type": "BPE",
                "vocab": vocabulary,
                "merges": file.texts("tokenizer.ggml.merges")?,
            },
        });
        let tokenizer = Tokenizer::from_bytes(description.to_string())
            .map_err(|error| anyhow::anyhow!("the file's tokenizer: {error}"))?;
        Ok(Self {
            tokenizer,
            template: file.text("tokenizer.chat_template").ok().map(str::to_owned),
            count: words.len(),
            end: file.number("tokenizer.ggml.eos_token_id")? as u32,
        })
    }

    /// The tokens of a text. Names of control tokens in it stand for these.
    ///
    /// # Errors
    /// Where the text has none.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false).map_err(anyhow::Error::msg)?;
        ensure!(!encoding.is_empty(), "a prompt without tokens");
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, control tokens left out.
    ///
    /// # Errors
    /// Where there is no such token.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(anyhow::Error::msg)
    }

    /// A function that takes token after token and gives text as soon as it is whole characters.
    pub fn stream(&self) -> impl FnMut(u32) -> Result<String> {
        let mut stream = self.tokenizer.decode_stream(true);
        move |token| Ok(stream.step(token).map_err(anyhow::Error::msg)?.unwrap_or_default())
    }

    /// What a user says, as the model's chat template puts it.
    ///
    /// # Errors
    /// Where the file has no template, or a broken one.
    pub fn chat(&self, prompt: &str) -> Result<String> {
        let template = self.template.as_deref().context("the file has no chat template")?;
        let messages = context! { role => "user", content => prompt };
        let context = context! { messages => [messages], add_generation_prompt => true };
        Environment::new().render_str(template, context).context("the file's chat template")
    }

    /// How many tokens there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The token that ends an answer.
    pub const fn end(&self) -> u32 {
        self.end
    }
}
