//! The `[[user]]` table: one person or service.

use std::time::Duration;

use finspace::FinSpaceUser;
use finspace::role_arn::RoleArn;
use secret::Secret;

use super::certificate_name::CertificateName;
use super::local_account::LocalAccount;

/// A person or service that may use endpoints, with the proofs of identity that count for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name in logs, metrics and `users` of an endpoint. A client that gives a user name to hopen
    /// must give this name.
    pub name: String,
    /// The local account that identifies this user.
    pub os_user: Option<LocalAccount>,
    /// The password that identifies this user.
    pub password: Option<PasswordVerifier>,
    /// The subject or SAN entry that identifies this user's client certificate.
    pub certificate: Option<CertificateName>,
    /// The FinSpace user.
    pub kx_user: String,
    /// The IAM role to assume for this user. `None` asks FinSpace for the role (GetKxUser).
    pub role_arn: Option<RoleArn>,
    /// Whether a console shows this user the rows of all users. If not, it shows the user's own rows.
    pub console: bool,
    /// The maximum number of concurrent sessions on all endpoints.
    pub max_sessions: Option<usize>,
    /// The maximum number of opens per second on all endpoints.
    pub max_opens_per_second: Option<u32>,
    /// hopend ends a session that has been idle for this long.
    pub idle_timeout: Option<Duration>,
    /// hopend ends a session that has been open for this long, once no response is outstanding.
    pub max_session_time: Option<Duration>,
}

impl User {
    /// The identity with which hopend calls FinSpace for this user.
    pub fn as_finspace_user(&self) -> FinSpaceUser<'_> {
        FinSpaceUser {
            kx_user: &self.kx_user,
            role: self.role_arn.as_ref(),
            local_user: &self.name,
        }
    }

    /// Whether the account database does not know the user's account yet. Until it does, hopend admits
    /// no client as this user, whatever proof the client has.
    pub fn awaits_account(&self) -> bool {
        self.os_user
            .as_ref()
            .is_some_and(|account| account.resolved().is_none())
    }
}

/// The stored form of a password, against which hopend checks the password that a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordVerifier {
    /// A PHC string, `$argon2id$…`, as `hopend hash-password` prints it.
    Argon2(Secret),
    /// A plain password from a q password file.
    Plain(Secret),
    /// An MD5 digest from a q password file.
    Md5([u8; 16]),
    /// A SHA-1 digest from a q password file.
    Sha1([u8; 20]),
}
