//! Limits the connections whose clients have not identified themselves yet, so that no account or host can keep the
//! others out.
//!
//! - The daemon serves at most 4,096 such connections at a time, fewer if it has fewer than 16,384 file descriptors.
//! - One account or host has at most half of them, and of the memory for handshakes. It is refused beyond that.
//! - All other hosts together have at most three quarters, so that a quarter is left for this host. Beyond that, a
//!   connection of another host waits until one of them is identified or ends.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Add;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout, timeout_at};

use super::exceeded::{Exceeded, MemoryUser};
use crate::config::Endpoint;
use crate::identity::{Origin, Peer};
use base::mutex::locked;
use q_relay::budget::{self, MemoryAccount, MemoryBudget};

/// The connections of unidentified clients.
#[derive(Debug)]
pub(super) struct Handshakes {
    shared: Arc<SharedHandshakes>,
    permits: Arc<Semaphore>,
    budget: MemoryBudget,
}

#[derive(Debug)]
struct SharedHandshakes {
    usage: Mutex<HashMap<Origin, HandshakeUsage>>,
    /// Wakes connections of other hosts that wait: a client has been identified, or has gone.
    ended: Notify,
    /// The most connections at a time.
    max_connections: usize,
}

/// Connections of unidentified clients, and the memory that they use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct HandshakeUsage {
    connections: usize,
    /// The most memory that their handshakes may use, in bytes.
    bytes: usize,
}

/// The permit of a connection whose client is not identified yet. Dropping it frees it for another connection.
#[derive(Debug)]
pub struct HandshakePermit {
    _permit: OwnedSemaphorePermit,
    shared: Arc<SharedHandshakes>,
    /// The account or host that the connection is counted for, and its usage. `None` until
    /// [`Self::assign`] succeeds.
    counted: Option<(Origin, HandshakeUsage)>,
    budget: MemoryBudget,
    memory: Option<Arc<MemoryAccount>>,
}

/// Why a connection is not counted for its account or host.
#[derive(Debug)]
pub(super) enum TooManyHandshakes {
    /// The account or host itself has too many.
    OfOrigin(Exceeded),
    /// All hosts other than this one have too many together. The connection can be counted later, when one of theirs
    /// has been identified or has ended.
    OfOtherHosts(Exceeded),
}

impl Handshakes {
    pub(super) fn new(max_connections: usize, budget: MemoryBudget) -> Self {
        Self {
            shared: Arc::new(SharedHandshakes {
                usage: Mutex::default(),
                ended: Notify::new(),
                max_connections,
            }),
            permits: Arc::new(Semaphore::new(max_connections)),
            budget,
        }
    }

    /// Waits for a permit.
    pub(super) async fn permit(&self) -> HandshakePermit {
        let permit = match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        };
        HandshakePermit {
            _permit: permit,
            shared: Arc::clone(&self.shared),
            counted: None,
            budget: self.budget.clone(),
            memory: None,
        }
    }
}

impl HandshakePermit {
    /// Counts the connection for the account or host of its peer. If all other hosts together have too many, a
    /// connection of another host waits, at most for the endpoint's `handshake_timeout`.
    ///
    /// # Errors
    /// The account or host has too many connections, or the wait was in vain.
    pub async fn assign(&mut self, peer: &Peer, endpoint: &Endpoint) -> Result<(), Exceeded> {
        let deadline = Instant::now() + endpoint.handshake_timeout;
        let shared = Arc::clone(&self.shared);
        loop {
            // Created before the attempt, so that no end in between is missed.
            let ended = shared.ended.notified();
            match self.try_assign(peer, endpoint) {
                Ok(()) => return Ok(()),
                Err(TooManyHandshakes::OfOrigin(exceeded)) => return Err(exceeded),
                Err(TooManyHandshakes::OfOtherHosts(exceeded)) => {
                    if timeout_at(deadline.into(), ended).await.is_err() {
                        return Err(exceeded);
                    }
                }
            }
        }
    }

    pub(super) fn try_assign(
        &mut self,
        peer: &Peer,
        endpoint: &Endpoint,
    ) -> Result<(), TooManyHandshakes> {
        let all = HandshakeUsage {
            connections: self.shared.max_connections,
            bytes: self.budget.limit_of_handshakes(),
        };
        let one = HandshakeUsage {
            connections: 1,
            bytes: handshake_bytes(endpoint),
        };
        let origin = Origin::of(peer);
        let mut usage = locked(&self.shared.usage);
        let own = usage.get(&origin).copied().unwrap_or_default();
        if !own.has_room_for(one, all.part(1, 2)) {
            return Err(TooManyHandshakes::OfOrigin(Exceeded::Unidentified {
                peer: peer.to_string(),
                count: own.connections,
            }));
        }
        if is_host(&origin) {
            let hosts = usage.iter().filter(|(origin, _)| is_host(origin));
            let hosts = hosts.fold(HandshakeUsage::default(), |sum, (_, one)| sum + *one);
            if !hosts.has_room_for(one, all.part(3, 4)) {
                return Err(TooManyHandshakes::OfOtherHosts(Exceeded::Unidentified {
                    peer: "other hosts together".into(),
                    count: hosts.connections,
                }));
            }
        }
        usage.insert(origin, own + one);
        self.counted = Some((origin, one));
        Ok(())
    }

    /// Reserves the memory for the connection's handshake. The handshake never gets more than this. While other
    /// handshakes use their whole part of the budget, this waits, at most for the endpoint's `handshake_timeout`.
    ///
    /// # Errors
    /// The budget is used up except for the part that is kept for sessions, or the wait was in vain.
    pub async fn reserve_memory(
        &mut self,
        endpoint: &Endpoint,
    ) -> Result<&Arc<MemoryAccount>, Exceeded> {
        let memory = self.budget.handshake(handshake_bytes(endpoint));
        let memory = match timeout(endpoint.handshake_timeout, memory).await {
            Ok(memory) => memory,
            Err(_) => Err(self.budget.handshakes()),
        };
        let memory = memory.map_err(|over| Exceeded::Memory {
            user: MemoryUser::Handshake,
            over,
        })?;
        Ok(self.memory.insert(Arc::new(memory)))
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let Some((origin, counted)) = self.counted else {
            return;
        };
        let mut usage = locked(&self.shared.usage);
        if let Entry::Occupied(mut of_origin) = usage.entry(origin) {
            let usage = of_origin.get_mut();
            usage.connections -= counted.connections;
            usage.bytes -= counted.bytes;
            if usage.connections == 0 {
                of_origin.remove();
            }
        }
        drop(usage);
        self.shared.ended.notify_waiters();
    }
}

impl HandshakeUsage {
    /// The share `numerator / denominator`.
    fn part(self, numerator: usize, denominator: usize) -> Self {
        Self {
            connections: self.connections * numerator / denominator,
            bytes: self.bytes * numerator / denominator,
        }
    }

    /// Whether `more` can be added within `max`. The first connection always can, however large its handshake is.
    fn has_room_for(self, more: Self, max: Self) -> bool {
        let sum = self + more;
        self.connections == 0 || sum.connections <= max.connections && sum.bytes <= max.bytes
    }
}

impl Add for HandshakeUsage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Whether the connections come from another host, and not from an account of this one.
fn is_host(origin: &Origin) -> bool {
    matches!(origin, Origin::Address(_))
}

/// The memory that a handshake at `endpoint` may use, in bytes.
fn handshake_bytes(endpoint: &Endpoint) -> usize {
    let tls = endpoint.tls.as_ref().map_or(0, |_| budget::TLS);
    endpoint.max_handshake + tls
}
