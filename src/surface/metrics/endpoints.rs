//! The metrics of the endpoints.

use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{MetricFamilies, MetricInfo};
use crate::telemetry::live::{CountByKind, DirectionTotals, EndpointTotals};
use q_relay::relay::Loss;

/// Reads the value of a gauge.
type GaugeValue = fn(&EndpointTotals) -> u64;

type Labels<'e, const N: usize> = [(&'static str, &'e str); N];

pub(super) fn encode(
    families: &mut MetricFamilies<'_, '_>,
    endpoints: &[EndpointTotals],
) -> fmt::Result {
    gauges(families, endpoints)?;
    opens(families, endpoints)?;
    carried(families, endpoints)
}

fn gauges(families: &mut MetricFamilies<'_, '_>, endpoints: &[EndpointTotals]) -> fmt::Result {
    let figures: [(MetricInfo, GaugeValue); 9] = [
        (
            MetricInfo::new("hopend_sessions", "Open sessions"),
            |endpoint| endpoint.open,
        ),
        (
            MetricInfo::new("hopend_sessions_limit", "Sessions that may be open"),
            |endpoint| endpoint.max_sessions,
        ),
        (
            MetricInfo::new("hopend_listen_addresses", "Entries of listen"),
            |endpoint| endpoint.listen_addresses,
        ),
        (
            MetricInfo::new(
                "hopend_listen_addresses_bound",
                "Entries of listen that hopend has bound. Another account may listen at the others",
            ),
            |endpoint| endpoint.listen_addresses_bound,
        ),
        (
            MetricInfo::new(
                "hopend_requests_waiting",
                "Sync requests of clients that kdb+ has not answered yet",
            ),
            |endpoint| endpoint.outstanding,
        ),
        (
            MetricInfo::new(
                "hopend_target_addresses",
                "Addresses or nodes of the target that sessions choose from",
            ),
            |endpoint| endpoint.target_addresses,
        ),
        (
            MetricInfo::new(
                "hopend_target_addresses_resting",
                "Target addresses that hopend does not use for a while after a failure",
            ),
            |endpoint| endpoint.target_addresses_resting,
        ),
        (
            MetricInfo::new("hopend_warm_connections", "Connections kept logged in"),
            |endpoint| endpoint.warm_ready,
        ),
        (
            MetricInfo::new(
                "hopend_warm_connections_wanted",
                "Warm connections that hopend tries to keep, for users with recent sessions",
            ),
            |endpoint| endpoint.warm_wanted,
        ),
    ];
    for (info, value) in figures {
        let samples = endpoints
            .iter()
            .map(|endpoint| (labels(endpoint), value(endpoint)));
        families.gauge(info, samples)?;
    }
    Ok(())
}

fn opens(families: &mut MetricFamilies<'_, '_>, endpoints: &[EndpointTotals]) -> fmt::Result {
    let info = MetricInfo::new("hopend_opens", "Sessions that opened");
    let samples = endpoints
        .iter()
        .map(|endpoint| (labels(endpoint), endpoint.opened));
    families.counter(info, samples)?;
    let info = MetricInfo::new(
        "hopend_refusals",
        "Sessions that were refused, by the party that caused it",
    );
    families.counter(info, by_kind(endpoints, |endpoint| &endpoint.refused))?;
    let info = MetricInfo::new(
        "hopend_failures",
        "Failures of open sessions, by the party that caused them",
    );
    families.counter(info, by_kind(endpoints, |endpoint| &endpoint.failed))?;

    let info = MetricInfo::new(
        "hopend_open",
        "Time from the connection to the answer to hopen, of sessions that opened",
    );
    let both = endpoints.iter().flat_map(|endpoint| {
        let dialled = (
            labels_with(endpoint, "warm", "false"),
            &endpoint.open_times.dialled,
        );
        let warm = (
            labels_with(endpoint, "warm", "true"),
            &endpoint.open_times.warm,
        );
        // An endpoint without warm connections has no samples for them.
        [
            Some(dialled),
            Some(warm).filter(|(_, took)| took.count() > 0),
        ]
    });
    families.histogram(info, both.flatten())?;
    let info = MetricInfo::new(
        "hopend_open_stage",
        "Time of each stage of opening, all attempts together",
    );
    let stages = endpoints.iter().flat_map(|endpoint| {
        let gone_through = endpoint
            .open_times
            .stages()
            .filter(|(_, took)| took.count() > 0);
        gone_through.map(|(stage, took)| (labels_with(endpoint, "stage", stage.name()), took))
    });
    families.histogram(info, stages)
}

fn carried(families: &mut MetricFamilies<'_, '_>, endpoints: &[EndpointTotals]) -> fmt::Result {
    let bytes = MetricInfo::new("hopend_carried", "Bytes relayed, without handshakes");
    let both = endpoints.iter().flat_map(|endpoint| {
        directions(endpoint).map(|(direction, traffic)| {
            (labels_with(endpoint, "direction", direction), traffic.bytes)
        })
    });
    families.counter(bytes.in_unit(&Unit::Bytes), both)?;
    let messages = endpoints.iter().flat_map(|endpoint| {
        directions(endpoint)
            .into_iter()
            .flat_map(|(direction, traffic)| {
                let types = [
                    ("async", traffic.asyncs),
                    ("sync", traffic.syncs),
                    ("response", traffic.responses),
                ];
                types.map(|(name, count)| {
                    let [endpoint, direction] = labels_with(endpoint, "direction", direction);
                    ([endpoint, direction, ("type", name)], count)
                })
            })
    });
    families.counter(
        MetricInfo::new("hopend_messages", "Messages relayed"),
        messages,
    )?;
    let lost = endpoints.iter().flat_map(|endpoint| {
        directions(endpoint)
            .into_iter()
            .flat_map(|(direction, traffic)| {
                Loss::ALL
                    .into_iter()
                    .zip(traffic.lost)
                    .map(|(cause, count)| {
                        let [endpoint, direction] = labels_with(endpoint, "direction", direction);
                        ([endpoint, direction, ("cause", cause.name())], count)
                    })
            })
    });
    let info = MetricInfo::new(
        "hopend_messages_lost",
        "Messages that hopend received completely and could not deliver",
    );
    families.counter(info, lost)?;
    let unacknowledged = MetricInfo::new(
        "hopend_unacknowledged",
        "Bytes that the receiver's kernel had not acknowledged when a deadline ended the session",
    );
    let both = endpoints.iter().flat_map(|endpoint| {
        directions(endpoint).map(|(direction, traffic)| {
            (
                labels_with(endpoint, "direction", direction),
                traffic.unacknowledged,
            )
        })
    });
    families.counter(unacknowledged.in_unit(&Unit::Bytes), both)?;
    let info = MetricInfo::new(
        "hopend_round_trip",
        "Time from a sync request of a client to its response. Of pipelined requests, one at a time \
         is timed",
    );
    let round_trips = endpoints
        .iter()
        .map(|endpoint| (labels(endpoint), &endpoint.carried.round_trips));
    families.histogram(info, round_trips)?;
    let info = MetricInfo::new("hopend_pings", "Keepalives sent to kdb+");
    families.counter(
        info,
        endpoints
            .iter()
            .map(|endpoint| (labels(endpoint), endpoint.carried.pings)),
    )
}

fn by_kind<'e>(
    endpoints: &'e [EndpointTotals],
    counts: fn(&EndpointTotals) -> &CountByKind,
) -> impl Iterator<Item = (Labels<'e, 2>, u64)> {
    endpoints.iter().flat_map(move |endpoint| {
        let kinds = counts(endpoint).iter();
        kinds.map(move |(kind, count)| (labels_with(endpoint, "kind", kind.name()), count))
    })
}

fn directions(endpoint: &EndpointTotals) -> [(&'static str, DirectionTotals); 2] {
    let carried = &endpoint.carried;
    [
        ("to_cluster", carried.to_cluster),
        ("to_client", carried.to_client),
    ]
}

fn labels(endpoint: &EndpointTotals) -> Labels<'_, 1> {
    [("endpoint", &endpoint.name)]
}

fn labels_with<'e>(
    endpoint: &'e EndpointTotals,
    key: &'static str,
    value: &'e str,
) -> Labels<'e, 2> {
    [("endpoint", &endpoint.name), (key, value)]
}
