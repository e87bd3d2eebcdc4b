//! Charts as inline SVG.
//!
//! A chart is drawn at twice its shown size, because the SVG backend places in whole pixels. Colours are the light
//! theme's; `style.css` has a rule for each of them that follows the reader's theme. No chart tells a thing by colour
//! alone: lines carry markers and names, bars carry numbers.

use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use sidereal_core::Error;

use super::numbers;
use crate::Result;

mod bars;
mod lines;
mod matrix;

pub(super) use bars::{IntervalBar, code_use, grouped_bars, histogram, interval_bars};
pub(super) use lines::{Curve, Difference, curves, differences};
pub(super) use matrix::bar_matrix;

/// Drawn pixels for a shown one.
const SCALE: i32 = 2;

const INK: RGBColor = RGBColor(0x1C, 0x24, 0x2E);
const MUTED: RGBColor = RGBColor(0x55, 0x60, 0x6E);
const GRID: RGBColor = RGBColor(0xDD, 0xE2, 0xE8);
/// Of the rows of a table: the generator has the first, baselines the others, again from the first baseline's after the
/// last.
const SERIES: [RGBColor; 8] = [
    RGBColor(0x0B, 0x5C, 0xAD),
    RGBColor(0xB6, 0x4A, 0x12),
    RGBColor(0x2C, 0x78, 0x4B),
    RGBColor(0x7B, 0x4D, 0xB3),
    RGBColor(0x85, 0x67, 0x14),
    RGBColor(0xB0, 0x34, 0x63),
    RGBColor(0x4B, 0x5E, 0x73),
    RGBColor(0x16, 0x7F, 0x86),
];

/// What is larger than this has no place on an axis.
const OFF_THE_SCALE: f64 = 1e12;

const FONT: &str = "sidereal-report";
static FONT_BYTES: &[u8] = include_bytes!("../../assets/DejaVuSans-subset.ttf");

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Painted = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Which of the colours row `at` has; the page's legend uses the same number.
pub(super) fn series(at: usize) -> usize {
    if at < SERIES.len() { at } else { 1 + (at - 1) % (SERIES.len() - 1) }
}

fn colour(at: usize) -> RGBColor {
    SERIES[series(at)]
}

/// Whether an axis can show a value.
pub(super) fn drawable(value: f64) -> bool {
    value.is_finite() && value.abs() <= OFF_THE_SCALE
}

/// An SVG of a size in shown pixels, named for those who do not see it.
fn draw(name: &str, size: (i32, i32), paint: impl FnOnce(&Area<'_>) -> Painted) -> Result<String> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let defect = |problem: String| Error::input("report", problem, "this is a defect: report it");
    if !*REGISTERED.get_or_init(|| register_font(FONT, FontStyle::Normal, FONT_BYTES).is_ok()) {
        return Err(defect("the bundled font cannot be read".to_owned()).into());
    }
    let (width, height) = (size.0 * SCALE, size.1 * SCALE);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
        paint(&area).and_then(|()| area.present()).map_err(|e| defect(format!("a chart cannot be drawn: {e}")))?;
    }
    // Our own first tag: inside a page the size is the style's, and a namespace is not needed.
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let name = escaped(name);
    Ok(format!(
        "<svg class=\"plot\" role=\"img\" aria-label=\"{name}\" viewBox=\"0 0 {width} {height}\" width=\"{}\" \
         height=\"{}\">\n<title>{name}</title>{body}",
        size.0, size.1
    ))
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// Text of a size in shown pixels.
fn text(size: f64, colour: RGBColor) -> TextStyle<'static> {
    // The backend writes a font size that is smaller by this factor.
    const BACKEND: f64 = 1.24;
    let font = (FONT, size * f64::from(SCALE) * BACKEND).into_font();
    TextStyle { color: colour.to_backend_color(), ..TextStyle::from(font) }
}

/// A name that a chart has room for.
fn short(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    let kept: String = name.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}\u{2026}")
}

/// An axis that holds all values with some air, never of zero length, never out of the numbers' resolution.
fn axis(values: impl IntoIterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values
        .into_iter()
        .filter(|&value| drawable(value))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let size = low.abs().max(high.abs());
    let air = match high - low {
        span if span > size * 1e-6 => span * 0.08,
        _ if size > 1e-12 => size * 0.1,
        _ => 0.5,
    };
    low - air..high + air
}

/// A mark of an axis of this length: as many decimals as the marks need, and no more.
fn mark(value: f64, span: f64) -> String {
    let value = if value.abs() < span * 1e-9 { 0.0 } else { value };
    if value.abs() >= 1e6 || span < 1e-5 {
        return format!("{value:.1e}").replace('-', "\u{2212}");
    }
    if span >= 5.0 && value.fract() == 0.0 {
        let sign = if value < 0.0 { "\u{2212}" } else { "" };
        return format!("{sign}{}", numbers::count(value.abs() as u64));
    }
    let decimals = (1.0 - span.log10().floor()).clamp(0.0, 7.0) as usize;
    format!("{value:.decimals$}").replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_colour_has_its_rules_in_the_style() {
        let style = include_str!("style.css");
        for RGBColor(r, g, b) in [INK, MUTED, GRID].into_iter().chain(SERIES) {
            let hex = format!("#{r:02X}{g:02X}{b:02X}");
            for rule in [format!("[fill=\"{hex}\"]"), format!("[stroke=\"{hex}\"]")] {
                assert!(style.contains(&rule), "style.css has no rule for {rule}");
            }
        }
        for at in 0..SERIES.len() {
            assert!(style.contains(&format!(".key.s{at} ")), "style.css has no key of series {at}");
        }
    }

    #[test]
    fn rows_beyond_the_colours_never_take_the_generators() {
        assert!((1..100).all(|at| series(at) != 0 && series(at) < SERIES.len()));
    }

    #[test]
    fn axes_have_length_whatever_they_hold() {
        let cases: [&[f64]; 7] =
            [&[], &[f64::NAN], &[0.0], &[3.0, 3.0], &[1e12, 1e12 - 1e-3], &[-1e300, 1.0], &[-1e12, 1e12]];
        for case in cases {
            let axis = axis(case.iter().copied());
            assert!(axis.end - axis.start > axis.end.abs() * 1e-7, "{case:?}: {axis:?}");
        }
    }

    #[test]
    fn marks_are_short() {
        assert_eq!(mark(0.04, 0.05), "0.040");
        assert_eq!(mark(20_000.0, 30_000.0), "20,000");
        assert_eq!(mark(-2.5, 4.0), "\u{2212}2.5");
        assert_eq!(mark(3e8, 1e9), "3.0e8");
        assert_eq!(mark(1e-18, 1.0), "0.0");
    }

    #[test]
    fn names_of_charts_are_escaped() {
        let svg = draw("<script>\"&'", (10, 10), |_| Ok(())).unwrap();
        assert!(svg.contains("<title>&lt;script&gt;&quot;&amp;&#39;</title>"), "{svg}");
        assert!(!svg.contains("<script>"));
    }
}
