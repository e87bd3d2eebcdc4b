//! The rows that encoder and decoder begin with: the one place where tokens become vectors.
//!
//! Training, devices and (where there is more than a table to look into) the CPU path all come here.
//!
//! *Paper*, of the dual branch and the positions: Liu et al., "DiscRec: Disentangled Semantic-Collaborative Modeling for
//! Generative Recommendation", 2506.15576; of the item vectors: Yang et al., "Unifying Generative and Dense Retrieval for
//! Sequential Recommendation", 2411.18814.
//! *Differs from the papers*: tokens of users and separators are of no item, so they attend to themselves alone and have
//! no position and no vector; encoder and decoder share the positions. As in DiscRec's repository the positions go into
//! the branch of the item's own attention where there is one.

use candle_core::Tensor;
use sidereal_core::Error as CoreError;
use sidereal_nn::ops;

use super::cpu::unknown_token;
use super::extensions::{Extensions, LOCAL_HEADS};
use super::forward::Forward;
use super::weights::{DualBranch, LayerNorm};
use crate::Result;
use crate::batches::Batch;
use crate::history_layout::NO_ITEM;

/// Added to the variance before its root.
const LAYER_NORM_EPSILON: f64 = 1e-5;

impl Forward<'_> {
    /// What the encoder begins with.
    ///
    /// # Shapes
    /// result: `[B, T, D]`
    pub(super) fn embed_histories(&self, batch: &Batch) -> Result<Tensor> {
        let (b, t) = (batch.rows, batch.width);
        let mut x = self.look_up(&self.ids(&batch.history, b, t)?)?; // [B, T, D]
        let Some(extensions) = self.extensions else { return Ok(x) };
        let added = &self.weights.added;
        if let Some(projection) = added.item_projection.as_ref().filter(|_| batch.slots > 0) {
            x = (x + self.item_rows(extensions, projection, batch)?)?;
        }
        let nowhere = extensions.vocab().levels() + 1;
        let place = |&token: &u32| extensions.vocab().code(token).map_or(nowhere, |(level, _)| level) as u32;
        let placed = self.placed(&x, || batch.history.iter().map(place).collect())?;
        match &added.dual_branches {
            Some([branch, _]) => self.dual_branch(branch, &x, &placed, Some(&self.same_item(extensions, t)?)),
            None => Ok(placed),
        }
    }

    /// What the decoder begins with: prefixes of one item's tokens behind the start token.
    ///
    /// # Shapes
    /// `prefixes`: u32 `[R, P]`; result: `[R, P, D]`
    pub(super) fn embed_prefixes(&self, prefixes: &Tensor) -> Result<Tensor> {
        let (r, p) = prefixes.dims2()?;
        let x = self.look_up(prefixes)?; // [R, P, D]
        let Some(extensions) = self.extensions else { return Ok(x) };
        let start = extensions.vocab().levels();
        let place = |at: usize| (at % p).checked_sub(1).unwrap_or(start) as u32;
        let placed = self.placed(&x, || (0..r * p).map(place).collect())?;
        match &self.weights.added.dual_branches {
            Some([_, branch]) => self.dual_branch(branch, &x, &placed, None),
            None => Ok(placed),
        }
    }

    /// `x` with the vector of each token's place in its item, where there are such: `[B, T, D]`.
    fn placed(&self, x: &Tensor, places: impl FnOnce() -> Vec<u32>) -> Result<Tensor> {
        let Some(table) = &self.weights.added.positions else { return Ok(x.clone()) };
        Ok((x + with_zeros(table, places(), x.dim(0)?, x.dim(1)?)?)?)
    }

    /// Tokens as the tables are asked for them: u32 `[rows, width]`.
    ///
    /// # Errors
    /// A token that the model does not have: a device would look behind the table.
    pub(super) fn ids(&self, tokens: &[u32], rows: usize, width: usize) -> Result<Tensor> {
        let size = self.config.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= size) {
            return Err(unknown_token(token, size));
        }
        Ok(Tensor::from_slice(tokens, (rows, width), self.weights.embedding.device())?)
    }

    fn look_up(&self, ids: &Tensor) -> Result<Tensor> {
        ops::embedding(ids, &self.weights.embedding)
    }

    /// The projected vector of each token's item, zeros where there is none: `[B, T, D]`.
    fn item_rows(&self, extensions: &Extensions, projection: &Tensor, batch: &Batch) -> Result<Tensor> {
        let Some(vectors) = self.vectors else {
            let mend = "load the generator with the run's item vectors";
            return Err(CoreError::input("item vectors", "the generator looks at them, but has none", mend).into());
        };
        let (slots, none) = (batch.slots, vectors.dim(0)? as u32 - 1);
        let vector_of = |&item: &u32| match item {
            NO_ITEM => Ok(none),
            item if item < none => Ok(item),
            _ => {
                let problem = format!("item {item} of a history has no vector: there are {none}");
                Err(CoreError::mismatch(problem, "give one vector an item, in catalog order"))
            }
        };
        let ids: Vec<u32> = batch.items.iter().map(vector_of).collect::<Result<_, _>>()?;
        let ids = Tensor::from_vec(ids, batch.rows * slots, vectors.device())?;
        let projected = ops::linear(&vectors.index_select(&ids, 0)?, projection)?; // [B * S, D]
        let slot_of = |at: usize| {
            let (row, position) = (at / batch.width, at % batch.width);
            extensions
                .layout
                .slot(position)
                .filter(|&slot| slot < slots)
                .map_or(batch.rows * slots, |s| row * slots + s)
        };
        let of_token = (0..batch.rows * batch.width).map(|at| slot_of(at) as u32).collect();
        with_zeros(&projected, of_token, batch.rows, batch.width)
    }

    /// 0 where two positions are of one item (or are one), minus infinity elsewhere: `[heads, T, T]`.
    fn same_item(&self, extensions: &Extensions, t: usize) -> Result<Tensor> {
        let slots: Vec<Option<usize>> = (0..t).map(|position| extensions.layout.slot(position)).collect();
        let mut bias = vec![f32::NEG_INFINITY; t * t];
        for (i, row) in bias.chunks_exact_mut(t.max(1)).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                if i == j || (slots[i].is_some() && slots[i] == slots[j]) {
                    *value = 0.0;
                }
            }
        }
        let bias = bias.repeat(LOCAL_HEADS);
        Ok(Tensor::from_vec(bias, (LOCAL_HEADS, t, t), self.weights.embedding.device())?)
    }

    /// `g1 x + g2 y`, where `y` mixes what `placed` has of the tokens of an item (with no `bias`, of those before) and
    /// the gate is `(g1, g2) = softmax(x w1, y w2)`.
    fn dual_branch(&self, branch: &DualBranch, x: &Tensor, placed: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let attention = &branch.attention;
        let n = layer_norm(placed, &branch.norm)?;
        let args = ops::Attention {
            dropout: self.dropout.of_op(),
            causal: bias.is_none(),
            ..ops::Attention::new(LOCAL_HEADS, ((self.config.d_model / LOCAL_HEADS) as f32).powf(-0.5))
        };
        let (q, kv) = (ops::linear(&n, &attention.q)?, ops::linear(&n, &attention.kv)?);
        let h = self.dropout.add(&n, &ops::linear(&ops::attention(&q, &kv, bias, &args)?, &attention.o)?)?;
        let n = layer_norm(&h, &branch.ff_norm)?;
        let inside = ops::feed_forward_relu(&n, &branch.up, &branch.down, self.dropout.of_op())?;
        let y = self.dropout.add(&n, &inside)?; // [.., T, D]
        let of_x = ops::tied_head(x, &branch.gate.narrow(0, 0, 1)?)?; // [.., T, 1]
        let of_y = ops::tied_head(&y, &branch.gate.narrow(0, 1, 1)?)?; // [.., T, 1]
        // A softmax over two is the logistic function of their difference, which tanh gives without overflow.
        let share = ((((of_y - of_x)? * 0.5)?.tanh()? + 1.0)? * 0.5)?; // [.., T, 1]
        Ok((x + (y - x)?.broadcast_mul(&share)?)?)
    }
}

fn layer_norm(x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
    ops::layer_norm(x, &norm.weight, &norm.bias, LAYER_NORM_EPSILON)
}

/// Rows of a table by number, zeros for the number behind its last: `[B, T, D]`.
fn with_zeros(table: &Tensor, numbers: Vec<u32>, rows: usize, width: usize) -> Result<Tensor> {
    let zeros = Tensor::zeros((1, table.dim(1)?), table.dtype(), table.device())?;
    let numbers = Tensor::from_vec(numbers, (rows, width), table.device())?;
    ops::embedding(&numbers, &Tensor::cat(&[table, &zeros], 0)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;
    use sidereal_core::{CodeVocab, Embeddings};
    use sidereal_nn::rng::Rng;

    use crate::batches::Batch;
    use crate::dropout::Dropout;
    use crate::history_layout::HistoryLayout;
    use crate::models::t5::{Extensions, T5, T5Config};

    /// Marks of items and their codes, two levels of 4 and 3 codes; item i has the codes (i / 3, i % 3).
    fn history(layout: &HistoryLayout, items: &[u32]) -> Vec<u32> {
        let mut tokens: Vec<u32> = items.iter().map(|item| (1 << 31) | item).collect();
        tokens.extend(layout.user_token(Some(1)));
        for (at, item) in items.iter().enumerate() {
            tokens.extend((layout.separator && at > 0).then(|| layout.vocab_size() as u32 - 1));
            tokens.extend([layout.vocab.token(0, (item / 3) as u16), layout.vocab.token(1, (item % 3) as u16)]);
        }
        tokens
    }

    fn model(users: u32, separator: bool) -> (T5, HistoryLayout) {
        let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, &[4, 3]);
        let layout = HistoryLayout { users, separator, item_marks: true, ..HistoryLayout::plain(&vocab, 9) };
        let sizes = r#"{"vocab_size": 0, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}"#;
        let config = T5Config { vocab_size: layout.vocab_size(), ..serde_json::from_str(sizes).unwrap() };
        let extensions = Extensions {
            in_item_positions: true,
            dual_branch: true,
            item_vectors: true,
            vector_width: 3,
            ..Extensions::none(layout.clone())
        };
        let mut rng = Rng::new(1, "vectors");
        let vectors = Embeddings::new(12, 3, (0..36).map(|_| rng.normal() as f32).collect()).unwrap();
        (T5::extended(config, extensions, Some(&vectors), 2, &Device::Cpu).unwrap(), layout)
    }

    fn embedded(model: &T5, histories: &[&[u32]]) -> Vec<Vec<Vec<f32>>> {
        let none = Dropout::none();
        let rows = model.forward(&none).embed_histories(&Batch::of_histories(histories)).unwrap();
        rows.to_vec3().unwrap()
    }

    fn close(a: &[f32], b: &[f32]) -> bool {
        a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-5)
    }

    #[test]
    fn the_rows_of_a_history_are_those_of_its_items_alone() {
        for (users, separator) in [(0, false), (0, true), (2, false), (2, true)] {
            let (model, layout) = model(users, separator);
            let whole = history(&layout, &[4, 11, 4, 0]);
            let short = history(&layout, &[7]);
            let together = embedded(&model, &[&whole, &short]);
            for (slot, item) in [4, 11, 4, 0].into_iter().enumerate() {
                let alone = &embedded(&model, &[&history(&layout, &[item])])[0];
                let first = usize::from(users > 0);
                let stride = 2 + usize::from(separator);
                for level in 0..2 {
                    let at = first + slot * stride + level;
                    assert_eq!(layout.slot(at), Some(slot));
                    assert!(close(&together[0][at], &alone[first + level]), "users {users}, item {item}");
                }
            }
            let alone = &embedded(&model, &[&short])[0];
            assert!(alone.iter().zip(&together[1]).all(|(a, b)| close(a, b)), "padding and company change nothing");
        }
    }

    #[test]
    fn a_prefix_is_embedded_without_what_comes_after_it() {
        let (model, layout) = model(0, false);
        let none = Dropout::none();
        let rows = |prefixes: &[u32], p: usize| -> Vec<Vec<Vec<f32>>> {
            let r = prefixes.len() / p;
            let forward = model.forward(&none);
            forward.embed_prefixes(&forward.ids(prefixes, r, p).unwrap()).unwrap().to_vec3().unwrap()
        };
        let (a, b) = (layout.vocab.token(0, 1), layout.vocab.token(0, 3));
        let long = rows(&[0, a, 0, b], 2);
        let start = rows(&[0], 1);
        assert!(close(&long[0][0], &start[0][0]) && close(&long[1][0], &start[0][0]));
        assert!(!close(&long[0][1], &long[1][1]));
    }

    #[test]
    fn an_item_without_vector_is_an_error_that_says_how_many_there_are() {
        let (model, layout) = model(0, false);
        let tokens = history(&layout, &[11]);
        let beyond: Vec<u32> = tokens.iter().map(|&t| if t >= 1 << 31 { (1 << 31) | 12 } else { t }).collect();
        let none = Dropout::none();
        let error = model.forward(&none).embed_histories(&Batch::of_histories(&[&beyond])).unwrap_err().to_string();
        assert!(error.contains("item 12") && error.contains("there are 12"), "{error}");
    }
}
