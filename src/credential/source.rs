//! The real sources: FinSpace and login commands.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Credential, Fetch, FetchError, Recipe, Retry, command};
use crate::finspace::{AwsError, FinSpace, StringRequest};

/// Fetches from AWS and from login commands.
#[derive(Debug, Default)]
pub struct Sources {
    finspace: FinSpace,
}

impl Fetch for Sources {
    fn fetch<'a>(&'a self, recipe: &'a Recipe) -> BoxFuture<'a, Result<Credential, FetchError>> {
        async move {
            match recipe {
                Recipe::FinSpace {
                    environment,
                    cluster,
                    kx_user,
                    role,
                    local_user,
                } => {
                    let request = StringRequest {
                        environment,
                        cluster,
                        kx_user,
                        role: role.as_ref(),
                        local_user,
                    };
                    let signed = self.finspace.connection_string(&request).await?;
                    Ok(Credential {
                        address: Some(signed.string.address),
                        user: signed.string.user,
                        password: signed.string.password,
                        expires: Some(signed.expires),
                    })
                }
                Recipe::Command {
                    argv,
                    endpoint,
                    local_user,
                } => command::run(argv, endpoint, local_user).await,
            }
        }
        .boxed()
    }
}

impl From<AwsError> for FetchError {
    fn from(error: AwsError) -> Self {
        Self {
            kind: error.kind,
            retry: if error.passing {
                Retry::Soon
            } else {
                Retry::Refused
            },
            message: error.message,
            remedy: error.remedy,
        }
    }
}
