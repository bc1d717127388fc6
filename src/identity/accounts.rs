//! Names of local accounts, for messages and audit lines only. No decision depends on them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Uid, User};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::primitives::shared_answers::SharedAnswers;

/// The longest that a session waits for a name. The account database may be a directory server.
const PATIENCE: Duration = Duration::from_millis(500);
/// The most lookups at the same time. Each lookup has a thread, so an account database that hangs holds
/// this many threads.
const LOOKUPS: usize = 8;
/// How long the daemon keeps the answer that an account has no name. Then it asks again, because an
/// administrator may add the account.
const NAMELESS_FOR: Duration = Duration::from_secs(60);

/// The name of an account, or why it is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountName {
    /// The name in the account database.
    Known(Arc<str>),
    /// The daemon has no name to show.
    Unknown(Nameless),
}

/// Why an account's name is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nameless {
    /// The database has no account of that number.
    NoSuchAccount,
    /// The database did not answer within half a second.
    DatabaseSlow,
    /// The database answered with an error.
    DatabaseFailed(Errno),
}

impl AccountName {
    /// The name, if it is known.
    pub fn known(&self) -> Option<&Arc<str>> {
        match self {
            Self::Known(name) => Some(name),
            Self::Unknown(_) => None,
        }
    }

    /// Why the name is not known. `None` if the name is known.
    pub fn unknown(&self) -> Option<Nameless> {
        match self {
            Self::Known(_) => None,
            Self::Unknown(why) => Some(*why),
        }
    }
}

impl fmt::Display for Nameless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchAccount => f.write_str("no such account"),
            Self::DatabaseSlow => write!(
                f,
                "the account database did not answer within {} s",
                PATIENCE.as_secs_f32()
            ),
            Self::DatabaseFailed(error) => write!(f, "the account database failed: {error}"),
        }
    }
}

/// Asks the account database for the name of a uid. Blocks.
type NameLookup = dyn Fn(u32) -> nix::Result<Option<String>> + Send + Sync;

/// The names of accounts, by uid. The daemon keeps a name as long as it runs, and the answer that an
/// account has no name for [`NAMELESS_FOR`]. The daemon does not keep failures.
pub(super) struct AccountNames {
    answers: SharedAnswers<u32, NameAnswer>,
    turns: Arc<Semaphore>,
    lookup: Arc<NameLookup>,
}

/// An answer of the account database.
#[derive(Clone)]
struct NameAnswer {
    name: AccountName,
    answered: Instant,
}

impl NameAnswer {
    fn is_good(&self) -> bool {
        self.is_good_at(Instant::now())
    }

    fn is_good_at(&self, now: Instant) -> bool {
        match self.name {
            AccountName::Known(_) => true,
            AccountName::Unknown(Nameless::NoSuchAccount) => {
                now.saturating_duration_since(self.answered) < NAMELESS_FOR
            }
            AccountName::Unknown(_) => false,
        }
    }
}

impl Default for AccountNames {
    /// Asks this host's account database.
    fn default() -> Self {
        Self::new(|uid| Ok(User::from_uid(Uid::from_raw(uid))?.map(|user| user.name)))
    }
}

impl AccountNames {
    fn new(lookup: impl Fn(u32) -> nix::Result<Option<String>> + Send + Sync + 'static) -> Self {
        Self {
            answers: SharedAnswers::new(NameAnswer::is_good),
            turns: Arc::new(Semaphore::new(LOOKUPS)),
            lookup: Arc::new(lookup),
        }
    }

    /// The name of the account `uid`. All callers that ask for the same uid share one lookup. Waits
    /// until [`PATIENCE`] after the start of the lookup at most. A lookup that takes longer goes on,
    /// and later callers get its answer.
    pub(super) async fn name(&self, uid: u32) -> AccountName {
        let question = self.answers.ask(uid, |uid| self.look_up(uid));
        match question.within(PATIENCE).await {
            Some(answer) => answer.name,
            None => AccountName::Unknown(Nameless::DatabaseSlow),
        }
    }

    fn look_up(&self, uid: u32) -> impl Future<Output = NameAnswer> + use<> {
        let (turns, lookup) = (Arc::clone(&self.turns), Arc::clone(&self.lookup));
        async move {
            let turn = turns.acquire_owned().await;
            let looked = spawn_blocking(move || {
                let _turn = turn;
                lookup(uid)
            });
            let name = match looked.await {
                Ok(Ok(Some(name))) => AccountName::Known(name.into()),
                Ok(Ok(None)) => AccountName::Unknown(Nameless::NoSuchAccount),
                Ok(Err(error)) => AccountName::Unknown(Nameless::DatabaseFailed(error)),
                // The runtime is shutting down.
                Err(_) => AccountName::Unknown(Nameless::DatabaseSlow),
            };
            NameAnswer {
                name,
                answered: Instant::now(),
            }
        }
    }
}

impl fmt::Debug for AccountNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountNames").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn root_has_a_name_and_an_unused_number_has_none_for_a_while() {
        let accounts = AccountNames::default();
        let none = AccountName::Unknown(Nameless::NoSuchAccount);
        assert_eq!(accounts.name(0).await, AccountName::Known("root".into()));
        assert_eq!(accounts.name(3_999_999_999).await, none);
        let now = Instant::now();
        let later = now + NAMELESS_FOR;
        let is_good = |uid, now| accounts.answers.answered(&uid).unwrap().is_good_at(now);
        assert!(is_good(0, now) && is_good(0, later));
        assert!(is_good(3_999_999_999, now) && !is_good(3_999_999_999, later));
    }

    /// A database whose lookups wait for the test.
    #[derive(Default)]
    struct SlowDatabase {
        asked: Mutex<HashMap<u32, usize>>,
        may_answer: Mutex<bool>,
        changed: Condvar,
    }

    impl SlowDatabase {
        fn accounts(self: &Arc<Self>) -> AccountNames {
            let database = Arc::clone(self);
            AccountNames::new(move |uid| {
                *database.asked.lock().unwrap().entry(uid).or_default() += 1;
                let waits = database.may_answer.lock().unwrap();
                drop(database.changed.wait_while(waits, |may| !*may).unwrap());
                Ok(Some(format!("account{uid}")))
            })
        }

        fn answer(&self) {
            *self.may_answer.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }

    /// Lets the lookups end when it is dropped, so that a test that fails leaves no thread behind.
    struct Released<'d>(&'d SlowDatabase);

    impl Drop for Released<'_> {
        fn drop(&mut self) {
            self.0.answer();
        }
    }

    /// Fifty clients of three accounts at once: each gets its name, with one lookup for each account.
    #[tokio::test]
    async fn clients_of_several_accounts_at_once_all_have_their_names() {
        let database = Arc::new(SlowDatabase::default());
        let accounts = database.accounts();
        let clients = (0..50).map(|client| accounts.name(client % 3));
        let answers = async {
            // Waits until a lookup of each account is under way.
            while database.asked.lock().unwrap().len() < 3 {
                tokio::task::yield_now().await;
            }
            database.answer();
        };
        let (names, ()) = tokio::join!(join_all(clients), answers);
        for (client, name) in (0..50).zip(names) {
            let expected = format!("account{}", client % 3);
            assert_eq!(name, AccountName::Known(expected.into()), "client {client}");
        }
        let asked = database.asked.lock().unwrap().clone();
        assert_eq!(asked, HashMap::from([(0, 1), (1, 1), (2, 1)]));
    }

    /// Callers that give up learn why they have no name. Callers that ask after the answer get the name.
    #[tokio::test]
    async fn a_database_that_hangs_holds_a_few_threads_and_no_session() {
        let database = Arc::new(SlowDatabase::default());
        let _released = Released(&database);
        let accounts = database.accounts();
        let clients = (0..100).map(|client| accounts.name(client % 50));
        for name in join_all(clients).await {
            assert_eq!(name, AccountName::Unknown(Nameless::DatabaseSlow));
        }
        let threads: usize = database.asked.lock().unwrap().values().sum();
        assert_eq!(threads, LOOKUPS);
        // A lookup that is late once makes nobody else wait.
        let again = accounts.name(0).now_or_never();
        assert_eq!(again, Some(AccountName::Unknown(Nameless::DatabaseSlow)));
        database.answer();
        while accounts.answers.answered(&49).is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            accounts.name(49).await,
            AccountName::Known("account49".into())
        );
    }

    #[tokio::test]
    async fn an_error_of_the_database_is_told_and_not_remembered() {
        let fails = AtomicUsize::new(1);
        let accounts = AccountNames::new(move |_| match fails.swap(0, Ordering::Relaxed) {
            1 => Err(Errno::EIO),
            _ => Ok(Some("alice".into())),
        });
        let failed = accounts.name(7).await;
        assert_eq!(
            failed,
            AccountName::Unknown(Nameless::DatabaseFailed(Errno::EIO))
        );
        assert_eq!(accounts.name(7).await, AccountName::Known("alice".into()));
    }
}
