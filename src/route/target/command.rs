//! A kdb+ whose address and login a command prints.

use crate::config::{LoginCommand, User};
use crate::credential::Recipe;
use crate::route::OpenError;
use crate::route::connection::{DialedAddress, LoggedInConnection};
use crate::route::context::DialContext;
use crate::route::dialer::Dialer;
use crate::route::issued::{IssuedLogin, checked_for_tls, open_with_issued};

/// A command that prints the login of a user.
#[derive(Debug)]
pub(super) struct CommandLogin {
    pub(super) command: LoginCommand,
    /// The endpoint's name, which the command finds in its environment.
    pub(super) endpoint: String,
}

/// A kdb+ whose address the login command prints, because the endpoint has no `connect`.
#[derive(Debug)]
pub(in crate::route) struct CommandTarget {
    pub(super) login: CommandLogin,
    /// Whether a connection string without TLS may be used.
    pub(super) plaintext: bool,
    pub(super) dialer: Dialer,
}

impl CommandLogin {
    /// The run of the command for a user.
    pub(super) fn recipe(&self, user: &User) -> Recipe {
        Recipe::Command {
            command: self.command.clone(),
            endpoint: self.endpoint.clone(),
            local_user: user.name.clone(),
        }
    }
}

impl CommandTarget {
    /// The logins that hopend can fetch before the user opens a session.
    pub(super) fn recipes(&self, user: &User) -> Vec<Recipe> {
        vec![self.login.recipe(user)]
    }

    pub(super) async fn open(
        &self,
        context: &DialContext,
    ) -> Result<LoggedInConnection, OpenError> {
        let open = |issued: IssuedLogin| async move {
            let address = issued.address.ok_or(OpenError::CommandWithoutAddress)?;
            let address = checked_for_tls(address, self.plaintext)?;
            let upstream = self.dialer.log_in(&address, &issued.login, context).await?;
            Ok(LoggedInConnection {
                upstream,
                address: DialedAddress::FromLogin,
                login: issued.login.source,
            })
        };
        open_with_issued(self.login.recipe(&context.user), context, open).await
    }
}
