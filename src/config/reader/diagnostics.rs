//! Collects the problems of a configuration file, and converts positions in its text to lines.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use base::invalid_value::InvalidValue;

use super::reported::Reported;
use crate::config::config_part::ConfigPart;
use crate::config::left_out::{self, Dependent, LeftOutPart};
use crate::config::notice::Notice;
use crate::config::problem::{Problem, Problems};
use crate::config::problem_scope::ProblemScope;

/// The variable in which systemd passes the directory of the files that `LoadCredential=` names.
const VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// The prefix of a path in that directory, in the configuration file.
const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";

/// The evidence for a problem.
///
/// The reader skips a line that is not TOML, so keys on it seem to be missing. Problems whose evidence is
/// the absence of a key are then dropped, because they may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// A value that the file has.
    Present,
    /// The absence of a key from its table.
    AbsentFromTable,
    /// The absence of a key or a table from the whole file.
    AbsentFromFile,
}

/// The problems, notices and named files that the readers have found in one file so far.
pub(super) struct Diagnostics<'t> {
    file: &'t Path,
    /// The byte offset at which each line begins.
    line_starts: Vec<usize>,
    /// The lines, from 1, that begin with a bracket. They tell to which table a line belongs.
    header_lines: Vec<usize>,
    /// The lines, from 1, that are not TOML.
    broken_lines: Vec<usize>,
    problems: RefCell<Vec<RecordedProblem>>,
    named_files: RefCell<Vec<PathBuf>>,
    notices: RefCell<Vec<Notice>>,
    dependents: RefCell<Vec<Dependent>>,
}

/// A problem with its evidence.
struct RecordedProblem {
    evidence: Evidence,
    problem: Problem,
}

impl<'t> Diagnostics<'t> {
    /// Starts without any problem. `file` is the path that the problems name.
    pub(super) fn new(text: &'t str, file: &'t Path) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let header_lines = text
            .split('\n')
            .enumerate()
            .filter(|(_, line)| line.trim_start().starts_with('['))
            .map(|(index, _)| index + 1)
            .collect();
        Self {
            file,
            line_starts,
            header_lines,
            broken_lines: Vec::new(),
            problems: RefCell::default(),
            named_files: RefCell::default(),
            notices: RefCell::default(),
            dependents: RefCell::default(),
        }
    }

    /// The line, from 1, of the byte at `offset`.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Resolves a path in the file: relative to the directory of the file, or to the directory of
    /// systemd's credentials.
    ///
    /// # Errors
    /// The variable with the directory of the credentials is not set.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, InvalidValue> {
        let path = match path.strip_prefix(CREDENTIALS) {
            Some(name) => credentials_directory(std::env::var_os(VARIABLE))?.join(name),
            None => self.directory().join(path),
        };
        self.named_files.borrow_mut().push(path.clone());
        Ok(path)
    }

    /// Every path that [`Self::resolve`] has returned.
    pub(super) fn named_files(&self) -> Vec<PathBuf> {
        self.named_files.borrow().clone()
    }

    /// Adds a notice.
    pub(super) fn notify(&self, notice: Notice) {
        self.notices.borrow_mut().push(notice);
    }

    /// The notices, in the order of the lines.
    pub(super) fn notices(&self) -> Vec<Notice> {
        let mut notices = self.notices.borrow().clone();
        notices.sort_by_key(|notice| notice.line);
        notices
    }

    /// The directory that relative paths start from.
    pub(super) fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Adds a syntax error. The problem does not repeat the text, which may be a secret.
    pub(super) fn syntax_error(&mut self, span: Option<Range<usize>>, message: &str) {
        let line = span.map(|span| self.line(span.start));
        if let Some(line) = line {
            // One mistake often causes several errors. The first one on a line describes it best.
            if self.broken_lines.contains(&line) {
                return;
            }
            self.broken_lines.push(line);
        }
        let remedy = if message.contains("duplicate key") {
            "give each key once in its table"
        } else {
            "write `key = \"text\"`, `key = 1`, `key = true` or `key = [\"a\", \"b\"]`"
        };
        let problem = Problem {
            line,
            key: String::new(),
            message: format!("not TOML: {message}"),
            remedy: remedy.into(),
            reach: ProblemScope::Daemon,
        };
        self.add(Evidence::Present, problem);
    }

    /// Adds a problem.
    pub(super) fn add(&self, evidence: Evidence, problem: Problem) -> Reported {
        self.problems
            .borrow_mut()
            .push(RecordedProblem { evidence, problem });
        Reported::by_diagnostics()
    }

    /// Records that `part` cannot be served because it needs a part that is left out. Outside of all
    /// parts this has no effect.
    pub(super) fn add_dependent(&self, part: Option<&ConfigPart>, needs: &ConfigPart) -> Reported {
        if let Some(part) = part {
            let (part, needs) = (part.clone(), needs.clone());
            self.dependents.borrow_mut().push(Dependent { part, needs });
        }
        Reported::by_diagnostics()
    }

    /// Whether no problem that was found so far makes the part unusable.
    pub(super) fn is_sound(&self, part: &ConfigPart) -> bool {
        let problems = self.problems.borrow();
        !problems
            .iter()
            .any(|recorded| recorded.problem.reach.breaks(part))
    }

    /// Returns the problems, if there are any, and the parts that are left out because of them.
    pub(super) fn finish(self) -> (Vec<LeftOutPart>, Option<Problems>) {
        let dependents = self.dependents.take();
        let problems = self.into_problems();
        (left_out::collect(problems.as_ref(), dependents), problems)
    }

    /// Returns the problems, if there are any.
    pub(super) fn into_problems(self) -> Option<Problems> {
        let problems = self.problems.take();
        let list: Vec<Problem> = problems
            .into_iter()
            .filter(|recorded| recorded.problem.key.is_empty() || self.is_certain(recorded))
            .map(|recorded| recorded.problem)
            .collect();
        let problems = (!list.is_empty()).then(|| Problems::new(self.file, list));
        problems.map(|problems| problems.with_files(self.named_files.take()))
    }

    /// Whether a line that is not TOML can't be the reason for the problem.
    fn is_certain(&self, recorded: &RecordedProblem) -> bool {
        let broken = &self.broken_lines;
        let Some(line) = recorded.problem.line else {
            return broken.is_empty();
        };
        let table_of = |line: usize| self.header_lines.partition_point(|header| *header <= line);
        match recorded.evidence {
            Evidence::Present => !broken.contains(&line),
            Evidence::AbsentFromTable => !broken.iter().any(|b| table_of(*b) == table_of(line)),
            Evidence::AbsentFromFile => broken.is_empty(),
        }
    }
}

/// The directory of systemd's credentials, from the value of its variable.
fn credentials_directory(value: Option<std::ffi::OsString>) -> Result<PathBuf, InvalidValue> {
    let directory = value.map(PathBuf::from).filter(|path| path.is_absolute());
    directory.ok_or_else(|| {
        InvalidValue::new(
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
            credentials_directory(Some("/run/credentials/hopend.service".into())),
            Ok(PathBuf::from("/run/credentials/hopend.service"))
        );
        for unset in [None, Some("".into()), Some("relative".into())] {
            let invalid = credentials_directory(unset).unwrap_err();
            assert!(invalid.remedy.contains("LoadCredential="), "{invalid}");
        }
    }
}
