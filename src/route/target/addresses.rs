//! The addresses of `connect`, among which hopend chooses.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;

use super::command::CommandLogin;
use crate::config::User;
use crate::credential::Recipe;
use crate::primitives::race::Late;
use crate::route::OpenError;
use crate::route::attempt::{HeadStart, LoginAttempt, PooledTarget, open_first};
use crate::route::connection::{
    DialedAddress, LoggedInConnection, LoginSource, PreferredAddresses, PresentedLogin,
};
use crate::route::context::DialContext;
use crate::route::dialer::Dialer;
use crate::route::health::FailureScope;
use crate::route::issued::{IssuedLogin, hello_with, open_with_issued};
use crate::route::password::PasswordFile;
use crate::route::pool::{AddressPool, LoginOwner};
use crate::route::probe::{ProbePlan, Prober};
use crate::telemetry::status::AddressRow;
use crate::upstream::UpstreamError;
use base::kdb_address::KdbAddress;
use secret::Secret;

/// The addresses of `connect`.
#[derive(Debug)]
pub(in crate::route) struct AddressesTarget {
    pub(super) addresses: Vec<KdbAddress>,
    pub(super) login: AddressLogin,
    pub(super) pool: AddressPool,
    pub(super) prober: Prober,
    pub(super) dialer: Dialer,
}

/// The login that hopend presents at each of the addresses.
#[derive(Debug)]
pub(super) enum AddressLogin {
    /// The client's own login.
    Client,
    /// The endpoint's own login, which all its users share.
    Fixed {
        /// The q user.
        user: String,
        /// The password of the q user.
        password: PasswordFile,
    },
    /// The login that a command prints for each user.
    Command(CommandLogin),
}

impl AddressesTarget {
    /// The logins that hopend can fetch before the user opens a session.
    pub(super) fn recipes(&self, user: &User) -> Vec<Recipe> {
        match &self.login {
            AddressLogin::Client | AddressLogin::Fixed { .. } => Vec::new(),
            AddressLogin::Command(command) => vec![command.recipe(user)],
        }
    }

    /// The rows of the addresses in `hopend status`.
    pub(super) fn rows(&self) -> Vec<AddressRow> {
        let rows = self.addresses.iter();
        rows.map(|address| self.pool.row(address.to_string(), ""))
            .collect()
    }

    /// The addresses that a session of `user` would try first.
    pub(super) fn preferred(&self, user: &str) -> PreferredAddresses {
        let names = self.addresses.iter().map(ToString::to_string).collect();
        self.pool.preferred(vec![names], user)
    }

    /// The password of the endpoint's own login. `None` if it has no login of its own.
    ///
    /// # Errors
    /// hopend cannot read the file.
    pub(super) async fn current_password(&self) -> Result<Option<Secret>, OpenError> {
        match &self.login {
            AddressLogin::Fixed { password, .. } => Ok(Some(password.password().await?)),
            AddressLogin::Client | AddressLogin::Command(_) => Ok(None),
        }
    }

    pub(super) async fn open(
        self: &Arc<Self>,
        context: &Arc<DialContext>,
    ) -> Result<LoggedInConnection, OpenError> {
        match &self.login {
            AddressLogin::Client => {
                let login = PresentedLogin {
                    hello: context.hello.clone(),
                    source: LoginSource::Client,
                };
                self.open_with(login, context).await
            }
            AddressLogin::Fixed { user, password } => {
                let password = password.password().await?;
                let login = PresentedLogin {
                    hello: context.hello.with_login(user, password.clone()),
                    source: LoginSource::Fixed(password),
                };
                self.open_with(login, context).await
            }
            AddressLogin::Command(command) => {
                let open = |issued: IssuedLogin| self.open_with(issued.login, context);
                open_with_issued(command.recipe(&context.user), context, open).await
            }
        }
    }

    /// Tries the addresses with one login.
    async fn open_with(
        self: &Arc<Self>,
        login: PresentedLogin,
        context: &Arc<DialContext>,
    ) -> Result<LoggedInConnection, OpenError> {
        let user = &context.user.name;
        let groups = vec![self.addresses.clone()];
        let order = self.pool.in_order(groups, KdbAddress::to_string, user);
        let candidates = order.candidates(context.purpose);
        let login = Arc::new(login);
        let attempt = |address, late| self.attempt(address, &login, context, late);
        open_first(self, candidates, context, attempt).await
    }

    fn attempt(
        self: &Arc<Self>,
        address: KdbAddress,
        login: &Arc<PresentedLogin>,
        context: &Arc<DialContext>,
        late: Late,
    ) -> LoginAttempt {
        let name = address.to_string();
        let target = Arc::clone(self);
        let (login, context) = (Arc::clone(login), Arc::clone(context));
        let work = async move { target.log_in(&address, &login, &context, &late).await };
        LoginAttempt {
            label: name.clone(),
            address: name,
            work: work.boxed(),
        }
    }

    /// Logs in at one address, and records the result in the pool.
    async fn log_in(
        self: &Arc<Self>,
        address: &KdbAddress,
        login: &PresentedLogin,
        context: &Arc<DialContext>,
        late: &Late,
    ) -> Result<LoggedInConnection, OpenError> {
        let (name, user) = (address.to_string(), &context.user.name);
        self.pool.trying(&name, user);
        let owner = match login.source {
            LoginSource::Fixed(_) => LoginOwner::Endpoint,
            LoginSource::Client | LoginSource::IssuedCredential { .. } => LoginOwner::User(user),
        };
        let begun = Instant::now();
        let head_start = HeadStart {
            pool: &self.pool,
            address: &name,
            owner,
            late,
            purpose: context.purpose,
        };
        let dialer = &self.dialer;
        let dialed = head_start
            .dial(dialer.dial(address, &login.hello, context))
            .await;
        let dialed = dialer.explain_refusal(address, login, context, dialed);
        let error = match dialed.await {
            Ok(upstream) => {
                self.pool.succeeded(&name, user);
                return Ok(LoggedInConnection {
                    upstream,
                    address: DialedAddress::Configured(name),
                    login: login.source.clone(),
                });
            }
            Err(error) => error,
        };
        match (&error, &login.source) {
            (OpenError::Upstream(UpstreamError::Descriptors { .. }), _)
            | (OpenError::Upstream(UpstreamError::Capability { .. }), _)
            | (OpenError::Upstream(UpstreamError::Rejected { .. }), LoginSource::Client) => {
                self.pool.turned_away(&name, user);
            }
            (OpenError::Upstream(UpstreamError::Rejected { .. }), LoginSource::IssuedCredential { .. })
            // The client's own login may have been longer than kdb+ accepts.
            | (OpenError::Upstream(UpstreamError::Login { .. }), LoginSource::Client) => {
                self.note_failure(&name, FailureScope::User(user), &error, context);
            }
            _ => {
                let scope = self.pool.timeout_scope(&name, owner, begun);
                self.note_failure(&name, scope, &error, context);
            }
        }
        Err(error)
    }
}

impl PooledTarget for AddressesTarget {
    type Candidate = KdbAddress;

    fn pool(&self) -> &AddressPool {
        &self.pool
    }

    fn prober(&self) -> &Prober {
        &self.prober
    }

    fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    fn has_login_ready(&self, _: &KdbAddress, _: &DialContext) -> bool {
        // All addresses share the login of this opening.
        true
    }

    fn passes_on_logins(&self) -> bool {
        matches!(self.login, AddressLogin::Client)
    }

    async fn probe_plan(&self, name: &str, context: &DialContext) -> Result<ProbePlan, OpenError> {
        let mut addresses = self.addresses.iter();
        let address = addresses.find(|address| address.to_string() == name);
        let Some(address) = address.cloned() else {
            return Ok(ProbePlan::Skip);
        };
        Ok(match &self.login {
            AddressLogin::Client => ProbePlan::Connect(address),
            AddressLogin::Fixed { user, password } => {
                let password = password.password().await?;
                ProbePlan::LogInAsEndpoint(address, context.hello.with_login(user, password))
            }
            AddressLogin::Command(command) => {
                let recipe = command.recipe(&context.user);
                match context.credentials.cached(&recipe) {
                    Some(login) => ProbePlan::LogInAsUser(address, hello_with(&login, context)),
                    None => ProbePlan::Connect(address),
                }
            }
        })
    }
}
