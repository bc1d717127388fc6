//! `viewers` of `[daemon]`.

use super::OsUser;
use super::account::LocalAccount;

/// Accounts that may see the status page, beside root and the daemon's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Viewers(Vec<LocalAccount>);

impl Viewers {
    /// Whether this account is among them.
    pub fn has(&self, uid: u32) -> bool {
        self.0.iter().any(|account| account.uid() == Some(uid))
    }
}

impl FromIterator<LocalAccount> for Viewers {
    fn from_iter<T: IntoIterator<Item = LocalAccount>>(accounts: T) -> Self {
        Self(accounts.into_iter().collect())
    }
}

impl FromIterator<u32> for Viewers {
    fn from_iter<T: IntoIterator<Item = u32>>(uids: T) -> Self {
        let accounts = uids.into_iter().map(|uid| {
            let text = uid.to_string();
            let name = text.clone();
            LocalAccount::known(&text, OsUser { name, uid })
        });
        accounts.collect()
    }
}
