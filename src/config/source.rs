//! The text of the file: where things stand in it and what is wrong with them.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::left_out::{self, Consequence, LeftOut, Part, Reach};
use super::notice::Notice;
use super::problem::{Problem, Problems};
use base::invalid::Invalid;

/// Where systemd puts what `LoadCredential=` names, and how a path in the file begins that is there.
const VARIABLE: &str = "CREDENTIALS_DIRECTORY";
const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";

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
    /// The paths that it names.
    named: RefCell<Vec<PathBuf>>,
    notices: RefCell<Vec<Notice>>,
    /// What is left out because something else is.
    follows: RefCell<Vec<Consequence>>,
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
            named: RefCell::default(),
            notices: RefCell::default(),
            follows: RefCell::default(),
        }
    }

    /// The line, from 1, of a byte.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// A path as the file means it: relative to the file's own directory, or to the folder in which
    /// systemd puts the credentials of a service.
    ///
    /// # Errors
    /// There is no such folder.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, Invalid> {
        let path = match path.strip_prefix(CREDENTIALS) {
            Some(name) => credentials_folder(std::env::var_os(VARIABLE))?.join(name),
            None => self.directory().join(path),
        };
        self.named.borrow_mut().push(path.clone());
        Ok(path)
    }

    /// Every path that was resolved.
    pub(super) fn named(&self) -> Vec<PathBuf> {
        self.named.borrow().clone()
    }

    /// Adds a notice.
    pub(super) fn notify(&self, notice: Notice) {
        self.notices.borrow_mut().push(notice);
    }

    /// Every notice, in the order of the lines.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let mut notices = self.notices.borrow().clone();
        notices.sort_by_key(|notice| notice.line);
        notices
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
                reach: Reach::Daemon,
            },
        ));
    }

    /// Adds a problem.
    pub(super) fn add(&self, basis: Basis, problem: Problem) {
        self.found.borrow_mut().push((basis, problem));
    }

    /// Notes that a part can't be served without another one, which is left out.
    pub(super) fn follows(&self, part: Option<&Part>, of: &Part) {
        if let Some(part) = part {
            let (part, of) = (part.clone(), of.clone());
            self.follows.borrow_mut().push(Consequence { part, of });
        }
    }

    /// Whether a part can be served, by the problems found so far.
    pub(super) fn is_sound(&self, part: &Part) -> bool {
        let found = self.found.borrow();
        !found.iter().any(|(_, problem)| problem.reach.breaks(part))
    }

    /// The value, if no problem was found.
    pub(super) fn conclude<T>(self, value: T) -> Result<T, Problems> {
        self.problems().map_or(Ok(value), Err)
    }

    /// What is left out, and all problems.
    pub(super) fn conclude_in_part(self) -> (Vec<LeftOut>, Option<Problems>) {
        let consequences = self.follows.take();
        let problems = self.problems();
        (left_out::collect(problems.as_ref(), consequences), problems)
    }

    fn problems(self) -> Option<Problems> {
        let found = self.found.take();
        let list: Vec<Problem> = found
            .into_iter()
            .filter(|(basis, problem)| problem.key.is_empty() || self.holds(*basis, problem))
            .map(|(_, problem)| problem)
            .collect();
        let problems = (!list.is_empty()).then(|| Problems::new(self.file, list));
        problems.map(|problems| problems.with_files(self.named.take()))
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

fn credentials_folder(value: Option<std::ffi::OsString>) -> Result<PathBuf, Invalid> {
    let folder = value.map(PathBuf::from).filter(|path| path.is_absolute());
    folder.ok_or_else(|| {
        Invalid::new(
            "the variable CREDENTIALS_DIRECTORY is not set",
            "give the service a LoadCredential=; elsewhere set the variable, such as to \
             /run/credentials/hopend.service, which is there while the service runs",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_where_the_variable_says() {
        assert_eq!(
            credentials_folder(Some("/run/credentials/hopend.service".into())),
            Ok(PathBuf::from("/run/credentials/hopend.service"))
        );
        for unset in [None, Some("".into()), Some("relative".into())] {
            let invalid = credentials_folder(unset).unwrap_err();
            assert!(invalid.remedy.contains("LoadCredential="), "{invalid}");
        }
    }
}
