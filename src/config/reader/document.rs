//! Tables and values of the TOML document. Each table or value knows its key and its line, and reports
//! its problems.

use std::fmt::Write as _;

use base::invalid_value::InvalidValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, Evidence};
use super::name::{self, nearest};
use super::reported::Reported;
use crate::config::config_part::{ConfigPart, ConfigPartKind};
use crate::config::notice::{Notice, Severity};
use crate::config::problem::Problem;
use crate::config::problem_scope::ProblemScope;

/// A value of the document.
#[derive(Clone)]
pub(super) struct TomlValue<'a> {
    diagnostics: &'a Diagnostics<'a>,
    /// The key with the keys of all tables around it, such as `endpoint "hdb".listen`.
    key: String,
    /// The byte offset in the text.
    offset: usize,
    /// The part of the configuration that has the value. `None` for values of `[daemon]`.
    part: Option<ConfigPart>,
    value: &'a DeValue<'a>,
}

/// A table of the document.
pub(super) struct TomlTable<'a> {
    diagnostics: &'a Diagnostics<'a>,
    /// The key with the keys of all tables around it. Empty for the document itself.
    key: String,
    /// The byte offset in the text.
    offset: usize,
    /// The part of the configuration that has the table. `None` for `[daemon]` and the document itself.
    part: Option<ConfigPart>,
    table: &'a DeTable<'a>,
}

/// One of a few words that a key accepts, and its meaning.
#[derive(Clone, Copy)]
pub(super) struct Choice<T> {
    word: &'static str,
    meaning: T,
}

impl<T> Choice<T> {
    pub(super) fn new(word: &'static str, meaning: T) -> Self {
        Self { word, meaning }
    }
}

impl<'a> TomlValue<'a> {
    /// Reports an error of the value.
    pub(super) fn problem(
        &self,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Reported {
        self.report(Evidence::Present, message, remedy)
    }

    /// Reports an error that the value and the evidence show.
    pub(super) fn report(
        &self,
        evidence: Evidence,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Reported {
        self.report_reaching(evidence, self.reach(part_only), message, remedy)
    }

    /// Reports an error whose `reach` is not the part that has the value.
    pub(super) fn report_reaching(
        &self,
        evidence: Evidence,
        reach: ProblemScope,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Reported {
        let problem = Problem {
            line: Some(self.line()),
            key: self.key.clone(),
            message: message.into(),
            remedy: remedy.into(),
            reach,
        };
        self.diagnostics.add(evidence, problem)
    }

    /// The reach of a problem of this value: `of_part` of the part that has the value, or the daemon if no
    /// part has it.
    pub(super) fn reach(&self, of_part: impl FnOnce(ConfigPart) -> ProblemScope) -> ProblemScope {
        self.part.clone().map_or(ProblemScope::Daemon, of_part)
    }

    /// The same value, as a value of `part`.
    pub(super) fn of_part(self, part: ConfigPart) -> Self {
        Self {
            part: Some(part),
            ..self
        }
    }

    /// Adds a notice about the value, which stays valid.
    pub(super) fn notice(
        &self,
        severity: Severity,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.diagnostics.notify(Notice {
            line: self.line(),
            key: self.key.clone(),
            message: message.into(),
            remedy: remedy.into(),
            severity,
        });
    }

    /// Reports the error of a check of this value.
    pub(super) fn check<T>(&self, result: Result<T, InvalidValue>) -> Result<T, Reported> {
        result.map_err(|invalid| self.problem(invalid.message, invalid.remedy))
    }

    /// Reports that the value has another type than `expected`.
    pub(super) fn wrong_type(&self, expected: &str, remedy: &str) -> Reported {
        let actual = match self.value.type_str() {
            "integer" => "an integer",
            "array" => "an array",
            "boolean" => "true or false",
            "float" => "a number with a point",
            "datetime" => "a date or time",
            "table" => "a table",
            _ => "a string",
        };
        self.problem(format!("must be {expected} and is {actual}"), remedy)
    }

    /// The diagnostics that receive the value's problems.
    pub(super) fn diagnostics(&self) -> &'a Diagnostics<'a> {
        self.diagnostics
    }

    /// The key with the keys of all tables around it.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The line, from 1.
    pub(super) fn line(&self) -> usize {
        self.diagnostics.line(self.offset)
    }

    /// The part of the configuration that has the value. `None` for values of `[daemon]`.
    pub(super) fn part(&self) -> Option<&ConfigPart> {
        self.part.as_ref()
    }

    /// The value as the TOML parser returns it, without any check.
    pub(super) fn raw(&self) -> &'a DeValue<'a> {
        self.value
    }

    /// The text of a string.
    pub(super) fn text(&self) -> Result<&'a str, Reported> {
        let text = self.value.as_str();
        text.ok_or_else(|| self.wrong_type("a string", "write it in double quotes"))
    }

    /// The meaning of a string that is one of the choices.
    pub(super) fn one_of<T: Copy>(&self, choices: &[Choice<T>]) -> Result<T, Reported> {
        let text = self.text()?;
        match choices.iter().find(|choice| choice.word == text) {
            Some(choice) => Ok(choice.meaning),
            None => {
                let words: Vec<String> = choices
                    .iter()
                    .map(|choice| format!("{:?}", choice.word))
                    .collect();
                Err(self.problem(
                    "is not a valid choice",
                    format!("write {}", words.join(" or ")),
                ))
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, Reported> {
        let boolean = self.value.as_bool();
        boolean
            .ok_or_else(|| self.wrong_type("true or false", "write true or false, without quotes"))
    }

    /// The elements of an array.
    pub(super) fn array(&self) -> Result<Vec<TomlValue<'a>>, Reported> {
        let Some(array) = self.value.as_array() else {
            return Err(self.wrong_type("an array", "write it in brackets, such as [\"a\", \"b\"]"));
        };
        Ok(array.iter().map(|element| self.element(element)).collect())
    }

    /// The elements of an array of strings, or a single string as the only element.
    pub(super) fn one_or_many(&self) -> Result<Vec<TomlValue<'a>>, Reported> {
        if self.value.is_str() {
            return Ok(vec![self.clone()]);
        }
        if !self.value.is_array() {
            return Err(self.wrong_type(
                "a string or an array of strings",
                "write it in double quotes",
            ));
        }
        self.array()
    }

    /// The value as a table. `remedy` is the remedy if it is something else.
    pub(super) fn table(&self, remedy: &str) -> Result<TomlTable<'a>, Reported> {
        let Some(table) = self.value.as_table() else {
            return Err(self.wrong_type("a table", remedy));
        };
        Ok(TomlTable {
            diagnostics: self.diagnostics,
            key: self.key.clone(),
            offset: self.offset,
            part: self.part.clone(),
            table,
        })
    }

    fn element(&self, element: &'a Spanned<DeValue<'a>>) -> TomlValue<'a> {
        TomlValue {
            diagnostics: self.diagnostics,
            key: self.key.clone(),
            offset: element.span().start,
            part: self.part.clone(),
            value: element.get_ref(),
        }
    }
}

impl<'a> TomlTable<'a> {
    /// The whole document.
    pub(super) fn root(diagnostics: &'a Diagnostics<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            diagnostics,
            key: String::new(),
            offset: 0,
            part: None,
            table,
        }
    }

    /// The tables of `[[key]]`. Each of them is a part of the configuration.
    pub(super) fn tables(&self, kind: ConfigPartKind) -> Vec<TomlTable<'a>> {
        let key = kind.name();
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let remedy = format!("write it as [[{key}]], in double brackets, for each {key}");
        if !value.raw().is_array() {
            value.wrong_type("a list of tables", &remedy);
            return Vec::new();
        }
        let elements = value.array().unwrap_or_default();
        let parts = elements.into_iter().map(|element| {
            let part = ConfigPart::unnamed(kind, element.line());
            element.of_part(part)
        });
        parts
            .filter_map(|element| element.table(&remedy).ok())
            .collect()
    }

    /// Reads the table's `name`. Later messages refer to the table by it, such as `endpoint "hdb"`.
    pub(super) fn read_name(
        &mut self,
        kind: ConfigPartKind,
        check: fn(&str) -> Result<(), InvalidValue>,
    ) -> Result<&'a str, Reported> {
        let value = self.required("name", "give it a name")?;
        let name = value.text()?;
        value.check(check(name))?;
        self.key = format!("{} {name:?}", kind.name());
        if let Some(part) = &mut self.part {
            name.clone_into(&mut part.name);
        }
        Ok(name)
    }

    /// The value of a key, if the table has the key.
    pub(super) fn get(&self, key: &str) -> Option<TomlValue<'a>> {
        let value = self.table.get(key)?;
        Some(self.value(key, value))
    }

    /// The value of a key that the table must have.
    pub(super) fn required(&self, key: &str, remedy: &str) -> Result<TomlValue<'a>, Reported> {
        self.get(key)
            .ok_or_else(|| self.absent(key, "is missing", remedy))
    }

    /// Reads the value of a key, if the table has the key.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&TomlValue<'a>) -> Result<T, Reported>,
    ) -> Result<Option<T>, Reported> {
        self.get(key).map(|value| read(&value)).transpose()
    }

    /// Reads the value of a key, or returns `default` if the table does not have the key.
    pub(super) fn with_default<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&TomlValue<'a>) -> Result<T, Reported>,
    ) -> Result<T, Reported> {
        self.get(key).map_or(Ok(default), |value| read(&value))
    }

    /// Every key of the table with its value.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, TomlValue<'a>)> {
        self.table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), self.value(key.get_ref(), value)))
    }

    /// Whether a key is missing or has an empty array.
    pub(super) fn lacks(&self, key: &str) -> bool {
        self.get(key)
            .is_none_or(|value| value.raw().as_array().is_some_and(|list| list.is_empty()))
    }

    /// Reports every key that is not among `keys`.
    pub(super) fn reject_keys_except(&self, keys: &[&str]) {
        for (key, _) in self.table {
            let unknown = key.get_ref().as_ref();
            if keys.contains(&unknown) {
                continue;
            }
            let remedy = match nearest(unknown, keys.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("the keys here are {}", keys.join(", ")),
            };
            let problem = self.problem_at(unknown, key.span().start, "unknown key", remedy);
            self.diagnostics.add(Evidence::Present, problem);
        }
    }

    /// Reports that a key is missing from this table. An empty key means the table as a whole.
    pub(super) fn absent(&self, key: &str, message: &str, remedy: impl Into<String>) -> Reported {
        let problem = self.problem_at(key, self.offset, message, remedy);
        self.diagnostics.add(Evidence::AbsentFromTable, problem)
    }

    /// Reports an error of the table as a whole.
    pub(super) fn problem(
        &self,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Reported {
        let problem = self.problem_at("", self.offset, message, remedy);
        self.diagnostics.add(Evidence::Present, problem)
    }

    /// The diagnostics that receive the table's problems.
    pub(super) fn diagnostics(&self) -> &'a Diagnostics<'a> {
        self.diagnostics
    }

    /// The line of the table's header, from 1.
    pub(super) fn line(&self) -> usize {
        self.diagnostics.line(self.offset)
    }

    /// The part of the configuration that has the table. `None` for `[daemon]` and the document itself.
    pub(super) fn part(&self) -> Option<&ConfigPart> {
        self.part.as_ref()
    }

    fn problem_at(
        &self,
        key: &str,
        offset: usize,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        Problem {
            line: Some(self.diagnostics.line(offset)),
            key: self.path(key),
            message: message.into(),
            remedy: remedy.into(),
            reach: self.part.clone().map_or(ProblemScope::Daemon, part_only),
        }
    }

    fn value(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> TomlValue<'a> {
        TomlValue {
            diagnostics: self.diagnostics,
            key: self.path(key),
            offset: value.span().start,
            part: self.part.clone(),
            value: value.get_ref(),
        }
    }

    /// The key with the keys of all tables around it. A key that cannot be a name is shown as `…`. Such
    /// a key could forge a line of output, or be a secret whose own key was lost.
    fn path(&self, key: &str) -> String {
        let mut path = self.key.clone();
        if key.is_empty() {
            return path;
        }
        if !path.is_empty() {
            path.push('.');
        }
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if key.chars().all(is_bare) {
            path.push_str(key);
        } else if name::check(key).is_ok() {
            let _ = write!(path, "{key:?}");
        } else {
            path.push('…');
        }
        path
    }
}

/// The reach of a problem that makes one part unusable.
fn part_only(part: ConfigPart) -> ProblemScope {
    ProblemScope::Parts(vec![part])
}
