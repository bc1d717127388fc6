//! The logins that kdb+ has accepted with a common capability. They show why kdb+ closes instead of
//! answering the login of an old client: it refuses the user, or the capability that the client announced.

use base::mutex::locked;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};

use base::kdb_address::KdbAddress;
use q_ipc::handshake::Hello;

/// Clients of the last decade announce this capability or a higher one. Some servers refuse lower ones.
pub(super) const COMMON_CAPABILITY: u8 = 3;
/// How many logins are remembered.
const REMEMBERED: usize = 256;

/// Logins that kdb+ has accepted with [`COMMON_CAPABILITY`] or a higher one.
#[derive(Debug, Default)]
pub(super) struct AcceptedLogins {
    /// Its key is random, and known to this process alone.
    hasher: RandomState,
    /// The oldest first.
    logins: Mutex<VecDeque<AcceptedLogin>>,
}

#[derive(Debug, PartialEq, Eq)]
struct AcceptedLogin {
    /// A keyed hash of user and password. Neither can be read from it.
    digest: u64,
    address: KdbAddress,
}

impl AcceptedLogins {
    /// Remembers that `address` has accepted a login, unless an old client made it.
    pub(super) fn add(&self, address: &KdbAddress, hello: &Hello) {
        if is_old(hello) {
            return;
        }
        let login = self.login(address, hello);
        let mut logins = self.lock();
        if logins.contains(&login) {
            return;
        }
        if logins.len() >= REMEMBERED {
            logins.pop_front();
        }
        logins.push_back(login);
    }

    /// Whether `address` has accepted this login.
    pub(super) fn has(&self, address: &KdbAddress, hello: &Hello) -> bool {
        let login = self.login(address, hello);
        self.lock().contains(&login)
    }

    /// Whether any address has accepted this login: the addresses of one endpoint are alike.
    pub(super) fn has_at_any(&self, hello: &Hello) -> bool {
        let digest = self.digest(hello);
        self.lock().iter().any(|login| login.digest == digest)
    }

    fn login(&self, address: &KdbAddress, hello: &Hello) -> AcceptedLogin {
        AcceptedLogin {
            address: address.clone(),
            digest: self.digest(hello),
        }
    }

    fn digest(&self, hello: &Hello) -> u64 {
        let login = (&hello.user, hello.password.expose());
        self.hasher.hash_one(login)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<AcceptedLogin>> {
        locked(&self.logins)
    }
}

/// Whether the client announces a capability below [`COMMON_CAPABILITY`], or none.
pub(super) fn is_old(hello: &Hello) -> bool {
    hello
        .capability
        .is_none_or(|announced| announced < COMMON_CAPABILITY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secret::Secret;

    fn hello(password: &str, capability: Option<u8>) -> Hello {
        Hello {
            user: "alice".into(),
            password: Secret::from(password),
            capability,
        }
    }

    #[test]
    fn a_login_is_remembered_for_its_address_and_password() {
        let logins = AcceptedLogins::default();
        let [one, other] = [":a:1", ":b:1"].map(|text| text.parse::<KdbAddress>().unwrap());
        logins.add(&one, &hello("x", Some(1)));
        assert!(!logins.has(&one, &hello("x", None)), "an old client's own");
        logins.add(&one, &hello("x", Some(6)));
        assert!(logins.has(&one, &hello("x", None)));
        assert!(!logins.has(&one, &hello("y", None)), "another password");
        assert!(!logins.has(&other, &hello("x", None)));
        assert!(logins.has_at_any(&hello("x", None)) && !logins.has_at_any(&hello("y", None)));
        for number in 0..REMEMBERED {
            logins.add(&other, &hello(&number.to_string(), Some(3)));
        }
        assert!(!logins.has(&one, &hello("x", None)), "long ago");
        assert_eq!(logins.lock().len(), REMEMBERED);
    }
}
