//! The rules by which a connection becomes a configured user.

use std::sync::Arc;

use super::password::Passwords;
use super::{AccountName, Accounts, Peer};
use crate::config::{CertificateName, Endpoint, LocalAccount, User};
use base::error::or_fix;
use q_ipc::handshake::Hello;

/// Characters of a client's user name that a message shows.
const SHOWN: usize = 64;

/// Tells who a client is.
#[derive(Debug, Default)]
pub struct Authenticator {
    passwords: Passwords,
    accounts: Accounts,
}

/// What is known of a client without its own word.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'p> {
    /// Whether it came in where accounts don't count.
    pub exposed: bool,
    /// What the kernel says.
    pub peer: &'p Peer,
    /// What its certificate, which has been verified, calls it; `None` where none is asked for.
    pub certificate: Option<&'p [CertificateName]>,
}

/// A client that is none of the endpoint's users.
///
/// For the log and the audit only: the client itself sees the same end of the connection whatever
/// the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("client: endpoint {endpoint} refused {who}: {reason}")]
pub struct Denied {
    /// The endpoint's name.
    pub endpoint: String,
    /// The client, with its account's name where there is one.
    pub who: String,
    /// What was not right, and what to do.
    pub reason: Reason,
    /// Whether a password was given, so that it may have been a guess.
    pub guess: bool,
}

/// Why a client is none of the endpoint's users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// hopen named somebody whom the endpoint does not have.
    #[error(
        "it has no user {user:?}. Fix: add a [[user]] of that name, or the name to the endpoint's users."
    )]
    UnknownUser {
        /// As hopen gave it.
        user: String,
    },
    /// hopen named a user with whom the configuration has a problem.
    #[error(
        "user {user:?} is left out, as the configuration is wrong there. Fix: mend what `hopend check` \
         prints, and reload."
    )]
    LeftOut {
        /// The user's name.
        user: String,
    },
    /// The password does not match.
    #[error(
        "the password of user {user:?} does not match. Fix: correct it in hopen, or make a new one with \
         hopend hash-password."
    )]
    WrongPassword {
        /// The user's name.
        user: String,
    },
    /// Neither the account nor a password says so.
    #[error(
        "the account is not that of user {user:?} and no password was given. Fix: give hopen the \
         password{}.", remedy(.account.as_deref())
    )]
    PasswordMissing {
        /// The user's name.
        user: String,
        /// The account, if the database knows it.
        account: Option<String>,
    },
    /// The user is known by an account alone, and it is another.
    #[error(
        "the account is not that of user {user:?}, who has no password. Fix: give the user a password \
         (hopend hash-password){}.", remedy(.account.as_deref())
    )]
    OtherAccount {
        /// The user's name.
        user: String,
        /// The account, if the database knows it.
        account: Option<String>,
    },
    /// hopen named nobody, and the account is nobody's.
    #[error(
        "the account belongs to none of its users. Fix: give a user and password to hopen{}.",
        remedy(.account.as_deref())
    )]
    AccountNotAllowed {
        /// The account, if the database knows it.
        account: Option<String>,
    },
    /// hopen named nobody, and the account is several users'.
    #[error("the account or certificate is that of several users. Fix: give hopen one of {}.", .names.join(", "))]
    Ambiguous {
        /// The users' names.
        names: Vec<String>,
    },
    /// hopen gave a password without a user, and the account did not decide.
    #[error("hopen gave a password and no user. Fix: give both, as in `:host:port:user:password`.")]
    UserMissing,
    /// hopen named nobody where only passwords count.
    #[error(
        "only a user with a password may come in from beyond this host. Fix: give both to hopen."
    )]
    PasswordOnly,
    /// The user has no password, where only passwords count.
    #[error(
        "user {user:?} has no password and only passwords count beyond this host. Fix: give the user \
         one (hopend hash-password)."
    )]
    NoPassword {
        /// The user's name.
        user: String,
    },
    /// The user's account does not resolve.
    #[error(
        "user {user:?} is left out until the account that os_user names is known on this host. Fix: \
         make the account, or mend os_user and reload."
    )]
    AccountUnknown {
        /// The user's name.
        user: String,
    },
    /// The certificate is not the user's.
    #[error(
        "its certificate, of {}, is not that of user {user:?}. Fix: show the user's own, or set \
         certificate of the [[user]].", shown(.names)
    )]
    OtherCertificate {
        /// The user's name.
        user: String,
        /// What the certificate says.
        names: Vec<CertificateName>,
    },
    /// The certificate is nobody's, and hopen named nobody.
    #[error(
        "its certificate, of {}, is that of none of its users. Fix: set certificate of a [[user]] to one of \
         these, or give a user and password to hopen.", shown(.names)
    )]
    CertificateUnknown {
        /// What the certificate says.
        names: Vec<CertificateName>,
    },
    /// The account would have decided, and the kernel did not tell it.
    #[error("hopend cannot see the client's account: {}", or_fix(.why, "give a user and password to hopen"))]
    PeerUnknown {
        /// What stood in the way.
        why: String,
    },
}

impl Reason {
    /// One word for a metric or an audit field.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownUser { .. } => "unknown_user",
            Self::LeftOut { .. } => "left_out",
            Self::WrongPassword { .. } => "wrong_password",
            Self::PasswordMissing { .. } => "password_missing",
            Self::OtherAccount { .. } => "other_account",
            Self::AccountNotAllowed { .. } => "account_not_allowed",
            Self::Ambiguous { .. } => "ambiguous",
            Self::UserMissing => "user_missing",
            Self::PasswordOnly => "password_only",
            Self::NoPassword { .. } => "no_password",
            Self::AccountUnknown { .. } => "account_unknown",
            Self::OtherCertificate { .. } => "other_certificate",
            Self::CertificateUnknown { .. } => "certificate_unknown",
            Self::PeerUnknown { .. } => "peer_unknown",
        }
    }
}

impl Authenticator {
    /// With a bound of its own on password checks.
    pub fn new(passwords: Passwords) -> Self {
        Self {
            passwords,
            accounts: Accounts::default(),
        }
    }

    /// The name of the account that a peer runs as, if the kernel told its number.
    pub async fn account(&self, peer: &Peer) -> Option<AccountName> {
        Some(self.accounts.name(peer.uid()?).await)
    }

    /// The user of `endpoint` that a client is: by its certificate, the kernel's word or the password
    /// of `hello`. On an exposed listener the kernel's word counts for nothing, and whoever has shown
    /// a certificate is nobody who has another one.
    ///
    /// Every refusal of a given password does the same work, whichever name and password were wrong.
    /// Checks of passwords wait for their turn: put a deadline around it. Cancel safe.
    pub async fn identify(
        &self,
        endpoint: &Endpoint,
        proof: &Proof<'_>,
        hello: &Hello,
    ) -> Result<Arc<User>, Denied> {
        let peer = proof.peer;
        let claim = claim(endpoint, proof, hello);
        let verdict = match claim {
            Claim::Proven(user) => return Ok(user),
            Claim::ByPassword(user) => {
                let verifier = user.password.as_ref();
                if self
                    .passwords
                    .matches(&hello.password, verifier, &endpoint.refusal_costs)
                    .await
                {
                    return Ok(user);
                }
                Reason::WrongPassword {
                    user: user.name.clone(),
                }
            }
            Claim::Refused(reason) => {
                self.passwords
                    .matches(&hello.password, None, &endpoint.refusal_costs)
                    .await;
                reason
            }
        };
        Err(self.denied(endpoint, peer, hello, verdict).await)
    }

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

/// What the rules make of a connection before a password is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    Proven(Arc<User>),
    ByPassword(Arc<User>),
    Refused(Reason),
}

/// What hopen gave, as far as the rules look at it.
#[derive(Debug, Clone, Copy)]
struct Introduction<'h> {
    /// The user; empty if hopen gave none, or a name that counts as none.
    user: &'h str,
    /// Whether it gave a password.
    with_password: bool,
}

impl<'h> Introduction<'h> {
    fn of(hello: &'h Hello, endpoint: &Endpoint) -> Self {
        let with_password = !hello.password.is_empty();
        let mut default_names = endpoint.default_user_names.iter();
        let counts_as_none = !with_password && default_names.any(|name| *name == hello.user);
        Self {
            user: if counts_as_none { "" } else { &hello.user },
            with_password,
        }
    }
}

fn claim(endpoint: &Endpoint, proof: &Proof<'_>, hello: &Hello) -> Claim {
    let said = Introduction::of(hello, endpoint);
    let claim = match proof.certificate {
        Some(names) => by_certificate(endpoint, names, proof, said),
        None => by_account_or_password(endpoint, proof, said),
    };
    match claim {
        // Left out as a whole: no other proof stands in for the account.
        Claim::Proven(user) | Claim::ByPassword(user) if user.waits() => {
            Claim::Refused(Reason::AccountUnknown {
                user: user.name.clone(),
            })
        }
        claim => claim,
    }
}

/// A certificate that is a user's makes this user of the client, unless hopen names another user of
/// the configuration, here or elsewhere. With one that is nobody's, here or elsewhere, the other rules
/// decide, for users who have none.
fn by_certificate(
    endpoint: &Endpoint,
    names: &[CertificateName],
    proof: &Proof<'_>,
    said: Introduction<'_>,
) -> Claim {
    let owns = |user: &User| {
        user.certificate
            .as_ref()
            .is_some_and(|own| names.contains(own))
    };
    let given = said.with_password;
    let claim = |user: &Arc<User>| match (&user.password, given) {
        (Some(_), true) => Claim::ByPassword(Arc::clone(user)),
        _ => Claim::Proven(Arc::clone(user)),
    };
    let owners: Vec<_> = endpoint.users.iter().filter(|user| owns(user)).collect();
    let mut others = endpoint.certificates_of_others.iter();
    let is_others = others.any(|other| names.contains(other));
    let named = endpoint.users.iter().find(|user| user.name == said.user);
    match (named.filter(|_| !said.user.is_empty()), &owners[..]) {
        (Some(user), _) if owns(user) => claim(user),
        (Some(user), owners) if user.certificate.is_some() || !owners.is_empty() || is_others => {
            Claim::Refused(Reason::OtherCertificate {
                user: user.name.clone(),
                names: names.to_vec(),
            })
        }
        (None, [_, ..])
            if endpoint
                .names_of_others
                .iter()
                .any(|name| name == said.user) =>
        {
            Claim::Refused(Reason::OtherCertificate {
                user: said.user.to_owned(),
                names: names.to_vec(),
            })
        }
        // The name that q sends by itself: no user is called that, and the certificate tells.
        (None, [user]) if !given || said.user.is_empty() => claim(user),
        (None, [_, _, ..]) if !given || said.user.is_empty() => Claim::Refused(Reason::Ambiguous {
            names: owners.iter().map(|user| user.name.clone()).collect(),
        }),
        (Some(_), _) => by_account_or_password(endpoint, proof, said),
        (None, _) => match by_account_or_password(endpoint, proof, said) {
            Claim::Proven(user) | Claim::ByPassword(user)
                if user.certificate.is_some() || is_others =>
            {
                Claim::Refused(Reason::OtherCertificate {
                    user: user.name.clone(),
                    names: names.to_vec(),
                })
            }
            Claim::Refused(Reason::PasswordOnly) => Claim::Refused(Reason::CertificateUnknown {
                names: names.to_vec(),
            }),
            claim => claim,
        },
    }
}

fn by_account_or_password(endpoint: &Endpoint, proof: &Proof<'_>, said: Introduction<'_>) -> Claim {
    let (exposed, peer) = (proof.exposed, proof.peer);
    let uid = if exposed { None } else { peer.uid() };
    let given = said.with_password;
    let has_account =
        |user: &User| uid.is_some() && user.os_user.as_ref().and_then(LocalAccount::uid) == uid;

    let named = endpoint.users.iter().find(|user| user.name == said.user);
    if let Some(user) = named.filter(|_| !said.user.is_empty()) {
        return match (&user.password, given) {
            (Some(_), true) => Claim::ByPassword(Arc::clone(user)),
            _ if has_account(user) => Claim::Proven(Arc::clone(user)),
            (None, _) if exposed => Claim::Refused(Reason::NoPassword {
                user: user.name.clone(),
            }),
            (Some(_), false) => Claim::Refused(Reason::PasswordMissing {
                user: user.name.clone(),
                account: None,
            }),
            (None, _) => Claim::Refused(Reason::OtherAccount {
                user: user.name.clone(),
                account: None,
            }),
        };
    }

    // q sends `.z.u`, the account's name, when hopen is given no user: as good as none. It decides
    // nothing, the kernel's uid does.
    let nobody_named = said.user.is_empty()
        || (!given
            && endpoint.users.iter().any(|user| {
                has_account(user)
                    && user
                        .os_user
                        .as_ref()
                        .and_then(LocalAccount::found)
                        .is_some_and(|account| account.name == said.user)
            }));
    if !nobody_named {
        let user = said.user.chars().take(SHOWN).collect();
        let mut left_out = endpoint.users_left_out.iter();
        return Claim::Refused(if left_out.any(|name| name == said.user) {
            Reason::LeftOut { user }
        } else {
            Reason::UnknownUser { user }
        });
    }
    by_account(endpoint, exposed, peer, given, has_account)
}

fn by_account(
    endpoint: &Endpoint,
    exposed: bool,
    peer: &Peer,
    given: bool,
    has_account: impl Fn(&User) -> bool,
) -> Claim {
    let mut users = endpoint.users.iter().filter(|user| has_account(user));
    match (users.next(), users.next()) {
        (Some(user), None) if given && user.password.is_some() => {
            Claim::ByPassword(Arc::clone(user))
        }
        (Some(user), None) => Claim::Proven(Arc::clone(user)),
        (Some(first), Some(second)) => {
            let names = [first, second].into_iter().chain(users);
            Claim::Refused(Reason::Ambiguous {
                names: names.map(|user| user.name.clone()).collect(),
            })
        }
        (None, _) if given => Claim::Refused(Reason::UserMissing),
        (None, _) => Claim::Refused(match peer {
            _ if exposed => Reason::PasswordOnly,
            Peer::Remote { .. } => Reason::PasswordOnly,
            Peer::Unidentified { reason, .. } => Reason::PeerUnknown {
                why: reason.clone(),
            },
            Peer::Local { .. } => Reason::AccountNotAllowed { account: None },
        }),
    }
}

fn shown(names: &[CertificateName]) -> String {
    if names.is_empty() {
        return "no name".into();
    }
    let names: Vec<_> = names.iter().take(4).map(ToString::to_string).collect();
    names.join(", ").chars().take(4 * SHOWN).collect()
}

fn remedy(account: Option<&str>) -> String {
    match account {
        Some(account) => {
            format!(", or add os_user = {account:?} to a [[user]] of the endpoint")
        }
        None => String::new(),
    }
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
