//! Relative positions in buckets: near distances one by one, far ones in logarithmic steps (1910.10683, section 2.1).

use super::config::T5Config;

/// The bucket of every (query, key) pair, row-major; queries stand at `first_query` and the positions after it.
///
/// Encoders tell before from behind; in decoders everything behind the query falls into bucket 0, where the causal
/// mask hides it.
///
/// # Shapes
/// result: [Tq, Tk]
pub(super) fn buckets(
    config: &T5Config,
    first_query: usize,
    queries: usize,
    keys: usize,
    bidirectional: bool,
) -> Vec<u32> {
    let mut out = Vec::with_capacity(queries * keys);
    for query in first_query..first_query + queries {
        for key in 0..keys {
            out.push(bucket(config, key as i64 - query as i64, bidirectional));
        }
    }
    out
}

fn bucket(config: &T5Config, offset: i64, bidirectional: bool) -> u32 {
    let all = config.relative_attention_num_buckets as i64;
    let (buckets, start, distance) = if bidirectional {
        (all / 2, if offset > 0 { all / 2 } else { 0 }, offset.abs())
    } else {
        (all, 0, (-offset).max(0))
    };
    let exact = buckets / 2;
    if distance < exact {
        return (start + distance) as u32;
    }
    // In f32 and in this order, because the reference rounds there: another order moves the bucket borders.
    let far = (distance as f32 / exact as f32).ln()
        / (config.relative_attention_max_distance as f64 / exact as f64).ln() as f32
        * (buckets - exact) as f32;
    (start + (exact + far as i64).min(buckets - 1)) as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> T5Config {
        serde_json::from_str(
            r#"{"vocab_size": 66, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}"#,
        )
        .unwrap()
    }

    #[test]
    fn near_distances_have_their_own_bucket_and_far_ones_share() {
        let c = config();
        assert_eq!((0..8).map(|d| bucket(&c, -d, true)).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert_eq!(bucket(&c, 3, true), 19);
        assert_eq!((bucket(&c, -128, true), bucket(&c, -1000, true)), (15, 15));
        assert_eq!((bucket(&c, -15, false), bucket(&c, 5, false)), (15, 0));
        assert_eq!((bucket(&c, -128, false), bucket(&c, -4000, false)), (31, 31));
    }

    #[test]
    fn buckets_never_fall_with_distance() {
        let c = config();
        for bidirectional in [true, false] {
            let row: Vec<u32> = (0..400).map(|d| bucket(&c, -d, bidirectional)).collect();
            assert!(row.windows(2).all(|w| w[0] <= w[1]));
        }
    }

    #[test]
    fn a_late_query_sees_the_same_distances_as_the_last_row_of_a_square() {
        let c = config();
        let square = buckets(&c, 0, 4, 4, false);
        assert_eq!(buckets(&c, 3, 1, 4, false), square[12..]);
    }
}
