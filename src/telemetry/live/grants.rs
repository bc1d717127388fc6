//! The users who may hold sessions under a configuration. A reload compares them with the open sessions and ends
//! those whose users have lost access.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::{ConfigPartKind, LeftOutCause, LocalAccount, OnRemoval, PartialConfig, User};

/// The users who may hold sessions, and at which endpoints.
#[derive(Debug)]
pub struct Grants {
    /// By user name.
    users: HashMap<String, ConfiguredUser>,
    /// Whether the file has a user with an invalid name. It may be any user, so that no user counts as removed.
    has_unnamed_user: bool,
    /// The user names of each endpoint that has no error in the configuration.
    endpoints: HashMap<String, HashSet<String>>,
    on_removal: OnRemoval,
}

/// A user's entry in the configuration.
#[derive(Debug)]
enum ConfiguredUser {
    Valid(Arc<User>),
    /// The entry has an error. The user's sessions go on, because nobody has taken the access away.
    Invalid,
    /// The user's line is missing in the password file.
    PasswordRemoved,
}

/// Why a user may no longer hold a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LostAccess {
    /// The configuration no longer has the user.
    #[error("user {user:?} was removed from the configuration")]
    User {
        /// The user's name.
        user: String,
    },
    /// The endpoint no longer lists the user.
    #[error("user {user:?} was removed from endpoint {endpoint:?}")]
    Endpoint {
        /// The user's name.
        user: String,
        /// The endpoint's name.
        endpoint: String,
    },
    /// A key that identifies the user has another value. The session's client may be somebody else.
    #[error("{key} of user {user:?} was changed")]
    Identity {
        /// The user's name.
        user: String,
        /// The key in the configuration.
        key: &'static str,
    },
    /// The user's line was removed from the password file.
    #[error("the password of user {user:?} was removed from the password file")]
    Password {
        /// The user's name.
        user: String,
    },
}

impl Grants {
    /// The grants of a configuration.
    pub fn of(loaded: &PartialConfig) -> Self {
        let config = &loaded.config;
        let mut users: HashMap<_, _> = config
            .users
            .iter()
            .map(|user| (user.name.clone(), ConfiguredUser::Valid(Arc::clone(user))))
            .collect();
        let mut has_unnamed_user = false;
        for left_out in &loaded.left_out {
            let entry = match (left_out.part.kind, &left_out.cause) {
                (ConfigPartKind::User, LeftOutCause::AccountUnknown(_)) => continue,
                (ConfigPartKind::User, LeftOutCause::ProofGone) => ConfiguredUser::PasswordRemoved,
                (ConfigPartKind::User, _) => ConfiguredUser::Invalid,
                _ => continue,
            };
            has_unnamed_user |= left_out.part.name.is_empty();
            users.insert(left_out.part.name.clone(), entry);
        }
        let valid = config.endpoints.iter().filter(|endpoint| {
            loaded
                .left_out(ConfigPartKind::Endpoint, &endpoint.name)
                .is_none()
        });
        let endpoints = valid.map(|endpoint| {
            let users = endpoint.users.iter().map(|user| user.name.clone());
            let users = users.chain(endpoint.users_left_out.iter().cloned());
            (endpoint.name.clone(), users.collect())
        });
        Self {
            users,
            has_unnamed_user,
            endpoints: endpoints.collect(),
            on_removal: config.daemon.on_removal,
        }
    }

    /// Why a session of `user` at `endpoint` must end. `None` if it may go on. `user` is the user's
    /// configuration when the session opened.
    pub fn lost(&self, endpoint: &str, user: &User) -> Option<LostAccess> {
        if self.on_removal == OnRemoval::Keep {
            return None;
        }
        let name = || user.name.clone();
        match self.users.get(&user.name) {
            // The user with the invalid name may be this user.
            None if self.has_unnamed_user => return None,
            None => return Some(LostAccess::User { user: name() }),
            Some(ConfiguredUser::PasswordRemoved) => {
                return Some(LostAccess::Password { user: name() });
            }
            Some(ConfiguredUser::Invalid) => {}
            Some(ConfiguredUser::Valid(now)) => {
                if let Some(key) = changed(user, now) {
                    return Some(LostAccess::Identity { user: name(), key });
                }
            }
        }
        let allowed = self.endpoints.get(endpoint);
        allowed
            .is_some_and(|users| !users.contains(&user.name))
            .then(|| LostAccess::Endpoint {
                user: name(),
                endpoint: endpoint.to_owned(),
            })
    }
}

/// The first key that identifies the user and has changed.
fn changed(before: &User, now: &User) -> Option<&'static str> {
    let uid = |user: &User| user.os_user.as_ref().and_then(LocalAccount::uid);
    let text = |user: &User| user.os_user.as_ref().map(|a| a.text().to_owned());
    // An account that cannot be resolved now may still be the same one.
    let other_account = match (uid(before), uid(now)) {
        (Some(one), Some(other)) => one != other,
        _ => text(before) != text(now),
    };
    let keys = [
        ("os_user", other_account),
        ("password", before.password != now.password),
        ("certificate", before.certificate != now.certificate),
        ("kx_user", before.kx_user != now.kx_user),
        ("role_arn", before.role_arn != now.role_arn),
    ];
    let mut changed = keys.into_iter().filter(|(_, changed)| *changed);
    changed.next().map(|(key, _)| key)
}
