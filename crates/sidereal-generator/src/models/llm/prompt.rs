//! What a decoder reads of a question, and which of its tokens are codes.
//!
//! A decoder that was trained here reads codes alone, behind a token that begins every text. A language model reads a text
//! around them, and its text tokenizer says which token a code is: never a number counted up, because trainers add tokens
//! in orders of their own (LC-Rec sorts them as strings, so that code 10 comes before code 1).
//!
//! The whole text is handed to the text tokenizer at once. Pieces put together afterwards would differ where one ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::{read_json, write_atomic};
use sidereal_core::{Catalog, CodeVocab, Error as CoreError, ItemIndex};
use sidereal_nn::decoder::DecoderConfig;
use tokenizers::Tokenizer;

use crate::Result;
use crate::history_layout::push_item;
use crate::ranker::{Question, Reader};

/// The name of the text tokenizer's file, as Hugging Face has it.
pub const TEXT_TOKENIZER_FILE: &str = "tokenizer.json";

/// The `prompt` table of a language model: the text that it was trained to go on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptConfig {
    /// The text, chat marks and all; `{history}` stands for the items.
    pub template: String,
    /// What stands between two items.
    pub separator: String,
    /// How a code is written: `{letter}` is its level as a letter, `{level}` as a number from 0, `{code}` its number.
    pub code: String,
    /// What stands before the codes of an item, of a history and of the answer alike (`<|sid_begin|>`).
    pub item_begin: String,
    /// What stands behind the codes of an item of a history.
    pub item_end: String,
    /// Whether the text tokenizer's own first and last tokens are added.
    pub special_tokens: bool,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self {
            template: "{history}".to_owned(),
            separator: ", ".to_owned(),
            code: "<{letter}_{code}>".to_owned(),
            item_begin: String::new(),
            item_end: String::new(),
            special_tokens: false,
        }
    }
}

/// What the template stands in for.
const HISTORY: &str = "{history}";

impl PromptConfig {
    /// Refuses a prompt that could not be read, by key.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self, place: &str) -> Result<()> {
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("{place}.prompt.{key}"), problem, mend).into())
        };
        if self.template.matches(HISTORY).count() != 1 {
            let problem = format!("{:?} does not have {HISTORY} once", self.template);
            return fail("template", problem, "write {history} where the items of the history are to stand");
        }
        let levels = self.code.contains("{letter}") || self.code.contains("{level}");
        if !self.code.contains("{code}") || !levels {
            let problem = format!("{:?} does not tell codes apart", self.code);
            return fail("code", problem, "write {code}, and {letter} or {level}: \"<{letter}_{code}>\"");
        }
        Ok(())
    }

    /// A code as it is written.
    fn written(&self, level: usize, code: u32) -> String {
        let letter = char::from(b'a' + (level % 26) as u8).to_string();
        let text = self.code.replace("{letter}", &letter).replace("{level}", &level.to_string());
        text.replace("{code}", &code.to_string())
    }
}

/// Which token each code is, by level; none for codes that the model was never taught.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeTokens {
    levels: Vec<Vec<Option<u32>>>,
}

impl CodeTokens {
    /// Counted up, as [`CodeVocab`] has them.
    pub fn counted(vocab: &CodeVocab) -> Self {
        Self { levels: (0..vocab.levels()).map(|level| vocab.level_range(level).map(Some).collect()).collect() }
    }

    /// By name, from a text tokenizer.
    ///
    /// # Errors
    /// A code of the catalog that is no token; a code that is several tokens beside another, or in front of a text.
    fn named(tokenizer: &Tokenizer, prompt: &PromptConfig, catalog: &Catalog, place: &Path) -> Result<Self> {
        let codes = catalog.codes_per_level();
        let token = |level: usize, code: u32| tokenizer.token_to_id(&prompt.written(level, code));
        let tokens = Self {
            levels: (0..codes.len()).map(|level| (0..codes[level]).map(|code| token(level, code)).collect()).collect(),
        };
        for item in 0..catalog.len() as ItemIndex {
            for (level, &code) in catalog.semantic_id(item).iter().enumerate() {
                if tokens.levels[level].get(usize::from(code)).copied().flatten().is_none() {
                    let written = prompt.written(level, u32::from(code));
                    let problem = format!("it has no token {written:?}, which item {} needs", catalog.item_id(item));
                    let mend =
                        "use the catalog that the model was trained with, or set prompt.code to how it writes codes";
                    return Err(CoreError::artifact(place, problem, mend).into());
                }
            }
        }
        tokens.check(tokenizer, prompt, place)?;
        Ok(tokens)
    }

    /// Each code must stay one token wherever it stands.
    fn check(&self, tokenizer: &Tokenizer, prompt: &PromptConfig, place: &Path) -> Result<()> {
        for (level, codes) in self.levels.iter().enumerate() {
            for (code, token) in codes.iter().enumerate().filter_map(|(code, token)| Some((code, (*token)?))) {
                let written = prompt.written(level, code as u32);
                for text in
                    [written.clone(), format!(" {written}"), format!("\n{written}"), format!("{written}{written}")]
                {
                    let ids = encoded(tokenizer, &text, false, place)?;
                    let expected = text.matches(&written).count();
                    if ids.iter().filter(|&&id| id == token).count() != expected {
                        let problem = format!("{written:?} is not one token in {text:?}");
                        let mend = "add codes to the text tokenizer as added tokens, and save its tokenizer.json again";
                        return Err(CoreError::artifact(place, problem, mend).into());
                    }
                }
            }
        }
        Ok(())
    }

    /// By level, a token each code.
    pub fn levels(&self) -> &[Vec<Option<u32>>] {
        &self.levels
    }

    /// The token of a code that the model has.
    ///
    /// # Errors
    /// It was never taught that code.
    pub fn token(&self, level: usize, code: u16) -> Result<u32> {
        let token = self.levels.get(level).and_then(|codes| codes.get(usize::from(code)).copied().flatten());
        token.ok_or_else(|| {
            let problem = format!("the model has no token for code {code} of level {level}");
            CoreError::mismatch(problem, "use the catalog that the model was trained with").into()
        })
    }
}

/// Refuses prompts that a decoder cannot read and go on from by `levels` codes.
pub(super) fn check_prompts(config: &DecoderConfig, levels: usize, prompts: &[&[u32]]) -> Result<()> {
    let refused = |problem: String, mend: &str| Err(CoreError::input("prompt", problem, mend).into());
    for prompt in prompts {
        let tokens = prompt.len() + levels.saturating_sub(1);
        if prompt.is_empty() {
            return refused("it has no token".to_owned(), "write something in prompt.template");
        }
        if tokens > config.max_positions {
            let problem =
                format!("{tokens} tokens with the codes, but the model was made for {}", config.max_positions);
            return refused(problem, "let it read fewer items (--max-history), or shorten prompt.template");
        }
        if let Some(token) = prompt.iter().find(|&&token| token as usize >= config.vocab) {
            let problem = format!("token {token} is not below {}", config.vocab);
            return refused(problem, "use the text tokenizer of these weights");
        }
    }
    Ok(())
}

/// Refuses a file whose added tokens got other numbers than it says: readers count them up from the end of the vocabulary,
/// and where the file leaves one out, all behind it would be other rows of the embedding table.
fn check_numbers(tokenizer: &Tokenizer, file: &Path) -> Result<()> {
    #[derive(Deserialize)]
    struct Written {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    for Added { id, content } in read_json::<Written>(file)?.added_tokens {
        let read = tokenizer.token_to_id(&content);
        if read != Some(id) {
            let problem = format!("it gives {content:?} the number {id}, but is read as giving it {read:?}");
            let mend = "save it again with the tokenizers library: numbers of added tokens must follow one another";
            return Err(CoreError::artifact(file, problem, mend).into());
        }
    }
    Ok(())
}

fn encoded(tokenizer: &Tokenizer, text: &str, special: bool, place: &Path) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode_fast(text, special).map_err(|e| {
        CoreError::artifact(
            place,
            e.to_string(),
            "save the model's tokenizer.json again: it cannot read its own prompt",
        )
    })?;
    Ok(encoding.get_ids().to_vec())
}

/// A text with codes in it.
#[derive(Debug)]
pub(super) struct Prompt {
    config: PromptConfig,
    tokenizer: Tokenizer,
    file: PathBuf,
    max_history: usize,
}

impl Prompt {
    /// Reads a folder's text tokenizer, and which of its tokens the catalog's codes are.
    ///
    /// # Errors
    /// A file that is missing or damaged; codes that are no tokens.
    pub(super) fn open(
        dir: &Path,
        config: &PromptConfig,
        max_history: usize,
        catalog: &Catalog,
    ) -> Result<(Self, CodeTokens)> {
        let file = dir.join(TEXT_TOKENIZER_FILE);
        if !file.is_file() {
            let mend = "a language model needs its text tokenizer: save it beside the weights";
            return Err(CoreError::artifact(&file, "there is no such file", mend).into());
        }
        let tokenizer = Tokenizer::from_file(&file).map_err(|e| {
            CoreError::artifact(&file, e.to_string(), "save the model's tokenizer.json again: the file is damaged")
        })?;
        let tokens = CodeTokens::named(&tokenizer, config, catalog, &file)?;
        check_numbers(&tokenizer, &file)?;
        Ok((Self { config: config.clone(), tokenizer, file, max_history }, tokens))
    }

    /// Writes the text tokenizer into another folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        let text = std::fs::read(&self.file).map_err(|e| CoreError::io("read", &self.file, e))?;
        Ok(write_atomic(&dir.join(TEXT_TOKENIZER_FILE), |out| out.write_all(&text))?)
    }

    /// The text of a history.
    fn text(&self, catalog: &Catalog, history: &[ItemIndex]) -> String {
        let c = &self.config;
        let recent = &history[history.len().saturating_sub(self.max_history)..];
        let item = |&item: &ItemIndex| {
            let codes = catalog.semantic_id(item).iter().enumerate();
            let codes: String = codes.map(|(level, &code)| c.written(level, u32::from(code))).collect();
            format!("{}{codes}{}", c.item_begin, c.item_end)
        };
        let items: Vec<String> = recent.iter().map(item).collect();
        // The answer begins as items do.
        c.template.replace(HISTORY, &items.join(&c.separator)) + &c.item_begin
    }
}

impl Reader for Arc<Prompt> {
    fn read(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<u32>> {
        encoded(&self.tokenizer, &self.text(catalog, question.history), self.config.special_tokens, &self.file)
    }

    fn max_history(&self) -> usize {
        self.max_history
    }
}

/// Codes alone, behind the token that begins every text.
#[derive(Debug)]
pub(super) struct PlainCodes {
    /// How codes are numbered.
    pub(super) vocab: CodeVocab,
    /// Most recent items that are read.
    pub(super) max_history: usize,
}

/// What begins every text of codes alone: the token that begins T5's decoder too.
const BEGIN: u32 = CodeVocab::PAD;

impl PlainCodes {
    /// The tokens of the most recent items.
    pub(super) fn of_items(&self, catalog: &Catalog, items: &[ItemIndex]) -> Vec<u32> {
        let mut tokens = vec![BEGIN];
        for &item in &items[items.len().saturating_sub(self.max_history)..] {
            push_item(catalog, &self.vocab, item, &mut tokens);
        }
        tokens
    }
}

impl Reader for PlainCodes {
    fn read(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<u32>> {
        Ok(self.of_items(catalog, question.history))
    }

    fn max_history(&self) -> usize {
        self.max_history
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};
    use sidereal_core::{CollisionPolicy, ItemId, LeafFilter, SemanticIds};

    use super::*;

    fn catalog() -> Catalog {
        let ids: Vec<ItemId> = (0..3).map(|i| ItemId::from(format!("i{i}"))).collect();
        let codes = SemanticIds::new(2, vec![0, 0, 10, 1, 2, 1]).unwrap();
        Catalog::build(&ids, &codes, &[11, 2], CollisionPolicy::Postings, None).unwrap()
    }

    /// Words, and codes in the order of strings, as trainers of LC-Rec add them; those of `without` are left out.
    fn folder(without: &[&str]) -> tempfile::TempDir {
        let mut codes: Vec<String> =
            (0..11).map(|c| format!("<a_{c}>")).chain((0..2).map(|c| format!("<b_{c}>"))).collect();
        codes.sort();
        let added = |(at, code): (usize, &String)| {
            json!({ "id": 5 + at, "content": code, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": false })
        };
        codes.retain(|code| !without.contains(&code.as_str()));
        let added: Vec<Value> = codes.iter().enumerate().map(added).collect();
        let text = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "unk_token": "<unk>",
                       "vocab": { "<unk>": 0, ",": 1, "Bought": 2, "Next": 3, ":": 4 } },
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(TEXT_TOKENIZER_FILE), text.to_string()).unwrap();
        dir
    }

    fn read(config: &PromptConfig, history: &[ItemIndex]) -> Vec<u32> {
        let (dir, catalog) = (folder(&[]), catalog());
        let (prompt, _) = Prompt::open(dir.path(), config, 2, &catalog).unwrap();
        Arc::new(prompt).read(&catalog, &Question::new(history, &LeafFilter::allow_all())).unwrap()
    }

    #[test]
    fn codes_are_the_tokens_of_their_names_in_whatever_order_these_were_added() {
        let (dir, catalog) = (folder(&["<a_7>"]), catalog());
        let (_, codes) = Prompt::open(dir.path(), &PromptConfig::default(), 9, &catalog).unwrap();
        // <a_0>, <a_10>, <a_1>, <a_2>, ...: code 10 stands before code 1.
        assert_eq!([0, 10, 1, 2].map(|code| codes.token(0, code).unwrap()), [5, 6, 7, 8]);
        assert_eq!([0, 1].map(|code| codes.token(1, code).unwrap()), [15, 16]);
        // Code 7 is used by no item; whoever asks for it is told.
        assert!(codes.token(0, 7).unwrap_err().to_string().contains("code 7 of level 0"));
        let refused = Prompt::open(folder(&["<a_10>"]).path(), &PromptConfig::default(), 9, &catalog).unwrap_err();
        assert!(refused.to_string().contains("<a_10>") && refused.to_string().contains("i1"), "{refused}");
    }

    #[test]
    fn the_most_recent_items_stand_where_the_template_says() {
        let config = PromptConfig { template: "Bought : {history} Next :".to_owned(), ..Default::default() };
        // Of three items two are read: i1 is <a_10><b_1>, i2 is <a_2><b_1>.
        assert_eq!(read(&config, &[0, 1, 2]), [2, 4, 6, 17, 1, 8, 17, 3, 4]);
        assert_eq!(read(&config, &[]), [2, 4, 3, 4]);
        let marked = PromptConfig { item_begin: "Next".to_owned(), separator: String::new(), ..Default::default() };
        // What begins an item begins the answer.
        assert_eq!(read(&marked, &[0, 2]), [3, 5, 16, 3, 8, 17, 3]);
    }

    #[test]
    fn numbers_that_the_reader_would_change_are_refused() {
        let (dir, catalog) = (folder(&["<a_7>"]), catalog());
        let file = dir.path().join(TEXT_TOKENIZER_FILE);
        let mut value: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for token in value["added_tokens"].as_array_mut().unwrap().iter_mut().skip(6) {
            token["id"] = (token["id"].as_u64().unwrap() + 1).into();
        }
        std::fs::write(&file, value.to_string()).unwrap();
        let refused = Prompt::open(dir.path(), &PromptConfig::default(), 9, &catalog).unwrap_err().to_string();
        assert!(refused.contains("the number 12") && refused.contains("Some(11)"), "{refused}");
    }

    #[test]
    fn a_code_that_falls_apart_is_refused() {
        let (dir, catalog) = (folder(&[]), catalog());
        // Named as words these are tokens too, but not wherever they stand.
        let words = dir.path().join(TEXT_TOKENIZER_FILE);
        let text = std::fs::read_to_string(&words).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let codes: Vec<Value> = value["added_tokens"].as_array_mut().unwrap().drain(..).collect();
        for code in codes {
            value["model"]["vocab"][code["content"].as_str().unwrap()] = code["id"].clone();
        }
        std::fs::write(&words, value.to_string()).unwrap();
        let refused = Prompt::open(dir.path(), &PromptConfig::default(), 9, &catalog).unwrap_err().to_string();
        assert!(refused.contains("is not one token") && refused.contains("added tokens"), "{refused}");
    }
}
