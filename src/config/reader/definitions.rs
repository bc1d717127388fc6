//! Tables that have a name, and references to them by that name.

use std::sync::Arc;

use super::diagnostics::{Diagnostics, Evidence};
use super::document::TomlValue;
use super::name::{self, nearest};
use super::reported::Reported;
use crate::config::config_part::{ConfigPart, ConfigPartKind};

/// The tables of one kind, in the order of the file.
///
/// A table with an error stays in the list without its value, so that a reference to it is no second
/// error.
pub(super) struct Definitions<T> {
    kind: ConfigPartKind,
    list: Vec<Definition<T>>,
}

struct Definition<T> {
    part: ConfigPart,
    /// `None` if the table has an error.
    value: Option<Arc<T>>,
}

/// The result of a reference by name.
pub(super) enum Reference<T> {
    /// A valid table has this name.
    Valid(Arc<T>),
    /// A table with an error has this name.
    LeftOut(ConfigPart),
    /// No table has this name.
    Unknown(Reported),
}

impl<T> Definitions<T> {
    pub(super) fn new(kind: ConfigPartKind) -> Self {
        Self {
            kind,
            list: Vec::new(),
        }
    }

    /// Adds a table. `name` is empty if the table has no valid name.
    pub(super) fn add(&mut self, name: &str, line: usize, value: Result<T, Reported>) {
        let part = ConfigPart {
            name: name.to_owned(),
            ..ConfigPart::unnamed(self.kind, line)
        };
        let value = value.ok().map(Arc::new);
        self.list.push(Definition { part, value });
    }

    /// Reports that an earlier table has the same name. `value` is the name in the later one.
    pub(super) fn report_duplicate(&self, value: &TomlValue<'_>, name: &str) {
        if let Some(earlier) = self.named(name) {
            value.problem(
                format!(
                    "{name:?} is also the name of the {} of line {}",
                    self.kind.name(),
                    earlier.part.line
                ),
                "give each table a name of its own",
            );
        }
    }

    /// Drops the value of each table that has a problem, and of each table with the same name.
    pub(super) fn drop_unsound(&mut self, diagnostics: &Diagnostics<'_>) {
        for definition in &mut self.list {
            if !diagnostics.is_sound(&definition.part) {
                definition.value = None;
            }
        }
    }

    /// Looks up the table that `value` refers to by `name`, and reports if no table has this name.
    pub(super) fn resolve(&self, value: &TomlValue<'_>, name: &str) -> Reference<T> {
        if let Some(definition) = self.named(name) {
            return definition.reference();
        }
        let kind = self.kind.name();
        let remedy = match nearest(name, self.names()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if self.is_empty() => format!("add one of that name: no {kind} is defined"),
            None => format!("write one of {}", self.quoted_names()),
        };
        // A text that cannot be a name may be a secret under the wrong key, so it is not repeated.
        let message = match name::check(name) {
            Ok(()) => format!("there is no {kind} {name:?}"),
            Err(_) => format!("there is no such {kind}"),
        };
        Reference::Unknown(value.report(Evidence::AbsentFromFile, message, remedy))
    }

    /// The table, if there is exactly one.
    pub(super) fn only(&self) -> Option<Reference<T>> {
        match self.list.as_slice() {
            [definition] => Some(definition.reference()),
            _ => None,
        }
    }

    /// A reference to each table.
    pub(super) fn all(&self) -> impl Iterator<Item = Reference<T>> {
        self.list.iter().map(Definition::reference)
    }

    /// The valid tables.
    pub(super) fn valid(&self) -> impl Iterator<Item = &Arc<T>> {
        self.list
            .iter()
            .filter_map(|definition| definition.value.as_ref())
    }

    /// Whether the file has no such table.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a table has this name, valid or not.
    pub(super) fn contain(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    /// The name of each table, valid or not.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.list
            .iter()
            .map(|definition| definition.part.name.as_str())
    }

    /// The names in quotes, separated by commas.
    pub(super) fn quoted_names(&self) -> String {
        let names: Vec<String> = self.names().map(|name| format!("{name:?}")).collect();
        names.join(", ")
    }

    fn named(&self, name: &str) -> Option<&Definition<T>> {
        self.list
            .iter()
            .find(|definition| definition.part.name == name)
    }
}

impl<T> Definition<T> {
    fn reference(&self) -> Reference<T> {
        match &self.value {
            Some(value) => Reference::Valid(Arc::clone(value)),
            None => Reference::LeftOut(self.part.clone()),
        }
    }
}
