//! The memory budget: how many bytes the buffers of sessions and handshakes may hold.
//!
//! Each session and each handshake has an account. The budget charges the account's guarantee from its
//! start to its end, so that a session always makes progress. It also charges the bytes that its buffers
//! hold beyond the guarantee, while they hold them.
//!
//! The share of one user depends on the free part of the budget, so that a part is always left for other
//! users:
//!
//! - A user gets a large buffer if, after it, twice the user's bytes are still free. One user alone gets a
//!   third of the budget, two users get a quarter each, and so on.
//! - A user opens a session if, after it, a third of the user's bytes are still free. One user alone gets
//!   three quarters of the budget.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The guarantee of a session for the buffers of its two directions, in bytes.
pub const DIRECTIONS: usize = 2 * LEAN_DIRECTION;
/// The further guarantee for a connection with TLS, in bytes. It covers a partly received record, a
/// decrypted one, one that rustls keeps, and one that waits to be sent.
pub const TLS: usize = 64 * 1024;
/// Length of the smallest buffer of a direction, in bytes.
pub const LEAN_DIRECTION: usize = 8 * 1024;
/// Length of the smallest buffer for received TLS records, in bytes. The longest record has 18,437 bytes.
pub const LEAN_INCOMING: usize = 20 * 1024;
/// Length of the smallest buffer for TLS records to send, in bytes.
pub const LEAN_OUTGOING: usize = 8 * 1024;

/// Handshakes together may hold this fraction of the budget: a quarter.
const HANDSHAKES: usize = 4;
/// Only sessions may use this fraction of the budget: a sixteenth. So handshakes are refused before
/// sessions.
const KEPT_FOR_SESSIONS: usize = 16;
/// With one configured user, large buffers leave this fraction of the budget for further sessions: a
/// quarter.
const KEPT_FOR_GUARANTEES: usize = 4;
/// From this many users on, users without a session are removed from the table.
const KEPT_USERS: usize = 1_024;

/// The memory budget of the daemon. All clones share the same budget.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    /// Size of the budget. All amounts here are in bytes.
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Whether more than one user is configured, so that a user's share has a limit.
    several_users: AtomicBool,
    handshakes: Arc<Holder>,
    /// Held by the first handshake that waits for memory. The others wait for it, in order.
    handshake_turn: tokio::sync::Mutex<()>,
    /// Wakes the waiting handshake after another one has ended.
    handshake_ended: Notify,
    users: Mutex<HashMap<String, Arc<Holder>>>,
}

/// The bytes that are charged to one user, or to all handshakes together.
#[derive(Debug, Default)]
struct Holder {
    used: AtomicUsize,
}

/// The reason why a handshake gets no account now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoHandshake {
    /// Other handshakes use the whole fraction for handshakes. A later attempt can succeed.
    Crowded,
    /// The budget is used up, apart from the fraction for sessions.
    Refused(OverBudget),
}

/// The usage of the budget when a session or handshake was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverBudget {
    /// Bytes that are charged to the user, or to all handshakes.
    pub held: usize,
    /// Bytes that are charged to everybody.
    pub used: usize,
    /// Size of the budget, in bytes.
    pub limit: usize,
}

/// The account of one session or one handshake. Dropping it returns its bytes to the budget.
///
/// Only the task that runs the session changes it.
#[derive(Debug)]
pub struct MemoryAccount {
    ledger: Arc<Ledger>,
    holder: Arc<Holder>,
    purpose: HeldFor,
    guarantee: usize,
    held: AtomicUsize,
    charged: AtomicUsize,
}

/// The purpose of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldFor {
    /// A client that has not logged in. It never holds more than its guarantee.
    Handshake,
    /// A user's session.
    Session,
}

impl Default for MemoryBudget {
    /// A budget without a limit.
    fn default() -> Self {
        Self::of(usize::MAX)
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
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

    /// Changes the size of the budget. Nothing is taken from sessions: if they hold more than the new
    /// size, the usage falls as they return bytes.
    pub fn resize(&self, limit: usize, several_users: bool) {
        self.0.limit.store(limit, Ordering::Relaxed);
        self.0.several_users.store(several_users, Ordering::Relaxed);
        self.0.handshake_ended.notify_waiters();
    }

    /// Size of the budget, in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Bytes that are now charged to sessions and handshakes.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes that are now charged to handshakes.
    pub fn used_by_handshakes(&self) -> usize {
        self.0.handshakes.used.load(Ordering::Relaxed)
    }

    /// Bytes that are now charged to the sessions of `user`.
    pub fn used_by(&self, user: &str) -> usize {
        let users = self.0.users();
        users
            .get(user)
            .map_or(0, |holder| holder.used.load(Ordering::Relaxed))
    }

    /// Opens the account of a client that has not logged in. It may hold `guarantee` bytes. Waits while
    /// other handshakes use the whole fraction for handshakes.
    ///
    /// # Errors
    /// The budget is used up, apart from the fraction for sessions.
    pub async fn handshake(&self, guarantee: usize) -> Result<MemoryAccount, OverBudget> {
        if let Some(over) = self.shortage(guarantee) {
            return Err(over);
        }
        // First come, first served: a small handshake does not overtake a larger one.
        let _turn = self.0.handshake_turn.lock().await;
        loop {
            // Registered before the attempt, so that no wake-up is missed.
            let given_back = self.0.handshake_ended.notified();
            match self.try_handshake(guarantee) {
                Ok(account) => return Ok(account),
                Err(NoHandshake::Refused(over)) => return Err(over),
                Err(NoHandshake::Crowded) => given_back.await,
            }
        }
    }

    /// Opens the same account without waiting.
    ///
    /// # Errors
    /// The budget has no room for it now.
    pub fn try_handshake(&self, guarantee: usize) -> Result<MemoryAccount, NoHandshake> {
        if let Some(over) = self.shortage(guarantee) {
            return Err(NoHandshake::Refused(over));
        }
        // A guarantee above the whole fraction is granted if no other handshake is running.
        let room = self.limit_of_handshakes();
        let fits = |held: usize| held == 0 || held + guarantee <= room;
        let charge = |held| fits(held).then_some(held + guarantee);
        let held = &self.0.handshakes.used;
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge)
            .map_err(|_| NoHandshake::Crowded)?;
        self.0.used.fetch_add(guarantee, Ordering::Relaxed);
        let holder = Arc::clone(&self.0.handshakes);
        Ok(self.account(holder, HeldFor::Handshake, guarantee))
    }

    /// The usage, if a handshake with this guarantee would use the fraction for sessions.
    fn shortage(&self, guarantee: usize) -> Option<OverBudget> {
        let over = self.handshakes();
        let kept = over.limit / KEPT_FOR_SESSIONS;
        (over.used + guarantee > over.limit - kept).then_some(over)
    }

    /// The current usage, as a refused handshake would report it.
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

    /// Opens the account of a session of `user`. The session may always hold `guarantee` bytes.
    ///
    /// # Errors
    /// The budget is used up, or the session would leave too little for other users.
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
        let account = self.account(holder, HeldFor::Session, guarantee);
        if account.is_affordable() {
            Ok(account)
        } else {
            Err(account.refused())
        }
    }

    /// An account whose guarantee has already been charged.
    fn account(&self, holder: Arc<Holder>, purpose: HeldFor, guarantee: usize) -> MemoryAccount {
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
    /// Whether the account may get a large buffer of `bytes` where a small one would do.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.purpose == HeldFor::Session && self.leaves_enough(bytes)
    }

    /// Whether the account may hold `bytes` more for work that can't be done in less. A session always
    /// may: such work is rare and bounded, because only the TLS of kdb+ or of the client causes it.
    pub fn allows(&self, bytes: usize) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        self.purpose == HeldFor::Session || held + bytes <= self.guarantee
    }

    /// Whether its buffers are wiped after use, because they hold a login.
    pub fn keeps_secrets(&self) -> bool {
        self.purpose == HeldFor::Handshake
    }

    /// Records that the buffers hold `bytes` more. [`Self::settle`] charges them.
    pub fn hold(&self, bytes: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.held.store(held + bytes, Ordering::Relaxed);
    }

    /// Records that the buffers hold `bytes` less.
    pub fn release(&self, bytes: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.held
            .store(held.saturating_sub(bytes), Ordering::Relaxed);
    }

    /// Charges the bytes that the buffers hold now.
    ///
    /// The session's task calls it each time it stops running. In between the budget may be exceeded, but
    /// only by the tasks that run at that moment, one a thread. This saves atomic operations for each message.
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

    /// Whether a large buffer of `bytes` leaves enough for other users, and for further sessions.
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

    /// Whether this session, whose guarantee is already charged, leaves enough for other users.
    fn is_affordable(&self) -> bool {
        let kept = if self.ledger.several_users.load(Ordering::Relaxed) {
            self.holder.used.load(Ordering::Relaxed) / 3
        } else {
            0
        };
        let used = self.ledger.used.load(Ordering::Relaxed);
        used.saturating_add(kept) <= self.ledger.limit.load(Ordering::Relaxed)
    }

    /// The usage without this session, which is refused.
    fn refused(&self) -> OverBudget {
        let without_it = |used: &AtomicUsize| used.load(Ordering::Relaxed) - self.guarantee;
        OverBudget {
            held: without_it(&self.holder.used),
            used: without_it(&self.ledger.used),
            limit: self.ledger.limit.load(Ordering::Relaxed),
        }
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

    /// Has the account hold as much as it may, in pieces.
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
        // The first user can still open sessions of the smallest size, and leaves room for other users.
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
        // The next handshake waits until one of them ends.
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
