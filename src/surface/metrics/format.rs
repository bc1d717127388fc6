//! The two formats of `/metrics`, and the choice between them by the `Accept` header.

use std::cmp::Reverse;

/// A format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::surface) enum MetricsFormat {
    /// Prometheus's text format 0.0.4, the default.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// How much a client prefers a format. The fields are compared in this order. With equal weights, the
/// more specific and then the earlier range wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    /// In thousandths.
    weight: u16,
    specificity: Specificity,
    /// The position of the range in the header.
    position: Reverse<usize>,
}

/// How specifically a range names a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    /// `*/*`
    Anything,
    /// For example `text/*`
    Type,
    /// For example `text/plain`
    Subtype,
    /// For example `text/plain;version=0.0.4`
    Version,
}

impl MetricsFormat {
    /// The value of `Content-Type`.
    pub(in crate::surface) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Chooses the format by the values of the `Accept` headers. A client that accepts neither format, or sends no
    /// such header, gets the text format, as from other exporters.
    pub(in crate::surface) fn negotiate<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let ranges = accept.into_iter().flat_map(|value| value.split(','));
        let (mut prometheus, mut openmetrics) = (None, None);
        for (position, range) in ranges.enumerate() {
            let Some(range) = AcceptRange::parse(range) else {
                continue;
            };
            let preference = |specificity: Option<Specificity>| {
                specificity.map(|specificity| Preference {
                    weight: range.weight,
                    specificity,
                    position: Reverse(position),
                })
            };
            let text = range.specificity("text", "plain", "0.0.4");
            prometheus = more_specific(prometheus, preference(text));
            let open = range.specificity("application", "openmetrics-text", "1.0.0");
            openmetrics = more_specific(openmetrics, preference(open));
        }
        match (openmetrics, prometheus) {
            (Some(openmetrics), prometheus) if openmetrics.weight > 0 => {
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

/// The preference that decides about a format, which is the preference of the most specific range. With
/// equal specificity, the greater weight and then the earlier range decides.
fn more_specific(one: Option<Preference>, other: Option<Preference>) -> Option<Preference> {
    let preferences = one.into_iter().chain(other);
    preferences.max_by_key(|found| (found.specificity, found.weight, found.position))
}

/// One range of `Accept`, such as `text/plain;q=0.5`.
struct AcceptRange<'a> {
    kind: &'a str,
    subtype: &'a str,
    version: Option<&'a str>,
    /// The parameter `q`, in thousandths.
    weight: u16,
}

impl<'a> AcceptRange<'a> {
    /// Parses a range. `None` if the text is not valid.
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

    /// How specifically the range names a format. `None` if it does not include the format.
    fn specificity(&self, kind: &str, subtype: &str, version: &str) -> Option<Specificity> {
        match (self.kind, self.subtype) {
            ("*", "*") => Some(Specificity::Anything),
            (range, "*") if range.eq_ignore_ascii_case(kind) => Some(Specificity::Type),
            (range, name)
                if range.eq_ignore_ascii_case(kind) && name.eq_ignore_ascii_case(subtype) =>
            {
                match self.version {
                    None => Some(Specificity::Subtype),
                    Some(named) => (named == version).then_some(Specificity::Version),
                }
            }
            _ => None,
        }
    }
}

/// Parses a weight from 0 to 1, in thousandths.
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

/// Converts OpenMetrics to the text format 0.0.4. It describes a counter under the name of its samples, shows
/// information as a gauge, and has neither units nor an end mark.
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
            // Written with the type, which decides about the suffix of the name.
            Some(("HELP", rest)) => help = rest.split_once(' '),
            Some(("TYPE", rest)) => {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, help)) = help.take().filter(|(described, _)| *described == name) {
                    // Only OpenMetrics escapes quotes.
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
        use MetricsFormat::{OpenMetrics, Prometheus};
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
            assert_eq!(MetricsFormat::negotiate([accept]), expected, "{accept:?}");
        }
        assert_eq!(MetricsFormat::negotiate([]), Prometheus);
        let two = ["text/plain;q=0.1", "application/openmetrics-text"];
        assert_eq!(MetricsFormat::negotiate(two), OpenMetrics);
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
