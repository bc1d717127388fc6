//! Permits for connections to the admin address.
//!
//! - At most 32 connections are open at a time, and one account or host has at most half of them.
//! - If all 32 are open, a new connection replaces one of the account or host that has the most. hopend
//!   picks the connection whose last response is the oldest.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Context;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::identity::Origin;
use base::mutex::locked;

/// The most connections at a time.
pub(super) const MAX_CONNECTIONS: usize = 32;

/// The open connections. The one whose last response, or whose beginning, is the oldest comes first.
#[derive(Debug, Default)]
pub(super) struct ConnectionPermits(Mutex<Vec<PermitHolder>>);

/// An open connection.
#[derive(Debug)]
struct PermitHolder {
    origin: Origin,
    /// Ends the connection.
    end: CancellationToken,
}

/// The permit of one connection. Dropping it frees the permit for another connection.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    end: CancellationToken,
    /// Completes when the permit is given to another connection.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl ConnectionPermits {
    /// A permit for a connection of this origin. `None` if the origin has half of all permits.
    pub(super) fn take(self: &Arc<Self>, origin: Origin) -> Option<ConnectionPermit> {
        let mut holders = self.holders();
        let count = |holders: &[PermitHolder], origin: Origin| {
            let same = holders.iter().filter(|holder| holder.origin == origin);
            same.count()
        };
        if count(&holders, origin) >= MAX_CONNECTIONS / 2 {
            return None;
        }
        // Several origins may hold equally many permits. `max_by_key` returns the last of them, which in
        // reverse order is the origin of the oldest holder.
        if holders.len() >= MAX_CONNECTIONS
            && let Some(largest) = holders
                .iter()
                .map(|holder| holder.origin)
                .rev()
                .max_by_key(|origin| count(&holders, *origin))
            && let Some(oldest) = holders.iter().position(|holder| holder.origin == largest)
        {
            holders.remove(oldest).end.cancel();
        }
        let end = CancellationToken::new();
        holders.push(PermitHolder {
            origin,
            end: end.clone(),
        });
        Some(ConnectionPermit {
            permits: Arc::clone(self),
            ended: Box::pin(end.clone().cancelled_owned()),
            end,
        })
    }

    fn holders(&self) -> MutexGuard<'_, Vec<PermitHolder>> {
        locked(&self.0)
    }
}

impl ConnectionPermit {
    /// Records a response on this connection, which becomes the last one to be replaced.
    pub(super) fn responded(&self) {
        let mut holders = self.permits.holders();
        if let Some(at) = holders.iter().position(|holder| holder.is(&self.end)) {
            holders[at..].rotate_left(1);
        }
    }

    /// Whether another connection has this permit now.
    pub(super) fn poll_replaced(&mut self, context: &mut Context<'_>) -> bool {
        self.ended.as_mut().poll(context).is_ready()
    }
}

impl PermitHolder {
    fn is(&self, end: &CancellationToken) -> bool {
        self.end == *end
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.permits
            .holders()
            .retain(|holder| !holder.is(&self.end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_all_is_taken_a_newcomer_gets_a_seat_of_whoever_has_the_most() {
        let permits = Arc::new(ConnectionPermits::default());
        let take = |uid| permits.take(Origin::Account(uid));
        let over = |permit: &ConnectionPermit| permit.end.is_cancelled();
        let mut first: Vec<_> = (0..MAX_CONNECTIONS / 2).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        let second: Vec<_> = (0..MAX_CONNECTIONS / 2 - 1)
            .map(|_| take(2).unwrap())
            .collect();
        let third = take(3).unwrap();
        first[0].responded();
        let fourth = take(4).unwrap();
        // The first connection has had a response meanwhile, so that the second one is the oldest.
        assert!(over(&first[1]) && !over(&first[0]));
        drop(first.remove(1));
        // Repeated connections of the two large accounts replace only their own.
        for _ in 0..MAX_CONNECTIONS {
            let another = take(2).or_else(|| take(1));
            assert!(another.is_some() && !over(&third) && !over(&fourth));
        }
        assert_eq!(
            first
                .iter()
                .chain(&second)
                .filter(|permit| over(permit))
                .count(),
            1
        );
        assert!(permits.holders().len() <= MAX_CONNECTIONS);
    }

    #[tokio::test]
    async fn of_those_who_have_equally_many_the_one_that_has_waited_for_longest_goes() {
        let permits = Arc::new(ConnectionPermits::default());
        let count = u32::try_from(MAX_CONNECTIONS).unwrap();
        let all: Vec<_> = (0..count)
            .map(|uid| permits.take(Origin::Account(uid)).unwrap())
            .collect();
        let newcomers = [100, 101].map(|uid| permits.take(Origin::Account(uid)).unwrap());
        let over: Vec<bool> = all
            .iter()
            .chain(&newcomers)
            .map(|permit| permit.end.is_cancelled())
            .collect();
        assert!(
            over[..2].iter().all(|over| *over) && !over[2..].contains(&true),
            "{over:?}"
        );
    }
}
