//! The files with AWS profiles that the AWS SDK reads by default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use base::file_access::{self, FileAccessError, Protection};

/// The keys in these files whose values are secrets.
const SECRET_KEYS: [&str; 2] = ["aws_secret_access_key", "aws_session_token"];

/// The shared configuration file and the shared credentials file from which the SDK may read the base
/// credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsProfileFiles {
    /// Names roles and programs that the SDK runs. It may have secrets too.
    configuration: Option<PathBuf>,
    credentials: Option<PathBuf>,
}

impl AwsProfileFiles {
    /// The files that the SDK uses for an environment with this `credentials_file`. `variable` reads an
    /// environment variable, such as `AWS_CONFIG_FILE` or `HOME`.
    pub fn of(
        credentials_file: Option<&Path>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let found = |name: &str, file: &str| {
            let named = variable(name).filter(|path| !path.is_empty());
            let home = || Some(Path::new(&variable("HOME")?).join(".aws").join(file));
            named.map(PathBuf::from).or_else(home)
        };
        Self {
            configuration: found("AWS_CONFIG_FILE", "config"),
            credentials: match credentials_file {
                Some(path) => Some(path.to_path_buf()),
                None => found("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            },
        }
    }

    /// Checks that no other account can change the files, or read a file with secrets.
    ///
    /// It passes over a file that does not exist or that this process may not read, because the SDK
    /// cannot use such a file either. Blocks.
    ///
    /// # Errors
    /// Another account can change or read a file.
    pub fn check(&self) -> Result<(), FileAccessError> {
        self.check_configuration()?;
        match &self.credentials {
            Some(path) => check(path, Protection::FromChangeAndReading),
            None => Ok(()),
        }
    }

    /// Checks the shared configuration file alone. Blocks.
    ///
    /// # Errors
    /// Another account can change the file, or read it although it has secrets.
    pub fn check_configuration(&self) -> Result<(), FileAccessError> {
        let Some(path) = &self.configuration else {
            return Ok(());
        };
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let secret = text.is_ok_and(|text| SECRET_KEYS.iter().any(|key| text.contains(*key)));
        let protection = if secret {
            Protection::FromChangeAndReading
        } else {
            Protection::FromChange
        };
        check(path, protection)
    }
}

fn check(path: &Path, protection: Protection) -> Result<(), FileAccessError> {
    match file_access::check(path, protection) {
        Err(exposed) if !exposed.is_inaccessible() => Err(exposed),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_sdks_files_are_checked_and_a_configuration_without_secrets_may_be_read() {
        let home = tempfile::tempdir().unwrap();
        let aws = home.path().join(".aws");
        let variable = |name: &str| (name == "HOME").then(|| home.path().into());
        let check = || AwsProfileFiles::of(None, variable).check();
        check().unwrap();
        fs::create_dir(&aws).unwrap();
        let write = |name: &str, text: &str, mode| {
            let path = aws.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        };
        write("config", "[default]\nregion = us-east-1\n", 0o644);
        write(
            "credentials",
            "[default]\naws_secret_access_key = x\n",
            0o600,
        );
        check().unwrap();
        for (name, mode) in [("config", 0o666), ("credentials", 0o644)] {
            let path = aws.join(name);
            let before = fs::metadata(&path).unwrap().permissions();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let exposed = check().unwrap_err().to_string();
            assert!(
                exposed.contains(&format!("{}", path.display())),
                "{exposed}"
            );
            fs::set_permissions(&path, before).unwrap();
        }
        write("config", "[default]\naws_secret_access_key = x\n", 0o644);
        assert!(check().is_err());
        // The variables win over the home directory.
        let elsewhere = |name: &str| match name {
            "HOME" => Some(home.path().into()),
            _ => Some("/nonexistent/file".into()),
        };
        AwsProfileFiles::of(None, elsewhere).check().unwrap();
    }
}
