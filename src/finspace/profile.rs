//! Base credentials from a named profile, read anew each time the SDK asks.

use std::path::PathBuf;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

use crate::config::Environment;

/// A profile of the configuration. The SDK's own provider reads the files once and keeps a failure
/// for ever; this one finds a profile that was mended while the daemon runs.
#[derive(Debug)]
pub(super) struct Profile {
    name: Option<String>,
    credentials_file: Option<PathBuf>,
}

impl Profile {
    pub(super) fn of(environment: &Environment) -> Self {
        Self {
            name: environment.profile.clone(),
            credentials_file: environment.credentials_file.clone(),
        }
    }

    fn provider(&self) -> ProfileFileCredentialsProvider {
        let mut builder = ProfileFileCredentialsProvider::builder();
        if let Some(name) = &self.name {
            builder = builder.profile_name(name);
        }
        if let Some(file) = &self.credentials_file {
            let files = EnvConfigFiles::builder()
                .include_default_config_file(true)
                .with_file(EnvConfigFileKind::Credentials, file)
                .build();
            builder = builder.profile_files(files);
        }
        builder.build()
    }
}

impl ProvideCredentials for Profile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let provider = self.provider();
        future::ProvideCredentials::new(async move { provider.provide_credentials().await })
    }
}
