//! Tables and values of the TOML document, each with its key and its place.

use std::fmt::Write as _;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::left_out::{Part, PartKind, Reach};
use super::notice::{Notice, Severity};
use super::problem::Problem;
use super::source::{Basis, Source};
use super::value;
use base::invalid::Invalid;

/// A mistyped key is answered with the key it resembles at least this much.
const RESEMBLES: f64 = 0.75;

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) key: String,
    pub(super) at: usize,
    /// The part of the configuration that it belongs to; none for the daemon's own.
    pub(super) part: Option<Part>,
    value: &'a DeValue<'a>,
}

/// A table and where it stands.
pub(super) struct Table<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) key: String,
    /// The part of the configuration that it belongs to; none for the daemon's own.
    part: Option<Part>,
    at: usize,
    table: &'a DeTable<'a>,
}

impl<'a> Value<'a> {
    /// Reports what is wrong with the value.
    pub(super) fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) {
        self.report(Basis::Seen, what, remedy);
    }

    /// Reports what is wrong with the value.
    pub(super) fn report(&self, basis: Basis, what: impl Into<String>, remedy: impl Into<String>) {
        self.report_reaching(basis, reach(self.part.as_ref()), what, remedy);
    }

    /// Reports what is wrong with the value, where that reaches further or less far than the table
    /// that the value stands in.
    pub(super) fn report_reaching(
        &self,
        basis: Basis,
        reach: Reach,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let problem = Problem {
            line: Some(self.source.line(self.at)),
            key: self.key.clone(),
            what: what.into(),
            remedy: remedy.into(),
            reach,
        };
        self.source.add(basis, problem);
    }

    /// The value as one of a part of the configuration.
    pub(super) fn of_part(self, part: Part) -> Self {
        Self {
            part: Some(part),
            ..self
        }
    }

    /// Tells of something that keeps nothing from being served.
    pub(super) fn notice(
        &self,
        severity: Severity,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.source.notify(Notice {
            line: self.source.line(self.at),
            key: self.key.clone(),
            what: what.into(),
            remedy: remedy.into(),
            severity,
        });
    }

    /// The value, or none and a problem.
    pub(super) fn check<T>(&self, result: Result<T, Invalid>) -> Option<T> {
        result
            .map_err(|invalid| self.problem(invalid.message, invalid.remedy))
            .ok()
    }

    /// The value as it stands.
    pub(super) fn raw(&self) -> &'a DeValue<'a> {
        self.value
    }

    /// Text.
    pub(super) fn text(&self) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a string", "write it in double quotes");
        }
        text
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.problem("is no such choice", format!("write {}", all.join(" or ")));
        }
        found.map(|(_, value)| *value)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.wrong_type("true or false", "write true or false, without quotes");
        }
        boolean
    }

    /// An array's elements.
    pub(super) fn array(&self) -> Option<Vec<Value<'a>>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("an array", "write it in brackets, such as [\"a\", \"b\"]");
            return None;
        };
        Some(array.iter().map(|element| self.element(element)).collect())
    }

    /// An array's elements, or the one text itself.
    pub(super) fn one_or_many(&self) -> Option<Vec<Value<'a>>> {
        if self.value.is_str() {
            return Some(vec![self.clone()]);
        }
        if !self.value.is_array() {
            self.wrong_type(
                "a string or an array of strings",
                "write it in double quotes",
            );
            return None;
        }
        self.array()
    }

    /// A table.
    pub(super) fn table(&self, remedy: &str) -> Option<Table<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type("a table", remedy);
            return None;
        };
        Some(Table {
            source: self.source,
            key: self.key.clone(),
            part: self.part.clone(),
            at: self.at,
            table,
        })
    }

    /// Reports that the value is something else.
    pub(super) fn wrong_type(&self, expected: &str, remedy: &str) {
        let is = match self.value.type_str() {
            "integer" => "an integer",
            "array" => "an array",
            "boolean" => "true or false",
            "float" => "a number with a point",
            "datetime" => "a date or time",
            "table" => "a table",
            _ => "a string",
        };
        self.problem(format!("must be {expected} and is {is}"), remedy);
    }

    fn element(&self, element: &'a Spanned<DeValue<'a>>) -> Value<'a> {
        Value {
            source: self.source,
            key: self.key.clone(),
            at: element.span().start,
            part: self.part.clone(),
            value: element.get_ref(),
        }
    }
}

impl<'a> Table<'a> {
    /// The whole document.
    pub(super) fn root(source: &'a Source<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            source,
            key: String::new(),
            part: None,
            at: 0,
            table,
        }
    }

    /// Reports every key that is none of `keys`.
    pub(super) fn only(&self, keys: &[&str]) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if keys.contains(&name) {
                continue;
            }
            let nearest = keys
                .iter()
                .map(|known| (strsim::jaro_winkler(name, known), *known))
                .filter(|(score, _)| *score >= RESEMBLES)
                .max_by(|(a, _), (b, _)| a.total_cmp(b));
            let remedy = match nearest {
                Some((_, known)) => format!("did you mean `{known}`?"),
                None => format!("the keys here are {}", keys.join(", ")),
            };
            self.report(Basis::Seen, name, key.span().start, "unknown key", remedy);
        }
    }

    /// The tables of `[[key]]`, each of which is a part of the configuration.
    pub(super) fn tables(&self, kind: PartKind) -> Vec<Table<'a>> {
        let key = kind.name();
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let how = format!("write it as [[{key}]], in double brackets, for each {key}");
        if !value.raw().is_array() {
            value.wrong_type("a list of tables", &how);
            return Vec::new();
        }
        let elements = value.array().unwrap_or_default();
        let parts = elements.into_iter().map(|element| {
            let line = self.source.line(element.at);
            let name = String::new();
            element.of_part(Part { kind, name, line })
        });
        parts.filter_map(|element| element.table(&how)).collect()
    }

    /// Whether a key is missing or holds an empty list.
    pub(super) fn lacks(&self, key: &str) -> bool {
        self.get(key)
            .is_none_or(|value| value.raw().as_array().is_some_and(|list| list.is_empty()))
    }

    /// The table's name, by which it is called in messages from here on.
    pub(super) fn name_itself(
        &mut self,
        kind: &str,
        valid: fn(&str) -> Result<(), Invalid>,
    ) -> Option<&'a str> {
        let value = self.required("name", "give it a name")?;
        let name = value.text()?;
        value.check(valid(name))?;
        self.key = format!("{kind} {name:?}");
        if let Some(part) = &mut self.part {
            name.clone_into(&mut part.name);
        }
        Some(name)
    }

    /// The line of the table's header.
    pub(super) fn line(&self) -> usize {
        self.source.line(self.at)
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        let value = self.table.get(key)?;
        Some(self.value(key, value))
    }

    /// The value of a key that must be there.
    pub(super) fn required(&self, key: &str, remedy: &str) -> Option<Value<'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.absent(key, "is missing", remedy);
        }
        value
    }

    /// Reports that something that should be in this table is not.
    pub(super) fn absent(&self, key: &str, what: &str, remedy: impl Into<String>) {
        self.report(Basis::AbsentInTable, key, self.at, what, remedy);
    }

    fn report(
        &self,
        basis: Basis,
        key: &str,
        at: usize,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let problem = Problem {
            line: Some(self.source.line(at)),
            key: self.path(key),
            what: what.into(),
            remedy: remedy.into(),
            reach: reach(self.part.as_ref()),
        };
        self.source.add(basis, problem);
    }

    /// The part that this table is; none for the daemon's own.
    pub(super) fn part(&self) -> Option<&Part> {
        self.part.as_ref()
    }

    /// Reports what is wrong with the table as a whole.
    pub(super) fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) {
        self.report(Basis::Seen, "", self.at, what, remedy);
    }

    /// Every key with its value.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), self.value(key.get_ref(), value)))
    }

    fn value(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Value<'a> {
        Value {
            source: self.source,
            key: self.path(key),
            at: value.span().start,
            part: self.part.clone(),
            value: value.get_ref(),
        }
    }

    /// The key as a person would name it. What can't be the name of anything isn't repeated: it
    /// could forge a line, or be a secret whose key was lost.
    fn path(&self, key: &str) -> String {
        let mut path = self.key.clone();
        if key.is_empty() {
            return path;
        }
        if !path.is_empty() {
            path.push('.');
        }
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if key.chars().all(bare) {
            path.push_str(key);
        } else if value::name(key).is_ok() {
            let _ = write!(path, "{key:?}");
        } else {
            path.push('…');
        }
        path
    }
}

fn reach(part: Option<&Part>) -> Reach {
    part.map_or(Reach::Daemon, |part| Reach::Parts(vec![part.clone()]))
}
