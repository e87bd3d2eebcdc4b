//! How the semantic IDs use their codes.

use serde::Serialize;

use super::Chart;
use crate::Result;
use crate::report::numbers::{count, figure, percent, plural};
use crate::report::{TokenizerView, plots};

#[derive(Debug, Serialize)]
pub(super) struct SemanticIdsView {
    about: String,
    levels: Vec<LevelRow>,
    code_use: Vec<Chart>,
    collisions: Vec<Chart>,
}

#[derive(Debug, Serialize)]
struct LevelRow {
    name: usize,
    used: String,
    used_share: String,
    perplexity: String,
    perplexity_share: String,
    prefixes: String,
    items_a_prefix: String,
}

pub(super) fn view(quality: &TokenizerView) -> Result<SemanticIdsView> {
    let about = format!(
        "{} have {}: collision rate {}, at most {} to one semantic ID.",
        plural(quality.items as u64, "item"),
        plural(quality.unique_ids as u64, "distinct semantic ID"),
        percent(quality.collision_rate),
        plural(quality.max_bucket as u64, "item"),
    );
    let levels = quality.levels.iter().enumerate().map(|(at, level)| {
        let share = |number: f64| percent(number / level.codes as f64);
        let prefixes = quality.prefixes.get(at).copied();
        LevelRow {
            name: at + 1,
            used: format!("{} of {}", count(level.used as u64), count(level.codes as u64)),
            used_share: share(level.used as f64),
            perplexity: figure(level.perplexity, 1),
            perplexity_share: share(level.perplexity),
            prefixes: prefixes.map_or_else(|| figure(f64::NAN, 0), |number| count(number as u64)),
            items_a_prefix: figure(prefixes.map_or(f64::NAN, |number| quality.items as f64 / number as f64), 2),
        }
    });
    let levels = levels.collect();
    let used = quality.code_counts.iter().enumerate().filter(|(_, counts)| counts.iter().any(|&n| n > 0));
    let code_use = used.map(|(at, counts)| {
        let most = counts.iter().copied().max().unwrap_or(0);
        let unused = counts.iter().filter(|&&n| n == 0).count();
        let caption = format!("at most {}, {} unused", plural(most.into(), "item"), plural(unused as u64, "code"));
        let name = format!("Items of each code of level {}, most used first: {caption}", at + 1);
        Ok(Chart::new(format!("Level {}:", at + 1), caption, plots::code_use(&name, counts)?))
    });
    let code_use = code_use.collect::<Result<_>>()?;
    Ok(SemanticIdsView { about, levels, code_use, collisions: collisions(quality)?.into_iter().collect() })
}

fn collisions(quality: &TokenizerView) -> Result<Option<Chart>> {
    let bars = bars(quality);
    if bars.is_empty() {
        return Ok(None);
    }
    let sharing: u64 = quality
        .bucket_sizes
        .iter()
        .filter(|(size, _)| **size > 1)
        .map(|(&size, &number)| (size as u64).saturating_mul(number as u64))
        .fold(0, u64::saturating_add);
    let share = if quality.items > 0 { sharing as f64 / quality.items as f64 } else { f64::NAN };
    let caption = match sharing {
        0 => "by number of items: no item shares its semantic ID.".to_owned(),
        n => format!(
            "by number of items (heights are logarithms): {} ({}) share theirs with another.",
            plural(n, "item"),
            percent(share)
        ),
    };
    let told: Vec<String> = bars.iter().map(|(size, number)| format!("{size}: {}", count(*number))).collect();
    let name = format!("Semantic IDs by number of items. {}", told.join(", "));
    Ok(Some(Chart::new("Semantic IDs", caption, plots::histogram(&name, &bars)?)))
}

/// One bar a size where there are few sizes; else sizes to 4 alone and then by doubling.
fn bars(quality: &TokenizerView) -> Vec<(String, u64)> {
    const SINGLE: usize = 8;
    let sizes = quality.bucket_sizes.iter().filter(|(_, number)| **number > 0);
    let sizes: Vec<(u64, u64)> = sizes.map(|(&size, &number)| (size as u64, number as u64)).collect();
    if sizes.len() <= SINGLE {
        return sizes.into_iter().map(|(size, number)| (count(size), number)).collect();
    }
    let mut bars: Vec<(u64, u64, u64)> = Vec::new(); // first size, last size, number
    for (size, number) in sizes {
        let (first, last) = match size {
            0..=4 => (size, size),
            _ => {
                let half = (size - 1).ilog2();
                ((1u64 << half) + 1, (1u64 << half).saturating_mul(2))
            }
        };
        match bars.last_mut() {
            Some(bar) if bar.0 == first => bar.2 += number,
            _ => bars.push((first, last, number)),
        }
    }
    let title = |(first, last, number): (u64, u64, u64)| match first == last {
        true => (count(first), number),
        false => (format!("{}\u{2013}{}", count(first), count(last)), number),
    };
    bars.into_iter().map(title).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_bucket_sizes_are_gathered_and_none_is_lost() {
        let bucket_sizes = (1..=100).map(|size| (size, 2)).collect();
        let bars = bars(&TokenizerView { bucket_sizes, ..TokenizerView::default() });
        let titles: Vec<&str> = bars.iter().map(|(title, _)| title.as_str()).collect();
        let dash = ["5\u{2013}8", "9\u{2013}16", "17\u{2013}32", "33\u{2013}64", "65\u{2013}128"];
        assert_eq!(titles, [&["1", "2", "3", "4"][..], &dash[..]].concat());
        assert_eq!(bars.iter().map(|(_, number)| number).sum::<u64>(), 200);
    }
}
