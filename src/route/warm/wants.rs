//! What of a shelf of warm connections stays, what goes, and what is made next. Pure.

use std::collections::VecDeque;

/// The capabilities that the last clients announced, as many as connections are kept: what a client
/// says goes to kdb+ unchanged, so a connection is of use to those only who say the same. Those that
/// will come are taken to be like those that came.
#[derive(Debug)]
pub(super) struct Wants(VecDeque<Option<u8>>);

/// What a kept connection is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// As good as one that is made now.
    Fresh,
    /// Good until there is a fresh one in its place.
    Stale,
    /// Nobody may have it any more.
    Over,
}

/// What to do with a shelf.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Which to let go, in ascending order.
    pub(super) drop: Vec<usize>,
    /// For whom to make one.
    pub(super) make: Option<Option<u8>>,
}

impl Wants {
    /// `count` connections, after the first client.
    pub(super) fn new(count: usize, capability: Option<u8>) -> Self {
        Self(std::iter::repeat_n(capability, count).collect())
    }

    /// A client came.
    pub(super) fn came(&mut self, capability: Option<u8>) {
        self.0.pop_front();
        self.0.push_back(capability);
    }

    /// How many are kept.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn of(&self, capability: Option<u8>) -> usize {
        self.0.iter().filter(|&&other| other == capability).count()
    }

    /// What to do with these connections, the oldest first: what is stale goes when a fresh one has
    /// come for it, so that there is always something to hand out.
    pub(super) fn plan(&self, kept: &[(Option<u8>, Worth)]) -> Plan {
        let all = || kept.iter().copied().enumerate();
        let fresh = |capability| {
            let same = all().filter(|(_, kept)| *kept == (capability, Worth::Fresh));
            same.map(|(at, _)| at).collect::<Vec<_>>()
        };
        // The latest client counts most.
        let mut latest = self.0.iter().rev().copied();
        let make = latest.find(|&capability| fresh(capability).len() < self.of(capability));

        let stale = all().filter(|(_, (_, worth))| *worth == Worth::Stale);
        let surplus = all().filter(|&(at, (capability, worth))| {
            let rank = fresh(capability).iter().position(|&other| other == at);
            worth == Worth::Fresh && rank.is_some_and(|rank| rank >= self.of(capability))
        });
        let spare = stale.chain(surplus).map(|(at, _)| at);
        let useful = all()
            .filter(|(_, (_, worth))| *worth != Worth::Over)
            .count();
        let excess = match make {
            Some(_) => useful.saturating_sub(self.count()),
            None => useful,
        };
        let over = all().filter(|(_, (_, worth))| *worth == Worth::Over);
        let mut drop: Vec<_> = over.map(|(at, _)| at).chain(spare.take(excess)).collect();
        drop.sort_unstable();
        Plan { drop, make }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Worth::{Fresh, Over, Stale};
    use super::*;

    const SIX: Option<u8> = Some(6);
    const THREE: Option<u8> = Some(3);

    fn plan(wants: &Wants, kept: &[(Option<u8>, Worth)]) -> (Vec<usize>, Option<Option<u8>>) {
        let Plan { drop, make } = wants.plan(kept);
        (drop, make)
    }

    #[test]
    fn a_shelf_is_filled_and_left_alone_when_it_is_full() {
        let wants = Wants::new(2, SIX);
        assert_eq!(plan(&wants, &[]), (vec![], Some(SIX)));
        assert_eq!(plan(&wants, &[(SIX, Fresh)]), (vec![], Some(SIX)));
        assert_eq!(plan(&wants, &[(SIX, Fresh); 2]), (vec![], None));
    }

    #[test]
    fn what_is_stale_stays_until_there_is_a_fresh_one_for_it() {
        let wants = Wants::new(2, SIX);
        let old = (SIX, Stale);
        assert_eq!(plan(&wants, &[old, old]), (vec![], Some(SIX)));
        assert_eq!(
            plan(&wants, &[old, old, (SIX, Fresh)]),
            (vec![0], Some(SIX))
        );
        let two = [old, (SIX, Fresh), (SIX, Fresh)];
        assert_eq!(plan(&wants, &two), (vec![0], None));
        assert_eq!(plan(&wants, &[(SIX, Over), old]), (vec![0], Some(SIX)));
    }

    #[test]
    fn capabilities_share_a_shelf_as_clients_came() {
        let mut wants = Wants::new(3, SIX);
        wants.came(THREE);
        let full = [(SIX, Fresh); 3];
        assert_eq!(plan(&wants, &full), (vec![], Some(THREE)));
        let and_three = [full.as_slice(), &[(THREE, Fresh)]].concat();
        assert_eq!(plan(&wants, &and_three), (vec![2], None));
        for _ in 0..2 {
            wants.came(None);
        }
        assert_eq!(plan(&wants, &and_three), (vec![0], Some(None)));
    }

    proptest! {
        /// Whatever lies on a shelf, doing as planned comes to rest with as many as wanted.
        #[test]
        fn plans_come_to_rest(
            came in proptest::collection::vec(0_u8..3, 1..12),
            lies in proptest::collection::vec((0_u8..3, 0_u8..3), 0..12),
        ) {
            let mut wants = Wants::new(4, None);
            for capability in came {
                wants.came(Some(capability));
            }
            let worth = |number| [Fresh, Stale, Over][usize::from(number)];
            let mut kept: Vec<_> = lies.iter().map(|&(c, w)| (Some(c), worth(w))).collect();
            for _ in 0..12 {
                let plan = wants.plan(&kept);
                for &at in plan.drop.iter().rev() {
                    kept.remove(at);
                }
                kept.extend(plan.make.map(|capability| (capability, Fresh)));
            }
            prop_assert_eq!(wants.plan(&kept), Plan::default());
            prop_assert_eq!(kept.len(), 4);
        }
    }
}
