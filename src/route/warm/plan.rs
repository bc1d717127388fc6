//! Which connections a warm pool closes, and which one it opens next. Pure.

use std::collections::VecDeque;

/// The capabilities of a user's latest sessions: one for each connection that the pool should hold. A
/// connection only fits clients that announce the same capability, because hopend passes the capability
/// on to kdb+ unchanged. So the pool prepares for clients like the latest ones.
#[derive(Debug)]
pub(super) struct WantedCapabilities(VecDeque<Option<u8>>);

/// A connection of the pool, as far as the plan depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PooledConnection {
    /// The capability that hopend announced at the login.
    pub(super) capability: Option<u8>,
    pub(super) usability: Usability,
}

/// Whether sessions may take a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usability {
    /// As good as a connection that is opened now.
    Fresh,
    /// A session may take it, until a fresh one replaces it.
    Stale,
    /// No session may take it any more.
    Unusable,
}

/// The changes that a pool needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PoolPlan {
    /// The indices of the connections to close, in ascending order.
    pub(super) close: Vec<usize>,
    pub(super) open: NextOpening,
}

/// Whether a pool needs another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextOpening {
    /// The pool needs no connection.
    Nothing,
    /// The pool needs a connection that announces this capability.
    Announcing(Option<u8>),
}

impl WantedCapabilities {
    /// For `count` connections that suit the first client.
    pub(super) fn new(count: usize, capability: Option<u8>) -> Self {
        Self(std::iter::repeat_n(capability, count).collect())
    }

    /// Adds the capability of the latest session, and forgets the oldest one.
    pub(super) fn session_opened(&mut self, capability: Option<u8>) {
        self.0.pop_front();
        self.0.push_back(capability);
    }

    /// How many connections the pool should hold.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn count_of(&self, capability: Option<u8>) -> usize {
        self.0.iter().filter(|&&other| other == capability).count()
    }

    /// Plans for these connections, the oldest first. A stale connection stays until a fresh one replaces
    /// it, so that a session always finds one.
    pub(super) fn plan(&self, connections: &[PooledConnection]) -> PoolPlan {
        let with = |usability| {
            let all = connections.iter().enumerate();
            all.filter(move |(_, one)| one.usability == usability)
        };
        let fresh = |capability| {
            let same = with(Usability::Fresh).filter(|(_, one)| one.capability == capability);
            same.map(|(index, _)| index).collect::<Vec<_>>()
        };
        // The capabilities of the latest sessions take precedence.
        let mut latest = self.0.iter().rev().copied();
        let missing =
            latest.find(|&capability| fresh(capability).len() < self.count_of(capability));
        let open = missing.map_or(NextOpening::Nothing, NextOpening::Announcing);

        let surplus = with(Usability::Fresh).filter(|(index, one)| {
            let rank = fresh(one.capability)
                .iter()
                .position(|other| other == index);
            rank.is_some_and(|rank| rank >= self.count_of(one.capability))
        });
        let spare = with(Usability::Stale).chain(surplus);
        let usable = connections.len() - with(Usability::Unusable).count();
        let excess = match open {
            NextOpening::Announcing(_) => usable.saturating_sub(self.count()),
            NextOpening::Nothing => usable,
        };
        let closed = with(Usability::Unusable).chain(spare.take(excess));
        let mut close: Vec<_> = closed.map(|(index, _)| index).collect();
        close.sort_unstable();
        PoolPlan { close, open }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::NextOpening::{Announcing, Nothing};
    use super::Usability::{Fresh, Stale, Unusable};
    use super::*;

    const SIX: Option<u8> = Some(6);
    const THREE: Option<u8> = Some(3);

    fn plan(
        wanted: &WantedCapabilities,
        pool: &[(Option<u8>, Usability)],
    ) -> (Vec<usize>, NextOpening) {
        let pool: Vec<_> = pool.iter().copied().map(pooled).collect();
        let PoolPlan { close, open } = wanted.plan(&pool);
        (close, open)
    }

    fn pooled((capability, usability): (Option<u8>, Usability)) -> PooledConnection {
        PooledConnection {
            capability,
            usability,
        }
    }

    #[test]
    fn a_pool_is_filled_and_left_alone_when_it_is_full() {
        let wanted = WantedCapabilities::new(2, SIX);
        assert_eq!(plan(&wanted, &[]), (vec![], Announcing(SIX)));
        assert_eq!(plan(&wanted, &[(SIX, Fresh)]), (vec![], Announcing(SIX)));
        assert_eq!(plan(&wanted, &[(SIX, Fresh); 2]), (vec![], Nothing));
    }

    #[test]
    fn a_stale_connection_stays_until_a_fresh_one_replaces_it() {
        let wanted = WantedCapabilities::new(2, SIX);
        let old = (SIX, Stale);
        assert_eq!(plan(&wanted, &[old, old]), (vec![], Announcing(SIX)));
        assert_eq!(
            plan(&wanted, &[old, old, (SIX, Fresh)]),
            (vec![0], Announcing(SIX))
        );
        let two = [old, (SIX, Fresh), (SIX, Fresh)];
        assert_eq!(plan(&wanted, &two), (vec![0], Nothing));
        assert_eq!(
            plan(&wanted, &[(SIX, Unusable), old]),
            (vec![0], Announcing(SIX))
        );
    }

    #[test]
    fn capabilities_share_a_pool_as_clients_came() {
        let mut wanted = WantedCapabilities::new(3, SIX);
        wanted.session_opened(THREE);
        let full = [(SIX, Fresh); 3];
        assert_eq!(plan(&wanted, &full), (vec![], Announcing(THREE)));
        let and_three = [full.as_slice(), &[(THREE, Fresh)]].concat();
        assert_eq!(plan(&wanted, &and_three), (vec![2], Nothing));
        for _ in 0..2 {
            wanted.session_opened(None);
        }
        assert_eq!(plan(&wanted, &and_three), (vec![0], Announcing(None)));
    }

    proptest! {
        /// Whatever a pool holds, it follows its plans to the wanted number, and then no plan changes it.
        #[test]
        fn plans_come_to_rest(
            came in proptest::collection::vec(0_u8..3, 1..12),
            held in proptest::collection::vec((0_u8..3, 0_u8..3), 0..12),
        ) {
            let mut wanted = WantedCapabilities::new(4, None);
            for capability in came {
                wanted.session_opened(Some(capability));
            }
            let usability = |number: u8| [Fresh, Stale, Unusable][usize::from(number)];
            let held = held.iter().map(|&(c, u)| pooled((Some(c), usability(u))));
            let mut pool: Vec<_> = held.collect();
            for _ in 0..12 {
                let plan = wanted.plan(&pool);
                for &at in plan.close.iter().rev() {
                    pool.remove(at);
                }
                if let Announcing(capability) = plan.open {
                    pool.push(pooled((capability, Fresh)));
                }
            }
            let nothing = PoolPlan { close: Vec::new(), open: Nothing };
            prop_assert_eq!(wanted.plan(&pool), nothing);
            prop_assert_eq!(pool.len(), 4);
        }
    }
}
