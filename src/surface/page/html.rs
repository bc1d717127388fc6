//! Pieces of HTML.

use std::fmt::{self, Write as _};

use crate::primitives::printable::printable;

/// The share of `some` in `all`, from 0 to 1. 0 if `all` is 0.
#[expect(clippy::cast_precision_loss, reason = "for a bar and a percentage")]
pub(super) fn share(some: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        some as f64 / all as f64
    }
}

/// A horizontal bar.
pub(super) struct ShareBar {
    /// From 0 to 1.
    pub(super) share: f64,
    /// Whether the bar is red.
    pub(super) bad: bool,
}

impl fmt::Display for ShareBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = (self.share * 100.0).clamp(0.0, 100.0);
        let class = if self.bad { "bar bad" } else { "bar" };
        write!(
            f,
            "<svg class=\"{class}\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" \
             aria-hidden=\"true\"><rect width=\"100\" height=\"4\"/>\
             <rect class=\"full\" width=\"{width:.1}\" height=\"4\"/></svg>"
        )
    }
}

/// An error message below the name of the thing that failed. Empty for `None`.
pub(super) struct ErrorNote<'n>(pub(super) Option<&'n str>);

impl fmt::Display for ErrorNote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, "<div class=\"why\">{}</div>", EscapedText(text)),
            None => Ok(()),
        }
    }
}

/// Text, escaped for use between tags and in quoted attributes.
pub(super) struct EscapedText<'t>(pub(super) &'t str);

impl fmt::Display for EscapedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match printable(c) {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
