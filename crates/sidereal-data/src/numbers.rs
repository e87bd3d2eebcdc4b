//! Numbers and dates that stand in text cells.

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;

/// A time as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// A number in the data's own unit.
    Number(i64),
    /// A date, as microseconds since 1970-01-01 UTC.
    Date(i64),
}

/// A whole number, also written as `3.0` or `1.5e9`; the empty text is no number.
///
/// # Errors
/// Says what is wrong.
pub(crate) fn whole(text: &str) -> Result<Option<i64>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Ok(Some(number));
    }
    text.parse::<f64>().map_err(|_| "is not a number".to_owned()).and_then(whole_of).map(Some)
}

/// A whole number held as a float.
///
/// # Errors
/// Says what is wrong.
pub(crate) fn whole_of(number: f64) -> Result<i64, String> {
    if number.is_nan() {
        return Err("is not a number (NaN)".to_owned());
    }
    // 2^63 is the first float beyond i64; -2^63 is the last one inside.
    if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number) {
        return Err("does not fit a 64-bit integer".to_owned());
    }
    if number.fract() != 0.0 {
        return Err("has a fraction".to_owned());
    }
    Ok(number as i64)
}

/// A time: a whole number, or a date such as `2014-07-23` or `2014-07-23T10:00:00Z`.
///
/// # Errors
/// Says what is wrong.
pub(crate) fn time(text: &str) -> Result<Option<Time>, String> {
    let refused = match whole(text) {
        Ok(number) => return Ok(number.map(Time::Number)),
        Err(problem) => problem,
    };
    if text.trim().parse::<f64>().is_ok() {
        return Err(refused);
    }
    let nanos = string_to_timestamp_nanos(text.trim()).map_err(|_| "is neither a number nor a date".to_owned())?;
    Ok(Some(Time::Date(nanos.div_euclid(1000))))
}

/// A finite or infinite number; the empty text is none.
///
/// # Errors
/// Says what is wrong.
pub(crate) fn float(text: &str) -> Result<Option<f64>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "is not a number".to_owned())
}

/// The number that an attribute cell is, if nothing is lost by holding it as one: not "007", "NaN" or a long serial number.
pub(crate) fn plain_number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    let long = digits.len() > 15 && digits.bytes().all(|b| b.is_ascii_digit());
    if leading_zero || long || !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whole_numbers_are_read_in_any_notation_and_nothing_is_rounded() {
        assert_eq!(whole("1406073600"), Ok(Some(1_406_073_600)));
        assert_eq!(whole(" 1.4e9 "), Ok(Some(1_400_000_000)));
        assert_eq!(whole("-9223372036854775808"), Ok(Some(i64::MIN)));
        assert_eq!(whole(""), Ok(None));
        assert!(whole("1.5").unwrap_err().contains("fraction"));
        assert!(whole("nan").unwrap_err().contains("NaN"));
        assert!(whole("9223372036854775808").unwrap_err().contains("64-bit"));
        assert!(whole("x").unwrap_err().contains("not a number"));
    }

    #[test]
    fn dates_are_microseconds() {
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Ok(Some(Time::Date(1_500_000))));
        assert_eq!(time("1970-01-02"), Ok(Some(Time::Date(86_400_000_000))));
        assert_eq!(time("12"), Ok(Some(Time::Number(12))));
        assert!(time("soon").is_err());
        assert!(time("NaN").unwrap_err().contains("NaN"));
        assert!(time("1e300").unwrap_err().contains("64-bit"));
    }

    #[test]
    fn serial_numbers_and_words_stay_text() {
        assert_eq!(plain_number("4.50"), Some(4.5));
        assert_eq!(plain_number("-3"), Some(-3.0));
        assert_eq!(plain_number("0"), Some(0.0));
        for text in ["007", "NaN", "inf", "12345678901234567", "1e999", "", "-", "12a", "+1"] {
            assert_eq!(plain_number(text), None, "{text}");
        }
    }
}
