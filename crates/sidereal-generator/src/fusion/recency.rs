//! When items were wanted: interactions shortly before the moment of the question count most.
//!
//! The moment is that of the history's last event. An item's interest then is the sum over its training events up to
//! that moment of exp(-age / tau), for a short and a long tau. What lies after the moment is not looked at, though the
//! leave-one-out protocol would allow it. Taus are shares of the time in which the middle half of all training events
//! fell, so that no unit of time has to be known.

use sidereal_core::{Histories, ItemIndex, Split};

/// Shares of the middle half's span: about a month and half a year where that span is a year.
const TAUS: [f64; 2] = [1.0 / 12.0, 0.5];

/// Training events by item, and where the scales lie.
#[derive(Debug)]
pub(super) struct Recency {
    /// Times of each item's training events, ascending, and the interest at that moment at both scales.
    of_item: Vec<Vec<(i64, [f64; 2])>>,
    taus: [f64; 2],
    /// The end of all training events: the moment of questions that come from nowhere.
    end: i64,
}

impl Recency {
    pub(super) fn new(histories: &Histories, split: &Split, times: &[i64], items: usize) -> Self {
        let mut of_item = vec![Vec::new(); items];
        let mut all = Vec::new();
        for user in 0..histories.len() {
            let first = histories.offsets()[user] as usize;
            for (place, &item) in split.training_items(histories, user).iter().enumerate() {
                of_item[item as usize].push(times[first + place]);
                all.push(times[first + place]);
            }
        }
        all.sort_unstable();
        let at = |share: usize| all.get(all.len() * share / 4).copied().unwrap_or(0);
        let span = (at(3).saturating_sub(at(1)) as f64).max(1.0);
        let taus = TAUS.map(|share| share * span);
        let of_item = of_item.into_iter().map(|times| interests(times, taus)).collect();
        Self { of_item, taus, end: all.last().copied().unwrap_or(0) }
    }

    /// The end of all training events.
    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// The interest in an item at a moment, at one of the two scales.
    pub(super) fn interest(&self, item: ItemIndex, moment: i64, scale: usize) -> f64 {
        let events = &self.of_item[item as usize];
        let past = &events[..events.partition_point(|event| event.0 <= moment)];
        past.last().map_or(0.0, |&(time, then)| then[scale] * faded(moment, time, self.taus[scale]))
    }
}

/// What is left of an interest after some time.
fn faded(now: i64, then: i64, tau: f64) -> f64 {
    (-(now.saturating_sub(then) as f64) / tau).exp()
}

/// The interest at each event: its own and what is left of those before it.
fn interests(mut times: Vec<i64>, taus: [f64; 2]) -> Vec<(i64, [f64; 2])> {
    times.sort_unstable();
    let mut before: Option<(i64, [f64; 2])> = None;
    let event = |time: i64| {
        let left = |scale: usize| before.map_or(0.0, |(then, sums)| sums[scale] * faded(time, then, taus[scale]));
        let now = (time, [1.0 + left(0), 1.0 + left(1)]);
        before = Some(now);
        now
    };
    times.into_iter().map(event).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::SplitRule;

    #[test]
    fn only_the_past_counts_and_the_near_past_most() {
        let histories = Histories::new(
            vec!["a".into(), "b".into()],
            vec![0, 5, 10],
            vec![0, 1, 2, 0, 0, 1, 0, 2, 0, 0],
            None,
            None,
        );
        let histories = histories.unwrap();
        let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
        let times = [10, 20, 30, 40, 50, 12, 22, 32, 42, 52];
        let recency = Recency::new(&histories, &split, &times, 4);
        // Item 0: training events at 10 and 22; the others are held out.
        let tau = recency.taus[0];
        let expected = (-5.0 / tau).exp();
        assert!((recency.interest(0, 15, 0) - expected).abs() < 1e-12);
        assert!((recency.interest(0, 9, 0)).abs() < 1e-12);
        let both = (-13.0 / tau).exp() + (-1.0 / tau).exp();
        assert!((recency.interest(0, 23, 0) - both).abs() < 1e-12);
        assert!(recency.interest(0, 23, 0) > recency.interest(0, 40, 0));
        assert_eq!(recency.interest(3, 99, 1), 0.0);
        assert_eq!(recency.end(), 32);
    }
}
