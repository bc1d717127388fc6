//! Local accounts, by name or number.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};

use super::OsUser;

/// How a local account is looked up by what the file says: its name or its number. None if there is
/// no such account, an error if the account database can't be asked.
pub type Accounts<'a> = dyn Fn(&str) -> io::Result<Option<OsUser>> + Send + Sync + 'a;

/// An account database that is asked more than once. Clones ask the same one.
#[derive(Clone)]
pub struct AccountDatabase(Arc<Accounts<'static>>);

impl AccountDatabase {
    /// The system's.
    pub fn system() -> Self {
        Self::new(system_account)
    }

    /// Another one. Asking it may block.
    pub fn new(
        accounts: impl Fn(&str) -> io::Result<Option<OsUser>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(accounts))
    }

    /// The same database for a caller who must not hang. All questions together wait for `limit` at most,
    /// counted from here. Behind it, and for a question that hangs, the answer is an error. A question that
    /// hangs keeps a thread of its own until the database answers.
    pub fn within(&self, limit: Duration) -> impl Fn(&str) -> io::Result<Option<OsUser>> + use<> {
        let (database, end) = (self.clone(), Instant::now() + limit);
        move |text| {
            let late = || {
                let late = format!("no answer within {} s", limit.as_secs_f32());
                io::Error::new(io::ErrorKind::TimedOut, late)
            };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            let (answer, answers) = mpsc::sync_channel(1);
            let (database, text) = (database.clone(), text.to_owned());
            let ask = move || drop(answer.send(database(&text)));
            thread::Builder::new().name("accounts".into()).spawn(ask)?;
            answers.recv_timeout(left).unwrap_or_else(|_| Err(late()))
        }
    }
}

impl Default for AccountDatabase {
    fn default() -> Self {
        Self::system()
    }
}

impl Deref for AccountDatabase {
    type Target = Accounts<'static>;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for AccountDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountDatabase")
    }
}

/// The account of a user or viewer. Clones share what becomes known of it.
#[derive(Debug, Clone)]
pub struct LocalAccount {
    /// Its name or number, as the file has it.
    text: String,
    found: Arc<OnceLock<OsUser>>,
}

impl LocalAccount {
    /// One that the account database knows.
    pub fn known(text: &str, account: OsUser) -> Self {
        Self {
            text: text.to_owned(),
            found: Arc::new(OnceLock::from(account)),
        }
    }

    /// One that it does not know yet.
    pub(crate) fn unknown(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            found: Arc::default(),
        }
    }

    /// Its name or number, as the file has it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The account, once the account database knows it.
    pub fn found(&self) -> Option<&OsUser> {
        self.found.get()
    }

    /// The account's number, once the account database knows it.
    pub fn uid(&self) -> Option<u32> {
        self.found().map(|account| account.uid)
    }

    /// The account database knows it by now. What was known before stays.
    pub(crate) fn appeared(&self, account: OsUser) {
        let _ = self.found.set(account);
    }
}

/// The same if the file says the same and the database has answered the same. Two that are not known yet are
/// the same only if one answer makes both of them known.
impl PartialEq for LocalAccount {
    fn eq(&self, other: &Self) -> bool {
        let found = match (self.found(), other.found()) {
            (None, None) => Arc::ptr_eq(&self.found, &other.found),
            (found, other) => found == other,
        };
        self.text == other.text && found
    }
}

impl Eq for LocalAccount {}

/// Asks the system's account database. A number needs no entry there: containers often run as one
/// that has none. While the database fails a number is not known either: it may be an account's name.
///
/// # Errors
/// When the account database can't be asked.
pub fn system_account(text: &str) -> io::Result<Option<OsUser>> {
    if let Some(user) = User::from_name(text)? {
        return Ok(Some(known(user)));
    }
    // The largest number is what the kernel calls "no user".
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
    match number {
        Some(uid) if digits => {
            let user = User::from_uid(Uid::from_raw(uid))?;
            Ok(Some(user.map_or_else(
                || OsUser {
                    name: text.to_owned(),
                    uid,
                },
                known,
            )))
        }
        _ => Ok(None),
    }
}

fn known(user: User) -> OsUser {
    OsUser {
        uid: user.uid.as_raw(),
        name: user.name,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[test]
    fn a_database_that_hangs_is_waited_for_once() {
        let (asked, (_hold, hangs)) = (Arc::new(AtomicU32::new(0)), mpsc::channel::<()>());
        let (count, hangs) = (Arc::clone(&asked), Mutex::new(hangs));
        let database = AccountDatabase::new(move |text| {
            count.fetch_add(1, Ordering::SeqCst);
            if text == "hangs" {
                let hangs = hangs.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = hangs.recv();
            }
            Ok(None)
        });
        let patient = database.within(Duration::from_secs(60));
        assert_eq!(patient("nobody").unwrap(), None);
        let hasty = database.within(Duration::from_millis(20));
        for text in ["hangs", "hangs", "nobody"] {
            let error = hasty(text).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let root = OsUser {
            name: "root".into(),
            uid: 0,
        };
        assert_eq!(system_account("root").unwrap(), Some(root.clone()));
        assert_eq!(system_account("0").unwrap(), Some(root));
        let unnamed = system_account("4000000001").unwrap().unwrap();
        assert_eq!(
            (unnamed.name.as_str(), unnamed.uid),
            ("4000000001", 4_000_000_001)
        );
        for none in ["", "no-such-account", "-1", "+5", "4294967295", "a\0b"] {
            assert_eq!(system_account(none).ok().flatten(), None, "{none:?}");
        }
    }
}
