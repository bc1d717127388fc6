//! Where an endpoint leads: `cluster` and what goes with it, `connect` and what goes with it, or a
//! console.

use std::time::Duration;

use super::login;
use super::named::{Found, Named};
use super::reader::{Table, Value};
use super::source::Basis;
use super::{Login, Node, NodeVia, Policy, Target};
use base::address::Address;
use finspace::environment::Environment;

/// Keys that only make sense beside `cluster`.
const CLUSTER_KEYS: [&str; 3] = ["environment", "node", "node_via"];
/// Keys that only make sense beside `connect` or a login command.
const CONNECT_KEYS: [&str; 4] = ["login", "policy", "failover_after", "ca_file"];
/// How long an address goes on alone before the next one is tried as well: hopen's own timeouts are often
/// five seconds.
const FAILOVER_AFTER: Duration = Duration::from_secs(2);
const SHORTEST_FAILOVER_AFTER: Duration = Duration::from_millis(1);
const LONGEST_FAILOVER_AFTER: Duration = Duration::from_secs(60 * 60);
/// Keys that make no sense where hopend itself answers.
const KDB_KEYS: [&str; 13] = [
    "cluster",
    "node",
    "node_via",
    "plaintext",
    "connect",
    "login",
    "policy",
    "failover_after",
    "ca_file",
    "keepalive",
    "connect_timeout",
    "errors",
    "warm",
];

/// Reads the target. None if it is not valid, which has been reported.
pub(super) fn read(table: &Table<'_>, environments: &Named<Environment>) -> Option<Target> {
    let plaintext = table
        .get("plaintext")
        .map_or(Some(false), |value| value.boolean());
    let kinds = [("kdb", false), ("console", true)];
    match table.get("kind").map(|kind| kind.word(&kinds)) {
        Some(None) => return None,
        Some(Some(true)) => return console(table, environments),
        Some(Some(false)) | None => {}
    }
    match (table.get("cluster"), table.get("connect")) {
        (Some(_), Some(connect)) => {
            connect.problem(
                "stands beside a cluster",
                "leave one of the two, or make two endpoints",
            );
            None
        }
        (Some(cluster), None) => finspace(table, &cluster, environments, plaintext),
        (None, connect) => addresses(table, connect.as_ref(), plaintext),
    }
}

fn finspace(
    table: &Table<'_>,
    cluster: &Value<'_>,
    environments: &Named<Environment>,
    plaintext: Option<bool>,
) -> Option<Target> {
    for key in CONNECT_KEYS {
        let Some(value) = table.get(key) else {
            continue;
        };
        let remedy = match key {
            "login" => "remove it: hopend logs in to FinSpace as the user",
            "ca_file" => "move it to the [environment] table",
            _ => "remove it",
        };
        value.problem("does not go with a cluster", remedy);
    }
    let node = table
        .get("node")
        .map_or(Some(Node::Any), |value| one_of(&value));
    let ways = [("api", NodeVia::Api), ("cluster", NodeVia::Cluster)];
    let node_via = match table.get("node_via") {
        None => Some(NodeVia::Api),
        Some(value) => {
            let via = value.word(&ways);
            if via == Some(NodeVia::Cluster) && node == Some(Node::Any) {
                value.problem(
                    "has no effect: no node is chosen",
                    "remove it, or add node = \"spread\", \"zone\" or a node's id",
                );
            }
            via
        }
    };
    let name = cluster.made_of(
        3..=63,
        |c| c.is_ascii_alphanumeric() || c == '_' || c == '-',
        "write the cluster's name: 3 to 63 letters, digits, hyphens and underscores",
    );
    let environment = environment(table, cluster, environments);
    match environment? {
        Found::Valid(environment) => Some(Target::FinSpace {
            environment,
            cluster: name?,
            node: node?,
            node_via: node_via?,
            plaintext: plaintext?,
        }),
        Found::LeftOut(environment) => {
            table.source.follows(table.part(), &environment);
            None
        }
        Found::Unknown => None,
    }
}

fn one_of(value: &Value<'_>) -> Option<Node> {
    let text = value.text()?;
    match text {
        "any" => Some(Node::Any),
        "spread" => Some(Node::Spread),
        "zone" => Some(Node::Zone),
        _ if let Some(word) = misspelt(text) => {
            value.problem(
                "is neither a way to choose a node nor a node's id",
                format!("did you mean {word:?}? `hopend nodes` lists the ids"),
            );
            None
        }
        _ => value
            .made_of(
                1..=40,
                |c| c.is_ascii_alphanumeric() || c == '-' || c == '_',
                "write \"any\", \"spread\", \"zone\", or a node's id as `hopend nodes` lists it",
            )
            .map(Node::Id),
    }
}

/// The word that somebody meant to write. The ids that AWS gives hold digits or hyphens, so a text of
/// letters alone that is nearly one of the words is none of them.
fn misspelt(text: &str) -> Option<&'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let text = text.to_ascii_lowercase();
    // Letters that are wrong, missing, too many or swapped.
    let near = |word: &&str| strsim::osa_distance(&text, word) <= word.len() / 3;
    ["any", "spread", "zone"].into_iter().find(near)
}

fn console(table: &Table<'_>, environments: &Named<Environment>) -> Option<Target> {
    for key in KDB_KEYS {
        if let Some(value) = table.get(key) {
            value.problem(
                "does not go with a console, which hopend itself answers",
                "remove it",
            );
        }
    }
    let environment = match table.get("environment") {
        Some(value) => Some(environments.find(&value, value.text()?)),
        None if environments.is_empty() => None,
        None => {
            let only = environments.only();
            if only.is_none() {
                table.absent(
                    "environment",
                    "is missing: which one do its .aws functions ask",
                    format!("add environment = one of {}", environments.names()),
                );
            }
            Some(only?)
        }
    };
    Some(Target::Console {
        environment: match environment {
            None => None,
            Some(Found::Valid(environment)) => Some(environment),
            Some(Found::LeftOut(environment)) => {
                table.source.follows(table.part(), &environment);
                return None;
            }
            Some(Found::Unknown) => return None,
        },
    })
}

fn environment(
    table: &Table<'_>,
    cluster: &Value<'_>,
    environments: &Named<Environment>,
) -> Option<Found<Environment>> {
    if let Some(value) = table.get("environment") {
        let name = value.text()?;
        return Some(environments.find(&value, name));
    }
    let only = environments.only();
    if only.is_none() {
        let (what, remedy) = if environments.is_empty() {
            (
                "the file says of no environment",
                "add a table [environment.NAME] with its id and region".to_owned(),
            )
        } else {
            (
                "which environment is it in",
                format!("add environment = one of {}", environments.names()),
            )
        };
        cluster.report(Basis::AbsentInFile, what, remedy);
    }
    only
}

fn addresses(
    table: &Table<'_>,
    connect: Option<&Value<'_>>,
    plaintext: Option<bool>,
) -> Option<Target> {
    for key in CLUSTER_KEYS {
        if let Some(value) = table.get(key) {
            value.problem("goes with a cluster", "add a cluster, or remove it");
        }
    }
    let login_value = table.get("login");
    let login = login_value.as_ref().and_then(login::read);
    let from_command = login_value
        .as_ref()
        .and_then(|value| value.raw().get("command"))
        .is_some();
    if connect.is_none() && !from_command {
        table.absent(
            "",
            "leads nowhere",
            "add cluster = \"…\", or connect = \":tcps://host:port\" and login",
        );
    } else if login_value.is_none() {
        table.absent(
            "login",
            "is missing",
            "add login = { user = \"…\", password_file = \"…\" }, { command = [\"…\"] } or \"client\"",
        );
    }
    if let Some(value) = table.get("plaintext")
        && plaintext == Some(true)
        && login_value.is_some()
        && !from_command
    {
        value.problem(
            "has no effect here: each address says whether it is TLS",
            "remove it, and write \":host:port\" where TLS is not wanted",
        );
    }
    let policy = policy(table);
    let ca_file = table.get("ca_file").map(|file| file.ca_file());
    let addresses = connect.map_or(Some(Vec::new()), list);
    Some(Target::Addresses {
        addresses: addresses?,
        policy: policy?,
        login: login.filter(|login| connect.is_some() || matches!(login, Login::Command(_)))?,
        ca_file: match ca_file {
            Some(path) => Some(path?),
            None => None,
        },
        plaintext: plaintext?,
    })
}

fn policy(table: &Table<'_>) -> Option<Policy> {
    let after = table
        .get("failover_after")
        .map(|value| value.duration(SHORTEST_FAILOVER_AFTER, LONGEST_FAILOVER_AFTER));
    let failover = Policy::Failover {
        after: after.flatten().unwrap_or(FAILOVER_AFTER),
    };
    let policies = [("failover", failover), ("spread", Policy::Spread)];
    let policy = table
        .get("policy")
        .map_or(Some(failover), |policy| policy.word(&policies));
    if let (Some(Policy::Spread), Some(value)) = (policy, table.get("failover_after")) {
        value.problem(
            "goes with policy = \"failover\"",
            "remove it: with \"spread\" that time is learned",
        );
    }
    policy.filter(|_| after != Some(None))
}

fn list(connect: &Value<'_>) -> Option<Vec<Address>> {
    let values = connect.one_or_many()?;
    if values.is_empty() {
        connect.problem("is empty", "write at least one \":tcps://host:port\"");
        return None;
    }
    let addresses: Vec<Option<Address>> = values
        .iter()
        .map(|value| value.text().and_then(|text| value.check(text.parse())))
        .collect();
    addresses.into_iter().collect()
}
