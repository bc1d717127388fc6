//! The connections that hopend itself has dialled, so that an endpoint recognises one that leads back
//! to it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;

use crate::config::Endpoint;

/// Every connection that any daemon of this process has dialled and not closed.
static DIALLED: LazyLock<Mutex<HashMap<TcpPair, Arc<Dialled>>>> = LazyLock::new(Mutex::default);

/// Both addresses of a TCP connection, as the side that dialled it sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TcpPair {
    from: SocketAddr,
    to: SocketAddr,
}

/// The endpoints that a session has come through: one, unless hopend dialled itself.
#[derive(Debug)]
pub struct Trail {
    endpoint: Arc<Endpoint>,
    before: Option<Arc<Trail>>,
}

/// What an endpoint knows of a connection that another endpoint of this process has dialled.
#[derive(Debug)]
struct Dialled {
    trail: Arc<Trail>,
    leads_back: AtomicBool,
}

/// A connection that was dialled for a session. It is no longer known once this is dropped.
#[derive(Debug)]
pub(super) struct OwnConnection {
    pair: TcpPair,
    dialled: Arc<Dialled>,
}

/// A connection leads back to an endpoint that it has come through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the endpoint leads back to itself ({way}). Fix: in `connect` or the login, write the address of \
     kdb+ itself."
)]
pub struct Loop {
    /// The names of the endpoints on the way, the first one at both ends.
    pub way: String,
}

impl TcpPair {
    fn between(from: SocketAddr, to: SocketAddr) -> Self {
        let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port()).into();
        Self {
            from: plain(from),
            to: plain(to),
        }
    }
}

impl Trail {
    /// Of a session at `endpoint`, with `client` as its connection over TCP.
    ///
    /// # Errors
    /// It has come through that endpoint before. Whoever dialled the connection is told.
    pub fn of(endpoint: &Arc<Endpoint>, client: Option<&TcpStream>) -> Result<Arc<Self>, Loop> {
        let dialled = client.and_then(dialled);
        if let Some(dialled) = &dialled
            && dialled.trail.comes_through(endpoint)
        {
            dialled.leads_back.store(true, Ordering::Release);
            return Err(Loop {
                way: format!("{} -> {}", dialled.trail, endpoint.name),
            });
        }
        Ok(Arc::new(Self {
            endpoint: Arc::clone(endpoint),
            before: dialled.map(|dialled| Arc::clone(&dialled.trail)),
        }))
    }

    /// Of connections that `endpoint` makes for no session.
    pub fn of_none(endpoint: &Arc<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            endpoint: Arc::clone(endpoint),
            before: None,
        })
    }

    fn comes_through(&self, endpoint: &Arc<Endpoint>) -> bool {
        let own = Arc::ptr_eq(&self.endpoint, endpoint);
        own || self
            .before
            .as_ref()
            .is_some_and(|before| before.comes_through(endpoint))
    }
}

/// The names, in the order in which the session came.
impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = &self.before {
            write!(f, "{before} -> ")?;
        }
        f.write_str(&self.endpoint.name)
    }
}

impl OwnConnection {
    /// Makes a connection known, before anything is sent over it. None if it is broken already.
    pub(super) fn of(tcp: &TcpStream, trail: &Arc<Trail>) -> Option<Box<Self>> {
        let pair = TcpPair::between(tcp.local_addr().ok()?, tcp.peer_addr().ok()?);
        let dialled = Arc::new(Dialled {
            trail: Arc::clone(trail),
            leads_back: AtomicBool::new(false),
        });
        all().insert(pair, Arc::clone(&dialled));
        Some(Box::new(Self { pair, dialled }))
    }

    /// Whether an endpoint of this process has refused it, as it leads back there.
    pub(super) fn leads_back(&self) -> bool {
        self.dialled.leads_back.load(Ordering::Acquire)
    }
}

impl Drop for OwnConnection {
    fn drop(&mut self) {
        // The same addresses may be another connection's by now.
        if let Entry::Occupied(known) = all().entry(self.pair)
            && Arc::ptr_eq(known.get(), &self.dialled)
        {
            known.remove();
        }
    }
}

/// What is known of a client's connection, if this process has dialled it.
fn dialled(client: &TcpStream) -> Option<Arc<Dialled>> {
    let pair = TcpPair::between(client.peer_addr().ok()?, client.local_addr().ok()?);
    all().get(&pair).cloned()
}

fn all() -> MutexGuard<'static, HashMap<TcpPair, Arc<Dialled>>> {
    DIALLED.lock().unwrap_or_else(PoisonError::into_inner)
}
