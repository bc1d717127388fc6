//! What is wrong with a configuration file, for the person who has to mend it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::left_out::Reach;

use base::error::with_fix;

/// One thing that is wrong, and what to do about it.
///
/// Neither text ever holds a value that could be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; none when it concerns the file as a whole.
    pub line: Option<usize>,
    /// The key, such as `endpoint "hdb".keepalive.every`; empty when no key is concerned.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// What can't be served because of it.
    pub reach: Reach,
}

/// Everything that is wrong with one file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
    files: Vec<PathBuf>,
}

impl Problems {
    /// Sorts by line; what concerns the file as a whole comes first.
    pub(super) fn new(file: &Path, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.line);
        Self {
            file: file.to_owned(),
            list,
            files: Vec::new(),
        }
    }

    /// With the files that the configuration names.
    pub(super) fn with_files(self, files: Vec<PathBuf>) -> Self {
        Self { files, ..self }
    }

    /// The files that the configuration names: one of them may be what can't be read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The file they are in.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether one of them concerns the daemon as a whole.
    pub fn stop_the_daemon(&self) -> bool {
        self.iter().any(|problem| problem.reach == Reach::Daemon)
    }

    /// Each with its line, as `hopend check` prints it.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&Problem, String)> {
        self.list.iter().map(|problem| {
            let file = self.file.display();
            let shown = match problem.line {
                Some(line) => format!("{file}:{line}: {problem}"),
                None => format!("{file}: {problem}"),
            };
            (problem, shown)
        })
    }

    /// Each of them; there is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One line each: `FILE:LINE: KEY: what. Fix: remedy.`, the form that editors and compilers share.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (_, shown)) in self.lines().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{shown}")?;
        }
        Ok(())
    }
}

/// `KEY: what. Fix: remedy.`, without the place.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&with_fix(&self.what, &self.remedy))
    }
}

impl std::error::Error for Problems {}
