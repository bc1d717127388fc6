//! The most that each figure may be.

use std::path::Path;

/// Below this share of its ceiling a figure says that the ceiling is out of date.
const SLACK: f64 = 0.85;

/// Where a figure stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Above the ceiling.
    Over,
    /// At most the ceiling, and near it.
    Held,
    /// Far below.
    Slack,
}

/// The ceilings by the name of the load.
pub(crate) struct Ceilings(toml::Table);

impl Ceilings {
    /// What the file beside this one says.
    pub(crate) fn read() -> crate::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/ceilings.toml");
        Ok(Self(std::fs::read_to_string(path)?.parse()?))
    }

    /// The ceiling of one load.
    pub(crate) fn of(&self, load: &str) -> crate::Result<f64> {
        let ceiling = self.0.get(load).and_then(toml::Value::as_float);
        ceiling.ok_or_else(|| format!("ceilings.toml has no number with a point for {load}").into())
    }
}

pub(crate) fn judge(figure: f64, ceiling: f64) -> Judgement {
    if figure > ceiling {
        Judgement::Over
    } else if figure < SLACK * ceiling {
        Judgement::Slack
    } else {
        Judgement::Held
    }
}
