//! An endpoint made ready for use: from a user who may use it to a kdb+ that has accepted the login.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConfig;

use crate::config::{Address, Endpoint, Login, Policy, Target, User};
use crate::credential::{Credentials, FetchError, Issued, Recipe};
use crate::error::ErrorKind;
use crate::q::handshake::Hello;
use crate::secret::Secret;
use crate::status::PlaceRow;
use crate::upstream::tls::{TlsConfigs, TlsError};
use crate::upstream::{self, Upstream, UpstreamError};

/// An endpoint and what its sessions share.
#[derive(Debug)]
pub struct Route {
    endpoint: Arc<Endpoint>,
    tls: Result<Arc<ClientConfig>, TlsError>,
    /// How often an address was chosen, for `policy = "spread"`.
    turn: AtomicUsize,
}

/// Why a session got no kdb+.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No login.
    #[error(transparent)]
    Credential(#[from] Arc<FetchError>),
    /// No kdb+, or it refused.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The login would go over the wire in the clear.
    #[error(
        "{0}: the connection string is without TLS; set plaintext = true on the endpoint if that \
         is meant"
    )]
    Plaintext(Address),
    /// The password can't be read.
    #[error("password_file {path}: {source}; it needs the password on its first line", path = .path.display())]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Neither the endpoint nor the login command says where kdb+ is.
    #[error(
        "the login command gave no address; have it print a connection string, or set connect on \
         the endpoint"
    )]
    NoAddress,
}

impl OpenError {
    /// Whose side.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Credential(error) => error.kind,
            Self::Upstream(error) => error.kind(),
            Self::Tls(_) | Self::Plaintext(_) | Self::PasswordFile { .. } | Self::NoAddress => {
                ErrorKind::Configuration
            }
        }
    }
}

impl Route {
    /// Prepares an endpoint. A fault of its TLS set-up is kept and told to its sessions, so that it
    /// does not keep other endpoints from starting.
    pub fn new(endpoint: Arc<Endpoint>, tls: &TlsConfigs) -> Self {
        Self {
            tls: tls.config(endpoint.ca_file()),
            endpoint,
            turn: AtomicUsize::new(0),
        }
    }

    /// The endpoint as configured.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The addresses or nodes that sessions can go to, and which of them rest.
    pub fn places(&self) -> Vec<PlaceRow> {
        Vec::new()
    }

    /// What is fetched for a user of this endpoint, if anything is.
    pub fn recipe(&self, user: &User) -> Option<Recipe> {
        match &self.endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                ..
            } => Some(Recipe::FinSpace {
                environment: Arc::clone(environment),
                cluster: cluster.clone(),
                kx_user: user.kx_user.clone(),
                role: user.role_arn.clone(),
                local_user: user.name.clone(),
            }),
            Target::Addresses {
                login: Login::Command(argv),
                ..
            } => Some(Recipe::Command {
                argv: argv.clone(),
                endpoint: self.endpoint.name.clone(),
                local_user: user.name.clone(),
            }),
            Target::Addresses { .. } | Target::Console { .. } => None,
        }
    }

    /// Opens kdb+ for `user`. `hello` is what the client said: its capability is passed on, and its
    /// user and password where `login = "client"`.
    pub async fn open(
        &self,
        user: &User,
        hello: &Hello,
        credentials: &Credentials,
    ) -> Result<Upstream, OpenError> {
        if let Some(recipe) = self.recipe(user) {
            return self.open_with_recipe(&recipe, hello, credentials).await;
        }
        let Target::Addresses {
            addresses, login, ..
        } = &self.endpoint.target
        else {
            return Err(OpenError::NoAddress);
        };
        let hello = match login {
            Login::Fixed {
                user,
                password_file,
            } => Hello {
                user: user.clone(),
                password: read_password(password_file).await?,
                capability: hello.capability,
            },
            Login::Client | Login::Command(_) => hello.clone(),
        };
        self.dial(&self.in_order(addresses), &hello).await
    }

    /// A login that kdb+ refuses may have been withdrawn early: it is fetched anew, once.
    async fn open_with_recipe(
        &self,
        recipe: &Recipe,
        hello: &Hello,
        credentials: &Credentials,
    ) -> Result<Upstream, OpenError> {
        let issued = credentials.obtain(recipe).await?;
        match self.open_issued(&issued, hello).await {
            Err(OpenError::Upstream(UpstreamError::Rejected { .. })) => {
                tracing::info!(%recipe, generation = issued.generation, "kdb+ refused the login: fetching it anew");
                credentials.reject(recipe, issued.generation);
                let issued = credentials.obtain(recipe).await?;
                self.open_issued(&issued, hello).await
            }
            opened => opened,
        }
    }

    async fn open_issued(&self, issued: &Issued, hello: &Hello) -> Result<Upstream, OpenError> {
        let credential = &issued.credential;
        let (addresses, plaintext) = match &self.endpoint.target {
            Target::FinSpace { plaintext, .. } => (Vec::new(), *plaintext),
            Target::Addresses {
                addresses,
                plaintext,
                ..
            } => (self.in_order(addresses), *plaintext),
            Target::Console { .. } => return Err(OpenError::NoAddress),
        };
        let hello = Hello {
            user: credential.user.clone(),
            password: credential.password.clone(),
            capability: hello.capability,
        };
        if !addresses.is_empty() {
            return self.dial(&addresses, &hello).await;
        }
        let address = credential.address.clone().ok_or(OpenError::NoAddress)?;
        if !address.tls && !plaintext {
            return Err(OpenError::Plaintext(address));
        }
        self.dial(&[address], &hello).await
    }

    /// The first address that can be had. One that refuses the login ends it: the others would not
    /// know better, and trying them looks like guessing.
    async fn dial(&self, addresses: &[Address], hello: &Hello) -> Result<Upstream, OpenError> {
        let limit = self.endpoint.connect_timeout;
        let mut failed = None;
        for address in addresses {
            // A fault of the TLS set-up is none of an address that needs no TLS.
            let tls = match &self.tls {
                Ok(tls) => Some(tls),
                Err(error) if address.tls => return Err(error.clone().into()),
                Err(_) => None,
            };
            match upstream::open(address, tls, hello, limit).await {
                Ok(upstream) => return Ok(upstream),
                Err(error @ UpstreamError::Rejected { .. }) => return Err(error.into()),
                Err(error) => {
                    if addresses.len() > 1 {
                        tracing::warn!(
                            endpoint = self.endpoint.name,
                            "{}",
                            crate::error::chain(&error)
                        );
                    }
                    failed = Some(error);
                }
            }
        }
        Err(failed.map_or(OpenError::NoAddress, OpenError::Upstream))
    }

    fn in_order(&self, addresses: &[Address]) -> Vec<Address> {
        let mut ordered = addresses.to_vec();
        if let Target::Addresses {
            policy: Policy::Spread,
            ..
        } = &self.endpoint.target
            && !ordered.is_empty()
        {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let first = turn % ordered.len();
            ordered.rotate_left(first);
        }
        ordered
    }
}

/// The first line, read anew for each session: a password that was changed needs no reload.
async fn read_password(path: &PathBuf) -> Result<Secret, OpenError> {
    let failed = |source| OpenError::PasswordFile {
        path: path.clone(),
        source,
    };
    let bytes = Secret::new(tokio::fs::read(path).await.map_err(failed)?);
    let line = bytes.expose().split(|&b| b == b'\n').next();
    let line = line.unwrap_or_default().trim_ascii_end();
    if line.is_empty() {
        return Err(failed(std::io::Error::other("its first line is empty")));
    }
    Ok(Secret::new(line))
}
