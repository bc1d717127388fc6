//! A configuration with the parts that hopend can serve, although other parts have errors.

use std::sync::Arc;

use super::config_part::{ConfigPart, ConfigPartKind};
use super::configuration::Config;
use super::endpoint::Endpoint;
use super::left_out::{LeftOutCause, LeftOutPart};
use super::listen_address::ListenAddress;
use super::problem::Problems;
use super::user::User;

/// The valid parts of a configuration file, and the reasons why other parts are left out.
#[derive(Debug, Clone)]
pub struct PartialConfig {
    /// The valid parts. They include users whose account is not known yet; hopend admits these users
    /// once it is.
    pub config: Config,
    /// The parts that hopend does not serve, in the order of the file.
    pub left_out: Vec<LeftOutPart>,
    /// The problems that `hopend check` prints, if there are any.
    pub problems: Option<Problems>,
}

impl From<Config> for PartialConfig {
    fn from(config: Config) -> Self {
        Self {
            config,
            left_out: Vec::new(),
            problems: None,
        }
    }
}

impl PartialConfig {
    /// The reason why hopend does not serve a part. `None` if hopend serves it, or if the file has no
    /// such part.
    pub fn left_out(&self, kind: ConfigPartKind, name: &str) -> Option<&LeftOutPart> {
        let mut all = self.left_out.iter();
        all.find(|left_out| left_out.part.kind == kind && left_out.part.name == name)
    }

    /// Adds the running endpoints whose table in the new file has an error. These endpoints continue
    /// unchanged, except for their users. Only users who are valid in the new file keep access, with
    /// their new settings.
    ///
    /// An endpoint does not continue if another endpoint, or the admin address, has its address in the
    /// new file.
    pub(super) fn keep_running(&mut self, running: &[Arc<Endpoint>]) {
        for left_out in &mut self.left_out {
            let Some(old) = endpoint_named(running, &left_out.part) else {
                continue;
            };
            if self.config.claims_address_of(old) {
                continue;
            }
            let kept = with_current_users(old, &self.config.users);
            self.config.endpoints.push(Arc::new(kept));
            left_out.cause = LeftOutCause::Kept;
        }
    }
}

impl Config {
    /// Whether an endpoint or the admin address clashes with an address of `other`.
    fn claims_address_of(&self, other: &Endpoint) -> bool {
        let clashes = |address: &ListenAddress| other.listen.iter().any(|own| own.clashes(address));
        let admin = self.daemon.admin.as_ref();
        let admin = admin.map(|admin| ListenAddress::Tcp(admin.address));
        let mut taken = self
            .endpoints
            .iter()
            .flat_map(|endpoint| &endpoint.listen)
            .chain(&admin);
        taken.any(clashes)
    }
}

fn endpoint_named<'e>(running: &'e [Arc<Endpoint>], part: &ConfigPart) -> Option<&'e Endpoint> {
    if part.kind != ConfigPartKind::Endpoint {
        return None;
    }
    let mut running = running.iter();
    running
        .find(|endpoint| endpoint.name == part.name)
        .map(|endpoint| &**endpoint)
}

/// Copies an endpoint of the old file, but only with users that are also among the `configured` users of
/// the new file. The names of the other users go to `users_left_out`.
fn with_current_users(old: &Endpoint, configured: &[Arc<User>]) -> Endpoint {
    let names = old.users.iter().map(|user| &user.name);
    let names: Vec<&String> = names.chain(&old.users_left_out).collect();
    let mut kept = old.clone();
    kept.users = configured
        .iter()
        .filter(|user| names.contains(&&user.name))
        .cloned()
        .collect();
    kept.users_left_out = names
        .into_iter()
        .filter(|name| !kept.users.iter().any(|user| user.name == **name))
        .cloned()
        .collect();
    kept.follow_users(configured);
    kept
}
