//! An endpoint with `connect` or a login command: the network path to each address, then the login.

use std::path::Path;
use std::sync::Arc;

use super::options::DoctorOptions;
use super::path::{LOGIN_STAGES, LoginRejection, PATH_STAGES};
use super::runner::{StageFailure, StageFinding};
use super::stage::StageName;
use super::target::{ExaminedLogin, TargetStages};
use crate::config::{Login, LoginCommand, User};
use crate::credential::{Credential, command};
use crate::route::read_password;
use base::error::{ErrorKind, chain};
use base::kdb_address::KdbAddress;
use secret::Secret;

/// Examines the addresses of an endpoint, and its login at each of them.
pub(super) struct AddressStages<'a, 'b> {
    pub(super) target: TargetStages<'a, 'b>,
    /// Empty if the login command prints the address.
    pub(super) addresses: &'a [KdbAddress],
    pub(super) login: &'a Login,
    /// Whether a login command may print an address without TLS.
    pub(super) plaintext: bool,
    pub(super) options: &'a DoctorOptions,
}

impl AddressStages<'_, '_> {
    pub(super) async fn run(&mut self, users: &[&Arc<User>]) {
        let addresses = self.addresses;
        // The doctor examines all paths before any login, so that it does not blame a password for a
        // fault of the path.
        for address in addresses {
            self.set_subject(None, addresses, address);
            self.target.examine_path(address).await;
        }
        match self.login {
            Login::Fixed {
                user,
                password_file,
            } => self.try_fixed_login(user, password_file).await,
            Login::Command(login) => {
                for user in users {
                    self.try_command(login, user).await;
                }
            }
            Login::Client => {
                let named = users.first().map(|user| &***user);
                self.try_client_login(named).await;
            }
        }
    }

    async fn try_fixed_login(&mut self, user: &str, password_file: &Path) {
        self.target.set_subject(None, None);
        let read = async {
            match read_password(password_file).await {
                Ok(password) => {
                    let text = format!("{} can be read", password_file.display());
                    Ok(StageFinding::new(password, text))
                }
                Err(error) => Err(StageFailure {
                    kind: error.kind(),
                    cause: chain(&error),
                    remedy: None,
                    missing: None,
                }),
            }
        };
        let runner = &mut self.target.runner;
        let Some(password) = runner.run(StageName::PasswordFile, read).await else {
            return runner.skip_after(StageName::PasswordFile, &LOGIN_STAGES);
        };
        let remedy = format!(
            "correct the password in {}, or user, in login of endpoint {:?}",
            password_file.display(),
            self.target.endpoint.name
        );
        self.log_in(None, &fixed_credential(user, password), &remedy)
            .await;
    }

    async fn try_command(&mut self, login: &LoginCommand, user: &User) {
        self.target.set_subject(Some(user), None);
        let addresses = self.addresses;
        let run = command::run(login, &self.target.endpoint.name, &user.name);
        let run = async { judge_command_output(run.await?, addresses) };
        let runner = &mut self.target.runner;
        let Some(credential) = runner.run(StageName::LoginCommand, run).await else {
            if addresses.is_empty() {
                runner.skip_after(StageName::LoginCommand, &PATH_STAGES);
            }
            return runner.skip_after(StageName::LoginCommand, &LOGIN_STAGES);
        };
        let remedy = "have the login command print a login that kdb+ accepts";
        self.log_in(Some(user), &credential, remedy).await;
    }

    async fn try_client_login(&mut self, named: Option<&User>) {
        let (Some(user), Some(password)) = (&self.options.user, &self.options.password) else {
            self.target.set_subject(None, None);
            for name in LOGIN_STAGES {
                let reason =
                    "login = \"client\" needs a user's own password: use --user and --ask-password";
                self.target.runner.skip(name, reason);
            }
            return;
        };
        let credential = fixed_credential(user, password.clone());
        let remedy = "ask the administrator of that kdb+, which itself decides who may log in";
        self.log_in(named, &credential, remedy).await;
    }

    /// Logs in at each address of the endpoint, or at the credential's own address if the endpoint lists
    /// no address.
    async fn log_in(&mut self, user: Option<&User>, credential: &Credential, remedy: &str) {
        let is_configured = !self.addresses.is_empty();
        let addresses = match self.addresses {
            [] => credential.address.as_slice(),
            addresses => addresses,
        };
        for address in addresses {
            self.set_subject(user, addresses, address);
            let attempt = ExaminedLogin {
                address,
                is_configured,
                // An address in the configuration says itself whether it is without TLS.
                plaintext_allowed: self.plaintext || is_configured,
                credential,
            };
            let rejection = || LoginRejection {
                remedy: remedy.to_owned(),
                ..LoginRejection::default()
            };
            self.target.log_in(attempt, rejection).await;
        }
    }

    /// Sets the subject of the stages that follow. It names the address only if there are several.
    fn set_subject(&mut self, user: Option<&User>, all: &[KdbAddress], address: &KdbAddress) {
        let address = (all.len() > 1).then(|| address.to_string());
        self.target.set_subject(user, address);
    }
}

/// A credential that does not expire and has no address.
fn fixed_credential(user: &str, password: Secret) -> Credential {
    Credential {
        address: None,
        user: user.to_owned(),
        password,
        expires: None,
        valid_for: None,
        issuer_time: None,
    }
}

/// Reports the user of a command's credential, but not the password. Fails if no address is known.
fn judge_command_output(
    credential: Credential,
    addresses: &[KdbAddress],
) -> Result<StageFinding<Credential>, StageFailure> {
    let text = format!("a login of {:?}", credential.user);
    if addresses.is_empty() && credential.address.is_none() {
        return Err(StageFailure::new(
            ErrorKind::Configuration,
            format!("{text}, and no address"),
            "have it print a connection string, or set connect on the endpoint",
        ));
    }
    Ok(StageFinding::new(credential, text))
}
