//! Reads the target of an endpoint: `cluster` and its keys, `connect` and its keys, or a console.

use std::sync::Arc;
use std::time::Duration;

use base::kdb_address::KdbAddress;
use finspace::environment::Environment;

use super::definitions::{Definitions, Reference};
use super::diagnostics::Evidence;
use super::document::{Choice, TomlTable, TomlValue};
use super::login;
use super::reported::Reported;
use crate::config::target::{AddressOrder, NodeSelector, NodeVia, Target};

/// The keys that need `cluster`.
const CLUSTER_KEYS: [&str; 3] = ["environment", "node", "node_via"];
/// The keys that need `connect` or a login command.
const CONNECT_KEYS: [&str; 4] = ["login", "policy", "failover_after", "ca_file"];
/// The keys that a console cannot have.
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
/// The default of `failover_after`. It is below the timeout of hopen, which is often five seconds.
const FAILOVER_AFTER: Duration = Duration::from_secs(2);
const SHORTEST_FAILOVER_AFTER: Duration = Duration::from_millis(1);
const LONGEST_FAILOVER_AFTER: Duration = Duration::from_secs(60 * 60);

/// The words of `kind`.
#[derive(Clone, Copy)]
enum EndpointKind {
    Kdb,
    Console,
}

/// Reads the target of an endpoint.
pub(super) fn read(
    table: &TomlTable<'_>,
    environments: &Definitions<Environment>,
) -> Result<Target, Reported> {
    let plaintext = table.with_default("plaintext", false, TomlValue::boolean);
    let kinds = [
        Choice::new("kdb", EndpointKind::Kdb),
        Choice::new("console", EndpointKind::Console),
    ];
    match table.with_default("kind", EndpointKind::Kdb, |kind| kind.one_of(&kinds))? {
        EndpointKind::Console => return console(table, environments),
        EndpointKind::Kdb => {}
    }
    match (table.get("cluster"), table.get("connect")) {
        (Some(_), Some(connect)) => Err(connect.problem(
            "cannot be combined with cluster",
            "leave one of the two, or make two endpoints",
        )),
        (Some(cluster), None) => finspace(table, &cluster, environments, plaintext),
        (None, connect) => addresses(table, connect.as_ref(), plaintext),
    }
}

fn finspace(
    table: &TomlTable<'_>,
    cluster: &TomlValue<'_>,
    environments: &Definitions<Environment>,
    plaintext: Result<bool, Reported>,
) -> Result<Target, Reported> {
    for key in CONNECT_KEYS {
        let Some(value) = table.get(key) else {
            continue;
        };
        let remedy = match key {
            "login" => "remove it: hopend logs in to FinSpace as the user",
            "ca_file" => "move it to the [environment] table",
            _ => "remove it",
        };
        value.problem("cannot be combined with cluster", remedy);
    }
    let node = table.with_default("node", NodeSelector::Any, node);
    let node_via = table.with_default("node_via", NodeVia::Api, |value| {
        let via = value.one_of(&[
            Choice::new("api", NodeVia::Api),
            Choice::new("cluster", NodeVia::Cluster),
        ]);
        if via == Ok(NodeVia::Cluster) && node == Ok(NodeSelector::Any) {
            value.problem(
                "has no effect: no node is chosen",
                "remove it, or add node = \"spread\", \"zone\" or a node's id",
            );
        }
        via
    });
    let name = cluster.restricted_text(
        3..=63,
        |c| c.is_ascii_alphanumeric() || c == '_' || c == '-',
        "write the cluster's name: 3 to 63 letters, digits, hyphens and underscores",
    );
    let environment = match table.get("environment") {
        Some(value) => environments.resolve(&value, value.text()?),
        None => only_environment(cluster, environments)?,
    };
    Ok(Target::FinSpace {
        environment: valid(table, environment)?,
        cluster: name?,
        node: node?,
        node_via: node_via?,
        plaintext: plaintext?,
    })
}

/// Reads `node`: a word, or the id of a node.
fn node(value: &TomlValue<'_>) -> Result<NodeSelector, Reported> {
    let text = value.text()?;
    match text {
        "any" => Ok(NodeSelector::Any),
        "spread" => Ok(NodeSelector::Spread),
        "zone" => Ok(NodeSelector::Zone),
        _ if let Some(word) = misspelt(text) => Err(value.problem(
            "is neither a way to choose a node nor a node's id",
            format!("did you mean {word:?}? `hopend nodes` lists the ids"),
        )),
        _ => value
            .restricted_text(
                1..=40,
                |c| c.is_ascii_alphanumeric() || c == '-' || c == '_',
                "write \"any\", \"spread\", \"zone\", or a node's id as `hopend nodes` lists it",
            )
            .map(NodeSelector::Id),
    }
}

/// The word of `node` that a text of letters resembles. An id from AWS contains digits or hyphens, so such
/// a text is no id.
fn misspelt(text: &str) -> Option<&'static str> {
    if !text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let text = text.to_ascii_lowercase();
    // The distance counts letters that are wrong, missing, added or swapped.
    let is_near = |word: &&str| strsim::osa_distance(&text, word) <= word.len() / 3;
    ["any", "spread", "zone"].into_iter().find(is_near)
}

fn console(
    table: &TomlTable<'_>,
    environments: &Definitions<Environment>,
) -> Result<Target, Reported> {
    for key in KDB_KEYS {
        if let Some(value) = table.get(key) {
            value.problem(
                "has no effect in a console, which hopend itself answers",
                "remove it",
            );
        }
    }
    let environment = match table.get("environment") {
        Some(value) => Some(environments.resolve(&value, value.text()?)),
        None if environments.is_empty() => None,
        None => Some(environments.only().ok_or_else(|| {
            table.absent(
                "environment",
                "is missing, and the file defines several environments",
                format!("add environment = one of {}", environments.quoted_names()),
            )
        })?),
    };
    Ok(Target::Console {
        environment: environment
            .map(|reference| valid(table, reference))
            .transpose()?,
    })
}

/// The only environment of the file, for a cluster without the key `environment`.
fn only_environment(
    cluster: &TomlValue<'_>,
    environments: &Definitions<Environment>,
) -> Result<Reference<Environment>, Reported> {
    environments.only().ok_or_else(|| {
        let (message, remedy) = if environments.is_empty() {
            (
                "the file defines no environment",
                "add a table [environment.NAME] with its id and region".to_owned(),
            )
        } else {
            (
                "the file defines several environments",
                format!("add environment = one of {}", environments.quoted_names()),
            )
        };
        cluster.report(Evidence::AbsentFromFile, message, remedy)
    })
}

/// The environment that the endpoint refers to. If it has an error, the endpoint is left out with it.
fn valid(
    table: &TomlTable<'_>,
    reference: Reference<Environment>,
) -> Result<Arc<Environment>, Reported> {
    match reference {
        Reference::Valid(environment) => Ok(environment),
        Reference::LeftOut(environment) => Err(table
            .diagnostics()
            .add_dependent(table.part(), &environment)),
        Reference::Unknown(reported) => Err(reported),
    }
}

fn addresses(
    table: &TomlTable<'_>,
    connect: Option<&TomlValue<'_>>,
    plaintext: Result<bool, Reported>,
) -> Result<Target, Reported> {
    for key in CLUSTER_KEYS {
        if let Some(value) = table.get(key) {
            value.problem(
                "has no effect without cluster",
                "add a cluster, or remove it",
            );
        }
    }
    let login_value = table.get("login");
    let has_command = login_value
        .as_ref()
        .is_some_and(|value| value.raw().get("command").is_some());
    let login = login_value.as_ref().map(login::read);
    let login = match login {
        _ if connect.is_none() && !has_command => Err(table.absent(
            "",
            "has no target",
            "add cluster = \"…\", or connect = \":tcps://host:port\" and login",
        )),
        None => Err(table.absent(
            "login",
            "is missing",
            "add login = { user = \"…\", password_file = \"…\" }, { command = [\"…\"] } or \"client\"",
        )),
        Some(login) => login,
    };
    if let Some(value) = table.get("plaintext")
        && plaintext == Ok(true)
        && login_value.is_some()
        && !has_command
    {
        value.problem(
            "has no effect here: each address says whether it is TLS",
            "remove it, and write \":host:port\" where TLS is not wanted",
        );
    }
    let policy = policy(table);
    let ca_file = table.optional("ca_file", TomlValue::ca_file);
    let addresses = connect.map_or(Ok(Vec::new()), list);
    Ok(Target::Addresses {
        addresses: addresses?,
        policy: policy?,
        login: login?,
        ca_file: ca_file?,
        plaintext: plaintext?,
    })
}

/// Reads `policy` and `failover_after`.
fn policy(table: &TomlTable<'_>) -> Result<AddressOrder, Reported> {
    let after = table.with_default("failover_after", FAILOVER_AFTER, |value| {
        value.duration(SHORTEST_FAILOVER_AFTER..=LONGEST_FAILOVER_AFTER)
    });
    let failover = AddressOrder::Failover {
        after: after.unwrap_or(FAILOVER_AFTER),
    };
    let policies = [
        Choice::new("failover", failover),
        Choice::new("spread", AddressOrder::Spread),
    ];
    let policy = table.with_default("policy", failover, |policy| policy.one_of(&policies));
    if let (Ok(AddressOrder::Spread), Some(value)) = (policy, table.get("failover_after")) {
        value.problem(
            "has no effect with policy = \"spread\"",
            "remove it: with \"spread\" hopend learns this time",
        );
    }
    after.and(policy)
}

/// Reads `connect`: one or more addresses.
fn list(connect: &TomlValue<'_>) -> Result<Vec<KdbAddress>, Reported> {
    let values = connect.one_or_many()?;
    if values.is_empty() {
        return Err(connect.problem("is empty", "write at least one \":tcps://host:port\""));
    }
    // hopend reads all addresses before it returns the first error, so that each error is reported.
    let addresses: Vec<Result<KdbAddress, Reported>> = values
        .iter()
        .map(|value| value.check(value.text()?.parse()))
        .collect();
    addresses.into_iter().collect()
}
