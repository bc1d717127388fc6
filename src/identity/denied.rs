//! Why a client is refused, with the remedy.

use crate::config::CertificateName;
use base::error::with_alternative_fix;

/// The most characters of a client's user name that a message shows.
pub(super) const MAX_NAME_SHOWN: usize = 64;

/// A client that was refused because it did not prove to be a user of the endpoint.
///
/// Only the log and the audit file show this error. For every reason, the client sees the same end of
/// the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("client: endpoint {endpoint} refused {who}: {reason}")]
pub struct Denied {
    /// The endpoint's name.
    pub endpoint: String,
    /// The client, with the name of its account if that is known.
    pub who: String,
    /// The reason and the remedy.
    pub reason: Reason,
    /// Whether the client gave a password, and so may have guessed it.
    pub guess: bool,
}

/// The reason why a client was refused. Each message ends with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// hopen named a user whom the endpoint does not have.
    #[error(
        "it has no user {user:?}. Fix: add a [[user]] of that name, or the name to the endpoint's users."
    )]
    UnknownUser {
        /// The name that hopen gave, cut to 64 characters.
        user: String,
    },
    /// hopen named a user who is left out because of an error in the configuration.
    #[error(
        "user {user:?} is left out because of an error in the configuration. Fix: correct what \
         `hopend check` reports, and reload."
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
    /// hopen named a user to whom the client's account does not belong, and gave no password.
    #[error(
        "the account does not belong to user {user:?}, and hopen gave no password. Fix: give hopen the \
         password{}.", remedy(.account.as_deref())
    )]
    PasswordMissing {
        /// The user's name.
        user: String,
        /// The client's account, if the account database knows its name.
        account: Option<String>,
    },
    /// hopen named a user to whom the client's account does not belong. That user has no password.
    #[error(
        "the account does not belong to user {user:?}, who has no password. Fix: give the user a password \
         (hopend hash-password){}.", remedy(.account.as_deref())
    )]
    OtherAccount {
        /// The user's name.
        user: String,
        /// The client's account, if the account database knows its name.
        account: Option<String>,
    },
    /// hopen named no user, and the client's account belongs to no user.
    #[error(
        "the account belongs to none of its users. Fix: give a user and password to hopen{}.",
        remedy(.account.as_deref())
    )]
    AccountNotAllowed {
        /// The client's account, if the account database knows its name.
        account: Option<String>,
    },
    /// hopen named no user, and the account or certificate belongs to several.
    #[error("the account or certificate belongs to several users. Fix: give hopen one of {}.", .names.join(", "))]
    Ambiguous {
        /// The names of these users.
        names: Vec<String>,
    },
    /// hopen gave a password without a user, and the client's account belongs to no user.
    #[error("hopen gave a password and no user. Fix: give both, as in `:host:port:user:password`.")]
    UserMissing,
    /// hopen named no user, and the client is on another host or the listener is exposed.
    #[error(
        "only passwords count for clients of other hosts and at exposed endpoints. Fix: give a user and a \
         password to hopen."
    )]
    PasswordOnly,
    /// hopen named a user who has no password, on an exposed listener.
    #[error(
        "user {user:?} has no password, and only passwords count at an exposed endpoint. Fix: give the user \
         one (hopend hash-password)."
    )]
    NoPassword {
        /// The user's name.
        user: String,
    },
    /// The account database does not know the account of the user yet.
    #[error(
        "user {user:?} is left out until the account that os_user names is known on this host. Fix: \
         create the account, or correct os_user and reload."
    )]
    AccountUnknown {
        /// The user's name.
        user: String,
    },
    /// The client's user name, password or account points to a user, but its certificate does not
    /// belong to that user.
    #[error(
        "its certificate, of {}, does not belong to user {user:?}. Fix: show the user's own, or set \
         certificate of the [[user]].", shown(.names)
    )]
    OtherCertificate {
        /// The user's name.
        user: String,
        /// The names in the client's certificate.
        names: Vec<CertificateName>,
    },
    /// hopen named no user, and neither the certificate nor the account belongs to a user.
    #[error(
        "its certificate, of {}, belongs to none of its users. Fix: set certificate of a [[user]] to one of \
         these, or give a user and password to hopen.", shown(.names)
    )]
    CertificateUnknown {
        /// The names in the client's certificate.
        names: Vec<CertificateName>,
    },
    /// hopen named no user, and the kernel did not report the client's account.
    #[error("hopend cannot see the client's account: {}", with_alternative_fix(.why, "give a user and password to hopen"))]
    PeerUnknown {
        /// Why the kernel did not report the account, with the remedy.
        why: String,
    },
}

#[cfg(test)]
impl Reason {
    /// The reason as one word.
    pub(super) fn code(&self) -> &'static str {
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

fn shown(names: &[CertificateName]) -> String {
    if names.is_empty() {
        return "no name".into();
    }
    let names: Vec<_> = names.iter().take(4).map(ToString::to_string).collect();
    names.join(", ").chars().take(4 * MAX_NAME_SHOWN).collect()
}

fn remedy(account: Option<&str>) -> String {
    match account {
        Some(account) => {
            format!(", or add os_user = {account:?} to a [[user]] of the endpoint")
        }
        None => String::new(),
    }
}
