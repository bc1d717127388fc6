//! Rows under headings, as wide as what stands in them.

use std::fmt;

use crate::status::printable;

/// A table of `N` columns.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    right: [bool; N],
}

impl<const N: usize> Table<N> {
    pub(super) fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned)],
            right: [false; N],
        }
    }

    /// With these columns, from 0, aligned to the right.
    pub(super) fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        for column in columns {
            self.right[column] = true;
        }
        self
    }

    /// Adds a row. What a terminal would take for an order is shown as a blank.
    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows
            .push(row.map(|cell| cell.replace(|c| printable(c) != c, " ")));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
        };
        let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or_default());
        let lines: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let cells = row.iter().zip(widths).zip(self.right);
                let padded: Vec<_> = cells
                    .map(|((cell, width), right)| match right {
                        true => format!("{}{cell}", blanks(cell, width)),
                        false => format!("{cell}{}", blanks(cell, width)),
                    })
                    .collect();
                padded.join("  ").trim_end().to_owned()
            })
            .collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What `cell` lacks to be so wide. A format's own width ends at 65,535.
fn blanks(cell: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(cell.chars().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "X"]);
        table.row(["a".into(), "long".into()]);
        table.row(["zoë-cluster".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME         X\na            long\nzoë-cluster"
        );
    }

    #[test]
    fn nothing_turns_the_direction_and_no_cell_is_too_wide() {
        let mut table = Table::new(["PROGRAM", "WHAT"]);
        table.row(["q\u{202e}toor".into(), "x".repeat(70_000)]);
        let shown = table.to_string();
        assert!(shown.contains("q toor   xxx"));
    }

    #[test]
    fn numbers_stand_below_each_other_and_control_characters_do_nothing() {
        let mut table = Table::new(["COUNT", "WHAT"]).right([0]);
        table.row(["7".into(), "one\x1b[2J\ntwo".into()]);
        assert_eq!(table.to_string(), "COUNT  WHAT\n    7  one [2J two");
    }
}
