//! Many rows of the same few figures, where bars side by side could not be told apart.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{INK, MUTED, SCALE, colour, draw, drawable, short, text};
use crate::Result;
use crate::report::numbers;

/// A line a row and a column a group; each cell has its number and a bar that is as long as the number is of its column's
/// largest. `values[row][group]`.
pub(in crate::report) fn bar_matrix(
    name: &str,
    rows: &[&str],
    groups: &[(String, String)],
    values: &[Vec<Option<f64>>],
) -> Result<String> {
    const ROW: i32 = 19;
    const TOP: i32 = 26;
    const LEFT: i32 = 132;
    const WIDTH: i32 = 520;
    /// Room for a number beside the longest bar.
    const NUMBER: i32 = 44;
    let shown = |value: Option<f64>| value.filter(|&v| drawable(v) && v >= 0.0);
    let column = (WIDTH - LEFT) / groups.len().max(1) as i32;
    let longest = (column - NUMBER).max(8);
    let largest: Vec<f64> = (0..groups.len())
        .map(|g| values.iter().filter_map(|row| shown(row.get(g).copied().flatten())).fold(0.0, f64::max))
        .collect();
    draw(name, (WIDTH, rows.len() as i32 * ROW + TOP), |area| {
        let beside = |anchor: HPos| Pos::new(anchor, VPos::Center);
        for (g, (title, _)) in groups.iter().enumerate() {
            let place = ((LEFT + g as i32 * column) * SCALE, TOP / 2 * SCALE);
            area.draw(&Text::new(short(title, 15), place, text(11.0, MUTED).pos(beside(HPos::Left))))?;
        }
        for (r, (row, values)) in rows.iter().zip(values).enumerate() {
            let middle = TOP + r as i32 * ROW + ROW / 2;
            let label = text(12.0, INK).pos(beside(HPos::Right));
            area.draw(&Text::new(short(row, 19), ((LEFT - 8) * SCALE, middle * SCALE), label))?;
            for (g, &value) in values.iter().enumerate() {
                let left = LEFT + g as i32 * column;
                let told = numbers::figure(value.unwrap_or(f64::NAN), 2);
                let mut right = left;
                if let Some(value) = shown(value) {
                    right += (f64::from(longest) * value / largest[g].max(f64::MIN_POSITIVE)).round() as i32;
                    let bar = [(left * SCALE, (middle - 6) * SCALE), (right * SCALE, (middle + 6) * SCALE)];
                    area.draw(&Rectangle::new(bar, colour(0).filled()))?;
                }
                let place = ((right + 4) * SCALE, middle * SCALE);
                area.draw(&Text::new(told, place, text(10.5, INK).pos(beside(HPos::Left))))?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_row_has_its_name_and_numbers_and_odd_values_no_bar() {
        let groups: Vec<(String, String)> =
            ["Level 1", "Level 2"].map(|title| (title.to_owned(), String::new())).to_vec();
        let rows = ["opq", "a <b>", "none"];
        let values = vec![vec![Some(0.25), Some(4096.0)], vec![Some(0.5), Some(f64::INFINITY)], vec![None, Some(-1.0)]];
        let svg = bar_matrix("a name", &rows, &groups, &values).unwrap();
        for told in ["opq", "a &lt;b&gt;", "Level 2", "0.25", "4096.00", "0.50", "\u{2212}1.00"] {
            assert!(svg.contains(told), "{told} in {svg}");
        }
        // The ground is none of the project's rectangles: three values have a bar.
        assert_eq!(svg.matches("<rect").count(), 3, "{svg}");
        assert!(bar_matrix("empty", &[], &[], &[]).is_ok());
    }
}
