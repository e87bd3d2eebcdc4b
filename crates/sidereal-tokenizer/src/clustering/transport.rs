//! The exact assignment of rows to codewords of bounded shares, by successive shortest paths.
//!
//! Every codeword has a price, and every row sits where its cost plus the price is least: such an assignment is the
//! best among all with the same shares. Where a share is out of bounds, a row is moved along the cheapest chain of
//! codewords from one with too many to one with too few, and prices follow (the primal-dual method for minimum-cost
//! flows: Ahuja, Magnanti and Orlin, *Network Flows*, section 9.8). Between two codewords only the row that moves most
//! cheaply matters, so a chain is found among K codewords, not among N rows; good prices to start from leave few chains
//! to find, and one search serves all chains that do not meet.

use rayon::prelude::*;

/// Assigns rows so that every share is within `bounds` and the total cost is least; `prices` are taken as a start and
/// left as they are in the end. Ties go to the smaller number.
///
/// # Shapes
/// `costs`: [M, K]; `bounds`: least and most rows of a codeword, with least K <= M <= most K; `prices`: `[K]`; the
/// answer: `[M]`
pub(crate) fn transport(costs: &[f32], bounds: (usize, usize), prices: &mut [f64]) -> Vec<u32> {
    approach(costs, bounds.1, prices);
    let mut network = Network::new(costs, bounds, prices);
    while network.move_some() {}
    let end = network.prices[prices.len()];
    prices.iter_mut().zip(&network.prices).for_each(|(price, p)| *price = p - end);
    network.assignment
}

/// Steps of [`approach`], and by how much each is shorter than the one before.
const STEPS: usize = 25;
const SHORTER: f64 = 0.85;

/// Raises the prices of crowded codewords and lowers those of empty ones, step by step, until few rows are too many: what
/// is left takes chains, each as long to find as a step here. Where no step helps, prices stay.
fn approach(costs: &[f32], most: usize, prices: &mut [f64]) {
    let codes = prices.len();
    let rows = costs.len() / codes;
    let target = rows as f64 / codes as f64;
    let mut tried = prices.to_vec();
    let mut best = usize::MAX;
    let mut length = 0.0;
    for step in 0..STEPS {
        let nearest: Vec<(usize, f64)> = costs.par_chunks(codes).map(|costs| cheapest(costs, &tried)).collect();
        let mut shares = vec![0usize; codes];
        nearest.iter().for_each(|&(k, _)| shares[k] += 1);
        let surplus: usize = shares.iter().map(|share| share.saturating_sub(most)).sum();
        if surplus < best {
            best = surplus;
            prices.copy_from_slice(&tried);
        }
        if surplus * 50 <= rows {
            break;
        }
        if step == 0 {
            // A quarter of what lies between a row's least cost and its mean.
            let means = costs.par_chunks(codes).map(|costs| costs.iter().map(|&c| f64::from(c)).sum::<f64>());
            let means: Vec<f64> = means.collect();
            let rows_and_sums = means.iter().zip(&nearest).enumerate();
            let gaps =
                rows_and_sums.map(|(row, (sum, &(k, _)))| sum / codes as f64 - f64::from(costs[row * codes + k]));
            length = (gaps.sum::<f64>() / rows as f64 / 4.0).abs();
        }
        for (price, &share) in tried.iter_mut().zip(&shares) {
            *price += length * (share as f64 / target - 1.0).clamp(-1.0, 1.0);
        }
        length *= SHORTER;
    }
}

/// The codeword of least cost and price, and that sum.
fn cheapest(costs: &[f32], prices: &[f64]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (k, (&cost, price)) in costs.iter().zip(prices).enumerate() {
        let full = f64::from(cost) + price;
        best = if full < best.1 { (k, full) } else { best };
    }
    best
}

/// Chains that one search looks for.
const GOALS: usize = 64;

/// K codewords and, as node K, the end that takes the rows of all of them: `flows[k]` of them from codeword k.
struct Network<'a> {
    costs: &'a [f32],
    codes: usize,
    bounds: (usize, usize),
    /// `[M]`
    assignment: Vec<u32>,
    /// Rows of every codeword.
    members: Vec<Vec<u32>>,
    /// Least cost of moving a row from one codeword to another, [K, K]; infinite from an empty one.
    moves: Vec<f32>,
    /// The row that moves at that cost, [K, K].
    movers: Vec<u32>,
    /// `[K + 1]`
    prices: Vec<f64>,
    /// `[K]`
    flows: Vec<i64>,
    /// What a node has beyond what it passes on, [K + 1]; sums to 0.
    excess: Vec<i64>,
}

impl<'a> Network<'a> {
    fn new(costs: &'a [f32], bounds: (usize, usize), prices: &[f64]) -> Self {
        let codes = prices.len();
        let mut members = vec![Vec::new(); codes];
        let mut assignment = Vec::with_capacity(costs.len() / codes);
        for (row, costs) in costs.chunks_exact(codes).enumerate() {
            let (best, _) = cheapest(costs, prices);
            assignment.push(best as u32);
            members[best].push(row as u32);
        }
        let mut network = Self {
            costs,
            codes,
            bounds,
            assignment,
            members,
            moves: vec![f32::INFINITY; codes * codes],
            movers: vec![0; codes * codes],
            prices: prices.iter().copied().chain([0.0]).collect(),
            flows: vec![0; codes],
            excess: vec![0; codes + 1],
        };
        for (k, &price) in prices.iter().enumerate() {
            network.find_moves(k);
            // Only a full codeword may cost more than the end, and only one at its least may cost less.
            let (least, most) = (bounds.0 as i64, bounds.1 as i64);
            let rows = network.members[k].len() as i64;
            let flow = match price {
                price if price > 0.0 => most,
                price if price < 0.0 => least,
                _ => rows.clamp(least, most),
            };
            network.flows[k] = flow;
            network.excess[k] = rows - flow;
            network.excess[codes] += flow;
        }
        network.excess[codes] -= network.assignment.len() as i64;
        network
    }

    /// Finds the cheapest moves out of a codeword anew.
    fn find_moves(&mut self, from: usize) {
        let line = from * self.codes..(from + 1) * self.codes;
        self.moves[line.clone()].fill(f32::INFINITY);
        for at in 0..self.members[from].len() {
            self.offer_moves(from, self.members[from][at]);
        }
    }

    /// Takes a row of a codeword into account.
    fn offer_moves(&mut self, from: usize, row: u32) {
        let costs = &self.costs[row as usize * self.codes..][..self.codes];
        let here = costs[from];
        let line = from * self.codes..(from + 1) * self.codes;
        let moves = self.moves[line.clone()].iter_mut().zip(&mut self.movers[line]);
        for ((least, mover), &cost) in moves.zip(costs) {
            let cost = cost - here;
            let better = cost < *least;
            *least = if better { cost } else { *least };
            *mover = if better { row } else { *mover };
        }
    }

    /// Moves units from nodes with too much along the cheapest chains; false when none has too much.
    fn move_some(&mut self) -> bool {
        let nodes = self.codes + 1;
        let mut distances = vec![f64::INFINITY; nodes];
        let mut before = vec![usize::MAX; nodes];
        let mut done = vec![false; nodes];
        for node in (0..nodes).filter(|&node| self.excess[node] > 0) {
            distances[node] = 0.0;
        }
        let (mut goals, mut reach) = (Vec::new(), 0.0);
        while goals.len() < GOALS {
            let mut next = (f64::INFINITY, usize::MAX);
            for node in 0..nodes {
                if !done[node] && distances[node] < next.0 {
                    next = (distances[node], node);
                }
            }
            let (distance, node) = next;
            if node == usize::MAX {
                break;
            }
            done[node] = true;
            if self.excess[node] < 0 {
                goals.push(node);
                reach = distance;
            }
            self.relax(node, distance, &done, &mut distances, &mut before);
        }
        // Prices make every link of the chains found cost nothing, and no link less than nothing.
        for node in (0..nodes).filter(|&node| done[node]) {
            self.prices[node] += (reach - distances[node]).max(0.0);
        }
        let mut touched = vec![false; nodes];
        for &goal in &goals {
            let mut chain = Vec::new();
            let mut to = goal;
            while before[to] != usize::MAX {
                chain.push((before[to], to));
                to = before[to];
            }
            // A chain that shares a node with one before may have lost its rows to it: it waits for the next search.
            if !touched[to] && chain.iter().all(|&(_, to)| !touched[to]) {
                self.excess[goal] += 1;
                self.excess[to] -= 1;
                self.shift(&chain);
                touched[to] = true;
                chain.iter().for_each(|&(_, to)| touched[to] = true);
            }
        }
        !goals.is_empty()
    }

    /// Offers the ways out of a node, their costs reduced by prices; rounding must not make one negative.
    fn relax(&self, node: usize, distance: f64, done: &[bool], distances: &mut [f64], before: &mut [usize]) {
        let end = self.codes;
        let mut offer = |to: usize, cost: f64| {
            let reached = distance + (cost + self.prices[to] - self.prices[node]).max(0.0);
            if !done[to] && reached < distances[to] {
                distances[to] = reached;
                before[to] = node;
            }
        };
        if node == end {
            for k in (0..self.codes).filter(|&k| self.flows[k] > self.bounds.0 as i64) {
                offer(k, 0.0);
            }
            return;
        }
        for (to, &cost) in self.moves[node * self.codes..][..self.codes].iter().enumerate() {
            offer(to, f64::from(cost));
        }
        if self.flows[node] < self.bounds.1 as i64 {
            offer(end, 0.0);
        }
    }

    /// Moves a row, or a unit of flow, along every link of a chain.
    fn shift(&mut self, chain: &[(usize, usize)]) {
        let end = self.codes;
        // Rows are looked up before any moves: a chain never visits a codeword twice.
        let rows: Vec<u32> = chain
            .iter()
            .map(|&(from, to)| if from == end || to == end { 0 } else { self.movers[from * self.codes + to] })
            .collect();
        let mut left = Vec::new();
        for (&(from, to), &row) in chain.iter().zip(&rows) {
            if to == end {
                self.flows[from] += 1;
            } else if from == end {
                self.flows[to] -= 1;
            } else {
                self.assignment[row as usize] = to as u32;
                self.members[from].retain(|&member| member != row);
                let at = self.members[to].partition_point(|&member| member < row);
                self.members[to].insert(at, row);
                left.push(from);
                self.offer_moves(to, row);
            }
        }
        for from in left {
            self.find_moves(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidereal_nn::rng::Rng;

    fn total(costs: &[f32], codes: usize, assignment: &[u32]) -> f64 {
        assignment.iter().enumerate().map(|(row, &k)| f64::from(costs[row * codes + k as usize])).sum()
    }

    /// The least total of all assignments within bounds, by trying them all.
    fn brute_force(costs: &[f32], codes: usize, bounds: (usize, usize)) -> f64 {
        let rows = costs.len() / codes;
        let mut least = f64::INFINITY;
        for number in 0..codes.pow(rows as u32) {
            let assignment: Vec<u32> = (0..rows).map(|row| (number / codes.pow(row as u32) % codes) as u32).collect();
            let fits = (0..codes as u32).all(|k| {
                let share = assignment.iter().filter(|&&a| a == k).count();
                (bounds.0..=bounds.1).contains(&share)
            });
            if fits {
                least = least.min(total(costs, codes, &assignment));
            }
        }
        least
    }

    #[test]
    fn the_total_is_the_least_of_all_assignments_whatever_the_prices_to_start_from() {
        for seed in 0..60 {
            let mut rng = Rng::new(seed, "costs");
            let (rows, codes) = (1 + rng.below(7), 1 + rng.below(4));
            // Whole numbers make ties.
            let costs: Vec<f32> = (0..rows * codes).map(|_| rng.below(9) as f32 - 4.0).collect();
            let share = rows / codes;
            let all = [(0, share + 1), (share, share + 1), (share.saturating_sub(1), share + 2), (0, rows)];
            for bounds in all {
                let starts = [vec![0.0; codes], (0..codes).map(|_| rng.normal() * 3.0).collect()];
                for mut prices in starts {
                    let found = transport(&costs, bounds, &mut prices);
                    let want = brute_force(&costs, codes, bounds);
                    assert!((total(&costs, codes, &found) - want).abs() < 1e-9, "{seed} {bounds:?}");
                    let shares: Vec<usize> =
                        (0..codes as u32).map(|k| found.iter().filter(|&&a| a == k).count()).collect();
                    assert!(shares.iter().all(|s| (bounds.0..=bounds.1).contains(s)), "{shares:?} {bounds:?}");
                    // From the final prices nothing is left to do.
                    let again = transport(&costs, bounds, &mut prices);
                    assert!((total(&costs, codes, &again) - want).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn equal_costs_are_shared_out_evenly() {
        let found = transport(&[1.0; 12 * 4], (3, 3), &mut [0.0; 4]);
        for k in 0..4 {
            assert_eq!(found.iter().filter(|&&a| a == k).count(), 3);
        }
    }
}
