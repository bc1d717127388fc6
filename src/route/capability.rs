//! A kdb+ that closes instead of answering a login may refuse the user, or the capability that the client
//! announced: these are told apart by what the same login was worth with another capability.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::attempt::Said;
use super::{LoggedIn, OpenError, Route, Visit};
use crate::upstream::{Upstream, UpstreamError};
use base::address::Address;
use q_ipc::handshake::Hello;

/// What clients of the last decade announce, at the least: some servers refuse less.
const COMMON: u8 = 3;
/// Logins that are remembered.
const REMEMBERED: usize = 256;

/// Logins that were accepted with the capability [`COMMON`] or more.
#[derive(Debug, Default)]
pub(super) struct AcceptedLogins {
    /// With a key of this process alone.
    hasher: RandomState,
    /// The oldest first.
    logins: Mutex<VecDeque<AcceptedLogin>>,
}

#[derive(Debug, PartialEq, Eq)]
struct AcceptedLogin {
    /// User and password, from which neither can be read.
    digest: u64,
    address: Address,
}

impl AcceptedLogins {
    fn add(&self, address: &Address, hello: &Hello) {
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

    fn has(&self, address: &Address, hello: &Hello) -> bool {
        let login = self.login(address, hello);
        self.lock().contains(&login)
    }

    /// The addresses of one endpoint are alike.
    fn has_at_any(&self, hello: &Hello) -> bool {
        let digest = self.digest(hello);
        self.lock().iter().any(|login| login.digest == digest)
    }

    fn login(&self, address: &Address, hello: &Hello) -> AcceptedLogin {
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
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the client announces less than some servers accept.
fn is_old(hello: &Hello) -> bool {
    hello.capability.is_none_or(|announced| announced < COMMON)
}

impl Route {
    /// What a dial came to. Where kdb+ refused an old client, this tells whether the capability is the
    /// reason: the same login was accepted there with another one, or is accepted now. A login that the
    /// client gave is not tried again, as that would look like guessing.
    pub(super) async fn judged(
        &self,
        address: &Address,
        said: &Said,
        visit: &Visit,
        dialled: Result<Upstream, OpenError>,
    ) -> Result<Upstream, OpenError> {
        let hello = &said.hello;
        match dialled {
            Ok(upstream) => {
                self.accepted.add(address, hello);
                Ok(upstream)
            }
            Err(OpenError::Upstream(UpstreamError::Rejected { .. }))
                if is_old(hello) && self.accepts_otherwise(address, said, visit).await =>
            {
                Err(OpenError::Upstream(UpstreamError::Capability {
                    address: address.clone(),
                    user: hello.user.clone(),
                    capability: hello.capability,
                }))
            }
            Err(error) => Err(error),
        }
    }

    async fn accepts_otherwise(&self, address: &Address, said: &Said, visit: &Visit) -> bool {
        let Said { hello, login } = said;
        if matches!(login, LoggedIn::Client) {
            return self.accepted.has_at_any(hello);
        }
        if self.accepted.has(address, hello) {
            return true;
        }
        let common = Hello {
            capability: Some(COMMON),
            ..hello.clone()
        };
        match self.dial_one(address, &common, visit).await {
            Ok(upstream) => {
                self.accepted.add(address, &common);
                super::probe::say_goodbye(upstream.stream).await;
                true
            }
            Err(_) => false,
        }
    }
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
        let [one, other] = [":a:1", ":b:1"].map(|text| text.parse::<Address>().unwrap());
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
