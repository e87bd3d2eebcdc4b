//! Items through a model: batches of similar length within a budget of tokens, vectors in the order of the items, and a
//! cache by content, so that what was made before is not made again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sidereal_core::artifact::sha256_bytes;
use sidereal_core::{Embeddings, Error, Items, Progress};
use sidereal_nn::Result;

use crate::cache::{ContentKey, VectorCache, content_key};
use crate::encoders::{Content, Embedder, Input};
use crate::pictures::read_picture;

/// Items that are read, sorted by length and encoded before the next ones are read.
const WINDOW_TEXTS: usize = 4096;
/// As above, for pictures, which are larger.
const WINDOW_PICTURES: usize = 256;
/// Batches that are kept at a time: what a killed job may lose.
const GROUP: usize = 8;
/// Default of the budget: 16 texts of 64 tokens, whose activations stay in a core's cache. A GPU wants more.
pub const BATCH_TOKENS: usize = 1024;

/// What the items give the model, a value an item.
#[derive(Debug, Clone)]
pub enum Contents {
    /// Texts; an empty one gives the vector of an empty text.
    Texts(Vec<String>),
    /// Files of pictures; an item without one gets a vector of zeros.
    Pictures(Vec<Option<PathBuf>>),
}

/// What was found while encoding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodeFacts {
    /// N.
    pub items: u64,
    /// Items of which nothing is known: empty texts, or no picture.
    pub empty: u64,
}

/// What an encoding did, which depends on what was cached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodeWork {
    /// Contents that went through the model.
    pub encoded: u64,
    /// Items whose vector was there or whose content another item has.
    pub reused: u64,
    /// Tokens that went through the model, padding left out.
    pub tokens: u64,
}

/// Encodes all items; `batch_tokens` bounds padded tokens (or thousands of pixels) of a batch.
///
/// # Shapes
/// N contents -> [N, D]
///
/// # Errors
/// Content that the model does not read, vectors that hold NaN or infinity (the item is named), a full disk.
pub fn encode_items(
    embedder: &dyn Embedder,
    device: &Device,
    items: &Items,
    contents: &Contents,
    batch_tokens: usize,
    mut cache: Option<&mut VectorCache>,
    progress: &dyn Progress,
) -> Result<(Embeddings, EncodeFacts, EncodeWork)> {
    let count = items.len();
    let (given, window) = match contents {
        Contents::Texts(texts) => (texts.len(), WINDOW_TEXTS),
        Contents::Pictures(paths) => (paths.len(), WINDOW_PICTURES),
    };
    if given != count {
        let problem = format!("{given} contents for {count} items");
        return Err(Error::input("items", problem, "give one for each item").into());
    }
    let width = embedder.facts().width;
    let mut values = vec![0f32; count * width];
    let mut facts = EncodeFacts { items: count as u64, empty: 0 };
    let mut work = EncodeWork::default();
    let job = Job { embedder, device, items, batch_tokens: batch_tokens.max(1) };
    progress.start("embed items", Some(count as u64), "items");
    let begin = Instant::now();
    for start in (0..count).step_by(window) {
        let end = (start + window).min(count);
        let mut wanted: HashMap<ContentKey, usize> = HashMap::new();
        let mut todo: Vec<Todo<'_>> = Vec::new();
        // Items whose content is in work: item, position in `todo`.
        let mut waiting: Vec<(usize, usize)> = Vec::new();
        for item in start..end {
            let Some(content) = contents.get(item).map_err(|e| named(e, items, item))? else {
                facts.empty += 1;
                progress.advance(1);
                continue;
            };
            if content.is_empty() {
                facts.empty += 1;
            }
            let key = content_key(&content);
            let place = item * width..(item + 1) * width;
            if let Some(vector) = cache.as_deref_mut().map(|cache| cache.get(&key)).transpose()?.flatten() {
                values[place].copy_from_slice(&vector);
                work.reused += 1;
                progress.advance(1);
            } else if let Some(&position) = wanted.get(&key) {
                waiting.push((item, position));
                work.reused += 1;
                progress.advance(1);
            } else {
                wanted.insert(key, todo.len());
                todo.push(Todo { item, key, content });
            }
        }
        let made = job.run(&todo, contents, cache.as_deref_mut(), &mut work, progress, begin)?;
        for (todo, vector) in todo.iter().zip(made.chunks_exact(width)) {
            values[todo.item * width..(todo.item + 1) * width].copy_from_slice(vector);
        }
        for (item, position) in waiting {
            values[item * width..(item + 1) * width].copy_from_slice(&made[position * width..(position + 1) * width]);
        }
    }
    if let Some(cache) = cache {
        cache.sync()?;
    }
    progress.finish();
    Ok((Embeddings::new(count, width, values)?, facts, work))
}

/// What decides a vector beside the content, for [`VectorCache::open`].
pub fn cache_name(embedder: &dyn Embedder) -> String {
    let facts = embedder.facts();
    let decides = (&facts.sha256, &facts.pooling, facts.normalised, facts.dtype, facts.max_tokens, &facts.instruction);
    // Strings, numbers and flags are JSON.
    sha256_bytes(serde_json::to_string(&decides).unwrap_or_default().as_bytes())
}

impl Contents {
    fn get(&self, item: usize) -> Result<Option<Cow<'_, [u8]>>> {
        Ok(match self {
            Self::Texts(texts) => Some(Cow::Borrowed(texts[item].as_bytes())),
            Self::Pictures(paths) => match &paths[item] {
                Some(path) => Some(Cow::Owned(read_picture(path)?)),
                None => None,
            },
        })
    }
}

fn named(error: impl Into<sidereal_nn::Error>, items: &Items, item: usize) -> sidereal_nn::Error {
    match error.into() {
        sidereal_nn::Error::Core(Error::Input { place, problem, mend }) => {
            let id = items.id(item as u32).as_str();
            Error::input(format!("{place} (item {id:?})"), problem, mend).into()
        }
        sidereal_nn::Error::Core(Error::Io { action, path, source }) => {
            let id = items.id(item as u32).as_str();
            let problem = format!("cannot {action} {} ({source})", path.display());
            Error::input(format!("item {id:?}"), problem, "correct the path, or leave it empty").into()
        }
        other => other,
    }
}

struct Todo<'a> {
    item: usize,
    key: ContentKey,
    content: Cow<'a, [u8]>,
}

struct Job<'a> {
    embedder: &'a dyn Embedder,
    device: &'a Device,
    items: &'a Items,
    batch_tokens: usize,
}

impl Job<'_> {
    /// The vectors of `todo` in its order, row-major.
    fn run(
        &self,
        todo: &[Todo<'_>],
        contents: &Contents,
        mut cache: Option<&mut VectorCache>,
        work: &mut EncodeWork,
        progress: &dyn Progress,
        begin: Instant,
    ) -> Result<Vec<f32>> {
        let width = self.embedder.facts().width;
        let prepare = |todo: &Todo<'_>| -> Result<Input> {
            let content = match contents {
                // It was a text before it was bytes.
                Contents::Texts(_) => Content::Text(std::str::from_utf8(&todo.content).unwrap_or_default()),
                Contents::Pictures(_) => Content::Picture(&todo.content),
            };
            self.embedder.prepare(content).map_err(|e| named(e, self.items, todo.item))
        };
        let inputs: Vec<Input> = todo.par_iter().map(prepare).collect::<Result<_>>()?;
        let batches = batches(&inputs, self.batch_tokens);
        let mut made = vec![0f32; todo.len() * width];
        for group in batches.chunks(GROUP) {
            let embed = |batch: &Vec<usize>| -> Result<Vec<f32>> {
                let inputs: Vec<&Input> = batch.iter().map(|&i| &inputs[i]).collect();
                Ok(self.embedder.embed(&inputs)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
            };
            // A CPU works best with a batch a thread; a GPU takes one after another.
            let vectors: Vec<Vec<f32>> = match self.device {
                Device::Cpu => group.par_iter().map(embed).collect::<Result<_>>()?,
                _ => group.iter().map(embed).collect::<Result<_>>()?,
            };
            for (batch, vectors) in group.iter().zip(&vectors) {
                for (&i, vector) in batch.iter().zip(vectors.chunks_exact(width)) {
                    self.check(todo[i].item, vector)?;
                    made[i * width..(i + 1) * width].copy_from_slice(vector);
                }
            }
            if let Some(cache) = cache.as_deref_mut() {
                cache.put(group.iter().flatten().map(|&i| (todo[i].key, &made[i * width..(i + 1) * width])))?;
            }
            let done: usize = group.iter().map(Vec::len).sum();
            work.encoded += done as u64;
            work.tokens += group.iter().flatten().map(|&i| inputs[i].cost() as u64).sum::<u64>();
            progress.advance(done as u64);
            progress.note(&format!(
                "{:.0} items/s through the model",
                work.encoded as f64 / begin.elapsed().as_secs_f64().max(1e-3)
            ));
        }
        Ok(made)
    }

    fn check(&self, item: usize, vector: &[f32]) -> Result<()> {
        if vector.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        let problem = "the model makes NaN or infinity of it";
        let place = format!("item {:?}", self.items.id(item as u32).as_str());
        Err(Error::input(place, problem, "use --dtype f32; if it stays so, the model's weights are damaged").into())
    }
}

/// Positions of the inputs in batches of similar cost: sorted, then cut where padded cost would pass the budget.
fn batches(inputs: &[Input], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..inputs.len()).collect();
    // The longest first: a batch that does not fit into memory shows at once.
    order.sort_by_key(|&i| (std::cmp::Reverse(inputs[i].cost()), i));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for i in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * longest <= budget => batch.push(i),
            _ => {
                longest = inputs[i].cost().max(1);
                batches.push(vec![i]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_similar_lengths_within_the_budget_and_every_input_once() {
        let inputs: Vec<Input> = (0..97usize).map(|i| Input::Tokens(vec![0; 1 + i * i % 53])).collect();
        for budget in [1, 60, 500, 100_000] {
            let batches = batches(&inputs, budget);
            let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..97).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.iter().map(|&i| inputs[i].cost()).max().unwrap_or(0);
                assert!(batch.len() == 1 || batch.len() * longest <= budget);
            }
        }
        assert!(batches(&[], 10).is_empty());
    }
}
