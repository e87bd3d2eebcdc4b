//! Collisions repaired after encoding: items that share a semantic ID move to other codes of the last level.
//!
//! - `nearest-free`: of the items that share a semantic ID the nearest to its codeword stays; the others move to unused
//!   codes under the same prefix, in the order of what the move costs each of them (its distance to the code that is
//!   still free minus its distance to its own). Where a prefix is full, items are left over.
//! - `sinkhorn`: LC-Rec (Zheng et al., arXiv 2311.09049, section 3.1, and its code): up to 20 rounds, in each of which
//!   every group of items with one semantic ID is mapped to the codes of the last level anew by Sinkhorn's uniform
//!   mapping, epsilon 0.003, 50 iterations.
//! - `balanced`: codes are given anew at every level, each to about as many items ([`crate::life::balanced`]).
//!
//! *Differs from LC-Rec*: what 20 rounds do not part is counted, and follows a policy of its own
//! ([`Leftovers`]).
//!
//! Items are taken in the order of their ids, so nothing depends on the order of the table or the number of threads. A
//! repaired semantic ID is no longer a function of the vector alone: the catalog says what was published.
//!
//! # Shapes
//! Semantic IDs [N, L]; distances [M, K] of M items of one prefix or one semantic ID.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use rayon::prelude::*;
use serde::Serialize;

use sidereal_core::{CollisionPolicy, Embeddings, Error, ItemId, SemanticIds};

use crate::Result;
use crate::algebra::product::squared_distance;
use crate::clustering::kmeans::normalise;
use crate::clustering::sinkhorn;
use crate::life::balanced::assign_balanced;
use crate::life::collisions::{Collisions, Leftovers};
use crate::quantizers::{LevelsSee, Model, Quantizer};
use crate::tokenizer::ItemTokenizer;

/// LC-Rec's number of rounds.
const ROUNDS: usize = 20;
/// LC-Rec's epsilon at the last level.
const EPSILON: f64 = 0.003;
/// LC-Rec's iterations of one mapping.
const ITERATIONS: usize = 50;
/// Semantic IDs, and items of one, that an error names.
const NAMED: usize = 3;

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RepairRecord {
    /// The policy's name.
    pub policy: &'static str,
    /// Items that shared a semantic ID.
    pub colliding_items: usize,
    /// (N - distinct semantic IDs) / N before.
    pub collision_rate_before: f64,
    /// (N - distinct semantic IDs) / N after.
    pub collision_rate: f64,
    /// Items that have another code now.
    pub moved: usize,
    /// Rounds that were needed.
    pub rounds: usize,
    /// Items that still stand behind another one of the same semantic ID.
    pub left_over: usize,
}

/// Semantic IDs after a repair.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// [N, L]
    pub sids: SemanticIds,
    /// What was done.
    pub record: RepairRecord,
}

/// Repairs the semantic IDs of a whole catalog.
///
/// # Errors
/// A policy that repairs nothing; a method whose levels have no codewords to compare with; items left over, where that is
/// an error.
///
/// # Shapes
/// `ids`: `[N]`; `vectors`: [N, D]; `sids`: [N, L], as the tokenizer made them
pub fn repair(
    tokenizer: &ItemTokenizer,
    how: impl Into<Collisions>,
    ids: &[ItemId],
    vectors: &Embeddings,
    sids: &SemanticIds,
) -> Result<Repaired> {
    let Collisions { policy, leftovers } = how.into();
    let task = Task::new(tokenizer, policy, ids, vectors, sids)?;
    let (mut codes, rounds) = match policy {
        CollisionPolicy::NearestFree => (task.nearest_free(&HashSet::new())?, 1),
        CollisionPolicy::Sinkhorn => task.sinkhorn()?,
        CollisionPolicy::Balanced => (task.balanced()?, 1),
        _ => return Err(no_repair(policy)),
    };
    if leftovers == Leftovers::NearestFree {
        let now = SemanticIds::new(sids.levels(), codes)?;
        codes = Task { sids: &now, rank: task.rank.clone(), ..task }.nearest_free(&HashSet::new())?;
    }
    task.finish(codes, rounds, leftovers, &HashSet::new())
}

/// Gives new items unused semantic IDs beside those that are `taken`, which do not move.
///
/// Each goes to its own code where that is unused, else to the nearest unused one under its prefix; this is so for
/// `sinkhorn` and `balanced` too, which would move published items.
///
/// # Errors
/// As [`repair`].
///
/// # Shapes
/// As [`repair`]; `taken`: semantic IDs of L codes
pub fn place(
    tokenizer: &ItemTokenizer,
    how: impl Into<Collisions>,
    ids: &[ItemId],
    vectors: &Embeddings,
    sids: &SemanticIds,
    taken: &HashSet<&[u16]>,
) -> Result<Repaired> {
    let Collisions { policy, leftovers } = how.into();
    if !policy.repairs() {
        return Err(no_repair(policy));
    }
    let task = Task::new(tokenizer, policy, ids, vectors, sids)?;
    let codes = task.nearest_free(taken)?;
    task.finish(codes, 1, leftovers, taken)
}

fn no_repair(policy: CollisionPolicy) -> crate::Error {
    let problem = format!("{} changes no semantic ID", policy.name());
    Error::config("collisions", problem, "use nearest-free, sinkhorn or balanced to repair").into()
}

/// Everything that a repair looks at.
struct Task<'a> {
    tokenizer: &'a ItemTokenizer,
    policy: CollisionPolicy,
    ids: &'a [ItemId],
    vectors: &'a Embeddings,
    sids: &'a SemanticIds,
    /// The place of every item in the order of ids, `[N]`.
    rank: Vec<u32>,
    /// K of the last level.
    codes: usize,
}

impl<'a> Task<'a> {
    fn new(
        tokenizer: &'a ItemTokenizer,
        policy: CollisionPolicy,
        ids: &'a [ItemId],
        vectors: &'a Embeddings,
        sids: &'a SemanticIds,
    ) -> Result<Self> {
        if ids.len() != sids.len() || vectors.rows() != sids.len() {
            let problem =
                format!("{} items and {} vectors, but {} semantic IDs", ids.len(), vectors.rows(), sids.len());
            return Err(Error::mismatch(problem, "give all three for the same items").into());
        }
        sids.check_codes(tokenizer.codes_per_level())?;
        let mut by_id: Vec<u32> = (0..ids.len() as u32).collect();
        by_id.sort_unstable_by(|&a, &b| ids[a as usize].cmp(&ids[b as usize]).then(a.cmp(&b)));
        let mut rank = vec![0; ids.len()];
        (0u32..).zip(&by_id).for_each(|(place, &item)| rank[item as usize] = place);
        let codes = tokenizer.codes_per_level().last().map_or(0, |&codes| codes as usize);
        Ok(Self { tokenizer, policy, ids, vectors, sids, rank, codes })
    }

    /// Rows by (codes, id).
    fn sorted(&self, codes: &SemanticIds) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..codes.len()).collect();
        rows.par_sort_unstable_by(|&a, &b| codes.row(a).cmp(codes.row(b)).then(self.rank[a].cmp(&self.rank[b])));
        rows
    }

    /// Distances of rows to all codewords of the last level, [M, K].
    fn distances(&self, rows: &[usize]) -> Result<Vec<f32>> {
        let values = rows.iter().flat_map(|&row| self.vectors.row(row)).copied().collect();
        let vectors = Embeddings::new(rows.len(), self.vectors.width(), values)?;
        let codes = rows.iter().flat_map(|&row| self.sids.row(row)).copied().collect();
        let ids = SemanticIds::new(self.sids.levels(), codes)?;
        let distances = match self.tokenizer.model() {
            Model::Quantizer(quantizer) => {
                last_level_distances(&**quantizer, &self.tokenizer.prepare(&vectors)?, &ids)?
            }
            Model::Table(_) => None,
        };
        distances.ok_or_else(|| {
            let name = self.tokenizer.description().config.name();
            let problem = format!(
                "{} compares items with the codewords of the last level, which {name} does not have",
                self.policy.name()
            );
            let mend = "use the postings or suffix policy, or a method with codebooks (rq-kmeans, rq-vae)";
            Error::config("collisions", problem, mend).into()
        })
    }

    fn nearest_free(&self, taken: &HashSet<&[u16]>) -> Result<Vec<u16>> {
        let levels = self.sids.levels();
        let rows = self.sorted(self.sids);
        let prefix_of = |row: &usize| &self.sids.row(*row)[..levels - 1];
        let prefixes: Vec<&[usize]> = rows.chunk_by(|a, b| prefix_of(a) == prefix_of(b)).collect();
        let moves: Vec<Vec<(usize, u16)>> =
            prefixes.into_par_iter().map(|rows| self.moves_below(rows, taken)).collect::<Result<_>>()?;
        let mut codes = self.sids.codes().to_vec();
        for (row, code) in moves.into_iter().flatten() {
            codes[(row + 1) * levels - 1] = code;
        }
        Ok(codes)
    }

    /// New last codes of the items of one prefix, which come sorted by code and id.
    fn moves_below(&self, rows: &[usize], taken: &HashSet<&[u16]>) -> Result<Vec<(usize, u16)>> {
        let last = self.sids.levels() - 1;
        let code_of = |row: usize| self.sids.row(row)[last];
        let groups = || rows.chunk_by(|&a, &b| code_of(a) == code_of(b));
        let collides = |group: &[usize]| group.len() > 1 || taken.contains(self.sids.row(group[0]));
        let mut colliding: Vec<usize> = groups().filter(|group| collides(group)).flatten().copied().collect();
        if colliding.is_empty() {
            return Ok(Vec::new());
        }
        let mut id = self.sids.row(rows[0]).to_vec();
        let mut free: Vec<bool> = (0..self.codes)
            .map(|code| {
                id[last] = code as u16;
                !taken.contains(&*id)
            })
            .collect();
        groups().filter(|group| !collides(group)).for_each(|group| free[usize::from(code_of(group[0]))] = false);
        colliding.sort_unstable_by_key(|&row| self.rank[row]);
        let distances = self.distances(&colliding)?;
        let own: Vec<u16> = colliding.iter().map(|&row| code_of(row)).collect();
        let found = cheapest_moves(&distances, &own, &mut free);
        Ok(colliding.into_iter().zip(found).filter_map(|(row, code)| Some((row, code?))).collect())
    }

    fn sinkhorn(&self) -> Result<(Vec<u16>, usize)> {
        let levels = self.sids.levels();
        let mut now = self.sids.clone();
        let mut known: HashMap<usize, Vec<f32>> = HashMap::new();
        let mut rounds = 0;
        while rounds < ROUNDS {
            let rows = self.sorted(&now);
            let groups: Vec<&[usize]> =
                rows.chunk_by(|&a, &b| now.row(a) == now.row(b)).filter(|group| group.len() > 1).collect();
            if groups.is_empty() {
                break;
            }
            rounds += 1;
            let new: Vec<usize> =
                groups.iter().copied().flatten().copied().filter(|row| !known.contains_key(row)).collect();
            for rows in new.chunks(4096) {
                let distances = self.distances(rows)?;
                known.extend(rows.iter().copied().zip(distances.chunks_exact(self.codes).map(<[f32]>::to_vec)));
            }
            let mapped: Vec<Vec<u16>> = groups
                .par_iter()
                .map(|group| {
                    let distances: Vec<f32> =
                        group.iter().filter_map(|row| known.get(row)).flatten().copied().collect();
                    sinkhorn::assign(&distances, self.codes, EPSILON, ITERATIONS)
                })
                .collect();
            let mut codes = now.codes().to_vec();
            for (&row, &code) in groups.iter().copied().flatten().zip(mapped.iter().flatten()) {
                codes[(row + 1) * levels - 1] = code;
            }
            if codes == now.codes() {
                break;
            }
            now = SemanticIds::new(levels, codes)?;
        }
        Ok((now.codes().to_vec(), rounds))
    }

    /// Every item's codes anew, items taken in the order of their ids: which of two equal ones gets which code must not
    /// depend on the table.
    fn balanced(&self) -> Result<Vec<u16>> {
        let mut by_id: Vec<usize> = (0..self.rank.len()).collect();
        by_id.sort_unstable_by_key(|&row| self.rank[row]);
        let values = by_id.iter().flat_map(|&row| self.vectors.row(row)).copied().collect();
        let vectors = Embeddings::new(by_id.len(), self.vectors.width(), values)?;
        let assigned = assign_balanced(self.tokenizer, &vectors)?;
        let levels = self.sids.levels();
        let mut codes = vec![0; by_id.len() * levels];
        for (&row, found) in by_id.iter().zip(assigned.rows()) {
            codes[row * levels..(row + 1) * levels].copy_from_slice(found);
        }
        Ok(codes)
    }

    fn finish(
        &self,
        codes: Vec<u16>,
        rounds: usize,
        leftovers: Leftovers,
        taken: &HashSet<&[u16]>,
    ) -> Result<Repaired> {
        let sids = SemanticIds::new(self.sids.levels(), codes)?;
        let moved = sids.rows().zip(self.sids.rows()).filter(|(new, old)| new != old).count();
        let (behind_before, colliding_items) = shared(self.sids, taken);
        let (left_over, _) = shared(&sids, taken);
        if left_over > 0 && leftovers == Leftovers::Error {
            return Err(self.still_together(&sids, left_over, taken));
        }
        let rate = |behind: usize| behind as f64 / sids.len().max(1) as f64;
        let record = RepairRecord {
            policy: self.policy.name(),
            colliding_items,
            collision_rate_before: rate(behind_before),
            collision_rate: rate(left_over),
            moved,
            rounds: if colliding_items == 0 { 0 } else { rounds },
            left_over,
        };
        Ok(Repaired { sids, record })
    }

    /// The error that names the first items that a repair could not part.
    fn still_together(&self, sids: &SemanticIds, count: usize, taken: &HashSet<&[u16]>) -> crate::Error {
        let rows = self.sorted(sids);
        let groups = rows.chunk_by(|&a, &b| sids.row(a) == sids.row(b));
        let together = groups.filter(|group| group.len() > 1 || taken.contains(sids.row(group[0])));
        let named: Vec<String> = together
            .take(NAMED)
            .map(|group| {
                let items: Vec<&str> = group.iter().take(NAMED).map(|&row| self.ids[row].as_str()).collect();
                format!("{items:?} at {:?}", sids.row(group[0]))
            })
            .collect();
        let problem = format!("{count} items still share a semantic ID with another one: {}", named.join("; "));
        let mend = "use more codes or levels, or let what is left share leaves (postings) or have a suffix";
        Error::input("semantic IDs", problem, mend).into()
    }
}

/// Squared distances of what the levels before the last leave over to every codeword of the last level. None where a
/// method's levels have no codewords to compare with.
///
/// # Shapes
/// [M, D] and [M, L] to [M, K]
fn last_level_distances(
    quantizer: &dyn Quantizer,
    prepared: &Embeddings,
    ids: &SemanticIds,
) -> Result<Option<Vec<f32>>> {
    let last = ids.levels() - 1;
    let codes = quantizer.codes_per_level()[last] as usize;
    let codebook = quantizer.codebook(last);
    let width = codebook.len() / codes;
    let before: Vec<&[f32]> = (0..last).map(|level| quantizer.codebook(level)).collect();
    let sees = quantizer.levels_see();
    if sees == LevelsSee::SomethingElse || width == 0 {
        return Ok(None);
    }
    let latents = quantizer.latents(prepared)?;
    let mut out = vec![0f32; ids.len() * codes];
    out.par_chunks_mut(codes).enumerate().for_each(|(row, out)| {
        let mut left = latents.row(row).to_vec();
        match sees {
            LevelsSee::Residuals { normalised } => {
                for (codebook, &code) in before.iter().zip(ids.row(row)) {
                    if normalised {
                        normalise(&mut left);
                    }
                    let codeword = &codebook[usize::from(code) * width..][..width];
                    left.iter_mut().zip(codeword).for_each(|(v, c)| *v -= c);
                }
                if normalised {
                    normalise(&mut left);
                }
            }
            // Levels look at one stretch of columns after another: the last one at the end.
            LevelsSee::SubVectors | LevelsSee::SomethingElse => {
                left.drain(..left.len().saturating_sub(width));
            }
        }
        for (out, codeword) in out.iter_mut().zip(codebook.chunks_exact(width)) {
            *out = squared_distance(&left, codeword) as f32;
        }
    });
    Ok(Some(out))
}

/// Items that stand behind another one of the same semantic ID, and items that share theirs at all.
fn shared(sids: &SemanticIds, taken: &HashSet<&[u16]>) -> (usize, usize) {
    let mut counts: HashMap<&[u16], usize> = HashMap::with_capacity(sids.len());
    sids.rows().for_each(|row| *counts.entry(row).or_insert(0) += 1);
    counts.iter().fold((0, 0), |(behind, sharing), (id, &count)| {
        let taken = usize::from(taken.contains(id));
        (behind + count + taken - 1, sharing + if count + taken > 1 { count } else { 0 })
    })
}

/// A code for every item, each code for one item at most; none for an item whose own code must do.
///
/// An item whose own code is free stays there, the nearest one if there are several. Then pairs of an item and a free
/// code are taken by what the move costs, the cheapest first, ties by item and code.
///
/// # Shapes
/// `distances`: [M, K]; `own`: `[M]`; `free`: `[K]`
fn cheapest_moves(distances: &[f32], own: &[u16], free: &mut [bool]) -> Vec<Option<u16>> {
    let codes = free.len();
    let row = |item: usize| &distances[item * codes..][..codes];
    let mut found = vec![None; own.len()];
    let mut by_distance: Vec<usize> = (0..own.len()).collect();
    let own_distance = |item: usize| row(item)[usize::from(own[item])];
    by_distance.sort_by(|&a, &b| own_distance(a).total_cmp(&own_distance(b)).then(a.cmp(&b)));
    for item in by_distance {
        let code = usize::from(own[item]);
        if free[code] {
            free[code] = false;
            found[item] = Some(own[item]);
        }
    }
    let mut places = free.iter().filter(|&&free| free).count();
    let cheapest = |item: usize, free: &[bool]| -> Option<Offer> {
        let own = own_distance(item);
        let offers = (0..codes).filter(|&code| free[code]);
        offers.map(|code| Offer { cost: row(item)[code] - own, item, code }).min()
    };
    let movers = (0..own.len()).filter(|&item| found[item].is_none());
    let mut offers: BinaryHeap<Reverse<Offer>> = movers.filter_map(|item| cheapest(item, free)).map(Reverse).collect();
    while let Some(Reverse(offer)) = offers.pop() {
        if places == 0 {
            break;
        }
        if free[offer.code] {
            free[offer.code] = false;
            places -= 1;
            found[offer.item] = Some(offer.code as u16);
        } else {
            // Taken meanwhile: the next code costs at least as much, so it waits for its turn.
            offers.extend(cheapest(offer.item, free).map(Reverse));
        }
    }
    found
}

/// A move of an item to a code.
#[derive(Debug, Clone, Copy)]
struct Offer {
    cost: f32,
    item: usize,
    code: usize,
}

impl Ord for Offer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.cost.total_cmp(&other.cost).then(self.item.cmp(&other.item)).then(self.code.cmp(&other.code))
    }
}

impl PartialOrd for Offer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Offer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Offer {}

#[cfg(test)]
mod tests;
