//! The text of the file: where things stand in it and what is wrong with them.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::problem::{Problem, Problems};

/// What a problem was concluded from. A line that is not TOML hides what stands in it; what is
/// concluded from an absence would then be a false accusation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// A value that is there.
    Seen,
    /// The lack of something in the same `[table]`.
    AbsentInTable,
    /// The lack of something anywhere in the file.
    AbsentInFile,
}

/// A file's text and the problems found in it so far.
pub(super) struct Source<'t> {
    file: &'t Path,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Lines (from 1) that begin with a bracket: what `[table]` a line belongs to.
    headers: Vec<usize>,
    /// Lines (from 1) that are not TOML.
    broken: Vec<usize>,
    found: RefCell<Vec<(Basis, Problem)>>,
}

impl<'t> Source<'t> {
    pub(super) fn new(text: &'t str, file: &'t Path) -> Self {
        let lines: Vec<usize> = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let headers = text
            .split('\n')
            .enumerate()
            .filter(|(_, line)| line.trim_start().starts_with('['))
            .map(|(index, _)| index + 1)
            .collect();
        Self {
            file,
            lines,
            headers,
            broken: Vec::new(),
            found: RefCell::default(),
        }
    }

    /// The line, from 1, of a byte.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// A path as the file means it: relative to the file's own directory.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.directory().join(path)
    }

    /// The directory that relative paths start from.
    pub(super) fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Notes that a stretch is not TOML. The text itself is not repeated: it may be a secret.
    pub(super) fn not_toml(&mut self, span: Option<Range<usize>>, message: &str) {
        let line = span.map(|span| self.line(span.start));
        if let Some(line) = line {
            // One slip often makes several errors; the first on a line names it best.
            if self.broken.contains(&line) {
                return;
            }
            self.broken.push(line);
        }
        let remedy = if message.contains("duplicate key") {
            "give each key once in its table"
        } else {
            "write `key = \"text\"`, `key = 1`, `key = true` or `key = [\"a\", \"b\"]`"
        };
        self.found.borrow_mut().push((
            Basis::Seen,
            Problem {
                line,
                key: String::new(),
                what: format!("not TOML: {message}"),
                remedy: remedy.into(),
            },
        ));
    }

    /// Adds a problem.
    pub(super) fn add(&self, basis: Basis, problem: Problem) {
        self.found.borrow_mut().push((basis, problem));
    }

    /// The value, if no problem was found.
    pub(super) fn conclude<T>(self, value: Option<T>) -> Result<T, Problems> {
        let found = self.found.take();
        let list: Vec<Problem> = found
            .into_iter()
            .filter(|(basis, problem)| problem.key.is_empty() || self.holds(*basis, problem))
            .map(|(_, problem)| problem)
            .collect();
        match value {
            Some(value) if list.is_empty() => Ok(value),
            _ => Err(Problems::new(self.file, list)),
        }
    }

    /// Whether a problem may be told although some lines could not be read.
    fn holds(&self, basis: Basis, problem: &Problem) -> bool {
        let Some(line) = problem.line else {
            return self.broken.is_empty();
        };
        let table = |line: usize| self.headers.partition_point(|header| *header <= line);
        match basis {
            Basis::Seen => !self.broken.contains(&line),
            Basis::AbsentInTable => !self.broken.iter().any(|b| table(*b) == table(line)),
            Basis::AbsentInFile => self.broken.is_empty(),
        }
    }
}
