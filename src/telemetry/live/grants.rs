//! Who may hold a session, by one configuration: whom a reload locks out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::{LeftOutCause, Loaded, LocalAccount, OnRemoval, PartKind, User};

/// Who may hold a session where.
#[derive(Debug)]
pub struct Grants {
    users: HashMap<String, Standing>,
    /// Whether the file has a user whose name can't be read: then nobody counts as removed.
    nameless: bool,
    /// The users of each endpoint that the file is right about.
    endpoints: HashMap<String, HashSet<String>>,
    on_removal: OnRemoval,
}

/// What a configuration says of a user.
#[derive(Debug)]
enum Standing {
    Valid(Arc<User>),
    /// The file is wrong about the user: nothing was taken away.
    LeftOut,
    /// The user's line is no longer in the password file.
    ProofGone,
}

/// Why a user may hold a session no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LostAccess {
    /// The file has no such user.
    #[error("user {user:?} was removed from the configuration")]
    User {
        /// The user's name.
        user: String,
    },
    /// The endpoint has no such user.
    #[error("user {user:?} was removed from endpoint {endpoint:?}")]
    Endpoint {
        /// The user's name.
        user: String,
        /// The endpoint's.
        endpoint: String,
    },
    /// The user is somebody else now, or is known by something else.
    #[error("{key} of user {user:?} was changed")]
    Identity {
        /// The user's name.
        user: String,
        /// The key.
        key: &'static str,
    },
    /// The user's password was taken away.
    #[error("the password of user {user:?} was removed from the password file")]
    Password {
        /// The user's name.
        user: String,
    },
}

impl Grants {
    /// What a configuration grants.
    pub fn of(loaded: &Loaded) -> Self {
        let config = &loaded.config;
        let valid = config.users.iter();
        let mut users: HashMap<_, _> = valid
            .map(|user| (user.name.clone(), Standing::Valid(Arc::clone(user))))
            .collect();
        let mut nameless = false;
        for left_out in &loaded.left_out {
            let standing = match (left_out.part.kind, &left_out.cause) {
                (PartKind::User, LeftOutCause::AccountUnknown(_)) => continue,
                (PartKind::User, LeftOutCause::ProofGone) => Standing::ProofGone,
                (PartKind::User, _) => Standing::LeftOut,
                _ => continue,
            };
            nameless |= left_out.part.name.is_empty();
            users.insert(left_out.part.name.clone(), standing);
        }
        let right = config.endpoints.iter().filter(|endpoint| {
            loaded
                .left_out(PartKind::Endpoint, &endpoint.name)
                .is_none()
        });
        let endpoints = right.map(|endpoint| {
            let users = endpoint.users.iter().map(|user| user.name.clone());
            let users = users.chain(endpoint.users_left_out.iter().cloned());
            (endpoint.name.clone(), users.collect())
        });
        Self {
            users,
            nameless,
            endpoints: endpoints.collect(),
            on_removal: config.daemon.on_removal,
        }
    }

    /// Why a session that `user` opened at `endpoint` is to end, if it is.
    pub fn lost(&self, endpoint: &str, user: &User) -> Option<LostAccess> {
        if self.on_removal == OnRemoval::Keep {
            return None;
        }
        let name = || user.name.clone();
        match self.users.get(&user.name) {
            // The nameless one may be this user.
            None if self.nameless => return None,
            None => return Some(LostAccess::User { user: name() }),
            Some(Standing::ProofGone) => return Some(LostAccess::Password { user: name() }),
            Some(Standing::LeftOut) => {}
            Some(Standing::Valid(now)) => {
                if let Some(key) = changed(user, now) {
                    return Some(LostAccess::Identity { user: name(), key });
                }
            }
        }
        let may = self.endpoints.get(endpoint);
        may.is_some_and(|users| !users.contains(&user.name))
            .then(|| LostAccess::Endpoint {
                user: name(),
                endpoint: endpoint.to_owned(),
            })
    }
}

/// The key by which a user is no longer who it was.
fn changed(before: &User, now: &User) -> Option<&'static str> {
    let uid = |user: &User| user.os_user.as_ref().and_then(LocalAccount::uid);
    let text = |user: &User| user.os_user.as_ref().map(|a| a.text().to_owned());
    // One that does not resolve now may be the same.
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
