//! Accounts of this host, as the configuration refers to them.

use std::sync::{Arc, OnceLock};

/// An account in the account database of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    /// The account's name.
    pub name: String,
    /// The account's number.
    pub uid: u32,
}

/// A reference of the configuration to the account of a user or viewer.
///
/// The account database may not know the account yet. Once the database knows the account, all clones of
/// the reference hold it.
#[derive(Debug, Clone)]
pub struct LocalAccount {
    /// The account's name or number, as the file has it.
    text: String,
    found: Arc<OnceLock<OsUser>>,
}

impl LocalAccount {
    /// A reference to an account that the account database knows.
    pub fn known(text: &str, account: OsUser) -> Self {
        Self {
            text: text.to_owned(),
            found: Arc::new(OnceLock::from(account)),
        }
    }

    /// A reference to an account that the account database does not know yet.
    pub(crate) fn unknown(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            found: Arc::default(),
        }
    }

    /// The account's name or number, as the file has it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The account, once the account database knows it.
    pub fn resolved(&self) -> Option<&OsUser> {
        self.found.get()
    }

    /// The account's number, once the account database knows it.
    pub fn uid(&self) -> Option<u32> {
        self.resolved().map(|account| account.uid)
    }

    /// Sets the account, for this reference and its clones. If the account is known already, nothing
    /// changes.
    pub(crate) fn set_resolved(&self, account: OsUser) {
        let _ = self.found.set(account);
    }
}

/// Two references are equal if the file has the same text and the account database gave the same
/// account. Two unresolved references are equal only if they are clones, because others may be resolved
/// at different times.
impl PartialEq for LocalAccount {
    fn eq(&self, other: &Self) -> bool {
        let same_account = match (self.resolved(), other.resolved()) {
            (None, None) => Arc::ptr_eq(&self.found, &other.found),
            (found, other) => found == other,
        };
        self.text == other.text && same_account
    }
}

impl Eq for LocalAccount {}
