//! A kdb+ double without TLS that can be busy as q is. While it is busy, its connections stay open, and it
//! answers neither logins nor requests.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use q_ipc::frame::{HEADER_LEN, Header};
use q_ipc::handshake::Hello;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The double. It listens until it is dropped.
pub struct BusyKdb {
    pub address: SocketAddr,
    state: Arc<State>,
    _serving: AbortOnDropHandle<()>,
}

struct State {
    /// The response to every request.
    answer: i64,
    busy: watch::Sender<bool>,
    seen: watch::Sender<Seen>,
    refused: Mutex<HashSet<Option<u8>>>,
}

/// Counts of what it has received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Accepted connections.
    pub connections: usize,
    /// Received logins, answered or not.
    pub logins: usize,
}

impl BusyKdb {
    /// Starts a double that answers every request with `answer`.
    pub async fn answering(answer: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            answer,
            busy: watch::Sender::new(false),
            seen: watch::Sender::default(),
            refused: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// Its address, for the key `connect` of an endpoint.
    pub fn connect(&self) -> String {
        format!(":{}", self.address)
    }

    /// Makes it busy, or free again.
    pub fn set_busy(&self, busy: bool) {
        self.state.busy.send_replace(busy);
    }

    /// Refuses logins with this capability from now on, by closing the connection. `None`: logins without one.
    pub fn refuse(&self, capability: Option<u8>) {
        self.state.refused.lock().unwrap().insert(capability);
    }

    pub fn seen(&self) -> Seen {
        *self.state.seen.borrow()
    }

    /// Returns once the counts fulfil a condition.
    pub async fn has_seen(&self, enough: impl Fn(&Seen) -> bool) {
        let mut seen = self.state.seen.subscribe();
        seen.wait_for(enough).await.unwrap();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.seen.send_modify(|seen| seen.connections += 1);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            // A client that goes concerns nobody else.
            let _ = talk(stream, &state).await;
        });
    }
}

async fn talk(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut busy = state.busy.subscribe();
    let mut bytes = Vec::new();
    let hello = loop {
        if let Ok(Some((hello, _))) = Hello::parse(&bytes, 4096) {
            break hello;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    state.seen.send_modify(|seen| seen.logins += 1);
    busy.wait_for(|busy| !busy).await.unwrap();
    if state.refused.lock().unwrap().contains(&hello.capability) {
        return stream.shutdown().await;
    }
    stream.write_all(&[hello.capability.unwrap_or(0)]).await?;
    loop {
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).await?;
        let header = Header::parse(head).map_err(std::io::Error::other)?;
        let mut body = vec![0; usize::try_from(header.length).unwrap() - HEADER_LEN];
        stream.read_exact(&mut body).await?;
        busy.wait_for(|busy| !busy).await.unwrap();
        // An async message has no answer.
        if head[1] == 1 {
            // A long atom in a response.
            let mut answer = vec![1, 2, 0, 0, 17, 0, 0, 0, 0xf9];
            answer.extend(state.answer.to_le_bytes());
            stream.write_all(&answer).await?;
        }
    }
}
