//! From addresses to a TCP connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::UpstreamError;
use crate::primitives::race::{Race, RaceEvent};
use crate::primitives::socket;
use base::address::Address;
use base::error::out_of_descriptors;

/// Before the next address of a name is tried beside the one that has not answered (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

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

/// The first connection that stands: each address gets a head start on the next one, and a failure
/// starts the next at once.
async fn first(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut race = Race::new();
    let late = race.late();
    let mut waiting = addresses.into_iter().map(|address| {
        let late = late.clone();
        async move {
            let connecting = TcpStream::connect(address);
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
