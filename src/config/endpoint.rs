//! `[[endpoint]]`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::certificate;
use super::hash_cost::refusal_costs;
use super::keepalive;
use super::left_out::{Part, PartKind, Reach};
use super::limit;
use super::loops;
use super::named::{Found, Named};
use super::notice::Severity;
use super::privileged_port;
use super::reader::{Table, Value};
use super::source::Basis;
use super::target;
use super::user::{OwnCertificate, Users, user_name};
use super::value;
use super::{CertificateName, Endpoint, Errors, ListenAddress, Login, ServerTls, Target, User};
use crate::primitives::share::less_a_share;
use finspace::environment::Environment;

pub(super) const KEYS: &[&str] = &[
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

/// What the longest known login needs, a token of some kilobytes, many times over. A client that has
/// not said who it is holds no more of the daemon's memory.
const MAX_HANDSHAKE: usize = 16 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const MAX_SESSIONS: usize = 4096;
/// An exposed address without TLS.
pub(crate) const PLAIN: &str =
    "reachable from other hosts without TLS: passwords and data can be read on the way";
pub(crate) const PLAIN_REMEDY: &str = "add tls = { cert, key } to the endpoint";
/// What kola sends without a terminal, and what node-q sends.
const DEFAULT_USER_NAMES: [&str; 2] = ["unknown", "anonymous"];
/// People at a prompt, and scripts of theirs.
const MAX_CONSOLES: usize = 64;
/// Each user has as many: more than this is a slip.
const MOST_WARM: u64 = 64;

/// What an endpoint may refer to.
pub(super) struct Known<'k> {
    pub(super) environments: &'k Named<Environment>,
    pub(super) users: &'k Users,
}

/// Which address is taken, and by whom.
#[derive(Default)]
pub(super) struct Claims(Vec<Claim>);

struct Claim {
    address: ListenAddress,
    key: String,
    line: usize,
    /// None for the daemon's own.
    part: Option<Part>,
}

/// Who may use an endpoint.
struct Permitted {
    users: Vec<Arc<User>>,
    /// Names of those with a problem of their own.
    left_out: Vec<String>,
}

impl Claims {
    /// Takes an address, or reports who has it already.
    pub(super) fn claim(&mut self, value: &Value<'_>, address: &ListenAddress) {
        if let Some(taken) = self.0.iter().find(|claim| claim.address.clashes(address)) {
            // Nobody knows which of the two clients mean: neither is served.
            let reach = match (&value.part, &taken.part) {
                (Some(part), Some(other)) => Reach::Parts(vec![part.clone(), other.clone()]),
                _ => Reach::Daemon,
            };
            let Claim {
                address: there,
                key,
                line,
                ..
            } = taken;
            value.report_reaching(
                Basis::Seen,
                reach,
                format!("{address} is taken: {key} has {there} on line {line}"),
                "give each an address of its own",
            );
        }
        self.0.push(Claim {
            address: address.clone(),
            key: value.key.clone(),
            line: value.source.line(value.at),
            part: value.part.clone(),
        });
    }
}

/// Reads every `[[endpoint]]`.
pub(super) fn read_all(
    root: &Table<'_>,
    known: &Known<'_>,
    claims: &mut Claims,
) -> Named<Endpoint> {
    let mut endpoints = Named::new(PartKind::Endpoint);
    for mut table in root.tables(PartKind::Endpoint) {
        let name = table.name_itself("endpoint", value::name);
        table.only(KEYS);
        if let (Some(name), Some(value)) = (name, table.get("name")) {
            endpoints.claim(&value, name);
        }
        // Read on without a name: what else is wrong with it is worth telling.
        let name = name.unwrap_or_default();
        let endpoint = read(name, &table, known, claims);
        endpoints.push(name, table.line(), endpoint);
    }
    refuse_loops(root, &endpoints);
    endpoints
}

/// Reports every endpoint that leads back to itself.
fn refuse_loops(root: &Table<'_>, endpoints: &Named<Endpoint>) {
    let endpoints = endpoints.all().filter_map(|found| match found {
        Found::Valid(endpoint) => Some(endpoint),
        Found::LeftOut(_) | Found::Unknown => None,
    });
    let endpoints: Vec<Arc<Endpoint>> = endpoints.collect();
    let ways = loops::ways_back(&endpoints);
    for mut table in root.tables(PartKind::Endpoint) {
        let name = table.get("name").and_then(|value| value.raw().as_str());
        let mut all = endpoints.iter().zip(&ways);
        let way = all.find(|(endpoint, _)| Some(endpoint.name.as_str()) == name);
        let Some((_, Some(way))) = way else { continue };
        table.name_itself("endpoint", value::name);
        if let Some(value) = table.get("connect") {
            let what = match way.as_slice() {
                [_] => "is an address of this endpoint itself".to_owned(),
                way => format!("leads back to this endpoint: {}", way.join(" -> ")),
            };
            value.problem(what, "write the address of kdb+ itself");
        }
    }
}

fn read(name: &str, table: &Table<'_>, known: &Known<'_>, claims: &mut Claims) -> Option<Endpoint> {
    let expose = table
        .get("expose")
        .map_or(Some(false), |value| value.boolean());
    let listen = listen(table, expose, claims);
    let permitted = users(table, &known.users.named);
    let exposed =
        expose == Some(true) && listen.iter().flatten().any(|address| !address.is_local());
    let tls = tls(table, listen.as_deref());
    if exposed && matches!(tls, Some(None)) {
        plain(table, listen.as_deref().unwrap_or_default());
    }
    if let (true, Some(permitted)) = (exposed, &permitted) {
        let by_certificate = matches!(&tls, Some(Some(tls)) if tls.client_ca.is_some());
        recognised(table, permitted, by_certificate);
    }
    let target = target::read(table, known.environments);
    let keepalive = match table.get("keepalive") {
        Some(value) => keepalive::read(&value),
        None => Some(super::keepalive::default()),
    };
    let timeout = |key| match table.get(key) {
        Some(value) => value.duration(SHORTEST_TIMEOUT, LONGEST_TIMEOUT),
        None => Some(TIMEOUT),
    };
    let handshake_timeout = timeout("handshake_timeout");
    let connect_timeout = timeout("connect_timeout");
    // No message is shorter than its header of eight bytes and a type.
    let max_message = table
        .get("max_message")
        .map(|value| value.bytes(9, u64::MAX));
    let max_handshake = table
        .get("max_handshake")
        .map_or(Some(MAX_HANDSHAKE), |value| {
            usize::try_from(value.bytes(16, 16 << 20)?).ok()
        });
    let most = match target {
        Some(Target::Console { .. }) => MAX_CONSOLES,
        _ => MAX_SESSIONS,
    };
    let max_sessions = limit::sessions(table, "max_sessions").map(|n| n.unwrap_or(most));
    let max_sessions_per_user = limit::sessions(table, "max_sessions_per_user");
    let max_opens_per_second = limit::rate(table);
    let opens_per_user = limit::rate_per_user(table);
    let idle_timeout = limit::time(table, "idle_timeout");
    let max_session_time = limit::time(table, "max_session_time");
    let words = [("close", Errors::Close), ("explain", Errors::Explain)];
    let errors = table
        .get("errors")
        .map_or(Some(Errors::Close), |errors| errors.word(&words));
    let warm = warm(table, target.as_ref());
    let default_user_names = default_user_names(table, &known.users.named);
    Some(Endpoint {
        name: name.to_owned(),
        listen: listen?,
        expose: expose?,
        max_sessions_per_user: max_sessions_per_user?
            .unwrap_or_else(|| share(max_sessions.unwrap_or(most), permitted.as_ref())),
        max_opens_per_second: max_opens_per_second?,
        opens_per_user: opens_per_user?,
        idle_timeout: idle_timeout?,
        refusal_costs: refusal_costs(permitted.iter().flat_map(|permitted| &permitted.users)),
        default_user_names: default_user_names?,
        names_of_others: names_of_others(
            tls.as_ref().and_then(Option::as_ref),
            permitted.as_ref(),
            &known.users.named,
        ),
        max_session_time: max_session_time?,
        certificates_of_others: certificates_of_others(
            tls.as_ref().and_then(Option::as_ref),
            permitted.as_ref(),
            &known.users.certificates,
        ),
        tls: tls?,
        users_left_out: permitted.as_ref()?.left_out.clone(),
        users: permitted?.users,
        target: target?,
        keepalive: keepalive?,
        max_message: match max_message {
            Some(bytes) => Some(bytes?),
            None => None,
        },
        max_handshake: max_handshake?,
        handshake_timeout: handshake_timeout?,
        connect_timeout: connect_timeout?,
        max_sessions: max_sessions?,
        errors: errors?,
        warm: warm?,
    })
}

/// Tells of passwords that cross a network as they are.
fn plain(table: &Table<'_>, listen: &[ListenAddress]) {
    let exposed = listen.iter().find(|address| !address.is_local());
    if let (Some(address), Some(value)) = (exposed, table.get("listen")) {
        value.notice(
            Severity::Warning,
            format!("{address} is {PLAIN}"),
            PLAIN_REMEDY,
        );
    }
}

/// Tells of an address that this host does not let hopend bind.
pub(super) fn bindable(value: &Value<'_>, address: &ListenAddress) {
    match address {
        ListenAddress::Localhost(_) | ListenAddress::Tcp(_) => {
            let port = address.tcp_sockets().first().map_or(0, SocketAddr::port);
            if let Some(first) = privileged_port::closed_below(port) {
                value.notice(
                    Severity::Warning,
                    format!("this account may not bind port {port}"),
                    format!(
                        "choose a port from {first} up, let systemd bind it (hopend.socket), or give \
                         the service CAP_NET_BIND_SERVICE (AmbientCapabilities=)"
                    ),
                );
            }
        }
        ListenAddress::Path(path) => {
            let folder = path.parent().unwrap_or(path);
            if !folder.is_dir() {
                value.notice(
                    Severity::Error,
                    format!("the directory {} does not exist", folder.display()),
                    "make the directory, writable for the account that runs hopend",
                );
            }
        }
        ListenAddress::Abstract(_) => {}
    }
}

/// What one user may have of an endpoint's sessions by default: all but a sixty-fourth, so that nobody
/// keeps all others out.
fn share(max_sessions: usize, permitted: Option<&Permitted>) -> usize {
    match permitted.map(|permitted| permitted.users.len() + permitted.left_out.len()) {
        Some(1) => max_sessions.max(1),
        _ => less_a_share(max_sessions),
    }
}

fn tls(table: &Table<'_>, listen: Option<&[ListenAddress]>) -> Option<Option<ServerTls>> {
    let Some(value) = table.get("tls") else {
        return Some(None);
    };
    if listen.is_some_and(|addresses| !addresses.iter().any(ListenAddress::is_tcp)) {
        value.problem(
            "has no effect: Unix sockets don't speak TLS",
            "remove it, or listen on a TCP address",
        );
    }
    certificate::read(&value).map(Some)
}

/// How many connections are kept logged in for each user.
fn warm(table: &Table<'_>, target: Option<&Target>) -> Option<usize> {
    let Some(value) = table.get("warm") else {
        return Some(0);
    };
    let count = usize::try_from(value.count(0, MOST_WARM)?).ok()?;
    if let (1.., Some(Target::Addresses { login, .. })) = (count, target)
        && *login == Login::Client
    {
        value.problem(
            "keeps nothing: with login = \"client\" there is no login before a client comes",
            "remove it, or let hopend log in: login = { user = \"…\", password_file = \"…\" }",
        );
    }
    Some(count)
}

fn listen(
    table: &Table<'_>,
    expose: Option<bool>,
    claims: &mut Claims,
) -> Option<Vec<ListenAddress>> {
    let value = table.required(
        "listen",
        "write where hopen finds it, such as \"localhost:5010\"",
    )?;
    let values = value.one_or_many()?;
    if values.is_empty() {
        value.problem("is empty", "write at least one address");
        return None;
    }
    let mut addresses = Some(Vec::new());
    for value in values {
        let address = value
            .text()
            .and_then(|text| value.check(text.parse::<ListenAddress>()));
        let Some(address) = address else {
            addresses = None;
            continue;
        };
        if expose == Some(false) && !address.is_local() {
            value.problem(
                format!("{address} is reachable from other hosts"),
                "write an address of this host's loopback, or add expose = true",
            );
        }
        claims.claim(&value, &address);
        bindable(&value, &address);
        if let Some(addresses) = &mut addresses {
            addresses.push(address);
        }
    }
    addresses
}

/// Who may use the endpoint. Who is left out is never admitted, and nobody in their place. None if the
/// list itself is not valid.
fn users(table: &Table<'_>, known: &Named<User>) -> Option<Permitted> {
    let Some(value) = table.get("users") else {
        return Some(permitted(known.all()));
    };
    let names = value.array()?;
    if names.is_empty() {
        value.problem(
            "is empty: nobody could use the endpoint",
            "name users, or remove the key for all of them",
        );
        return None;
    }
    let mut seen = Vec::new();
    let found = names.iter().map(|value| {
        let Some(name) = value.text() else {
            return Found::Unknown;
        };
        if seen.contains(&name) {
            value.problem("names the same user twice", "name each user once");
        }
        seen.push(name);
        known.find(value, name)
    });
    Some(permitted(found))
}

fn permitted(found: impl Iterator<Item = Found<User>>) -> Permitted {
    let mut permitted = Permitted {
        users: Vec::new(),
        left_out: Vec::new(),
    };
    for user in found {
        match user {
            Found::Valid(user) => permitted.users.push(user),
            Found::LeftOut(part) => permitted.left_out.push(part.name),
            Found::Unknown => {}
        }
    }
    permitted
}

/// Names that count as none. A configured user's name always counts, also of one who is left out.
fn default_user_names(table: &Table<'_>, known: &Named<User>) -> Option<Vec<String>> {
    let names: Option<Vec<&str>> = match table.get("default_user_names") {
        None => Some(DEFAULT_USER_NAMES.to_vec()),
        Some(value) => value
            .array()?
            .iter()
            .map(|value| {
                let name = value.text()?;
                value.check(user_name(name).map(|()| name))
            })
            .collect(),
    };
    let names = names?.into_iter().filter(|name| !known.has(name));
    Some(names.map(str::to_owned).collect())
}

/// The names of users who may not use the endpoint, where clients show certificates. Those of users who
/// are left out count.
fn names_of_others(
    tls: Option<&ServerTls>,
    permitted: Option<&Permitted>,
    known: &Named<User>,
) -> Vec<String> {
    if tls.is_none_or(|tls| tls.client_ca.is_none()) {
        return Vec::new();
    }
    let own = |name: &str| {
        permitted.is_some_and(|permitted| permitted.users.iter().any(|user| user.name == name))
    };
    let others = known.all_names().filter(|name| !own(name));
    others.map(str::to_owned).collect()
}

/// Of the file's other users, where clients show certificates. Those of users who are left out count:
/// their certificate makes nobody else of its holder.
fn certificates_of_others(
    tls: Option<&ServerTls>,
    permitted: Option<&Permitted>,
    certificates: &[OwnCertificate],
) -> Vec<CertificateName> {
    if tls.is_none_or(|tls| tls.client_ca.is_none()) {
        return Vec::new();
    }
    let own = |name: &str| {
        permitted.is_some_and(|permitted| permitted.users.iter().any(|user| user.name == name))
    };
    let others = certificates.iter().filter(|owner| !own(&owner.user));
    others.map(|owner| owner.certificate.clone()).collect()
}

/// From another host only a password or a certificate tells who it is: the kernel knows accounts of
/// this one.
fn recognised(table: &Table<'_>, permitted: &Permitted, by_certificate: bool) {
    let known = |user: &Arc<User>| {
        user.password.is_some() || (by_certificate && user.certificate.is_some())
    };
    let users = &permitted.users;
    // What is wrong with a user hides whether it has one.
    if users.is_empty() || !permitted.left_out.is_empty() || users.iter().any(known) {
        return;
    }
    if let Some(value) = table.get("listen") {
        value.report(
            Basis::AbsentInFile,
            "is reachable from other hosts, where only passwords count, and no permitted user has one",
            "give a user a password (`hopend hash-password`), or listen on the loopback only",
        );
    }
}
