//! The errors of a configuration file.

use std::fmt;
use std::path::{Path, PathBuf};

use base::error::with_fix;

use super::problem_scope::ProblemScope;

/// One error of a configuration file, with its remedy. No text in it contains a value that could be a
/// secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line in the file, from 1. `None` if the problem concerns the file as a whole.
    pub line: Option<usize>,
    /// The key, such as `endpoint "hdb".keepalive.every`. Empty if the problem concerns no key.
    pub key: String,
    /// The error, as a predicate such as `is missing`, or as a sentence.
    pub message: String,
    /// The remedy, as an imperative.
    pub remedy: String,
    /// The parts of the configuration that hopend cannot serve because of the problem.
    pub reach: ProblemScope,
}

/// All errors of one configuration file, in the order of its lines. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
    files: Vec<PathBuf>,
}

impl Problems {
    /// Sorts the problems by line. Those that concern the file as a whole come first.
    pub(super) fn new(file: &Path, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.line);
        Self {
            file: file.to_owned(),
            list,
            files: Vec::new(),
        }
    }

    /// Adds the paths of the files that the configuration names.
    pub(super) fn with_files(self, files: Vec<PathBuf>) -> Self {
        Self { files, ..self }
    }

    /// The paths of the files that the configuration names. The daemon's confinement may be the reason
    /// why a file cannot be read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The path of the configuration file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether one of the problems concerns the daemon as a whole, so that hopend can serve nothing.
    pub fn concern_daemon(&self) -> bool {
        self.iter()
            .any(|problem| problem.reach == ProblemScope::Daemon)
    }

    /// Prints one of the problems with its file and line, as `hopend check` does.
    pub(super) fn print(&self, problem: &Problem) -> String {
        let file = self.file.display();
        match problem.line {
            Some(line) => format!("{file}:{line}: {problem}"),
            None => format!("{file}: {problem}"),
        }
    }

    /// The problems, in the order of the lines.
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

/// Prints a line for each problem: `FILE:LINE: KEY: message. Fix: remedy.` Editors recognise this form,
/// because compilers use it.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{}", self.print(problem))?;
        }
        Ok(())
    }
}

/// Prints `KEY: message. Fix: remedy.`, without the file and the line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&with_fix(&self.message, &self.remedy))
    }
}

impl std::error::Error for Problems {}
