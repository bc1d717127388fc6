//! Reads the `[[endpoint]]` tables.

use std::time::Duration;

use crate::primitives::share::max_for_one_user;
use finspace::environment::Environment;

use super::definitions::Definitions;
use super::document::{Choice, TomlTable, TomlValue};
use super::keepalive;
use super::limit;
use super::listen::{AddressClaims, notice_if_unbindable};
use super::loops::EndpointGraph;
use super::name;
use super::permitted_users::{PermittedUsers, default_user_names};
use super::reported::Reported;
use super::server_tls;
use super::target;
use super::user::Users;
use crate::config::certificate_name::CertificateName;
use crate::config::config_part::ConfigPartKind;
use crate::config::endpoint::{
    EXPOSED_WITHOUT_TLS, EXPOSED_WITHOUT_TLS_REMEDY, Endpoint, OnOpenFailure, OpensPerUser,
};
use crate::config::hash_cost::refusal_costs;
use crate::config::listen_address::ListenAddress;
use crate::config::login::Login;
use crate::config::notice::Severity;
use crate::config::server_tls::ServerTls;
use crate::config::target::Target;

pub(in crate::config) const KEYS: &[&str] = &[
    "name",
    "kind",
    "listen",
    "expose",
    "tls",
    "cluster",
    "environment",
    "node",
    "node_via",
    "plaintext",
    "users",
    "default_user_names",
    "keepalive",
    "connect",
    "policy",
    "failover_after",
    "login",
    "ca_file",
    "max_message",
    "max_handshake",
    "handshake_timeout",
    "connect_timeout",
    "max_sessions",
    "max_sessions_per_user",
    "max_opens_per_second",
    "max_opens_per_second_per_user",
    "idle_timeout",
    "max_session_time",
    "errors",
    "warm",
];

/// The default of `max_handshake`, in bytes. The longest known login is a token of a few KiB. A client
/// that is not identified yet can use no more of the daemon's memory.
const MAX_HANDSHAKE: usize = 16 * 1024;
const LEAST_HANDSHAKE: u64 = 16;
const MOST_HANDSHAKE: u64 = 16 << 20;
/// The shortest message of q IPC, in bytes: a header of eight bytes, and a type.
const LEAST_MESSAGE: u64 = 9;
/// The default of `handshake_timeout` and `connect_timeout`.
const TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// The default of `max_sessions` for kdb+.
const MAX_KDB_SESSIONS: usize = 4096;
/// The default of `max_sessions` for a console, which people and their scripts use.
const MAX_CONSOLE_SESSIONS: usize = 64;
/// The maximum of `warm`. Each user has this many connections, so a higher number is a mistake.
const MOST_WARM: u64 = 64;

/// The tables that an endpoint may refer to.
pub(super) struct Referable<'r> {
    pub(super) environments: &'r Definitions<Environment>,
    pub(super) users: &'r Users,
}

/// Reads every `[[endpoint]]`.
pub(super) fn read_all(
    root: &TomlTable<'_>,
    referable: &Referable<'_>,
    claims: &mut AddressClaims,
) -> Definitions<Endpoint> {
    let mut endpoints = Definitions::new(ConfigPartKind::Endpoint);
    for mut table in root.tables(ConfigPartKind::Endpoint) {
        let name = table.read_name(ConfigPartKind::Endpoint, name::check);
        table.reject_keys_except(KEYS);
        if let (Ok(name), Some(value)) = (name, table.get("name")) {
            endpoints.report_duplicate(&value, name);
        }
        // Even without a name, the other mistakes of the table are reported.
        let name = name.unwrap_or_default();
        let endpoint = read(name, &table, referable, claims);
        endpoints.add(name, table.line(), endpoint);
    }
    report_loops(root, &endpoints);
    endpoints
}

/// Reports every endpoint whose target leads back to itself.
fn report_loops(root: &TomlTable<'_>, endpoints: &Definitions<Endpoint>) {
    let graph = EndpointGraph::new(endpoints.valid());
    for mut table in root.tables(ConfigPartKind::Endpoint) {
        let name = table.get("name").and_then(|value| value.raw().as_str());
        let Some(path) = name.and_then(|name| graph.path_back_to(name)) else {
            continue;
        };
        // From here on, problems of the table have the endpoint's name in their key.
        let _ = table.read_name(ConfigPartKind::Endpoint, name::check);
        if let Some(value) = table.get("connect") {
            let message = match path.as_slice() {
                [_] => "is an address of this endpoint itself".to_owned(),
                path => format!("leads back to this endpoint: {}", path.join(" -> ")),
            };
            value.problem(message, "write the address of kdb+ itself");
        }
    }
}

fn read(
    name: &str,
    table: &TomlTable<'_>,
    referable: &Referable<'_>,
    claims: &mut AddressClaims,
) -> Result<Endpoint, Reported> {
    let users = &referable.users.definitions;
    let expose = table.with_default("expose", false, TomlValue::boolean);
    let listen = listen(table, expose, claims);
    let permitted = PermittedUsers::read(table, users);
    let tls = table.optional("tls", |value| {
        tls(value, listen.as_deref().unwrap_or_default())
    });
    if expose == Ok(true)
        && let Some(exposed) = listen.iter().flatten().find(|address| !address.is_local())
    {
        check_exposed(table, exposed, &tls, &permitted);
    }
    let target = target::read(table, referable.environments);
    let keepalive = table.with_default("keepalive", keepalive::default(), keepalive::read);
    let timeout = |key| {
        table.with_default(key, TIMEOUT, |value| {
            value.duration(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT)
        })
    };
    let handshake_timeout = timeout("handshake_timeout");
    let connect_timeout = timeout("connect_timeout");
    let max_message = table.optional("max_message", |value| value.bytes(LEAST_MESSAGE..=u64::MAX));
    let max_handshake = table.with_default("max_handshake", MAX_HANDSHAKE, |value| {
        let bytes = value.bytes(LEAST_HANDSHAKE..=MOST_HANDSHAKE)?;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    });
    let max_sessions = limit::sessions(table, "max_sessions");
    let max_sessions_per_user = limit::sessions(table, "max_sessions_per_user");
    let max_opens_per_second = limit::opens_per_second(table);
    let opens_per_user = table.with_default(
        "max_opens_per_second_per_user",
        OpensPerUser::Default,
        limit::opens_per_user,
    );
    let idle_timeout = limit::time(table, "idle_timeout");
    let max_session_time = limit::time(table, "max_session_time");
    let errors = table.with_default("errors", OnOpenFailure::Close, |errors| {
        errors.one_of(&[
            Choice::new("close", OnOpenFailure::Close),
            Choice::new("explain", OnOpenFailure::Explain),
        ])
    });
    let warm = table.with_default("warm", 0, |value| warm(value, target.as_ref().ok()));
    let default_user_names = default_user_names(table, users);
    let (tls, permitted, target) = (tls?, permitted?, target?);
    let max_sessions = max_sessions?.unwrap_or(match target {
        Target::Console { .. } => MAX_CONSOLE_SESSIONS,
        Target::FinSpace { .. } | Target::Addresses { .. } => MAX_KDB_SESSIONS,
    });
    let others = OtherUsers::of(&permitted, tls.as_ref(), referable.users);
    Ok(Endpoint {
        name: name.to_owned(),
        listen: listen?,
        expose: expose?,
        tls,
        refusal_costs: refusal_costs(&permitted.users),
        default_user_names: default_user_names?,
        other_certificates: others.certificates,
        other_user_names: others.names,
        max_sessions,
        max_sessions_per_user: max_sessions_per_user?
            .unwrap_or_else(|| share_of_one_user(max_sessions, permitted.count())),
        users: permitted.users,
        users_left_out: permitted.left_out,
        target,
        keepalive: keepalive?,
        max_message: max_message?,
        max_handshake: max_handshake?,
        handshake_timeout: handshake_timeout?,
        connect_timeout: connect_timeout?,
        max_opens_per_second: max_opens_per_second?,
        opens_per_user: opens_per_user?,
        idle_timeout: idle_timeout?,
        max_session_time: max_session_time?,
        warm: warm?,
        errors: errors?,
    })
}

/// Reads `listen`. All addresses are checked, even if one address is invalid.
fn listen(
    table: &TomlTable<'_>,
    expose: Result<bool, Reported>,
    claims: &mut AddressClaims,
) -> Result<Vec<ListenAddress>, Reported> {
    let value = table.required(
        "listen",
        "write the address that clients dial, such as \"localhost:5010\"",
    )?;
    let values = value.one_or_many()?;
    if values.is_empty() {
        return Err(value.problem("is empty", "write at least one address"));
    }
    let addresses: Vec<_> = values
        .iter()
        .map(|value| {
            let address: ListenAddress = value.check(value.text()?.parse())?;
            if expose == Ok(false) && !address.is_local() {
                value.problem(
                    format!("{address} is reachable from other hosts"),
                    "write an address of this host's loopback, or add expose = true",
                );
            }
            claims.claim(value, &address);
            notice_if_unbindable(value, &address);
            Ok(address)
        })
        .collect();
    addresses.into_iter().collect()
}

/// Reads `tls` of an endpoint with these addresses. The addresses are empty if they are not valid.
fn tls(value: &TomlValue<'_>, listen: &[ListenAddress]) -> Result<ServerTls, Reported> {
    if !listen.is_empty() && !listen.iter().any(ListenAddress::is_tcp) {
        value.problem(
            "has no effect: Unix sockets don't speak TLS",
            "remove it, or listen on a TCP address",
        );
    }
    server_tls::read(value)
}

/// Checks an endpoint that other hosts can reach at the address `exposed`.
fn check_exposed(
    table: &TomlTable<'_>,
    exposed: &ListenAddress,
    tls: &Result<Option<ServerTls>, Reported>,
    permitted: &Result<PermittedUsers, Reported>,
) {
    if let (Ok(None), Some(value)) = (tls, table.get("listen")) {
        value.notice(
            Severity::Warning,
            format!("{exposed} is {EXPOSED_WITHOUT_TLS}"),
            EXPOSED_WITHOUT_TLS_REMEDY,
        );
    }
    if let Ok(permitted) = permitted {
        let with_certificates = matches!(tls, Ok(Some(tls)) if tls.requires_client_certificate());
        permitted.require_remote_proof(table, with_certificates);
    }
}

/// Reads `warm`: the number of connections that hopend keeps logged in for each recent user.
fn warm(value: &TomlValue<'_>, target: Option<&Target>) -> Result<usize, Reported> {
    let count = value.count(0..=MOST_WARM)?;
    if let (1.., Some(Target::Addresses { login, .. })) = (count, target)
        && *login == Login::Client
    {
        value.problem(
            "has no effect: with login = \"client\" hopend has no login before a client dials",
            "remove it, or let hopend log in: login = { user = \"…\", password_file = \"…\" }",
        );
    }
    Ok(count)
}

/// The default of `max_sessions_per_user`: all but a 64th of the sessions, so that one user cannot keep
/// all others out. A single user may have all sessions.
fn share_of_one_user(max_sessions: usize, users: usize) -> usize {
    match users {
        1 => max_sessions.max(1),
        _ => max_for_one_user(max_sessions),
    }
}

/// The users of the file who may not use an endpoint, including users with an error. Their certificates
/// and names identify nobody else at the endpoint.
struct OtherUsers {
    certificates: Vec<CertificateName>,
    names: Vec<String>,
}

impl OtherUsers {
    /// Finds the other users of an endpoint that requires client certificates. For any other endpoint
    /// the lists are empty.
    fn of(permitted: &PermittedUsers, tls: Option<&ServerTls>, users: &Users) -> Self {
        if !tls.is_some_and(ServerTls::requires_client_certificate) {
            return Self {
                certificates: Vec::new(),
                names: Vec::new(),
            };
        }
        let certificates = users.certificates.iter();
        let names = users.definitions.names();
        Self {
            certificates: certificates
                .filter(|of| !permitted.admit(&of.user))
                .map(|of| of.certificate.clone())
                .collect(),
            names: names
                .filter(|name| !permitted.admit(name))
                .map(str::to_owned)
                .collect(),
        }
    }
}
