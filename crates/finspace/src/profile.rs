//! Base credentials from a named profile, which are read again each time that the SDK asks.

use std::path::PathBuf;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};

use crate::environment::Environment;
use crate::profile_files::AwsProfileFiles;

/// Reads the base credentials from a profile.
///
/// The SDK's own provider reads the files once and keeps a failure for ever. This provider also finds a
/// profile that was repaired while the process runs.
#[derive(Debug)]
pub(super) struct ProfileCredentials {
    name: Option<String>,
    credentials_file: Option<PathBuf>,
}

impl ProfileCredentials {
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

impl ProvideCredentials for ProfileCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let provider = self.provider();
        let named = self.credentials_file.as_deref();
        let files = AwsProfileFiles::of(named, |name| std::env::var_os(name));
        future::ProvideCredentials::new(async move {
            let checked = tokio::task::spawn_blocking(move || files.check()).await;
            let protected = checked.map_err(CredentialsError::unhandled)?;
            protected.map_err(CredentialsError::invalid_configuration)?;
            provider.provide_credentials().await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn keys_that_others_can_read_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let keys = "[hopend]\naws_access_key_id = AKIA\naws_secret_access_key = wonder\n";
        std::fs::write(&path, keys).unwrap();
        let profile = ProfileCredentials {
            name: Some("hopend".into()),
            credentials_file: Some(path.clone()),
        };
        let mode = |mode| std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let refused = profile.provide_credentials().await.unwrap_err();
        let said = base::error::chain(&refused);
        assert!(said.contains("chmod o-rwx"), "{said}");
        assert!(!said.contains("wonder"), "{said}");
        mode(0o640);
        let keys = profile.provide_credentials().await.unwrap();
        assert_eq!(keys.access_key_id(), "AKIA");
    }
}
