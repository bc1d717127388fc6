//! Decides which configured user a client is.

use std::sync::Arc;

use super::accounts::AccountNames;
use super::password::Passwords;
use super::rules::{Verdict, verdict};
use super::{AccountName, Denied, Peer, Reason};
use crate::config::{CertificateName, Endpoint, User};
use q_ipc::handshake::Hello;

/// Decides which configured user a client is.
#[derive(Debug, Default)]
pub struct Authenticator {
    passwords: Passwords,
    accounts: AccountNames,
}

/// The facts about a client that hopend need not take on the client's word: the kernel reports them, or TLS
/// has verified them.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'p> {
    /// Whether the client uses an exposed listener: local accounts do not count there.
    pub exposed: bool,
    /// The client, as the kernel identifies it.
    pub peer: &'p Peer,
    /// The names in the client's verified certificate. `None` if the endpoint asks for no certificate.
    pub certificate: Option<&'p [CertificateName]>,
}

impl Authenticator {
    /// The name of the peer's account. `None` if the kernel did not tell the account.
    pub async fn account(&self, peer: &Peer) -> Option<AccountName> {
        Some(self.accounts.name(peer.uid()?).await)
    }

    /// Finds the user of `endpoint` that a client is. The module `rules` documents how the client's
    /// certificate, its account and the `hello` of hopen decide.
    ///
    /// Every refusal of a password does the same work, whichever name or password was wrong. So the time
    /// of a refusal does not tell whether a user exists.
    ///
    /// Waits without a limit for a turn to check the password: put a deadline around it. Cancel-safe.
    ///
    /// # Errors
    /// The client is none of the endpoint's users.
    pub async fn identify(
        &self,
        endpoint: &Endpoint,
        proof: &Proof<'_>,
        hello: &Hello,
    ) -> Result<Arc<User>, Denied> {
        let password = &hello.password;
        let costs = &endpoint.refusal_costs;
        let reason = match verdict(endpoint, proof, hello) {
            Verdict::Accept(user) => return Ok(user),
            Verdict::CheckPassword(user) => {
                let verifier = user.password.as_ref();
                if self.passwords.matches(password, verifier, costs).await {
                    return Ok(user);
                }
                Reason::WrongPassword {
                    user: user.name.clone(),
                }
            }
            Verdict::Refuse(reason) => {
                // Nothing matches. This does the work that a wrong password costs.
                self.passwords.matches(password, None, costs).await;
                reason
            }
        };
        Err(self.denied(endpoint, proof.peer, hello, reason).await)
    }

    /// The refusal for the log, with the name of the client's account.
    async fn denied(
        &self,
        endpoint: &Endpoint,
        peer: &Peer,
        hello: &Hello,
        mut reason: Reason,
    ) -> Denied {
        let account = self.account(peer).await;
        let name = account.as_ref().and_then(AccountName::known);
        if let Reason::PasswordMissing { account, .. }
        | Reason::OtherAccount { account, .. }
        | Reason::AccountNotAllowed { account } = &mut reason
        {
            *account = name.map(ToString::to_string);
        }
        Denied {
            endpoint: endpoint.name.clone(),
            who: match name {
                Some(name) => format!("{name} ({peer})"),
                None => peer.to_string(),
            },
            reason,
            guess: !hello.password.is_empty(),
        }
    }
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
