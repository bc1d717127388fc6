//! What the daemon has done, in OpenMetrics: read off at each scrape, so that sessions count in
//! meters of their own and share nothing while they run.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::live::{EndpointTotals, Totals, Way};
use crate::session::Services;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the daemon as text.
///
/// # Errors
/// None that is known: writing to a string does not fail.
pub fn text(services: &Arc<Services>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let totals = services.live.totals(&services.credentials);
    registry.register_collector(Box::new(Scrape(totals)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Totals);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (encoder, totals) = (&mut encoder, &self.0);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut build =
            encoder.encode_descriptor("hopend_build", "What runs", None, MetricType::Info)?;
        build.encode_info(&version)?;
        #[expect(clippy::cast_precision_loss, reason = "seconds, not nanoseconds")]
        let started = totals.started.as_millisecond() as f64 / 1000.0;
        let mut start = encoder.encode_descriptor(
            "hopend_start_time",
            "When the daemon started",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(started).encode(start.encode_family(&NONE)?)?;
        endpoints(encoder, &totals.endpoints)?;
        credentials(encoder, totals)
    }
}

/// Name, help, and where it is read.
type Figure = (&'static str, &'static str, fn(&EndpointTotals) -> u64);

const NONE: [(&str, &str); 0] = [];

fn endpoints(
    encoder: &mut DescriptorEncoder<'_>,
    endpoints: &[EndpointTotals],
) -> Result<(), fmt::Error> {
    let gauges: [Figure; 2] = [
        ("hopend_sessions", "Open sessions", |of| of.open),
        ("hopend_sessions_limit", "Sessions that may be open", |of| {
            of.max_sessions
        }),
    ];
    for (name, help, value) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for endpoint in endpoints {
            let labels = [("endpoint", &*endpoint.name)];
            let value = i64::try_from(value(endpoint)).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    let counters: [Figure; 2] = [
        ("hopend_opens", "Sessions that opened", |of| of.opened),
        ("hopend_pings", "Keepalives sent", |of| of.carried.pings),
    ];
    for (name, help, value) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for endpoint in endpoints {
            let labels = [("endpoint", &*endpoint.name)];
            ConstCounter::new(value(endpoint)).encode(family.encode_family(&labels)?)?;
        }
    }
    let kinds: [(&str, &str, bool); 2] = [
        (
            "hopend_refusals",
            "Sessions that did not come about, by the side at fault",
            true,
        ),
        (
            "hopend_failures",
            "Failures of open sessions, by the side at fault",
            false,
        ),
    ];
    for (name, help, refused) in kinds {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for endpoint in endpoints {
            let counts = if refused {
                endpoint.refused
            } else {
                endpoint.failed
            };
            for (kind, count) in counts.iter() {
                let labels = [("endpoint", &*endpoint.name), ("kind", kind.name())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    carried(encoder, endpoints)
}

fn carried(
    encoder: &mut DescriptorEncoder<'_>,
    endpoints: &[EndpointTotals],
) -> Result<(), fmt::Error> {
    let mut bytes = encoder.encode_descriptor(
        "hopend_carried",
        "Bytes written, handshakes apart",
        Some(&Unit::Bytes),
        MetricType::Counter,
    )?;
    for endpoint in endpoints {
        for (direction, way) in directions(endpoint) {
            let labels = [("endpoint", &*endpoint.name), ("direction", direction)];
            ConstCounter::new(way.bytes).encode(bytes.encode_family(&labels)?)?;
        }
    }
    let mut messages = encoder.encode_descriptor(
        "hopend_messages",
        "Messages passed on",
        None,
        MetricType::Counter,
    )?;
    for endpoint in endpoints {
        for (direction, way) in directions(endpoint) {
            let types = [
                ("async", way.asyncs),
                ("sync", way.syncs),
                ("response", way.responses),
            ];
            for (name, count) in types {
                let labels = [
                    ("endpoint", &*endpoint.name),
                    ("direction", direction),
                    ("type", name),
                ];
                ConstCounter::new(count).encode(messages.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn directions(endpoint: &EndpointTotals) -> [(&'static str, Way); 2] {
    let carried = &endpoint.carried;
    [
        ("to_cluster", carried.to_cluster),
        ("to_client", carried.to_client),
    ]
}

/// By user and what it is: both bounded by the configuration and the nodes of its clusters.
fn credentials(encoder: &mut DescriptorEncoder<'_>, totals: &Totals) -> Result<(), fmt::Error> {
    let mut left = encoder.encode_descriptor(
        "hopend_credential_left",
        "How long the credential may still be used; 0 without one",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    for row in &totals.credentials {
        let labels = [("user", &*row.user), ("credential", &*row.what)];
        let seconds = row.left_s.unwrap_or_default();
        ConstGauge::new(seconds).encode(left.encode_family(&labels)?)?;
    }
    let mut fetches = encoder.encode_descriptor(
        "hopend_credential_fetches",
        "Times that the credential was fetched",
        None,
        MetricType::Counter,
    )?;
    for row in &totals.credentials {
        let labels = [("user", &*row.user), ("credential", &*row.what)];
        ConstCounter::new(row.fetches).encode(fetches.encode_family(&labels)?)?;
    }
    Ok(())
}
