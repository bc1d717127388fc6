//! One endpoint: where it listens, what it leads to, and for each user the whole way there.

use std::path::PathBuf;
use std::sync::Arc;

use super::aws::Aws;
use super::cluster::Cluster;
use super::path::{self, Ways};
use super::stage::{Bench, Finding, Name, Subject, Trouble};
use super::tls::{Destination, Trust};
use super::{DaemonAccount, Question, listen};
use crate::config::{Endpoint, Login, Target, User};
use crate::credential::{Credential, command};
use crate::route::read_password;
use crate::upstream::tls::TlsConfigs;
use base::address::Address;
use base::error::{ErrorKind, chain};
use q_ipc::handshake::Hello;
use secret::Secret;

/// What kdb+ is offered. Answers of over 2 GB are not asked for.
const CAPABILITY: u8 = 3;

/// The stages of an address.
pub(super) const WAY: [Name; 3] = [Name::Dns, Name::Tcp, Name::Tls];
/// The stages of a login.
pub(super) const LOGIN: [Name; 2] = [Name::Login, Name::NoOp];

/// One endpoint under examination.
pub(super) struct Examination<'a, 'b> {
    pub(super) bench: &'a mut Bench<'b>,
    pub(super) aws: &'a Aws,
    pub(super) endpoint: &'a Endpoint,
    /// Those that are looked at of the users that may use it.
    pub(super) users: Vec<&'a Arc<User>>,
    pub(super) question: &'a Question,
    /// Whose listeners are hopend's.
    pub(super) daemon: DaemonAccount,
}

impl Examination<'_, '_> {
    pub(super) async fn run(mut self) {
        self.subject(None, None);
        for address in &self.endpoint.listen {
            let examined = listen::examine(address, self.daemon);
            self.bench.stage(Name::Listen, examined).await;
        }
        match &self.endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                node,
                node_via,
                plaintext,
            } => {
                let down = self.aws.cluster(self.bench, environment, cluster).await;
                let cluster = Cluster {
                    down,
                    environment,
                    name: cluster,
                    node,
                    via: *node_via,
                    plaintext: *plaintext,
                };
                Box::pin(self.finspace(&cluster)).await;
            }
            Target::Addresses {
                addresses,
                login,
                plaintext,
                ..
            } => Box::pin(self.addresses(addresses, login, *plaintext)).await,
            Target::Console { .. } => {
                let why = "a console: hopend itself answers, nothing lies behind it";
                self.bench.skip(Name::Login, why);
            }
        }
    }

    async fn addresses(&mut self, addresses: &[Address], login: &Login, plaintext: bool) {
        let trust = self
            .trust(format!("endpoint {:?}", self.endpoint.name))
            .await;
        let mut ways = Ways::default();
        for address in addresses {
            self.at(None, addresses, address);
            let to = Destination {
                address,
                written: true,
                trust: &trust,
            };
            // Looked at before any login: what is wrong here is nobody's password.
            let _ = ways.walk(self.bench, to).await;
        }
        let users = std::mem::take(&mut self.users);
        match login {
            Login::Fixed {
                user,
                password_file,
            } => {
                self.subject(None, None);
                let read = read_password(password_file);
                let read = async {
                    match read.await {
                        Ok(password) => {
                            let said = format!("{} can be read", password_file.display());
                            Ok(Finding::new(password, said))
                        }
                        Err(error) => Err(Trouble {
                            kind: error.kind(),
                            said: chain(&error),
                            remedy: None,
                            missing: None,
                        }),
                    }
                };
                let password = self.bench.stage(Name::PasswordFile, read).await;
                let Some(password) = password else {
                    return self.bench.wait_for(Name::PasswordFile, &LOGIN);
                };
                let credential = fixed(user, password);
                let remedy = format!(
                    "correct the password in {}, or user, in login of endpoint {:?}",
                    password_file.display(),
                    self.endpoint.name
                );
                let at = (addresses, plaintext, &trust);
                self.log_in_everywhere(None, at, &credential, &mut ways, &remedy)
                    .await;
            }
            Login::Command(login) => {
                for user in users {
                    self.subject(Some(user), None);
                    let run = command::run(login, &self.endpoint.name, &user.name);
                    let run = async { printed(run.await?, addresses) };
                    let credential = self.bench.stage(Name::LoginCommand, run).await;
                    let Some(credential) = credential else {
                        if addresses.is_empty() {
                            self.bench.wait_for(Name::LoginCommand, &WAY);
                        }
                        self.bench.wait_for(Name::LoginCommand, &LOGIN);
                        continue;
                    };
                    let remedy = "have the login command print a login that kdb+ takes";
                    let at = (addresses, plaintext, &trust);
                    self.log_in_everywhere(Some(user), at, &credential, &mut ways, remedy)
                        .await;
                }
            }
            Login::Client => match (&self.question.user, &self.question.password) {
                (Some(user), Some(password)) => {
                    let credential = fixed(user, password.clone());
                    let remedy =
                        "ask the administrator of that kdb+, which itself decides who may log in";
                    let at = (addresses, plaintext, &trust);
                    let named = users.first().copied();
                    self.log_in_everywhere(named, at, &credential, &mut ways, remedy)
                        .await;
                }
                _ => {
                    self.subject(None, None);
                    for name in LOGIN {
                        let why = "login = \"client\": needs a user's own password; say --user and \
                                   --ask-password";
                        self.bench.skip(name, why);
                    }
                }
            },
        }
    }

    async fn log_in_everywhere(
        &mut self,
        user: Option<&Arc<User>>,
        (addresses, plaintext, trust): (&[Address], bool, &Trust),
        credential: &Credential,
        ways: &mut Ways,
        remedy: &str,
    ) {
        let own = credential.address.as_slice();
        let (all, written) = match addresses {
            [] => (own, false),
            addresses => (addresses, true),
        };
        for address in all {
            self.at(user, all, address);
            let to = Destination {
                address,
                written,
                trust,
            };
            let refused = || Trouble::new(ErrorKind::Denied, "", remedy);
            // Addresses that are written say themselves whether they are TLS.
            let plaintext = plaintext || written;
            self.log_in(to, plaintext, credential, ways, refused).await;
        }
    }

    pub(super) async fn log_in(
        &mut self,
        to: Destination<'_>,
        plaintext: bool,
        credential: &Credential,
        ways: &mut Ways,
        refused: impl FnOnce() -> Trouble,
    ) {
        if let Err(failed) = ways.walk(self.bench, to).await {
            return self.bench.wait_for(failed, &LOGIN);
        }
        if !to.address.tls && !plaintext {
            let no = async {
                Err::<Finding<()>, _>(Trouble::new(
                    ErrorKind::Configuration,
                    "the connection string is without TLS: the login would go in the clear",
                    "set plaintext = true on the endpoint if that is meant",
                ))
            };
            self.bench.stage(Name::Login, no).await;
            return self.bench.wait_for(Name::Login, &[Name::NoOp]);
        }
        let hello = Hello {
            user: credential.user.clone(),
            password: credential.password.clone(),
            capability: Some(CAPABILITY),
        };
        Box::pin(path::log_in(self.bench, to, &hello, refused)).await;
    }

    /// Reads the authorities where that does no harm.
    pub(super) async fn trust(&self, table: String) -> Trust {
        let ca_file = self.endpoint.ca_file().map(PathBuf::from);
        let file = ca_file.clone();
        let made =
            tokio::task::spawn_blocking(move || TlsConfigs::default().config(file.as_deref()));
        let config = made.await.unwrap_or_else(|panicked| {
            let why = panicked.to_string();
            Err(crate::upstream::tls::TlsError::Configuration(why))
        });
        Trust {
            config,
            ca_file,
            table,
        }
    }

    pub(super) fn subject(&mut self, user: Option<&User>, place: Option<String>) {
        self.bench.subject = Subject {
            environment: None,
            endpoint: Some(self.endpoint.name.clone()),
            user: user.map(|user| user.name.clone()),
            place,
        };
    }

    /// The place is told where there are several.
    fn at(&mut self, user: Option<&Arc<User>>, all: &[Address], address: &Address) {
        let place = (all.len() > 1).then(|| address.to_string());
        self.subject(user.map(|user| &**user), place);
    }
}

fn fixed(user: &str, password: Secret) -> Credential {
    Credential {
        address: None,
        user: user.to_owned(),
        password,
        expires: None,
        valid_for: None,
        issuer_time: None,
    }
}

/// What a login command printed, as far as it may be shown.
fn printed(credential: Credential, addresses: &[Address]) -> Result<Finding<Credential>, Trouble> {
    let said = format!("a login of {:?}", credential.user);
    if addresses.is_empty() && credential.address.is_none() {
        return Err(Trouble::new(
            ErrorKind::Configuration,
            format!("{said}, and no address"),
            "have it print a connection string, or set connect on the endpoint",
        ));
    }
    Ok(Finding::new(credential, said))
}
