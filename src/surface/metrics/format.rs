//! The two formats that a scraper may ask for, and which of them it gets.

use std::cmp::Reverse;

/// A format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format 0.0.4: what is sent unless OpenMetrics is preferred.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// How much a client wants a format; a more exact and an earlier range counts more where the weights are
/// the same.
type Wish = (u16, u8, Reverse<usize>);

impl Format {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What the values of the `Accept` headers ask for. A client that asks for neither of both, or says
    /// nothing, gets the text format, as from any other exporter.
    pub fn negotiate<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let ranges = accept.into_iter().flat_map(|value| value.split(','));
        let (mut prometheus, mut openmetrics) = (None, None);
        for (at, range) in ranges.enumerate() {
            let Some(range) = Range::parse(range) else {
                continue;
            };
            let wish = |exactness: Option<u8>| -> Option<Wish> {
                exactness.map(|exactness| (range.weight, exactness, Reverse(at)))
            };
            prefer(&mut prometheus, wish(range.fits("text", "plain", "0.0.4")));
            let fits = range.fits("application", "openmetrics-text", "1.0.0");
            prefer(&mut openmetrics, wish(fits));
        }
        match (openmetrics, prometheus) {
            (Some(openmetrics), prometheus) if openmetrics.0 > 0 => {
                if prometheus.is_none_or(|prometheus| openmetrics > prometheus) {
                    Self::OpenMetrics
                } else {
                    Self::Prometheus
                }
            }
            _ => Self::Prometheus,
        }
    }
}

/// Of the ranges that fit a format the most exact one decides about it.
fn prefer(known: &mut Option<Wish>, wish: Option<Wish>) {
    let exactness = |wish: &Wish| (wish.1, wish.0, wish.2);
    if let Some(wish) = wish
        && known
            .as_ref()
            .is_none_or(|known| exactness(&wish) > exactness(known))
    {
        *known = Some(wish);
    }
}

/// One range of `Accept`.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    version: Option<&'a str>,
    /// `q`, in thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    /// None for what is no range.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self {
            kind,
            subtype,
            version: None,
            weight: 1_000,
        };
        for parameter in parts {
            let (key, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            if key.trim().eq_ignore_ascii_case("q") {
                range.weight = weight(value)?;
            } else if key.trim().eq_ignore_ascii_case("version") {
                range.version = Some(value);
            }
        }
        Some(range)
    }

    /// How exactly it names this type, if it does.
    fn fits(&self, kind: &str, subtype: &str, version: &str) -> Option<u8> {
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (of, "*") if of.eq_ignore_ascii_case(kind) => Some(1),
            (of, name) if of.eq_ignore_ascii_case(kind) && name.eq_ignore_ascii_case(subtype) => {
                match self.version {
                    None => Some(2),
                    Some(named) => (named == version).then_some(3),
                }
            }
            _ => None,
        }
    }
}

/// From 0 to 1 with up to three digits.
fn weight(text: &str) -> Option<u16> {
    let weight: f64 = text.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 1000"
    )]
    (0.0..=1.0)
        .contains(&weight)
        .then(|| (weight * 1_000.0).round() as u16)
}

/// What is written in OpenMetrics, in the text format 0.0.4: there a counter is described under the name
/// of its samples, information is a gauge, and neither units nor the end are told.
pub(super) fn prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        match comment.split_once(' ') {
            // Its name is known once its type is.
            Some(("HELP", rest)) => help = rest.split_once(' '),
            Some(("TYPE", rest)) => {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, help)) = help.take().filter(|(of, _)| *of == name) {
                    // Quotes are escaped in OpenMetrics alone.
                    let help = help.replace("\\\"", "\"");
                    text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
                }
                text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Prometheus 2.53 sends it.
    const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0;q=0.5,\
        application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    /// As Prometheus 3 sends it.
    const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        application/openmetrics-text;version=0.0.1;q=0.5,\
        text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

    #[test]
    fn a_client_gets_the_format_that_it_prefers_and_else_the_text_format() {
        use Format::{OpenMetrics, Prometheus};
        for (accept, expected) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/html, application/xhtml+xml, */*;q=0.8", Prometheus),
            ("application/json", Prometheus),
            ("text/plain", Prometheus),
            ("text/plain;version=0.0.4", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                OpenMetrics,
            ),
            (
                "Application/OpenMetrics-Text; Version=\"1.0.0\"",
                OpenMetrics,
            ),
            ("application/openmetrics-text;version=0.0.1", Prometheus),
            (
                "application/openmetrics-text;version=2.0.0, text/plain",
                Prometheus,
            ),
            (
                "application/openmetrics-text;q=0.5, text/plain;q=0.9",
                Prometheus,
            ),
            (
                "application/openmetrics-text;q=0.9, text/plain;q=0.5",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0, */*", Prometheus),
            ("application/openmetrics-text;q=0", Prometheus),
            ("application/openmetrics-text, text/plain", OpenMetrics),
            ("text/plain, application/openmetrics-text", Prometheus),
            ("application/openmetrics-text, */*", OpenMetrics),
            (
                "application/openmetrics-text;q=nonsense, text/plain;q=0.1",
                Prometheus,
            ),
            (PROMETHEUS_2, OpenMetrics),
            (PROMETHEUS_3, OpenMetrics),
        ] {
            assert_eq!(Format::negotiate([accept]), expected, "{accept:?}");
        }
        assert_eq!(Format::negotiate([]), Prometheus);
        let two = ["text/plain;q=0.1", "application/openmetrics-text"];
        assert_eq!(Format::negotiate(two), OpenMetrics);
    }

    #[test]
    fn counters_are_described_by_the_name_of_their_samples_and_nothing_tells_the_end() {
        let openmetrics = concat!(
            "# HELP hopend_build What \\\"runs\\\".\n",
            "# TYPE hopend_build info\n",
            "hopend_build_info{version=\"0.1.0\"} 1\n",
            "# HELP hopend_carried_bytes Bytes.\n",
            "# TYPE hopend_carried_bytes counter\n",
            "# UNIT hopend_carried_bytes bytes\n",
            "hopend_carried_bytes_total{endpoint=\"# TYPE\"} 7\n",
            "# HELP hopend_sessions Open.\n",
            "# TYPE hopend_sessions gauge\n",
            "hopend_sessions 1\n",
            "# EOF\n",
        );
        let expected = concat!(
            "# HELP hopend_build_info What \"runs\".\n",
            "# TYPE hopend_build_info gauge\n",
            "hopend_build_info{version=\"0.1.0\"} 1\n",
            "# HELP hopend_carried_bytes_total Bytes.\n",
            "# TYPE hopend_carried_bytes_total counter\n",
            "hopend_carried_bytes_total{endpoint=\"# TYPE\"} 7\n",
            "# HELP hopend_sessions Open.\n",
            "# TYPE hopend_sessions gauge\n",
            "hopend_sessions 1\n",
        );
        assert_eq!(prometheus(openmetrics), expected);
    }
}
