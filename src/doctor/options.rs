//! The options of one examination: which endpoints and users, and how long a stage may take.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Endpoint, User};
use secret::Secret;

/// The part of a configuration that the doctor examines.
#[derive(Debug)]
pub(crate) struct DoctorOptions {
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// The name of the only endpoint to examine; all endpoints if `None`.
    pub(crate) endpoint: Option<String>,
    /// The name of the only user to examine; all users if `None`.
    pub(crate) user: Option<String>,
    /// The password that this user gives hopen, for endpoints with `login = "client"`.
    pub(crate) password: Option<Secret>,
    /// The longest time that one stage may take. A TLS stage that fails may take twice that time.
    pub(crate) limit: Duration,
}

impl DoctorOptions {
    /// Whether the options select the endpoint.
    pub(super) fn selects_endpoint(&self, endpoint: &Endpoint) -> bool {
        self.endpoint
            .as_ref()
            .is_none_or(|name| *name == endpoint.name)
    }

    /// The endpoint's users that the options select.
    pub(super) fn selected_users<'a>(&self, endpoint: &'a Endpoint) -> Vec<&'a Arc<User>> {
        let selected = |user: &&Arc<User>| self.user.as_ref().is_none_or(|name| *name == user.name);
        endpoint.users.iter().filter(selected).collect()
    }
}
