//! Detects connections that lead back to an endpoint that their session already came through.
//!
//! By mistake, two endpoints of one process may each have the other as the address of kdb+. hopend
//! registers the two addresses of every connection that it dials for a session. An endpoint looks the
//! addresses of each accepted connection up in this register.

use base::mutex::locked;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use tokio::net::TcpStream;

use crate::config::Endpoint;
use crate::primitives::kernel_sockets::FourTuple;

/// The open connections that any daemon of this process has dialled for a session.
static DIALLED: LazyLock<Mutex<HashMap<FourTuple, Arc<DialledConnection>>>> =
    LazyLock::new(Mutex::default);

/// The trail of a session: its endpoint, and before that the endpoints through which hopend dialled
/// itself. Without such a dial, the trail has one endpoint.
#[derive(Debug)]
pub struct DialledEndpoints {
    endpoint: Arc<Endpoint>,
    before: Option<Arc<DialledEndpoints>>,
}

/// A connection that this process has dialled.
#[derive(Debug)]
struct DialledConnection {
    trail: Arc<DialledEndpoints>,
    /// Whether an endpoint of the trail has accepted this connection and refused its client.
    leads_back: AtomicBool,
}

/// Registers a connection that was dialled for a session. Dropping the guard removes it.
#[derive(Debug)]
pub(super) struct LoopGuard {
    four_tuple: FourTuple,
    connection: Arc<DialledConnection>,
}

/// The error of a client whose connection leads back to an endpoint that it came through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the endpoint leads back to itself ({way}). Fix: in `connect` or the login, write the address of \
     kdb+ itself."
)]
pub struct EndpointLoop {
    /// The names of the endpoints on the way, such as `hdb -> rdb -> hdb`.
    pub way: String,
}

impl DialledEndpoints {
    /// The trail of a session at `endpoint`. `client` is the client's connection, if it is a TCP
    /// connection.
    ///
    /// # Errors
    /// The session came through `endpoint` before. `LoopGuard::leads_back` then returns true for the
    /// dialler.
    pub fn of(
        endpoint: &Arc<Endpoint>,
        client: Option<&TcpStream>,
    ) -> Result<Arc<Self>, EndpointLoop> {
        let dialled = client.and_then(dialled);
        if let Some(dialled) = &dialled
            && dialled.trail.comes_through(endpoint)
        {
            dialled.leads_back.store(true, Ordering::Release);
            return Err(EndpointLoop {
                way: format!("{} -> {}", dialled.trail, endpoint.name),
            });
        }
        Ok(Arc::new(Self {
            endpoint: Arc::clone(endpoint),
            before: dialled.map(|dialled| Arc::clone(&dialled.trail)),
        }))
    }

    /// The trail of a connection that `endpoint` dials for no session, such as a warm connection.
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

/// The names of the endpoints, in the order in which the session came through them.
impl fmt::Display for DialledEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = &self.before {
            write!(f, "{before} -> ")?;
        }
        f.write_str(&self.endpoint.name)
    }
}

impl LoopGuard {
    /// Registers a connection. Call this before you send anything over the connection. Returns `None`
    /// if the connection is broken already.
    pub(super) fn new(tcp: &TcpStream, trail: &Arc<DialledEndpoints>) -> Option<Box<Self>> {
        let four_tuple = FourTuple::new(tcp.local_addr().ok()?, tcp.peer_addr().ok()?);
        let connection = Arc::new(DialledConnection {
            trail: Arc::clone(trail),
            leads_back: AtomicBool::new(false),
        });
        registered().insert(four_tuple, Arc::clone(&connection));
        Some(Box::new(Self {
            four_tuple,
            connection,
        }))
    }

    /// Whether an endpoint of the trail has refused the connection, because it leads back to that
    /// endpoint.
    pub(super) fn leads_back(&self) -> bool {
        self.connection.leads_back.load(Ordering::Acquire)
    }
}

impl Drop for LoopGuard {
    fn drop(&mut self) {
        // Another connection may have the same addresses by now.
        if let Entry::Occupied(known) = registered().entry(self.four_tuple)
            && Arc::ptr_eq(known.get(), &self.connection)
        {
            known.remove();
        }
    }
}

/// Finds the registered connection whose accepted end is `client`. Returns `None` if this process has
/// not dialled that connection.
fn dialled(client: &TcpStream) -> Option<Arc<DialledConnection>> {
    let four_tuple = FourTuple::new(client.peer_addr().ok()?, client.local_addr().ok()?);
    registered().get(&four_tuple).cloned()
}

fn registered() -> MutexGuard<'static, HashMap<FourTuple, Arc<DialledConnection>>> {
    locked(&DIALLED)
}
