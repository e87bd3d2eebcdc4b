//! Charts of bars.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{GRID, INK, MUTED, Painted, SCALE, axis, colour, draw, drawable, mark, short, text};
use crate::Result;
use crate::report::numbers;

/// Groups of bars, one bar a series; each bar has its series' number below it. `values[series][group]`.
pub(in crate::report) fn grouped_bars(
    name: &str,
    groups: &[(String, String)],
    values: &[Vec<Option<f64>>],
) -> Result<String> {
    const SIZE: (i32, i32) = (520, 270);
    const BELOW: i32 = 58;
    const GAP: f64 = 0.22;
    let shown = |value: &Option<f64>| value.filter(|&v| drawable(v) && v >= 0.0);
    let highest = values.iter().flatten().filter_map(shown).fold(0.0, f64::max);
    let top = if highest > 0.0 { highest * 1.08 } else { 1.0 };
    let width = (1.0 - GAP) / values.len().max(1) as f64;
    draw(name, SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8 * SCALE)
            .set_label_area_size(LabelAreaPosition::Left, 46 * SCALE)
            .set_label_area_size(LabelAreaPosition::Bottom, BELOW * SCALE)
            .build_cartesian_2d(0.0..groups.len().max(1) as f64, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_labels(5)
            .y_label_formatter(&|&v| mark(v, top))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(2))
            .y_label_style(text(11.0, MUTED))
            .draw()?;
        let centred = Pos::new(HPos::Center, VPos::Top);
        for (g, (title, below)) in groups.iter().enumerate() {
            let middle = g as f64 + 0.5;
            for (s, series) in values.iter().enumerate() {
                let left = g as f64 + GAP / 2.0 + s as f64 * width;
                if let Some(value) = series.get(g).and_then(shown) {
                    let bar = [(left + width * 0.08, 0.0), (left + width * 0.92, value)];
                    chart.plotting_area().draw(&Rectangle::new(bar, colour(s).filled()))?;
                }
                let (x, y) = chart.backend_coord(&(left + width / 2.0, 0.0));
                if values.len() <= 10 {
                    area.draw(&Text::new((s + 1).to_string(), (x, y + 5 * SCALE), text(10.0, MUTED).pos(centred)))?;
                }
            }
            let (x, y) = chart.backend_coord(&(middle, 0.0));
            area.draw(&Text::new(short(title, 16), (x, y + 21 * SCALE), text(12.0, INK).pos(centred)))?;
            area.draw(&Text::new(short(below, 20), (x, y + 38 * SCALE), text(10.5, MUTED).pos(centred)))?;
        }
        Ok(())
    })
}

/// A bar with how far its value can be trusted.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::report) struct IntervalBar {
    pub(in crate::report) name: String,
    pub(in crate::report) value: f64,
    pub(in crate::report) interval: Option<[f64; 2]>,
    /// Which of two colours it has.
    pub(in crate::report) ours: bool,
}

/// Bars one below the other, each with its name, its number and a whisker for its interval.
pub(in crate::report) fn interval_bars(name: &str, bars: &[IntervalBar]) -> Result<String> {
    const ROW: i32 = 26;
    const LEFT: i32 = 158;
    const WIDTH: i32 = 520;
    let bars: Vec<&IntervalBar> = bars.iter().filter(|bar| drawable(bar.value) && bar.value >= 0.0).collect();
    let end = |bar: &&IntervalBar| bar.interval.map(|i| i[1]).filter(|&v| drawable(v)).unwrap_or(0.0).max(bar.value);
    let highest = bars.iter().map(end).fold(0.0, f64::max);
    let top = if highest > 0.0 { highest * 1.18 } else { 1.0 };
    let rows = bars.len().max(1) as f64;
    draw(name, (WIDTH, bars.len() as i32 * ROW + 46), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8 * SCALE)
            .margin_left(LEFT * SCALE)
            .set_label_area_size(LabelAreaPosition::Bottom, 22 * SCALE)
            .build_cartesian_2d(0.0..top, 0.0..rows)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .y_labels(0)
            .x_labels(5)
            .x_label_formatter(&|&v| mark(v, top))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(2))
            .label_style(text(11.0, MUTED))
            .draw()?;
        for (at, bar) in bars.iter().enumerate() {
            let y = rows - at as f64 - 0.5;
            let fill = colour(if bar.ours { 0 } else { 6 }).filled();
            chart.plotting_area().draw(&Rectangle::new([(0.0, y - 0.3), (bar.value, y + 0.3)], fill))?;
            let (mut right, middle) = chart.backend_coord(&(bar.value, y));
            if let Some([low, high]) = bar.interval.filter(|ends| ends.iter().all(|&end| drawable(end))) {
                let (from, _) = chart.backend_coord(&(low.max(0.0), y));
                let (to, _) = chart.backend_coord(&(high, y));
                area.draw(&PathElement::new(vec![(from, middle), (to, middle)], INK.stroke_width(3)))?;
                for x in [from, to] {
                    let whisker = vec![(x, middle - 4 * SCALE), (x, middle + 4 * SCALE)];
                    area.draw(&PathElement::new(whisker, INK.stroke_width(3)))?;
                }
                right = right.max(to);
            }
            let left = text(12.0, INK).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(short(&bar.name, 23), ((LEFT - 6) * SCALE, middle), left))?;
            let beside = text(11.0, INK).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(numbers::figure(bar.value, 4), (right + 5 * SCALE, middle), beside))?;
        }
        Ok(())
    })
}

/// Items of each code, most used first, with a dashed line where all codes would be if they were used alike.
pub(in crate::report) fn code_use(name: &str, counts: &[u32]) -> Result<String> {
    const SIZE: (i32, i32) = (300, 190);
    /// Columns that a chart of this width can still tell apart.
    const COLUMNS: usize = 260;
    let mut sorted: Vec<u32> = counts.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let codes = sorted.len().max(1);
    let even = sorted.iter().map(|&n| f64::from(n)).sum::<f64>() / codes as f64;
    let top = sorted.first().map_or(1.0, |&most| f64::from(most).max(1.0)) * 1.08;
    let columns = codes.min(COLUMNS);
    draw(name, SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8 * SCALE)
            .set_label_area_size(LabelAreaPosition::Left, 44 * SCALE)
            .set_label_area_size(LabelAreaPosition::Bottom, 22 * SCALE)
            .build_cartesian_2d(0.0..codes as f64, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(4)
            .y_labels(4)
            .x_label_formatter(&|&v| mark(v, codes as f64))
            .y_label_formatter(&|&v| mark(v, top))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(2))
            .label_style(text(11.0, MUTED))
            .draw()?;
        // One stepped outline: hundreds of single bars would be hundreds of elements.
        let mut outline = vec![(0.0, 0.0)];
        for column in 0..columns {
            let (from, to) = (column * codes / columns, (column + 1) * codes / columns);
            let part = sorted.get(from..to).unwrap_or_default();
            let mean = part.iter().map(|&n| f64::from(n)).sum::<f64>() / part.len().max(1) as f64;
            outline.extend([(from as f64, mean), (to as f64, mean)]);
        }
        outline.push((codes as f64, 0.0));
        chart.plotting_area().draw(&Polygon::new(outline, colour(0).mix(0.75)))?;
        dashed(area, chart.backend_coord(&(0.0, even)), chart.backend_coord(&(codes as f64, even)))
    })
}

fn dashed(area: &super::Area<'_>, from: (i32, i32), to: (i32, i32)) -> Painted {
    const DASH: i32 = 6 * SCALE;
    let mut x = from.0;
    while x < to.0 {
        let dash = vec![(x, from.1), ((x + DASH).min(to.0), from.1)];
        area.draw(&PathElement::new(dash, INK.stroke_width(3)))?;
        x += DASH * 5 / 3;
    }
    Ok(())
}

/// Bars of numbers that may differ by powers of ten: heights are logarithms, each bar bears its number.
pub(in crate::report) fn histogram(name: &str, bars: &[(String, u64)]) -> Result<String> {
    const SIZE: (i32, i32) = (520, 220);
    /// Of a bar of 1, so that it is seen, in powers of ten.
    const FOOT: f64 = 0.25;
    let height = |number: u64| if number == 0 { 0.0 } else { (number as f64).log10() + FOOT };
    let top = axis(bars.iter().map(|(_, number)| height(*number))).end.max(1.0) * 1.1;
    draw(name, SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8 * SCALE)
            .set_label_area_size(LabelAreaPosition::Bottom, 24 * SCALE)
            .build_cartesian_2d(0.0..bars.len().max(1) as f64, 0.0..top)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .x_labels(0)
            .y_labels(0)
            .axis_style(GRID.stroke_width(2))
            .label_style(text(11.0, MUTED))
            .draw()?;
        let size = if bars.len() > 8 { 10.0 } else { 11.0 };
        for (at, (title, number)) in bars.iter().enumerate() {
            let (left, right) = (at as f64 + 0.18, at as f64 + 0.82);
            let fill = colour(if at == 0 { 0 } else { 1 }).filled();
            chart.plotting_area().draw(&Rectangle::new([(left, 0.0), (right, height(*number))], fill))?;
            let (x, y) = chart.backend_coord(&(at as f64 + 0.5, height(*number)));
            let above = text(size, INK).pos(Pos::new(HPos::Center, VPos::Bottom));
            area.draw(&Text::new(numbers::count(*number), (x, y - 3 * SCALE), above))?;
            let (x, y) = chart.backend_coord(&(at as f64 + 0.5, 0.0));
            let below = text(size, MUTED).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(short(title, 12), (x, y + 6 * SCALE), below))?;
        }
        Ok(())
    })
}
