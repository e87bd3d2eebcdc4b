//! Charts of lines and points.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Area, GRID, INK, MUTED, Painted, SCALE, axis, colour, draw, drawable, mark, short, text};
use crate::Result;

/// Columns that a long curve is gathered into.
const COLUMNS: usize = 240;
/// Points that are few enough to be shown one by one.
const MARKED: usize = 60;

/// A curve: (step, value).
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::report) struct Curve {
    pub(in crate::report) name: String,
    pub(in crate::report) points: Vec<(f64, f64)>,
}

/// Neighbouring points of a curve, drawn as one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Column {
    step: f64,
    low: f64,
    mean: f64,
    high: f64,
}

/// Curves over steps from 0 on; several are named at their ends. A ring marks one point. Values that no axis can show
/// are left out; a long curve is drawn as the means of its columns in the band between their extremes.
pub(in crate::report) fn curves(name: &str, lines: &[Curve], ring: Option<(f64, f64)>) -> Result<String> {
    const SIZE: (i32, i32) = (520, 260);
    let named = lines.len() > 1;
    let curves: Vec<Vec<Column>> = lines.iter().map(|line| columns(&line.points)).collect();
    let last = lines.iter().flat_map(|line| &line.points).map(|point| point.0).fold(0.0, f64::max);
    let steps = 0.0..if last > 0.0 { last } else { 1.0 };
    let span = steps.end;
    let heights = axis(curves.iter().flatten().flat_map(|column| [column.low, column.high]));
    // Metrics and losses are not below zero: air must not suggest it.
    let lowest = curves.iter().flatten().map(|column| column.low).fold(f64::INFINITY, f64::min);
    let heights = if lowest >= 0.0 { heights.start.max(0.0)..heights.end } else { heights };
    let rise = heights.end - heights.start;
    draw(name, SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8 * SCALE)
            .margin_right(if named { 92 } else { 22 } * SCALE)
            .set_label_area_size(LabelAreaPosition::Left, 50 * SCALE)
            .set_label_area_size(LabelAreaPosition::Bottom, 24 * SCALE)
            .build_cartesian_2d(steps, heights)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(6)
            .y_labels(5)
            .x_label_formatter(&|&v| mark(v, span))
            .y_label_formatter(&|&v| mark(v, rise))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(2))
            .label_style(text(11.0, MUTED))
            .draw()?;
        let place = |step: f64, value: f64| chart.backend_coord(&(step, value));
        for (at, columns) in curves.iter().enumerate() {
            if columns.iter().any(|column| column.low < column.high) {
                let upper = columns.iter().map(|column| place(column.step, column.high));
                let lower = columns.iter().rev().map(|column| place(column.step, column.low));
                area.draw(&Polygon::new(upper.chain(lower).collect::<Vec<_>>(), colour(at).mix(0.18)))?;
            }
            let line: Vec<(i32, i32)> = columns.iter().map(|column| place(column.step, column.mean)).collect();
            if columns.len() <= MARKED {
                line.iter().try_for_each(|&point| marker(area, at, point))?;
            }
            area.draw(&PathElement::new(line, colour(at).stroke_width(4)))?;
        }
        if let Some((step, value)) = ring {
            area.draw(&Circle::new(place(step, value), 8 * SCALE, INK.stroke_width(3)))?;
        }
        if named {
            let mut ends: Vec<(i32, i32, usize)> = Vec::new();
            for (at, columns) in curves.iter().enumerate() {
                if let Some(end) = columns.last() {
                    let (x, y) = place(end.step, end.mean);
                    ends.push((y, x, at));
                }
            }
            ends.sort_unstable();
            let mut free = 0;
            for (y, x, at) in ends {
                let y = y.max(free);
                free = y + 15 * SCALE;
                let style = text(11.5, colour(at)).pos(Pos::new(HPos::Left, VPos::Center));
                area.draw(&Text::new(short(&lines[at].name, 13), (x + 12 * SCALE, y), style))?;
            }
        }
        Ok(())
    })
}

/// Another shape for each curve.
fn marker(area: &Area<'_>, at: usize, (x, y): (i32, i32)) -> Painted {
    const R: i32 = 3 * SCALE;
    let fill = colour(at).filled();
    match at % 3 {
        0 => area.draw(&Circle::new((x, y), R, fill)),
        1 => area.draw(&Rectangle::new([(x - R, y - R), (x + R, y + R)], fill)),
        _ => area.draw(&Polygon::new(vec![(x - R, y + R), (x + R, y + R), (x, y - R)], fill)),
    }
}

fn columns(points: &[(f64, f64)]) -> Vec<Column> {
    let mut points: Vec<(f64, f64)> = points.iter().copied().filter(|&(x, y)| drawable(y) && x.is_finite()).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let columns = points.len().min(COLUMNS);
    (0..columns)
        .map(|column| {
            let part = &points[column * points.len() / columns..(column + 1) * points.len() / columns];
            let number = part.len() as f64;
            Column {
                step: part.iter().map(|point| point.0).sum::<f64>() / number,
                low: part.iter().map(|point| point.1).fold(f64::INFINITY, f64::min),
                mean: part.iter().map(|point| point.1).sum::<f64>() / number,
                high: part.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max),
            }
        })
        .collect()
}

/// A difference with its interval.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::report) struct Difference {
    pub(in crate::report) name: String,
    pub(in crate::report) value: f64,
    pub(in crate::report) interval: [f64; 2],
}

/// Differences one below the other, each a point on its interval, beside a line at zero.
pub(in crate::report) fn differences(name: &str, rows: &[Difference], worse: &str, better: &str) -> Result<String> {
    const ROW: i32 = 28;
    const LEFT: i32 = 118;
    const WIDTH: i32 = 520;
    let rows: Vec<&Difference> =
        rows.iter().filter(|row| row.interval.iter().chain([&row.value]).all(|&value| drawable(value))).collect();
    let ends = axis(rows.iter().flat_map(|row| [row.interval[0], row.interval[1], row.value, 0.0]));
    let span = ends.end - ends.start;
    let height = rows.len() as i32 * ROW + 62;
    draw(name, (WIDTH, height), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8 * SCALE)
            .margin_top(26 * SCALE)
            .margin_left(LEFT * SCALE)
            .margin_right(16 * SCALE)
            .set_label_area_size(LabelAreaPosition::Bottom, 22 * SCALE)
            .build_cartesian_2d(ends, 0.0..rows.len().max(1) as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .x_labels(5)
            .x_label_formatter(&|&v| mark(v, span))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(2))
            .label_style(text(11.0, MUTED))
            .draw()?;
        let top = rows.len().max(1) as f64;
        let (zero, above) = chart.backend_coord(&(0.0, top));
        let (_, below) = chart.backend_coord(&(0.0, 0.0));
        area.draw(&PathElement::new(vec![(zero, above - 6 * SCALE), (zero, below)], INK.stroke_width(3)))?;
        for (words, side, x) in [(worse, HPos::Right, -8), (better, HPos::Left, 8)] {
            let style = text(10.5, MUTED).pos(Pos::new(side, VPos::Center));
            area.draw(&Text::new(words, (zero + x * SCALE, above - 12 * SCALE), style))?;
        }
        for (at, row) in rows.iter().enumerate() {
            let (from, y) = chart.backend_coord(&(row.interval[0], top - at as f64 - 0.5));
            let (to, _) = chart.backend_coord(&(row.interval[1], 0.0));
            let (point, _) = chart.backend_coord(&(row.value, 0.0));
            let ink = colour(if row.interval[0] > 0.0 { 0 } else { 1 });
            area.draw(&PathElement::new(vec![(from, y), (to, y)], ink.stroke_width(5)))?;
            for end in [from, to] {
                area.draw(&PathElement::new(vec![(end, y - 4 * SCALE), (end, y + 4 * SCALE)], ink.stroke_width(4)))?;
            }
            // A full point is a difference that the interval tells from zero.
            let told = row.interval[0] > 0.0 || row.interval[1] < 0.0;
            if told {
                area.draw(&Circle::new((point, y), 5 * SCALE, ink.filled()))?;
            } else {
                area.draw(&Circle::new((point, y), 5 * SCALE, ink.stroke_width(4)))?;
            }
            let style = text(12.0, INK).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(short(&row.name, 17), ((LEFT - 6) * SCALE, y), style))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_keep_their_extremes_and_lose_what_no_axis_shows() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|step| (f64::from(step), 1.0)).collect();
        points[5_000].1 = 9.0;
        points[6_000].1 = f64::NAN;
        let columns = columns(&points);
        assert_eq!(columns.len(), COLUMNS);
        assert!(columns.iter().any(|column| column.high == 9.0 && column.mean < 2.0));
        assert!(columns.iter().all(|column| column.mean.is_finite()));
    }
}
