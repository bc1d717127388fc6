//! From a name to a TCP connection.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

use super::UpstreamError;
use crate::config::Address;
use crate::error::out_of_descriptors;
use crate::socket;

/// Before the next address of a name is tried beside the one that has not answered (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// How long what the resolver said is good for.
const LATELY: Duration = Duration::from_secs(1);

/// Every address of the host, in the resolver's order with the families taking turns. Cancel-safe.
pub async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, UpstreamError> {
    let failed = |source| {
        let address = address.clone();
        // The resolver says that it found nothing also where it could not open its own files.
        match std::fs::File::open("/dev/null") {
            Err(source) if out_of_descriptors(&source) => {
                UpstreamError::Descriptors { address, source }
            }
            _ => UpstreamError::Resolve { address, source },
        }
    };
    if let Ok(ip) = address.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, address.port)]);
    }
    let found: Vec<_> = lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(failed)?
        .collect();
    if found.is_empty() {
        return Err(failed(io::Error::other("no address")));
    }
    Ok(interleave(found))
}

/// The same, as it was found when it was asked for last, if that is no longer ago than [`LATELY`]:
/// sessions that are opened in a row ask the resolver once.
pub(super) async fn resolve_lately(address: &Address) -> Result<Vec<SocketAddr>, UpstreamError> {
    let name = (address.host.clone(), address.port);
    if let Some(found) = lately().get(&name).filter(|found| found.is_fresh()) {
        return Ok(found.addresses.clone());
    }
    let addresses = resolve(address).await?;
    let mut lately = lately();
    lately.retain(|_, found| found.is_fresh());
    let found = Found {
        at: Instant::now(),
        addresses: addresses.clone(),
    };
    lately.insert(name, found);
    Ok(addresses)
}

/// Forgets what was found for `address`.
pub(super) fn forget(address: &Address) {
    lately().remove(&(address.host.clone(), address.port));
}

/// What the resolver said of a host and port.
struct Found {
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Found {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < LATELY
    }
}

fn lately() -> MutexGuard<'static, HashMap<(String, u16), Found>> {
    static FOUND: LazyLock<Mutex<HashMap<(String, u16), Found>>> = LazyLock::new(Mutex::default);
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP connection to the first of `addresses` that takes one, `address` being what they are of.
/// Cancel-safe.
pub async fn connect(
    address: &Address,
    addresses: Vec<SocketAddr>,
) -> Result<TcpStream, UpstreamError> {
    let stream = first(addresses)
        .await
        .and_then(|stream| socket::tune(&stream).map(|()| stream));
    stream.map_err(|source| {
        let address = address.clone();
        if out_of_descriptors(&source) {
            UpstreamError::Descriptors { address, source }
        } else {
            UpstreamError::Connect { address, source }
        }
    })
}

/// The resolver's order, with the families taking turns.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return mixed;
        }
        mixed.extend(pair.0.into_iter().chain(pair.1));
    }
}

/// The first connection that stands: each address gets a head start on the next one, and a failure
/// starts the next at once.
async fn first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::other("no address");
    if let Some(address) = waiting.next() {
        attempts.push(TcpStream::connect(address));
    }
    while !attempts.is_empty() {
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    last_error = error;
                    attempts.extend(waiting.next().map(TcpStream::connect));
                }
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {
                attempts.extend(waiting.next().map(TcpStream::connect));
            }
        }
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(
            interleave(parse(&[
                "[::1]:1",
                "[::2]:1",
                "1.1.1.1:1",
                "1.1.1.2:1",
                "1.1.1.3:1"
            ])),
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "1.1.1.3:1"])
        );
    }

    #[tokio::test]
    async fn a_dead_address_does_not_keep_from_a_live_one() {
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = {
            let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            gone.local_addr().unwrap()
        };
        let stream = first(vec![dead, live.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live.local_addr().unwrap());
        assert_eq!(
            first(vec![dead]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
