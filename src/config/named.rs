//! Things that the file gives a name and refers to by it.

use std::sync::Arc;

use super::left_out::{Part, PartKind};
use super::reader::Value;
use super::source::{Basis, Source};
use super::value;

/// Named things in the order of the file. One that is not valid keeps its name, so that whoever
/// refers to it isn't accused as well.
pub(super) struct Named<T> {
    kind: PartKind,
    entries: Vec<Entry<T>>,
}

struct Entry<T> {
    part: Part,
    thing: Option<Arc<T>>,
}

/// What a reference leads to.
pub(super) enum Found<T> {
    /// A valid thing.
    Valid(Arc<T>),
    /// Something with a problem of its own.
    LeftOut(Part),
    /// Nothing has that name, which is reported.
    Unknown,
}

impl<T> Named<T> {
    pub(super) fn new(kind: PartKind) -> Self {
        Self {
            kind,
            entries: Vec::new(),
        }
    }

    /// Whether the file names none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reports a name that is taken.
    pub(super) fn claim(&self, value: &Value<'_>, name: &str) {
        if let Some(entry) = self.entries.iter().find(|entry| entry.part.name == name) {
            value.problem(
                format!(
                    "{name:?} is also the name of the {} of line {}",
                    self.kind.name(),
                    entry.part.line
                ),
                "give each a name of its own",
            );
        }
    }

    /// Adds one of the name, empty where it has none that is valid.
    pub(super) fn push(&mut self, name: &str, line: usize, thing: Option<T>) {
        let (kind, name) = (self.kind, name.to_owned());
        self.entries.push(Entry {
            part: Part { kind, name, line },
            thing: thing.map(Arc::new),
        });
    }

    /// Leaves out what has a problem of its own. What shares its name with such a one is left out too.
    pub(super) fn settle(&mut self, source: &Source<'_>) {
        for entry in &mut self.entries {
            if !source.is_sound(&entry.part) {
                entry.thing = None;
            }
        }
    }

    /// The thing of that name.
    pub(super) fn find(&self, value: &Value<'_>, name: &str) -> Found<T> {
        if let Some(entry) = self.entries.iter().find(|entry| entry.part.name == name) {
            return entry.found();
        }
        let nearest = self
            .entries
            .iter()
            .map(|entry| &entry.part.name)
            .map(|known| (strsim::jaro_winkler(name, known), known))
            .filter(|(score, _)| *score >= 0.75)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        let remedy = match nearest {
            Some((_, near)) => format!("did you mean {near:?}?"),
            None if self.is_empty() => {
                format!("add one of that name: no {} is defined", self.kind.name())
            }
            None => format!("write one of {}", self.names()),
        };
        // What can't be a name isn't repeated: it may be a secret in the wrong place.
        let what = match value::name(name) {
            Ok(()) => format!("there is no {} {name:?}", self.kind.name()),
            Err(_) => format!("there is no such {}", self.kind.name()),
        };
        value.report(Basis::AbsentInFile, what, remedy);
        Found::Unknown
    }

    /// Whether the file gives one this name, valid or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.part.name == name)
    }

    /// The name of every one of them, valid or not.
    pub(super) fn all_names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.part.name.as_str())
    }

    /// The only one there is.
    pub(super) fn only(&self) -> Option<Found<T>> {
        match self.entries.as_slice() {
            [entry] => Some(entry.found()),
            _ => None,
        }
    }

    /// Every one of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Found<T>> {
        self.entries.iter().map(Entry::found)
    }

    /// All names, quoted.
    pub(super) fn names(&self) -> String {
        let names: Vec<String> = self
            .entries
            .iter()
            .map(|entry| format!("{:?}", entry.part.name))
            .collect();
        names.join(", ")
    }

    /// The valid ones.
    pub(super) fn into_valid(self) -> Vec<Arc<T>> {
        self.entries
            .into_iter()
            .filter_map(|entry| entry.thing)
            .collect()
    }
}

impl<T> Entry<T> {
    fn found(&self) -> Found<T> {
        match &self.thing {
            Some(thing) => Found::Valid(Arc::clone(thing)),
            None => Found::LeftOut(self.part.clone()),
        }
    }
}
