//! Makes a TCP connection to the first of several IP addresses that accepts.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::UpstreamError;
use crate::primitives::race::{Race, RaceEvent};
use crate::primitives::socket;
use base::error::out_of_descriptors;
use base::kdb_address::KdbAddress;

/// The head start of each IP address before the next one is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first of `sockets`, the IP addresses of `address`, that accepts. Cancel-safe.
///
/// # Errors
/// No address accepts, or this host has no file descriptor left.
pub(crate) async fn connect(
    address: &KdbAddress,
    sockets: Vec<SocketAddr>,
) -> Result<TcpStream, UpstreamError> {
    let stream = first(sockets)
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

/// Races connections to all sockets and returns the first that is made. Each attempt has a head start on
/// the next one, and a failure starts the next one at once.
async fn first(sockets: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut race = Race::new();
    let late = race.late();
    let mut waiting = sockets.into_iter().map(|socket| {
        let late = late.clone();
        async move {
            let connecting = TcpStream::connect(socket);
            late.after(STAGGER, connecting, || {}).await
        }
    });
    let mut last_error = io::Error::other("no address");
    waiting.next().into_iter().for_each(|one| race.begin(one));
    while let Some(event) = race.next().await {
        match event {
            RaceEvent::Ended(Ok(stream)) => return Ok(stream),
            RaceEvent::Ended(Err(error)) => last_error = error,
            RaceEvent::Late => {}
        }
        waiting.next().into_iter().for_each(|one| race.begin(one));
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use super::*;

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
