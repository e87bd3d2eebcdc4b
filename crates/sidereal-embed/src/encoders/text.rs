//! Texts for the text encoders: token ids, padded batches, and the embedder that all families share.

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use sidereal_core::Error;
use sidereal_nn::Result;
use sidereal_nn::pretrained::ModelFolder;
use tokenizers::{Tokenizer as FileTokenizer, TruncationParams};

use super::head::Head;
use super::{Content, Embedder, EncoderFacts, EncoderOptions, Input};

/// Tokens that are kept of a text when neither the model nor the user says otherwise.
const DEFAULT_TOKENS: usize = 512;
/// Fewest tokens that a text may be cut to: special tokens need their place.
const MIN_TOKENS: usize = 8;

/// A batch of token ids, padded on the right.
pub(crate) struct TokenBatch {
    /// [B, T]
    pub(crate) ids: Tensor,
    /// [B, T], 0 or -inf; `None` where nothing is padded.
    pub(crate) key_mask: Option<Tensor>,
    /// Tokens of each text, `[B]`.
    pub(crate) lengths: Vec<usize>,
}

impl TokenBatch {
    fn new(rows: &[&[u32]], pad: u32, device: &Device) -> Result<Self> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ids: Vec<u32> = rows
            .iter()
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(pad, longest - row.len())))
            .collect();
        let ids = Tensor::from_vec(ids, (rows.len(), longest), device)?;
        let key_mask = if lengths.iter().all(|&len| len == longest) {
            None
        } else {
            let mask = |&len: &usize| (0..longest).map(move |t| if t < len { 0.0 } else { f32::NEG_INFINITY });
            let mask: Vec<f32> = lengths.iter().flat_map(mask).collect();
            Some(Tensor::from_vec(mask, (rows.len(), longest), device)?)
        };
        Ok(Self { ids, key_mask, lengths })
    }
}

/// What a family asks of the text tokenizer.
pub(crate) struct TokenRules {
    /// Longest text that the model's positions allow.
    pub(crate) most_tokens: Option<usize>,
    /// Rows of the table of token vectors.
    pub(crate) vocab: usize,
    /// Appended where the tokenizer does not end with it.
    pub(crate) end: Option<u32>,
    /// Written before every text.
    pub(crate) prefix: String,
}

/// The model's own text tokenizer.
struct TextTokenizer {
    inner: FileTokenizer,
    rules: TokenRules,
    max_tokens: usize,
    lower: bool,
    place: String,
}

#[derive(Deserialize, Default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    /// A number, which may be 1e30 for none.
    model_max_length: Option<f64>,
}

impl TextTokenizer {
    fn load(folder: &ModelFolder, rules: TokenRules, wanted: Option<usize>) -> Result<Self> {
        let place = folder.path("tokenizer.json").display().to_string();
        if !folder.has("tokenizer.json") {
            let mend = "make it with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
            return Err(Error::input(place, "the model has no tokenizer.json", mend).into());
        }
        let damaged = |e: tokenizers::Error| Error::input(&place, e.to_string(), "download or export the model again");
        let mut inner = FileTokenizer::from_bytes(folder.read("tokenizer.json")?).map_err(damaged)?;
        let sentence: SentenceConfig = folder.json_if_there("sentence_bert_config.json")?.unwrap_or_default();
        let config: TokenizerConfig = folder.json_if_there("tokenizer_config.json")?.unwrap_or_default();
        let most = rules.most_tokens.unwrap_or(usize::MAX);
        let of_tokenizer = config.model_max_length.filter(|most| (1.0..1e6).contains(most)).map(|most| most as usize);
        let own = sentence.max_seq_length.or(of_tokenizer).unwrap_or(DEFAULT_TOKENS);
        let max_tokens = wanted.unwrap_or(own.min(most).max(MIN_TOKENS));
        if max_tokens < MIN_TOKENS || max_tokens > most {
            let problem = format!("{max_tokens} tokens a text");
            return Err(Error::config(
                "--max-tokens",
                problem,
                format!("give {MIN_TOKENS} to {most}, which is the most this model takes"),
            )
            .into());
        }
        let room = max_tokens - usize::from(rules.end.is_some());
        inner.with_padding(None);
        let truncation = TruncationParams { max_length: room, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(damaged)?;
        Ok(Self { inner, rules, max_tokens, lower: sentence.do_lower_case, place })
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let mut text = Cow::Borrowed(text);
        if !self.rules.prefix.is_empty() {
            text = Cow::Owned(format!("{}{text}", self.rules.prefix));
        }
        if self.lower {
            text = Cow::Owned(text.to_lowercase());
        }
        let refused =
            |problem: String| Error::input(&self.place, problem, "tokenizer.json and the weights must be of one model");
        let encoding = self.inner.encode_fast(text.as_ref(), true).map_err(|e| refused(e.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        if let Some(end) = self.rules.end.filter(|&end| ids.last() != Some(&end)) {
            ids.push(end);
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.rules.vocab) {
            return Err(refused(format!("it gives token id {id}, but the model knows {}", self.rules.vocab)).into());
        }
        if ids.is_empty() || ids.len() > self.max_tokens {
            return Err(
                refused(format!("it makes {} tokens of a text, not 1 to {}", ids.len(), self.max_tokens)).into()
            );
        }
        Ok(ids)
    }
}

type Forward = dyn Fn(&TokenBatch) -> Result<Tensor> + Send + Sync;

/// A text encoder: tokenizer, transformer, head.
pub(crate) struct TextEmbedder {
    facts: EncoderFacts,
    tokenizer: TextTokenizer,
    forward: Box<Forward>,
    head: Head,
    device: Device,
}

impl TextEmbedder {
    /// Joins the parts; `forward` makes [B, T, D] of a batch.
    pub(crate) fn new(
        family: &'static str,
        folder: &ModelFolder,
        options: &EncoderOptions,
        rules: TokenRules,
        head: Head,
        forward: impl Fn(&TokenBatch) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Self> {
        if options.instruction.is_some() && rules.prefix.is_empty() {
            let problem = format!("{family} models take no instruction");
            return Err(
                Error::config("--instruction", problem, "leave it out, or write a prefix into the template").into()
            );
        }
        let tokenizer = TextTokenizer::load(folder, rules, options.max_tokens)?;
        let facts = EncoderFacts {
            family: family.to_owned(),
            model: folder.id().to_owned(),
            revision: folder.revision().map(str::to_owned),
            sha256: folder.digest()?,
            width: head.width(),
            pooling: head.pooling().name().to_owned(),
            normalised: head.normalises(),
            dtype: options.dtype,
            max_tokens: Some(tokenizer.max_tokens),
            instruction: options.instruction.clone(),
        };
        Ok(Self { facts, tokenizer, forward: Box::new(forward), head, device: options.device.clone() })
    }
}

impl Embedder for TextEmbedder {
    fn facts(&self) -> &EncoderFacts {
        &self.facts
    }

    fn prepare(&self, content: Content<'_>) -> Result<Input> {
        match content {
            Content::Text(text) => self.tokenizer.tokens(text).map(Input::Tokens),
            Content::Picture(_) => Err(super::wrong_content(&self.facts, "pictures").into()),
        }
    }

    fn embed(&self, batch: &[&Input]) -> Result<Tensor> {
        let rows: Vec<&[u32]> = batch.iter().filter_map(|input| input.tokens()).collect();
        if rows.len() != batch.len() {
            return Err(super::wrong_content(&self.facts, "pictures").into());
        }
        let batch = TokenBatch::new(&rows, 0, &self.device)?;
        self.head.apply(&(self.forward)(&batch)?, &batch)
    }
}
