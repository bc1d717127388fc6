//! Names of local accounts, for messages only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio::sync::Semaphore;

/// The account database may be a directory server: no message waits longer for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Names that are remembered; past this all are forgotten.
const CAPACITY: usize = 1024;

/// The names of uids, remembered once found.
#[derive(Debug)]
pub struct Accounts {
    names: Mutex<HashMap<u32, Arc<str>>>,
    one_at_a_time: Arc<Semaphore>,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            names: Mutex::default(),
            one_at_a_time: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Accounts {
    /// What the account database calls `uid`; `None` when it knows no such account, or takes too
    /// long to say.
    pub async fn name(&self, uid: u32) -> Option<Arc<str>> {
        if let Some(name) = self.remembered(uid) {
            return Some(name);
        }
        // A database that hangs holds one thread and not one a connection.
        let permit = Arc::clone(&self.one_at_a_time).try_acquire_owned().ok()?;
        let asked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            User::from_uid(Uid::from_raw(uid)).ok().flatten()
        });
        let user = tokio::time::timeout(PATIENCE, asked)
            .await
            .ok()?
            .ok()
            .flatten()?;
        let name: Arc<str> = user.name.into();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= CAPACITY {
            names.clear();
        }
        names.insert(uid, Arc::clone(&name));
        Some(name)
    }

    fn remembered(&self, uid: u32) -> Option<Arc<str>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&uid).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_has_a_name_and_an_unused_number_has_none() {
        let accounts = Accounts::default();
        assert_eq!(accounts.name(0).await.as_deref(), Some("root"));
        assert_eq!(accounts.remembered(0).as_deref(), Some("root"));
        assert_eq!(accounts.name(3_999_999_999).await, None);
    }
}
