//! The memory budget: how many bytes the buffers of sessions and handshakes may hold.
//!
//! Each session and each handshake has an account. An account is charged its guarantee from its
//! start to its end, so that a session always makes progress, and what its buffers hold beyond the
//! guarantee while they hold it.
//!
//! What one user may have depends on what is free, so that something is always left for the next. A
//! user gets large buffers while twice as much as the user holds then stays free: one user alone gets a
//! third of the budget, two get a quarter each, and so on. A user opens sessions while a third of what
//! the user holds then stays free: alone up to three quarters of the budget.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// What a session may always hold for its two directions, in bytes.
pub const DIRECTIONS: usize = 2 * LEAN_DIRECTION;
/// What a connection that speaks TLS may always hold beside that, in bytes: a record that has come
/// in part, one that was decrypted, one that rustls keeps, and one that leaves.
pub const TLS: usize = 64 * 1024;
/// The least buffer of a direction, in bytes.
pub const LEAN_DIRECTION: usize = 8 * 1024;
/// The least buffer for records that arrive, in bytes: the longest record is 18,437 bytes.
pub const LEAN_INCOMING: usize = 20 * 1024;
/// The least buffer for records that leave, in bytes.
pub const LEAN_OUTGOING: usize = 8 * 1024;

/// The part of the budget that handshakes may hold is one in this many.
const HANDSHAKES: usize = 4;
/// The part of the budget that only sessions may hold is one in this many: handshakes are refused
/// before sessions are.
const KEPT_FOR_SESSIONS: usize = 16;
/// Where there is one user only, large buffers leave a part of the budget for further sessions: one in
/// this many.
const KEPT_FOR_GUARANTEES: usize = 4;
/// Users without a session are forgotten from this many users on.
const KEPT_USERS: usize = 1_024;

/// The budget of the daemon. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    /// In bytes, as are all amounts here.
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Whether there is more than one user to keep a share for.
    several_users: AtomicBool,
    handshakes: Arc<Holder>,
    /// Of those that wait for memory, one at a time looks for it.
    handshake_turn: tokio::sync::Mutex<()>,
    /// A handshake has given back its part.
    handshake_ended: Notify,
    users: Mutex<HashMap<String, Arc<Holder>>>,
}

/// One user, or all handshakes together.
#[derive(Debug, Default)]
struct Holder {
    used: AtomicUsize,
}

/// Why a handshake gets no account now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHandshake {
    /// Other handshakes have their whole part of the budget, and give it back.
    Crowded,
    /// The budget is used up.
    Refused(OverBudget),
}

/// Why nothing more is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverBudget {
    /// Bytes that the holder has: the user, or all handshakes.
    pub held: usize,
    /// Bytes that all have.
    pub used: usize,
    /// Bytes of the budget.
    pub limit: usize,
}

/// What is charged for one session or one handshake; given back when it is dropped.
///
/// One task at a time changes what it holds: the one that runs the session.
#[derive(Debug)]
pub struct MemoryAccount {
    ledger: Arc<Ledger>,
    holder: Arc<Holder>,
    purpose: HeldFor,
    guarantee: usize,
    held: AtomicUsize,
    charged: AtomicUsize,
}

/// What an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldFor {
    /// A client that has not said who it is. It never holds more than its guarantee.
    Handshake,
    /// A user's session.
    Session,
}

impl Default for MemoryBudget {
    /// Without a limit.
    fn default() -> Self {
        Self::of(usize::MAX)
    }
}

impl MemoryBudget {
    /// Of so many bytes.
    pub fn of(limit: usize) -> Self {
        Self(Arc::new(Ledger {
            limit: limit.into(),
            used: AtomicUsize::new(0),
            several_users: true.into(),
            handshakes: Arc::default(),
            handshake_turn: tokio::sync::Mutex::default(),
            handshake_ended: Notify::new(),
            users: Mutex::default(),
        }))
    }

    /// Changes the budget. What is held stays held; what is above it shrinks as it is given back.
    pub fn resize(&self, limit: usize, several_users: bool) {
        self.0.limit.store(limit, Ordering::Relaxed);
        self.0.several_users.store(several_users, Ordering::Relaxed);
        self.0.handshake_ended.notify_waiters();
    }

    /// Bytes of the budget.
    pub fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Bytes that are charged to sessions and handshakes now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes that are charged to handshakes now.
    pub fn used_by_handshakes(&self) -> usize {
        self.0.handshakes.used.load(Ordering::Relaxed)
    }

    /// Bytes that are charged to the sessions of `user` now.
    pub fn used_by(&self, user: &str) -> usize {
        let users = self.0.users();
        users
            .get(user)
            .map_or(0, |holder| holder.used.load(Ordering::Relaxed))
    }

    /// The account of a client that has not said who it is, and may hold so many bytes until it has. Waits
    /// while other handshakes have their whole part of the budget.
    ///
    /// # Errors
    /// The budget is used up but for what is kept for sessions.
    pub async fn handshake(&self, guarantee: usize) -> Result<MemoryAccount, OverBudget> {
        if let Some(over) = self.is_short_of(guarantee) {
            return Err(over);
        }
        // First come, first served: a small one does not take what a larger one waits for.
        let _turn = self.0.handshake_turn.lock().await;
        loop {
            // Before the look: what is given back in between is not missed.
            let given_back = self.0.handshake_ended.notified();
            match self.try_handshake(guarantee) {
                Ok(account) => return Ok(account),
                Err(NoHandshake::Refused(over)) => return Err(over),
                Err(NoHandshake::Crowded) => given_back.await,
            }
        }
    }

    /// The same without a wait.
    ///
    /// # Errors
    /// There is no room for it now.
    pub fn try_handshake(&self, guarantee: usize) -> Result<MemoryAccount, NoHandshake> {
        if let Some(over) = self.is_short_of(guarantee) {
            return Err(NoHandshake::Refused(over));
        }
        // One that is larger than the whole part has it alone.
        let room = self.limit_of_handshakes();
        let fits = |held: usize| held == 0 || held + guarantee <= room;
        let charge = |held| fits(held).then_some(held + guarantee);
        let held = &self.0.handshakes.used;
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge)
            .map_err(|_| NoHandshake::Crowded)?;
        self.0.used.fetch_add(guarantee, Ordering::Relaxed);
        let holder = Arc::clone(&self.0.handshakes);
        Ok(self.charged(holder, HeldFor::Handshake, guarantee))
    }

    /// What there is, where a handshake would take what is kept for sessions.
    fn is_short_of(&self, guarantee: usize) -> Option<OverBudget> {
        let over = self.handshakes();
        let kept = over.limit / KEPT_FOR_SESSIONS;
        (over.used + guarantee > over.limit - kept).then_some(over)
    }

    /// What handshakes hold now.
    pub fn handshakes(&self) -> OverBudget {
        OverBudget {
            held: self.used_by_handshakes(),
            used: self.used(),
            limit: self.limit(),
        }
    }

    /// Bytes that all handshakes together may hold.
    pub fn limit_of_handshakes(&self) -> usize {
        self.limit() / HANDSHAKES
    }

    /// The account of a session of `user`, which may always hold `guarantee` bytes.
    ///
    /// # Errors
    /// The budget is used up, or the user has a share of it beyond which there is no room for others.
    pub fn session(&self, user: &str, guarantee: usize) -> Result<MemoryAccount, OverBudget> {
        let holder = {
            let mut users = self.0.users();
            if users.len() > KEPT_USERS {
                users.retain(|_, holder| Arc::strong_count(holder) > 1);
            }
            Arc::clone(users.entry(user.to_owned()).or_default())
        };
        holder.used.fetch_add(guarantee, Ordering::Relaxed);
        self.0.used.fetch_add(guarantee, Ordering::Relaxed);
        let account = self.charged(holder, HeldFor::Session, guarantee);
        let full = !account.is_affordable();
        account.unless(full)
    }

    /// An account whose guarantee has been charged.
    fn charged(&self, holder: Arc<Holder>, purpose: HeldFor, guarantee: usize) -> MemoryAccount {
        MemoryAccount {
            ledger: Arc::clone(&self.0),
            holder,
            purpose,
            guarantee,
            held: AtomicUsize::new(0),
            charged: guarantee.into(),
        }
    }
}

impl Ledger {
    fn users(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Holder>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryAccount {
    /// Whether a buffer of so many bytes, which a smaller one could replace, may be lent.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.purpose == HeldFor::Session && self.leaves_enough(bytes)
    }

    /// Whether what can't be done in less may hold so many bytes more. A session's need is met
    /// always; it is rare and bounded, as nobody but the other side's TLS brings it about.
    pub fn allows(&self, bytes: usize) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        self.purpose == HeldFor::Session || held + bytes <= self.guarantee
    }

    /// Whether what its buffers held is a secret.
    pub fn keeps_secrets(&self) -> bool {
        self.purpose == HeldFor::Handshake
    }

    /// So many bytes more are held.
    pub fn hold(&self, bytes: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.held.store(held + bytes, Ordering::Relaxed);
    }

    /// So many bytes less are held.
    pub fn release(&self, bytes: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.held
            .store(held.saturating_sub(bytes), Ordering::Relaxed);
    }

    /// Charges what is held now. Called when the task that holds it stops running: what is held in
    /// between is bounded by the number of threads, and is not worth an atomic operation a message.
    pub fn settle(&self) {
        let now = self.held.load(Ordering::Relaxed).max(self.guarantee);
        let charged = self.charged.load(Ordering::Relaxed);
        if now == charged {
            return;
        }
        self.charged.store(now, Ordering::Relaxed);
        for used in [&self.holder.used, &self.ledger.used] {
            if now > charged {
                used.fetch_add(now - charged, Ordering::Relaxed);
            } else {
                used.fetch_sub(charged - now, Ordering::Relaxed);
            }
        }
    }

    /// Whether a large buffer of so many bytes leaves enough for others, and for further sessions.
    fn leaves_enough(&self, bytes: usize) -> bool {
        let limit = self.ledger.limit.load(Ordering::Relaxed);
        let kept = if self.ledger.several_users.load(Ordering::Relaxed) {
            2 * (self.holder.used.load(Ordering::Relaxed) + bytes)
        } else {
            limit / KEPT_FOR_GUARANTEES
        };
        let used = self.ledger.used.load(Ordering::Relaxed) + bytes;
        used.saturating_add(kept) <= limit
    }

    /// Whether a session, whose guarantee is charged already, leaves enough for others.
    fn is_affordable(&self) -> bool {
        let kept = if self.ledger.several_users.load(Ordering::Relaxed) {
            self.holder.used.load(Ordering::Relaxed) / 3
        } else {
            0
        };
        let used = self.ledger.used.load(Ordering::Relaxed);
        used.saturating_add(kept) <= self.ledger.limit.load(Ordering::Relaxed)
    }

    fn unless(self, full: bool) -> Result<Self, OverBudget> {
        if !full {
            return Ok(self);
        }
        let [held, used] = [&self.holder.used, &self.ledger.used]
            .map(|used| used.load(Ordering::Relaxed) - self.guarantee);
        Err(OverBudget {
            held,
            used,
            limit: self.ledger.limit.load(Ordering::Relaxed),
        })
    }
}

impl Drop for MemoryAccount {
    fn drop(&mut self) {
        let charged = self.charged.load(Ordering::Relaxed);
        self.holder.used.fetch_sub(charged, Ordering::Relaxed);
        self.ledger.used.fetch_sub(charged, Ordering::Relaxed);
        if self.purpose == HeldFor::Handshake {
            self.ledger.handshake_ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    const KIB: usize = 1024;

    /// Takes as much as it may, in pieces.
    fn take_all(account: &MemoryAccount, piece: usize) {
        while account.has_room_for(piece) {
            account.hold(piece);
            account.settle();
        }
    }

    #[test]
    fn one_user_gets_a_third_and_the_next_a_third_of_what_is_left() {
        let budget = MemoryBudget::of(1_024 * KIB);
        let first = budget.session("a", 16 * KIB).unwrap();
        take_all(&first, 4 * KIB);
        assert_eq!(budget.used_by("a"), 340 * KIB);
        let second = budget.session("b", 16 * KIB).unwrap();
        take_all(&second, 4 * KIB);
        assert_eq!(budget.used_by("b"), 228 * KIB);
        assert!(!first.has_room_for(4 * KIB));
        let third = budget.session("c", 16 * KIB).unwrap();
        assert!(third.has_room_for(4 * KIB));
        // The first user has sessions of the least size still, and leaves room for those of others.
        let mut more = Vec::new();
        let refused = loop {
            match budget.session("a", 16 * KIB) {
                Ok(session) => more.push(session),
                Err(refused) => break refused,
            }
        };
        assert_eq!(more.len(), 15);
        assert!(!more[0].has_room_for(4 * KIB));
        assert_eq!(refused.held, (340 + 15 * 16) * KIB);
        let _last = budget.session("d", 16 * KIB).unwrap();
        drop((first, more));
        assert_eq!(budget.used_by("a"), 0);
        assert_eq!(budget.used(), (228 + 16 + 16) * KIB);
    }

    #[test]
    fn the_only_user_gets_everything() {
        let budget = MemoryBudget::of(1_024 * KIB);
        budget.resize(1_024 * KIB, false);
        let session = budget.session("a", 16 * KIB).unwrap();
        take_all(&session, 4 * KIB);
        assert_eq!(budget.used(), 768 * KIB);
        let mut more = Vec::new();
        while let Ok(session) = budget.session("a", 16 * KIB) {
            more.push(session);
        }
        assert_eq!(budget.used(), 1_024 * KIB);
        drop((session, more));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_session_is_charged_its_guarantee_or_what_it_holds_beyond() {
        let budget = MemoryBudget::of(1_024 * KIB);
        let session = budget.session("a", 16 * KIB).unwrap();
        for (held, charged) in [(10, 16), (10, 20), (100, 120)] {
            session.hold(held * KIB);
            session.settle();
            assert_eq!(budget.used(), charged * KIB);
        }
        session.release(119 * KIB);
        session.settle();
        assert_eq!(budget.used(), 16 * KIB);
    }

    #[test]
    fn handshakes_are_refused_before_sessions_and_never_hold_more_than_their_part() {
        let budget = MemoryBudget::of(1_024 * KIB);
        let at_once = |bytes| budget.try_handshake(bytes);
        let mut handshakes = Vec::new();
        while let Ok(handshake) = at_once(32 * KIB) {
            assert!(!handshake.has_room_for(1), "no more than its guarantee");
            assert!(handshake.allows(32 * KIB) && !handshake.allows(32 * KIB + 1));
            handshakes.push(handshake);
        }
        assert_eq!(handshakes.len(), 8);
        assert_eq!(budget.used_by_handshakes(), 256 * KIB);
        // The next one waits for one of them.
        let mut context = Context::from_waker(Waker::noop());
        let mut next = pin!(budget.handshake(32 * KIB));
        assert!(next.as_mut().poll(&mut context).is_pending());
        handshakes.pop();
        assert!(next.as_mut().poll(&mut context).is_ready());
        handshakes.clear();
        assert_eq!(budget.used_by_handshakes(), 0);
        let refused = at_once(1_000 * KIB).unwrap_err();
        assert!(matches!(refused, NoHandshake::Refused(_)), "{refused:?}");
        at_once(900 * KIB).unwrap();

        budget.resize(1_024 * KIB, false);
        let session = budget.session("a", 16 * KIB).unwrap();
        session.hold(970 * KIB);
        session.settle();
        let refused = at_once(16 * KIB).unwrap_err();
        assert!(matches!(refused, NoHandshake::Refused(_)), "{refused:?}");
        let last = budget.session("a", 16 * KIB).unwrap();
        assert!(budget.session("a", 1_024 * KIB).is_err());
        assert!(last.allows(usize::MAX), "what it can't do without");
    }
}
