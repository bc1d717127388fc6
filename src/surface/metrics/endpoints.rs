//! What the endpoints have done.

use std::fmt;

use prometheus_client::registry::Unit;

use super::families::{About, Families};
use crate::telemetry::live::{ByKind, EndpointTotals, Way};
use q_relay::relay::Loss;

/// Where a figure is read.
type Figure = fn(&EndpointTotals) -> u64;

type Labels<'e, const N: usize> = [(&'static str, &'e str); N];

pub(super) fn encode(families: &mut Families<'_, '_>, endpoints: &[EndpointTotals]) -> fmt::Result {
    gauges(families, endpoints)?;
    opens(families, endpoints)?;
    carried(families, endpoints)
}

fn gauges(families: &mut Families<'_, '_>, endpoints: &[EndpointTotals]) -> fmt::Result {
    let figures: [(About, Figure); 9] = [
        (About::new("hopend_sessions", "Open sessions"), |of| of.open),
        (
            About::new("hopend_sessions_limit", "Sessions that may be open"),
            |of| of.max_sessions,
        ),
        (
            About::new("hopend_addresses", "Addresses of listen"),
            |of| of.addresses.all,
        ),
        (
            About::new(
                "hopend_addresses_bound",
                "Those of them where hopend listens; at the others another account may",
            ),
            |of| of.addresses.some,
        ),
        (
            About::new(
                "hopend_requests_waiting",
                "Sync requests of clients without an answer yet",
            ),
            |of| of.outstanding,
        ),
        (
            About::new(
                "hopend_places",
                "Addresses or nodes to choose from, where there is a choice",
            ),
            |of| of.places.all,
        ),
        (
            About::new(
                "hopend_places_resting",
                "Those of them that are left alone after a failure",
            ),
            |of| of.places.some,
        ),
        (
            About::new("hopend_warm_connections", "Connections kept logged in"),
            |of| of.warm.some,
        ),
        (
            About::new(
                "hopend_warm_connections_wanted",
                "How many of them there should be for the users who came lately",
            ),
            |of| of.warm.all,
        ),
    ];
    for (about, value) in figures {
        let samples = endpoints.iter().map(|of| (labels(of), value(of)));
        families.gauge(about, samples)?;
    }
    Ok(())
}

fn opens(families: &mut Families<'_, '_>, endpoints: &[EndpointTotals]) -> fmt::Result {
    let about = About::new("hopend_opens", "Sessions that opened");
    let samples = endpoints.iter().map(|of| (labels(of), of.opened));
    families.counter(about, samples)?;
    let about = About::new(
        "hopend_refusals",
        "Sessions that did not come about, by the side at fault",
    );
    families.counter(about, by_kind(endpoints, |of| &of.refused))?;
    let about = About::new(
        "hopend_failures",
        "Failures of open sessions, by the side at fault",
    );
    families.counter(about, by_kind(endpoints, |of| &of.failed))?;

    let about = About::new(
        "hopend_open",
        "From the connection to the answer to hopen, of sessions that opened",
    );
    let both = endpoints.iter().flat_map(|of| {
        let anew = (with(of, "warm", "false"), &of.opens.anew);
        let warm = (with(of, "warm", "true"), &of.opens.warm);
        // Most endpoints keep none.
        [Some(anew), Some(warm).filter(|(_, took)| took.count() > 0)]
    });
    families.histogram(about, both.flatten())?;
    let about = About::new(
        "hopend_open_stage",
        "What each stage of that took, all attempts together",
    );
    let stages = endpoints.iter().flat_map(|of| {
        let gone_through = of.opens.stages().filter(|(_, took)| took.count() > 0);
        gone_through.map(|(stage, took)| (with(of, "stage", stage.name()), took))
    });
    families.histogram(about, stages)
}

fn carried(families: &mut Families<'_, '_>, endpoints: &[EndpointTotals]) -> fmt::Result {
    let bytes = About::new("hopend_carried", "Bytes written, handshakes apart");
    let both = endpoints.iter().flat_map(|of| {
        directions(of).map(|(direction, way)| (with(of, "direction", direction), way.bytes))
    });
    families.counter(bytes.in_unit(&Unit::Bytes), both)?;
    let messages = endpoints.iter().flat_map(|of| {
        directions(of).into_iter().flat_map(|(direction, way)| {
            let types = [
                ("async", way.asyncs),
                ("sync", way.syncs),
                ("response", way.responses),
            ];
            types.map(|(name, count)| {
                let [endpoint, direction] = with(of, "direction", direction);
                ([endpoint, direction, ("type", name)], count)
            })
        })
    });
    families.counter(
        About::new("hopend_messages", "Messages passed on"),
        messages,
    )?;
    let lost = endpoints.iter().flat_map(|of| {
        directions(of).into_iter().flat_map(|(direction, way)| {
            Loss::ALL.into_iter().zip(way.lost).map(|(cause, count)| {
                let [endpoint, direction] = with(of, "direction", direction);
                ([endpoint, direction, ("cause", cause.name())], count)
            })
        })
    });
    let about = About::new(
        "hopend_messages_lost",
        "Messages that were received completely and did not reach the other side",
    );
    families.counter(about, lost)?;
    let unacknowledged = About::new(
        "hopend_unacknowledged",
        "Bytes that the receiver's kernel had not acknowledged when a deadline ended the session",
    );
    let both = endpoints.iter().flat_map(|of| {
        directions(of)
            .map(|(direction, way)| (with(of, "direction", direction), way.unacknowledged))
    });
    families.counter(unacknowledged.in_unit(&Unit::Bytes), both)?;
    let about = About::new(
        "hopend_round_trip",
        "From a sync request of a client's to its answer; of requests that are sent without \
         waiting for answers not each is counted",
    );
    let round_trips = endpoints
        .iter()
        .map(|of| (labels(of), &of.carried.round_trips));
    families.histogram(about, round_trips)?;
    let about = About::new("hopend_pings", "Keepalives sent");
    families.counter(
        about,
        endpoints.iter().map(|of| (labels(of), of.carried.pings)),
    )
}

fn by_kind<'e>(
    endpoints: &'e [EndpointTotals],
    counts: fn(&EndpointTotals) -> &ByKind,
) -> impl Iterator<Item = (Labels<'e, 2>, u64)> {
    endpoints.iter().flat_map(move |of| {
        let kinds = counts(of).iter();
        kinds.map(move |(kind, count)| (with(of, "kind", kind.name()), count))
    })
}

fn directions(endpoint: &EndpointTotals) -> [(&'static str, Way); 2] {
    let carried = &endpoint.carried;
    [
        ("to_cluster", carried.to_cluster),
        ("to_client", carried.to_client),
    ]
}

fn labels(endpoint: &EndpointTotals) -> Labels<'_, 1> {
    [("endpoint", &endpoint.name)]
}

fn with<'e>(endpoint: &'e EndpointTotals, key: &'static str, value: &'e str) -> Labels<'e, 2> {
    [("endpoint", &endpoint.name), (key, value)]
}
