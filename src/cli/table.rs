//! Rows under headings, as wide as what stands in them.

use std::fmt;

use crate::primitives::printable::printable;

/// Between two columns.
const GAP: &str = "  ";
/// Before text below its row.
const INDENT: &str = "    ";

/// A table of `N` columns.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    right: [bool; N],
    /// Columns that a narrow screen leaves out, the first one first.
    spare: Vec<usize>,
    /// Whether the last column is text, which a narrow screen shows below its row.
    text: bool,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned)],
            right: [false; N],
            spare: Vec::new(),
            text: false,
        }
    }

    /// With these columns, from 0, aligned to the right.
    pub(super) fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        for column in columns {
            self.right[column] = true;
        }
        self
    }

    /// With these columns left out, in this order, where not all fit.
    pub(super) fn spare(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.spare.extend(columns);
        self
    }

    /// With text in the last column.
    pub(super) fn text_last(mut self) -> Self {
        self.text = true;
        self
    }

    /// For a screen that is `width` characters wide; as wide as it is without one.
    pub(super) fn fitted(&self, width: Option<usize>) -> String {
        let all: Vec<usize> = (0..N).collect();
        let Some(width) = width.filter(|width| self.width(&all) > *width) else {
            return self.to_string();
        };
        let mut columns = all;
        if self.text {
            columns.pop();
        }
        for spare in &self.spare {
            if self.width(&columns) > width {
                columns.retain(|column| column != spare);
            }
        }
        let mut lines = Vec::new();
        for (at, row) in self.rows.iter().enumerate() {
            let line = self.line(row, &columns);
            if !self.text {
                lines.push(line);
            } else if at == 0 {
                lines.push(format!("{line}  {}", row[N - 1]));
            } else {
                lines.push(line);
                let text = wrap(&row[N - 1], width.saturating_sub(INDENT.len()));
                lines.extend(text.iter().map(|line| format!("{INDENT}{line}")));
            }
        }
        lines.join("\n")
    }

    /// How wide these columns are, with the blanks between them.
    fn width(&self, columns: &[usize]) -> usize {
        let cells: usize = columns.iter().map(|column| self.widest(*column)).sum();
        cells + GAP.len() * columns.len().saturating_sub(1)
    }

    fn widest(&self, column: usize) -> usize {
        let widths = self.rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    }

    fn line(&self, row: &[String; N], columns: &[usize]) -> String {
        let padded: Vec<_> = columns
            .iter()
            .map(|&column| {
                let (cell, width) = (&row[column], self.widest(column));
                match self.right[column] {
                    true => format!("{}{cell}", blanks(cell, width)),
                    false => format!("{cell}{}", blanks(cell, width)),
                }
            })
            .collect();
        padded.join(GAP).trim_end().to_owned()
    }

    /// Adds a row. What a terminal would take for an order is shown as a blank.
    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows
            .push(row.map(|cell| cell.replace(|c| printable(c) != c, " ")));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<usize> = (0..N).collect();
        let lines = self.rows.iter().map(|row| self.line(row, &columns));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// A text in lines of at most `width` characters, broken between words where it can be.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line: Vec<char> = Vec::new();
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(line.drain(..).collect());
        }
        while word.len() > width {
            lines.push(word.drain(..width).collect());
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.append(&mut word);
    }
    if !line.is_empty() {
        lines.push(line.into_iter().collect());
    }
    lines
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
    fn a_narrow_screen_loses_spare_columns_first_and_text_goes_below_its_row() {
        let mut table = Table::new(["AGO", "SIDE", "ENDPOINT", "LAST ERRORS"])
            .right([0])
            .spare([1, 2])
            .text_last();
        table.row([
            "5s".into(),
            "denied".into(),
            "hdb".into(),
            "no such user. Fix: add one.".into(),
        ]);
        assert_eq!(table.fitted(Some(80)), table.to_string());
        assert_eq!(
            table.fitted(Some(21)),
            "AGO  SIDE    ENDPOINT  LAST ERRORS\n 5s  denied  hdb\n    no such user.\n    Fix: add one."
        );
        assert_eq!(
            table.fitted(Some(20)),
            "AGO  ENDPOINT  LAST ERRORS\n 5s  hdb\n    no such user.\n    Fix: add one."
        );
    }

    #[test]
    fn words_stay_whole_where_they_can() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("a abcdefgh", 3), ["a", "abc", "def", "gh"]);
        assert!(wrap("", 3).is_empty());
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
