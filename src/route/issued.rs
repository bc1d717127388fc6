//! Opens connections with logins that the credential cache issues.

use super::OpenError;
use super::connection::{LoggedInConnection, LoginSource, PresentedLogin};
use super::context::DialContext;
use crate::credential::{Credential, IssuedCredential, Recipe};
use crate::primitives::opening::OpenStage;
use crate::upstream::UpstreamError;
use base::kdb_address::KdbAddress;
use q_ipc::handshake::Hello;

/// A login that the credential cache has issued.
pub(super) struct IssuedLogin {
    /// The address in the connection string. None if a login command printed a user and a password only.
    pub(super) address: Option<KdbAddress>,
    pub(super) login: PresentedLogin,
}

impl IssuedLogin {
    fn new(issued: &IssuedCredential, recipe: &Recipe, context: &DialContext) -> Self {
        Self {
            address: issued.credential.address.clone(),
            login: PresentedLogin {
                hello: hello_with(&issued.credential, context),
                source: LoginSource::IssuedCredential {
                    recipe: recipe.clone(),
                    generation: issued.generation,
                },
            },
        }
    }
}

/// The client's handshake with the user and the password of a credential.
pub(super) fn hello_with(credential: &Credential, context: &DialContext) -> Hello {
    let password = credential.password.clone();
    context.hello.with_login(&credential.user, password)
}

/// Has the cache issue a login, and opens a connection with it. If kdb+ refuses the login, AWS or the
/// command may have withdrawn it early: the cache fetches a new one, and `open` runs a second time.
pub(super) async fn open_with_issued<F>(
    recipe: Recipe,
    context: &DialContext,
    open: impl Fn(IssuedLogin) -> F,
) -> Result<LoggedInConnection, OpenError>
where
    F: Future<Output = Result<LoggedInConnection, OpenError>>,
{
    let (laps, credentials) = (&context.laps, &context.credentials);
    let obtain = || laps.time(OpenStage::Credential, credentials.obtain(&recipe));
    let issued = obtain().await?;
    match open(IssuedLogin::new(&issued, &recipe, context)).await {
        Err(error) if is_refusal(&error) => {
            let generation = issued.generation;
            tracing::info!(%recipe, generation, "kdb+ refused the login: fetching it anew");
            credentials.reject(&recipe, generation);
            let issued = obtain().await?;
            open(IssuedLogin::new(&issued, &recipe, context)).await
        }
        opened => opened,
    }
}

fn is_refusal(error: &OpenError) -> bool {
    matches!(
        error.deciding(),
        OpenError::Upstream(UpstreamError::Rejected { .. })
    )
}

/// The address of a connection string, if the login may go there: over TLS, or anywhere if the endpoint
/// has `plaintext = true`.
pub(super) fn checked_for_tls(
    address: KdbAddress,
    plaintext: bool,
) -> Result<KdbAddress, OpenError> {
    if address.tls || plaintext {
        Ok(address)
    } else {
        Err(OpenError::Plaintext(address))
    }
}
