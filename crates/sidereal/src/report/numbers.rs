//! Numbers as people read them. What is not a number is a dash.

/// In place of what is not a number.
const DASH: &str = "\u{2013}";

/// `1234567` as `1,234,567`.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A figure with `decimals` places; powers of ten where that would be long or nothing but zeros.
pub(super) fn figure(value: f64, decimals: usize) -> String {
    let size = value.abs();
    let text = if !value.is_finite() {
        return DASH.to_owned();
    } else if size >= 1e6 || (size > 0.0 && size < 0.5 * 10f64.powi(-(decimals as i32))) {
        format!("{value:.2e}")
    } else {
        format!("{value:.decimals$}")
    };
    text.replace('-', "\u{2212}")
}

/// A metric.
pub(super) fn metric(value: Option<f64>) -> String {
    figure(value.unwrap_or(f64::NAN), 4)
}

/// A difference, with its sign.
pub(super) fn signed(value: f64) -> String {
    if value > 0.0 { format!("+{}", figure(value, 4)) } else { figure(value, 4) }
}

/// An interval; nothing if a bound is not a number.
pub(super) fn range(interval: Option<&[f64; 2]>, show: impl Fn(f64) -> String) -> Option<String> {
    let [low, high] = *interval?;
    // A dash between signs would read as one of them.
    let between = if low < 0.0 || show(low).starts_with('+') { " to " } else { DASH };
    (low.is_finite() && high.is_finite()).then(|| format!("{}{between}{}", show(low), show(high)))
}

/// A p-value.
pub(super) fn p_value(value: f64) -> String {
    match value {
        p if !p.is_finite() => DASH.to_owned(),
        p if p < 0.001 => "< 0.001".to_owned(),
        p => format!("{p:.3}"),
    }
}

/// A share of one.
pub(super) fn percent(value: f64) -> String {
    match value * 100.0 {
        p if !p.is_finite() => DASH.to_owned(),
        p if p == 0.0 || p.abs() >= 9.95 => format!("{p:.0} %"),
        p if p.abs() >= 0.1 => format!("{p:.1} %"),
        p => format!("{p:.2} %"),
    }
}

/// A time span.
pub(super) fn seconds(value: f64) -> String {
    match value {
        s if !s.is_finite() || s < 0.0 => DASH.to_owned(),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

/// `1 item`, `2 items`.
pub(super) fn plural(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        let read = [0, 999, 1_000, 1_234_567, u64::MAX].map(count);
        assert_eq!(read, ["0", "999", "1,000", "1,234,567", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn figures_stay_short_and_never_read_nan() {
        assert_eq!([0.0, 0.04219, -1.5].map(|v| figure(v, 4)), ["0.0000", "0.0422", "\u{2212}1.5000"]);
        assert_eq!(figure(1e300, 4), "1.00e300");
        assert_eq!(figure(3e-7, 4), "3.00e\u{2212}7");
        for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!([metric(Some(broken)), p_value(broken), percent(broken), seconds(broken)], [DASH; 4]);
            assert_eq!(range(Some(&[0.0, broken]), |v| figure(v, 4)), None);
        }
    }
}
