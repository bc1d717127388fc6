//! Looks up accounts of this host by name or number.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};

use super::local_account::OsUser;

/// A function that looks up an account by its name or its number, as the configuration has it.
///
/// It returns `None` if no such account exists, and an error if the account database does not answer.
pub type AccountResolver<'a> = dyn Fn(&str) -> io::Result<Option<OsUser>> + Send + Sync + 'a;

/// An account database that the daemon queries for as long as it runs. A clone queries the same database.
#[derive(Clone)]
pub struct AccountDatabase(Arc<AccountResolver<'static>>);

impl AccountDatabase {
    /// The account database of the system.
    pub fn system() -> Self {
        Self::new(system_account)
    }

    /// A database that `resolver` queries. The resolver may block.
    pub fn new(
        resolver: impl Fn(&str) -> io::Result<Option<OsUser>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(resolver))
    }

    /// Returns a resolver for a caller that must not block for long.
    ///
    /// The time `limit` starts now, and all queries share it. A query that has no answer by then, and each
    /// later query, returns [`io::ErrorKind::TimedOut`]. Each query runs in a thread of its own, which ends
    /// when the database answers.
    pub fn within(&self, limit: Duration) -> impl Fn(&str) -> io::Result<Option<OsUser>> + use<> {
        let (database, deadline) = (self.clone(), Instant::now() + limit);
        move |text| {
            let timed_out = || {
                let message = format!("no answer within {} s", limit.as_secs_f32());
                io::Error::new(io::ErrorKind::TimedOut, message)
            };
            let time_left = deadline.saturating_duration_since(Instant::now());
            if time_left.is_zero() {
                return Err(timed_out());
            }
            let (sender, receiver) = mpsc::sync_channel(1);
            let (database, text) = (database.clone(), text.to_owned());
            let query = move || drop(sender.send(database(&text)));
            thread::Builder::new()
                .name("accounts".into())
                .spawn(query)?;
            receiver
                .recv_timeout(time_left)
                .unwrap_or_else(|_| Err(timed_out()))
        }
    }
}

impl Default for AccountDatabase {
    fn default() -> Self {
        Self::system()
    }
}

impl Deref for AccountDatabase {
    type Target = AccountResolver<'static>;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for AccountDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccountDatabase")
    }
}

/// Looks up an account in the system's account database.
///
/// A number needs no entry there, because containers often run as a uid without one. If the database
/// does not answer, a number is an error as well, because it could be the name of an account.
///
/// # Errors
/// The account database does not answer.
pub fn system_account(text: &str) -> io::Result<Option<OsUser>> {
    if let Some(user) = User::from_name(text)? {
        return Ok(Some(os_user(user)));
    }
    // The kernel uses the largest number, `(uid_t) -1`, for "no user".
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
    match number {
        Some(uid) if is_number => {
            let user = User::from_uid(Uid::from_raw(uid))?;
            Ok(Some(user.map_or_else(
                || OsUser {
                    name: text.to_owned(),
                    uid,
                },
                os_user,
            )))
        }
        _ => Ok(None),
    }
}

fn os_user(user: User) -> OsUser {
    OsUser {
        uid: user.uid.as_raw(),
        name: user.name,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_database_that_hangs_is_waited_for_once() {
        let (asked, (_hold, hangs)) = (Arc::new(AtomicU32::new(0)), mpsc::channel::<()>());
        let (count, hangs) = (Arc::clone(&asked), Mutex::new(hangs));
        let database = AccountDatabase::new(move |text| {
            count.fetch_add(1, Ordering::SeqCst);
            if text == "hangs" {
                let hangs = base::mutex::locked(&hangs);
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
