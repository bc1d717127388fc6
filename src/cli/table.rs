//! Text tables: columns with headings, as wide as their widest cell.

use std::fmt;

use crate::primitives::printable::printable;

/// The blanks between two columns.
const GAP: &str = "  ";
/// The blanks before a text that stands below its row.
const INDENT: &str = "    ";

/// A table of `N` columns. The first row holds the headings.
#[derive(Debug)]
pub(super) struct TextTable<const N: usize> {
    rows: Vec<[String; N]>,
    right_aligned: [bool; N],
    /// The columns that a narrow screen may omit, in the order in which it omits them.
    optional: Vec<usize>,
    /// Whether the last column holds long text. A narrow screen shows that below its row.
    text_last: bool,
}

impl<const N: usize> TextTable<N> {
    pub(super) fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned)],
            right_aligned: [false; N],
            optional: Vec::new(),
            text_last: false,
        }
    }

    /// Aligns these columns to the right. The first column is 0.
    pub(super) fn right_align(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        for column in columns {
            self.right_aligned[column] = true;
        }
        self
    }

    /// Lets a narrow screen omit these columns, in this order.
    pub(super) fn optional(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.optional.extend(columns);
        self
    }

    /// Lets a narrow screen show the last column below its row.
    pub(super) fn text_last(mut self) -> Self {
        self.text_last = true;
        self
    }

    /// The table for a screen that is `width` characters wide. Without a width, the whole table.
    pub(super) fn fit(&self, width: Option<usize>) -> String {
        let all: Vec<usize> = (0..N).collect();
        let Some(width) = width.filter(|width| self.width(&all) > *width) else {
            return self.to_string();
        };
        let mut columns = all;
        if self.text_last {
            columns.pop();
        }
        for optional in &self.optional {
            if self.width(&columns) > width {
                columns.retain(|column| column != optional);
            }
        }
        let mut lines = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            let line = self.line(row, &columns);
            if !self.text_last {
                lines.push(line);
            } else if index == 0 {
                lines.push(format!("{line}  {}", row[N - 1]));
            } else {
                lines.push(line);
                let text = wrap(&row[N - 1], width.saturating_sub(INDENT.len()));
                lines.extend(text.iter().map(|line| format!("{INDENT}{line}")));
            }
        }
        lines.join("\n")
    }

    /// The width of these columns with the gaps between them, in characters.
    fn width(&self, columns: &[usize]) -> usize {
        let cells: usize = columns
            .iter()
            .map(|column| self.column_width(*column))
            .sum();
        cells + GAP.len() * columns.len().saturating_sub(1)
    }

    fn column_width(&self, column: usize) -> usize {
        let widths = self.rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    }

    fn line(&self, row: &[String; N], columns: &[usize]) -> String {
        let padded: Vec<_> = columns
            .iter()
            .map(|&column| {
                let (cell, width) = (&row[column], self.column_width(column));
                match self.right_aligned[column] {
                    true => format!("{}{cell}", blanks(cell, width)),
                    false => format!("{cell}{}", blanks(cell, width)),
                }
            })
            .collect();
        padded.join(GAP).trim_end().to_owned()
    }

    /// Adds a row. Replaces control characters and changes of direction with blanks.
    pub(super) fn add_row(&mut self, row: [String; N]) {
        self.rows
            .push(row.map(|cell| cell.replace(|c| printable(c) != c, " ")));
    }
}

impl<const N: usize> fmt::Display for TextTable<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<usize> = (0..N).collect();
        let lines = self.rows.iter().map(|row| self.line(row, &columns));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Breaks a text into lines of at most `width` characters, between words if possible.
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

/// The blanks that pad `cell` to `width` characters. A format specifier can pad to at most 65,535.
fn blanks(cell: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(cell.chars().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = TextTable::new(["NAME", "X"]);
        table.add_row(["a".into(), "long".into()]);
        table.add_row(["zoë-cluster".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME         X\na            long\nzoë-cluster"
        );
    }

    #[test]
    fn a_narrow_screen_loses_spare_columns_first_and_text_goes_below_its_row() {
        let mut table = TextTable::new(["AGO", "SIDE", "ENDPOINT", "LAST ERRORS"])
            .right_align([0])
            .optional([1, 2])
            .text_last();
        table.add_row([
            "5s".into(),
            "denied".into(),
            "hdb".into(),
            "no such user. Fix: add one.".into(),
        ]);
        assert_eq!(table.fit(Some(80)), table.to_string());
        assert_eq!(
            table.fit(Some(21)),
            "AGO  SIDE    ENDPOINT  LAST ERRORS\n 5s  denied  hdb\n    no such user.\n    Fix: add one."
        );
        assert_eq!(
            table.fit(Some(20)),
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
        let mut table = TextTable::new(["PROGRAM", "WHAT"]);
        table.add_row(["q\u{202e}toor".into(), "x".repeat(70_000)]);
        let shown = table.to_string();
        assert!(shown.contains("q toor   xxx"));
    }

    #[test]
    fn numbers_stand_below_each_other_and_control_characters_do_nothing() {
        let mut table = TextTable::new(["COUNT", "WHAT"]).right_align([0]);
        table.add_row(["7".into(), "one\x1b[2J\ntwo".into()]);
        assert_eq!(table.to_string(), "COUNT  WHAT\n    7  one [2J two");
    }
}
