//! The verdicts on answers of FinSpace: connection strings, clusters and nodes.

use std::time::SystemTime;

use super::runner::{StageFailure, StageFinding};
use crate::config;
use crate::credential::{Credential, Expiry};
use crate::route::nodes::names;
use base::error::ErrorKind;
use finspace::{AwsError, AwsTime, Cluster, Node};

/// The least Jaro-Winkler similarity at which the doctor suggests a cluster's name (0 to 1).
const SUGGESTED_SIMILARITY: f64 = 0.6;

/// Reports address, user and remaining life of a connection string, but never the string.
pub(super) fn judge_string(
    credential: Credential,
) -> Result<StageFinding<Credential>, StageFailure> {
    let left = time_left(credential.expires, credential.issuer_time);
    let text = match &credential.address {
        Some(address) => format!("{address} for {}, {left}", credential.user),
        None => format!("for {}, {left}", credential.user),
    };
    let expired = match credential.expiry() {
        Expiry::Unknown => false,
        Expiry::At(end) => end <= SystemTime::now(),
        Expiry::After(left) => left.is_zero(),
    };
    if expired {
        return Err(StageFailure::new(
            ErrorKind::Internal,
            text,
            "this host's clock is wrong: set it (chronyc tracking, timedatectl)",
        ));
    }
    Ok(StageFinding::new(credential, text))
}

/// Fails if the cluster does not exist (a configuration error) or does not run.
pub(super) fn judge_cluster(
    name: &str,
    clusters: &[Cluster],
) -> Result<StageFinding<()>, StageFailure> {
    let Some(cluster) = clusters.iter().find(|cluster| cluster.name == name) else {
        return Err(unknown_cluster(name, clusters));
    };
    let text = format!("{name} is {} ({})", cluster.status, cluster.kind);
    match &*cluster.status {
        "RUNNING" => Ok(StageFinding::new((), text)),
        "UPDATING" => Ok(StageFinding::new((), text).warn("wait until it is RUNNING again")),
        _ => Err(StageFailure::new(
            ErrorKind::Upstream,
            text,
            "wait until it is RUNNING, or have it started in FinSpace",
        )),
    }
}

fn unknown_cluster(name: &str, clusters: &[Cluster]) -> StageFailure {
    let existing: Vec<_> = clusters.iter().map(|cluster| &*cluster.name).collect();
    let similar = existing
        .iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(similarity, _)| *similarity >= SUGGESTED_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let remedy = match similar {
        Some((_, similar)) => {
            format!("set cluster of the endpoint to one of them; did you mean {similar}?")
        }
        None => "set cluster of the endpoint to one of them".into(),
    };
    let existing = if existing.is_empty() {
        "none".into()
    } else {
        existing.join(", ")
    };
    StageFailure::new(
        ErrorKind::Configuration,
        format!("cluster {name} does not exist; the clusters are: {existing}"),
        remedy,
    )
}

/// Fails if the node that the endpoint names does not run, or if the endpoint can choose no running
/// node.
pub(super) fn judge_nodes(
    cluster: &str,
    wanted: &config::NodeSelector,
    listed: Vec<Node>,
) -> Result<StageFinding<Vec<Node>>, StageFailure> {
    let existing = names(&listed);
    match wanted {
        config::NodeSelector::Any => {}
        config::NodeSelector::Id(id) => match listed.iter().find(|node| node.id == *id) {
            Some(node) if node.is_running() => {}
            Some(node) => {
                return Err(StageFailure::new(
                    ErrorKind::Upstream,
                    format!("node {id} is {}", node.status),
                    "wait until it is RUNNING, or set node to another",
                ));
            }
            None => {
                return Err(StageFailure::new(
                    ErrorKind::Configuration,
                    format!("node {id} is not in cluster {cluster}; its nodes are: {existing}"),
                    "set node of the endpoint to one of them, or to \"spread\"",
                ));
            }
        },
        config::NodeSelector::Spread | config::NodeSelector::Zone => {
            if !listed.iter().any(Node::is_running) {
                return Err(StageFailure::new(
                    ErrorKind::Upstream,
                    format!("no node of cluster {cluster} is RUNNING; its nodes are: {existing}"),
                    "wait until one runs, or have one started",
                ));
            }
        }
    }
    Ok(StageFinding::new(listed, existing))
}

/// Marks a denied list as skipped, because serving does not need the list.
pub(super) fn list_denied<T: Default>(error: &AwsError) -> StageFinding<T> {
    let action = error.message.split(' ').next().unwrap_or_default();
    StageFinding::new(
        T::default(),
        format!("not allowed ({action}), and not needed to serve"),
    )
    .skipped()
}

/// The time until `end` in words, by AWS's clock if it is known, else by this host's.
pub(super) fn time_left(end: Option<SystemTime>, aws: Option<AwsTime>) -> String {
    let Some(end) = end else {
        return "expiry unknown".into();
    };
    let now = aws.map_or_else(SystemTime::now, |aws| aws.now());
    match end.duration_since(now) {
        Ok(left) => match left.as_secs() {
            seconds @ 0..60 => format!("{seconds} s left"),
            seconds => format!("{} min {} s left", seconds / 60, seconds % 60),
        },
        Err(past) => format!("expired {} s ago", past.duration().as_secs()),
    }
}
