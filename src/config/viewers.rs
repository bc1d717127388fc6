//! The `viewers` key of the `[daemon]` table.

use super::local_account::{LocalAccount, OsUser};

/// The accounts that may see the status page, beside root and hopend's own account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Viewers(Vec<LocalAccount>);

impl Viewers {
    /// Whether the account with this number is a viewer.
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
