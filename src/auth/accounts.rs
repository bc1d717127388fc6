//! Names of local accounts, for messages only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};
use tokio::sync::Semaphore;

/// The account database may be a directory server: no message waits longer for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Accounts that are remembered; past this all are forgotten.
const CAPACITY: usize = 1024;

/// After this the database is asked again about a number that it did not know: accounts are added.
const NAMELESS_FOR: Duration = Duration::from_secs(60);

/// The names of uids, remembered once told, as is for a while that there is none.
#[derive(Debug)]
pub struct Accounts {
    known: Mutex<HashMap<u32, Known>>,
    one_at_a_time: Arc<Semaphore>,
}

/// What the database told.
#[derive(Debug)]
struct Known {
    name: Option<Arc<str>>,
    told: Instant,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            one_at_a_time: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Accounts {
    /// What the account database calls `uid`; `None` when it knows no such account, or takes too
    /// long to say.
    pub async fn name(&self, uid: u32) -> Option<Arc<str>> {
        if let Some(name) = self.remembered(uid, Instant::now()) {
            return name;
        }
        // A database that hangs holds one thread and not one a connection.
        let permit = Arc::clone(&self.one_at_a_time).try_acquire_owned().ok()?;
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            User::from_uid(Uid::from_raw(uid))
        });
        let told = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
        let name: Option<Arc<str>> = told.ok()?.map(|user| user.name.into());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CAPACITY {
            known.clear();
        }
        let account = Known {
            name: name.clone(),
            told: Instant::now(),
        };
        known.insert(uid, account);
        name
    }

    /// `Some(None)` if it was told that there is no name.
    fn remembered(&self, uid: u32, now: Instant) -> Option<Option<Arc<str>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let account = known.get(&uid)?;
        let old = now.saturating_duration_since(account.told) >= NAMELESS_FOR;
        (account.name.is_some() || !old).then(|| account.name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_has_a_name_and_an_unused_number_has_none_for_a_while() {
        let accounts = Accounts::default();
        assert_eq!(accounts.name(0).await.as_deref(), Some("root"));
        assert_eq!(accounts.name(3_999_999_999).await, None);
        let now = Instant::now();
        let later = now + NAMELESS_FOR;
        for now in [now, later] {
            assert_eq!(accounts.remembered(0, now), Some(Some("root".into())));
        }
        assert_eq!(accounts.remembered(3_999_999_999, now), Some(None));
        assert_eq!(accounts.remembered(3_999_999_999, later), None);
    }
}
