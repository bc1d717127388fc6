//! The network path to one address (DNS, TCP, TLS), and the login at its end.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::diagnosis::{CLIENT_CERTIFICATE_REMEDY, TLS_ALERT};
use super::handshake::PathAddress;
use super::runner::{MARGIN, StageFailure, StageFinding, StageRunner};
use super::stage::StageName;
use super::tls;
use crate::upstream::{self, DialStage, Upstream, UpstreamError};
use base::error::{ErrorKind, chain};
use base::kdb_address::KdbAddress;
use q_ipc::handshake::Hello;
use q_ipc::value::Value;

/// The stages of a network path.
pub(super) const PATH_STAGES: [StageName; 3] = [StageName::Dns, StageName::Tcp, StageName::Tls];
/// The stages of a login.
pub(super) const LOGIN_STAGES: [StageName; 2] = [StageName::Login, StageName::NoOp];

/// The results of the paths examined so far, so that each address is examined once.
#[derive(Debug, Default)]
pub(super) struct ExaminedPaths(HashMap<KdbAddress, PathResult>);

/// Whether an address can be reached. The error is the stage that failed.
type PathResult = Result<(), StageName>;

impl ExaminedPaths {
    /// Runs the stages DNS, TCP and TLS, unless they have run for this address.
    pub(super) async fn examine(
        &mut self,
        runner: &mut StageRunner<'_>,
        to: PathAddress<'_>,
    ) -> PathResult {
        if let Some(known) = self.0.get(to.address) {
            return *known;
        }
        let result = examine_path(runner, to).await;
        self.0.insert(to.address.clone(), result);
        result
    }
}

async fn examine_path(runner: &mut StageRunner<'_>, to: PathAddress<'_>) -> PathResult {
    // An address without TLS has no TLS stage, not even a skipped one.
    let tls_stage: &[StageName] = if to.address.tls {
        &[StageName::Tls]
    } else {
        &[]
    };
    let resolved = runner.run(StageName::Dns, resolve(to)).await;
    let Some(sockets) = resolved else {
        runner.skip_after(StageName::Dns, &[StageName::Tcp]);
        runner.skip_after(StageName::Dns, tls_stage);
        return Err(StageName::Dns);
    };
    let connected = runner.run(StageName::Tcp, connect(to, &sockets)).await;
    if connected.is_none() {
        runner.skip_after(StageName::Tcp, tls_stage);
        return Err(StageName::Tcp);
    }
    if !to.address.tls {
        return Ok(());
    }
    let limit = runner.limit;
    let handshake = tls::examine(to, &sockets, limit);
    // Time for the handshake, and the same again for the diagnosis if it fails.
    let succeeded = runner
        .run_within(2 * limit + MARGIN, StageName::Tls, handshake)
        .await;
    succeeded.ok_or(StageName::Tls)
}

async fn resolve(to: PathAddress<'_>) -> Result<StageFinding<Vec<SocketAddr>>, StageFailure> {
    let KdbAddress { host, .. } = to.address;
    let sockets = upstream::resolve(to.address).await.map_err(|error| {
        let cause = match &error {
            UpstreamError::Resolve { source, .. } => source.to_string(),
            other => chain(other),
        };
        let (kind, remedy) = if to.is_configured {
            (
                ErrorKind::Configuration,
                "correct the host in connect, or check the name servers in /etc/resolv.conf",
            )
        } else {
            (
                ErrorKind::Upstream,
                "run hopend in the VPC that FinSpace's network is attached to, where its names \
                 resolve, or forward the zone to that VPC's resolver",
            )
        };
        StageFailure::new(kind, format!("{host} does not resolve: {cause}"), remedy)
    })?;
    let ips: Vec<_> = sockets
        .iter()
        .map(|socket| socket.ip().to_string())
        .collect();
    let text = match &ips[..] {
        [ip] if ip == host => format!("{host} is an IP address"),
        _ => format!("{host} is {}", ips.join(", ")),
    };
    Ok(StageFinding::new(sockets, text))
}

async fn connect(
    to: PathAddress<'_>,
    sockets: &[SocketAddr],
) -> Result<StageFinding<()>, StageFailure> {
    let connected = upstream::connect(to.address, sockets.to_vec()).await;
    match connected {
        Ok(tcp) => {
            let peer = tcp.peer_addr();
            let text = peer.map_or_else(|_| "connected".into(), |peer| format!("{peer} answers"));
            Ok(StageFinding::new((), text))
        }
        Err(UpstreamError::Connect { source, .. }) => Err(no_connection(to, &source)),
        Err(other) => Err(StageFailure::new(other.kind(), chain(&other), "")),
    }
}

fn no_connection(to: PathAddress<'_>, error: &io::Error) -> StageFailure {
    let port = to.address.port;
    let (explanation, remedy) = match error.kind() {
        io::ErrorKind::ConnectionRefused if to.is_configured => (
            ": nothing listens there",
            "start kdb+, or correct host and port in connect",
        ),
        io::ErrorKind::ConnectionRefused => (
            ": nothing listens there",
            "check that the cluster runs, and the firewalls and proxies on the way",
        ),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => (
            ": this host has no route there",
            "check routes, VPN and VPC attachments",
        ),
        _ => (
            "",
            "check that kdb+ listens there and that security groups and routes allow it",
        ),
    };
    StageFailure::new(
        ErrorKind::Upstream,
        format!("no connection to port {port}: {error}{explanation}"),
        remedy,
    )
}

/// Logs in to kdb+, sends one sync request that does nothing, and closes the connection. If kdb+ rejects
/// the login, `rejection` supplies remedy and details.
pub(super) async fn log_in(
    runner: &mut StageRunner<'_>,
    to: PathAddress<'_>,
    hello: &Hello,
    rejection: impl FnOnce() -> LoginRejection,
) {
    let limit = runner.limit;
    let login = open(to, hello, limit, rejection);
    let opened = runner
        .run_within(limit + MARGIN, StageName::Login, login)
        .await;
    let Some(mut opened) = opened else {
        return runner.skip_after(StageName::Login, &[StageName::NoOp]);
    };
    let answered = runner.run(StageName::NoOp, send_no_op(&mut opened)).await;
    if answered.is_some() {
        // If the shutdown takes too long, dropping the stream closes the connection as well.
        let _ = tokio::time::timeout(MARGIN, opened.stream.shutdown()).await;
    }
}

/// The words of a report when kdb+ rejects a login.
#[derive(Debug, Default)]
pub(super) struct LoginRejection {
    /// Text that follows the user's name, such as ` with a fresh connection string`.
    pub(super) context: &'static str,
    pub(super) remedy: String,
    /// The statement that an IAM policy lacks.
    pub(super) missing: Option<finspace::MissingPermission>,
}

async fn open(
    to: PathAddress<'_>,
    hello: &Hello,
    limit: Duration,
    rejection: impl FnOnce() -> LoginRejection,
) -> Result<StageFinding<Upstream>, StageFailure> {
    let address = to.address;
    let tls = to.trust.config.as_ref().ok();
    let opened = upstream::open(address, tls, hello, limit).await;
    match opened {
        Ok(opened) if !address.tls && opened.capability == TLS_ALERT => {
            let with_tls = KdbAddress {
                tls: true,
                ..address.clone()
            };
            Err(StageFailure::new(
                ErrorKind::Configuration,
                "the server speaks TLS",
                format!("write {with_tls} in connect"),
            ))
        }
        Ok(opened) => {
            let text = format!(
                "kdb+ accepted {:?}, capability {}",
                hello.user, opened.capability
            );
            Ok(StageFinding::new(opened, text))
        }
        Err(UpstreamError::Rejected { user, .. }) => {
            let LoginRejection {
                context,
                remedy,
                missing,
            } = rejection();
            Err(StageFailure {
                kind: ErrorKind::Denied,
                cause: format!("kdb+ refused the login of {user:?}{context}"),
                remedy: Some(remedy),
                missing: missing.map(Box::new),
            })
        }
        Err(UpstreamError::Timeout {
            stage: DialStage::LoggingIn,
            limit,
            ..
        }) => Err(StageFailure::new(
            ErrorKind::Upstream,
            format!(
                "no answer to the login within {} s: kdb+ is busy with another query, or the server is \
                 not kdb+",
                limit.as_secs_f32()
            ),
            "check what listens there",
        )),
        Err(error) => {
            let wants_certificate = chain(&error).contains("CertificateRequired");
            let remedy = if wants_certificate {
                CLIENT_CERTIFICATE_REMEDY
            } else {
                "look at the log of kdb+, and at the firewalls and proxies on the way"
            };
            Err(StageFailure::new(error.kind(), chain(&error), remedy))
        }
    }
}

async fn send_no_op(opened: &mut Upstream) -> Result<StageFinding<()>, StageFailure> {
    match upstream::ask(&mut opened.stream, "").await {
        Ok(Value::Error(text)) => {
            let text = format!("kdb+ answers '{text} (its .z.pg does not accept an empty string)");
            Ok(StageFinding::new((), text))
        }
        Ok(_) => Ok(StageFinding::new((), "kdb+ answers")),
        Err(error) => Err(StageFailure::new(
            ErrorKind::Upstream,
            format!("no answer to a sync request: {}", chain(&error)),
            "read the log of kdb+: it accepted the login and then closed the connection",
        )),
    }
}
