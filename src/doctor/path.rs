//! The way to one address, step by step, and a login at its end.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::stage::{Bench, Finding, MARGIN, Name, Trouble};
use super::tls::{self, Destination};
use crate::upstream::{self, DialStage, Upstream, UpstreamError};
use base::address::Address;
use base::error::{ErrorKind, chain};
use q_ipc::handshake::Hello;
use q_ipc::value::Value;

/// How TLS answers a login that came without it.
const ALERT: u8 = 0x15;

/// How far each address was got.
#[derive(Debug, Default)]
pub(super) struct Ways(HashMap<Address, Way>);

/// How far one address was got.
type Way = Result<(), Name>;

impl Ways {
    /// Looks at DNS, TCP and TLS, once for each address.
    pub(super) async fn walk(&mut self, bench: &mut Bench<'_>, to: Destination<'_>) -> Way {
        if let Some(known) = self.0.get(to.address) {
            return *known;
        }
        let way = walk(bench, to).await;
        self.0.insert(to.address.clone(), way);
        way
    }
}

async fn walk(bench: &mut Bench<'_>, to: Destination<'_>) -> Way {
    // A plain address has no such stage.
    let tls: &[Name] = if to.address.tls { &[Name::Tls] } else { &[] };
    let found = bench.stage(Name::Dns, resolve(to)).await;
    let Some(addresses) = found else {
        bench.wait_for(Name::Dns, &[Name::Tcp]);
        bench.wait_for(Name::Dns, tls);
        return Err(Name::Dns);
    };
    let reached = bench.stage(Name::Tcp, connect(to, &addresses)).await;
    if reached.is_none() {
        bench.wait_for(Name::Tcp, tls);
        return Err(Name::Tcp);
    }
    if !to.address.tls {
        return Ok(());
    }
    let limit = bench.limit;
    let examined = tls::examine(to, &addresses, limit);
    // The handshake, and as long again to find out why not.
    let shaken = bench
        .stage_within(2 * limit + MARGIN, Name::Tls, examined)
        .await;
    shaken.ok_or(Name::Tls)
}

async fn resolve(to: Destination<'_>) -> Result<Finding<Vec<SocketAddr>>, Trouble> {
    let Address { host, .. } = to.address;
    let found = upstream::resolve(to.address).await.map_err(|error| {
        let why = match &error {
            UpstreamError::Resolve { source, .. } => source.to_string(),
            other => chain(other),
        };
        let (kind, remedy) = if to.written {
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
        Trouble::new(kind, format!("{host} does not resolve: {why}"), remedy)
    })?;
    let ips: Vec<_> = found.iter().map(|found| found.ip().to_string()).collect();
    let said = match &ips[..] {
        [ip] if ip == host => format!("{host} is an address"),
        _ => format!("{host} is {}", ips.join(", ")),
    };
    Ok(Finding::new(found, said))
}

async fn connect(to: Destination<'_>, addresses: &[SocketAddr]) -> Result<Finding<()>, Trouble> {
    let connected = upstream::connect(to.address, addresses.to_vec()).await;
    match connected {
        Ok(tcp) => {
            let peer = tcp.peer_addr();
            let said = peer.map_or_else(|_| "connected".into(), |peer| format!("{peer} answers"));
            Ok(Finding::new((), said))
        }
        Err(UpstreamError::Connect { source, .. }) => {
            let port = to.address.port;
            let (why, remedy) = match source.kind() {
                io::ErrorKind::ConnectionRefused if to.written => (
                    ": nothing listens there",
                    "start kdb+, or correct host and port in connect",
                ),
                io::ErrorKind::ConnectionRefused => (
                    ": nothing listens there",
                    "check that the cluster runs, and what stands between",
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
            Err(Trouble::new(
                ErrorKind::Upstream,
                format!("no connection to port {port}: {source}{why}"),
                remedy,
            ))
        }
        Err(other) => Err(Trouble::new(other.kind(), chain(&other), "")),
    }
}

/// Logs in, asks for nothing, and leaves. `refused` is what to do where kdb+ says no.
pub(super) async fn log_in(
    bench: &mut Bench<'_>,
    to: Destination<'_>,
    hello: &Hello,
    refused: impl FnOnce() -> Trouble,
) {
    let limit = bench.limit;
    let login = login(to, hello, limit, refused);
    let opened = bench.stage_within(limit + MARGIN, Name::Login, login).await;
    let Some(mut opened) = opened else {
        return bench.wait_for(Name::Login, &[Name::NoOp]);
    };
    let asked = bench.stage(Name::NoOp, no_op(&mut opened)).await;
    if asked.is_some() {
        // Cut short, it is a close all the same.
        let _ = tokio::time::timeout(MARGIN, opened.stream.shutdown()).await;
    }
}

async fn login(
    to: Destination<'_>,
    hello: &Hello,
    limit: Duration,
    refused: impl FnOnce() -> Trouble,
) -> Result<Finding<Upstream>, Trouble> {
    let address = to.address;
    let tls = to.trust.config.as_ref().ok();
    let opened = upstream::open(address, tls, hello, limit).await;
    match opened {
        Ok(opened) if !address.tls && opened.capability == ALERT => {
            let secure = Address {
                tls: true,
                ..address.clone()
            };
            Err(Trouble::new(
                ErrorKind::Configuration,
                "the other side speaks TLS",
                format!("write {secure} in connect"),
            ))
        }
        Ok(opened) => {
            let said = format!(
                "{:?} is let in, capability {}",
                hello.user, opened.capability
            );
            Ok(Finding::new(opened, said))
        }
        Err(UpstreamError::Rejected { user, .. }) => {
            let refused = refused();
            Err(Trouble {
                said: format!("kdb+ refused the login of {user:?}{}", refused.said),
                ..refused
            })
        }
        Err(UpstreamError::Timeout {
            stage: DialStage::LoggingIn,
            limit,
            ..
        }) => Err(Trouble::new(
            ErrorKind::Upstream,
            format!(
                "no answer to the login within {} s: kdb+ computes for somebody else, or it is no kdb+",
                limit.as_secs_f32()
            ),
            "check what listens there",
        )),
        Err(error) => {
            let wants_certificate = chain(&error).contains("CertificateRequired");
            let remedy = if wants_certificate {
                "let the other side ask for no client's certificate, as hopend has none"
            } else {
                "look at the log of kdb+, and what stands between"
            };
            Err(Trouble::new(error.kind(), chain(&error), remedy))
        }
    }
}

async fn no_op(opened: &mut Upstream) -> Result<Finding<()>, Trouble> {
    match upstream::ask(&mut opened.stream, "").await {
        Ok(Value::Error(text)) => {
            let said = format!("it answers: '{text} (its .z.pg takes no empty string)");
            Ok(Finding::new((), said))
        }
        Ok(_) => Ok(Finding::new((), "it answers")),
        Err(error) => Err(Trouble::new(
            ErrorKind::Upstream,
            format!("no answer to a sync request: {}", chain(&error)),
            "read the log of kdb+, as it let the user in and then closed",
        )),
    }
}
