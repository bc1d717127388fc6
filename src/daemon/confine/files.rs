//! Confines file access, by Landlock.
//!
//! The rules allow folders and not single files. Most editors replace a file by a new one, and a rule for the
//! old file would not include it.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope as Outside, path_beneath_rules,
};

use crate::config::{Config, ListenAddress, Login, Target};

/// The newest version of Landlock whose rights are requested. An older kernel enforces those that it knows.
const NEWEST_ABI: ABI = ABI::V5;

/// The folders that the daemon reads although no configuration names them: accounts and the resolver (with
/// their modules and caches), certificate authorities, time zones, and files of the kernel.
const SYSTEM_FOLDERS: &[&str] = &[
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/var/lib/ca-certificates",
    "/var/lib/extrausers",
    "/var/lib/misc",
    "/var/lib/sss",
    "/var/cache/nscd",
    "/var/db",
    "/run/nscd",
    "/run/systemd/resolve",
    "/run/systemd/userdb",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/urandom",
];

/// Environment variables that name files of the AWS SDK or of certificate authorities.
const FILE_VARIABLES: &[&str] = &[
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// Environment variables that name folders of certificate authorities or credentials.
const FOLDER_VARIABLES: &[&str] = &["SSL_CERT_DIR", "CREDENTIALS_DIRECTORY"];

/// The reason why files are not confined.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The kernel is older than 5.13, or was started without Landlock.
    #[error("files are not confined: the kernel has no Landlock")]
    None,
    /// Landlock refused the rules.
    #[error("files are not confined: {0}")]
    Refused(#[from] RulesetError),
}

/// The folders that the daemon may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileScope {
    /// Folders to read from.
    pub(super) read: Vec<PathBuf>,
    /// Folders in which it creates and removes sockets.
    pub(super) sockets: Vec<PathBuf>,
    /// Folders in which it creates and writes log files.
    pub(super) logs: Vec<PathBuf>,
    /// Folders to write to.
    write: Vec<PathBuf>,
    /// Whether it starts programs. They may read any file.
    pub(super) programs: bool,
}

impl FileScope {
    /// The folders that the configuration in the file at `path` needs.
    pub(super) fn of(config: &Config, path: &Path) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let aws = home.as_ref().map(|home| home.join(".aws"));
        let variable = |name: &&str| Some(PathBuf::from(std::env::var_os(name)?));

        let mut files = vec![path.to_path_buf()];
        files.extend(config.files.iter().cloned());
        files.extend(FILE_VARIABLES.iter().filter_map(variable));
        let mut profiles: Vec<PathBuf> = ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]
            .iter()
            .filter_map(variable)
            .collect();
        let environments = config.environments.iter();
        profiles
            .extend(environments.filter_map(|environment| environment.credentials_file.clone()));
        profiles.extend(
            aws.iter()
                .flat_map(|aws| [aws.join("config"), aws.join("credentials")]),
        );
        let named = Profiles::read(&profiles);
        files.extend(named.files);

        let programs = named.programs || !commands(config).is_empty();
        let mut read: Vec<PathBuf> = SYSTEM_FOLDERS.iter().map(PathBuf::from).collect();
        read.extend(FOLDER_VARIABLES.iter().filter_map(variable));
        read.extend(aws.iter().cloned());
        for file in &files {
            read.push(folder_of(file));
            // A link may lead to another folder.
            if let Ok(real) = file.canonicalize() {
                read.push(folder_of(&real));
            }
        }
        let mut write = vec![PathBuf::from("/dev/null")];
        // The AWS SDK renews the tokens of single sign-on there.
        write.extend(aws.iter().map(|aws| aws.join("sso/cache")));
        if programs {
            read.push("/".into());
            write.extend(["/tmp", "/var/tmp", "/dev"].map(PathBuf::from));
            write.extend(home);
        }
        let sockets = sockets(config);
        Self {
            read,
            sockets: sockets.iter().map(|socket| folder_of(socket)).collect(),
            logs: config
                .daemon
                .audit
                .iter()
                .map(|file| folder_of(file))
                .collect(),
            write,
            programs,
        }
    }
}

/// The login commands of all endpoints.
pub(super) fn commands(config: &Config) -> Vec<&[String]> {
    let endpoints = config.endpoints.iter();
    endpoints
        .filter_map(|endpoint| match &endpoint.target {
            Target::Addresses {
                login: Login::Command(command),
                ..
            } => Some(command.argv.as_slice()),
            _ => None,
        })
        .collect()
}

/// The socket files that the daemon creates.
pub(super) fn sockets(config: &Config) -> Vec<PathBuf> {
    let listen = config
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.listen);
    let paths = listen.filter_map(|address| match address {
        ListenAddress::Path(path) => Some(path.clone()),
        _ => None,
    });
    paths.chain(config.daemon.control.clone()).collect()
}

/// The folder of a file. For a file in `/` it is the file itself, because `/` would allow everything.
pub(super) fn folder_of(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    match file.parent() {
        Some(folder) if folder != Path::new("/") => folder.to_path_buf(),
        _ => file,
    }
}

/// Whether a folder is one of `folders`, or inside one of them. Follows links.
pub(super) fn is_under(folder: &Path, folders: &[PathBuf]) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = real(folder);
    folders
        .iter()
        .any(|allowed| folder.starts_with(real(allowed)))
}

/// Whether the kernel denies to read a file.
pub(super) fn is_denied(file: &Path) -> bool {
    let denied = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    // Only regular files are opened: to open a pipe may block for ever.
    file.is_file() && std::fs::File::open(file).is_err_and(denied)
}

/// The files and programs that AWS profiles name.
#[derive(Debug, Default)]
struct Profiles {
    files: Vec<PathBuf>,
    programs: bool,
}

impl Profiles {
    /// Reads the profiles in these files. Skips a file that cannot be read.
    fn read(files: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for file in files {
            let text = zeroize::Zeroizing::new(std::fs::read_to_string(file).unwrap_or_default());
            all.add(&text);
        }
        all
    }

    fn add(&mut self, text: &str) {
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            match key.trim() {
                "credential_process" => self.programs = true,
                "web_identity_token_file" | "ca_bundle" => self.files.push(value.trim().into()),
                _ => {}
            }
        }
    }
}

/// Confines file access of this thread. Returns a message if the kernel enforces the rules only partly.
pub(super) fn confine(scope: &FileScope) -> Result<Option<String>, FilesError> {
    let mut read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    if scope.programs {
        read |= AccessFs::Execute;
    }
    let sockets = AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ReadDir;
    // After logrotate the daemon creates the file again. It truncates a half-written line.
    let logs = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::ReadFile | AccessFs::Truncate;
    let write = AccessFs::from_all(NEWEST_ABI) & !AccessFs::Execute;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .scope(Outside::Signal)?;
    // The service manager may receive readiness at an abstract socket.
    let notify_socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    if !notify_socket.as_encoded_bytes().starts_with(b"@") && !scope.programs {
        ruleset = ruleset.scope(Outside::AbstractUnixSocket)?;
    }
    // A rule for a folder that does not exist is skipped.
    let status = ruleset
        .create()?
        .add_rules(path_beneath_rules(&scope.read, read))?
        .add_rules(path_beneath_rules(&scope.sockets, sockets))?
        .add_rules(path_beneath_rules(&scope.logs, logs))?
        .add_rules(path_beneath_rules(&scope.write, write))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(FilesError::None),
        RulesetStatus::FullyEnforced => Ok(None),
        RulesetStatus::PartiallyEnforced => Ok(Some(partly(status.landlock))),
    }
}

/// The message about rules that the kernel enforces only partly.
fn partly(kernel: LandlockStatus) -> String {
    let has = match kernel {
        LandlockStatus::Available { effective_abi, .. } => format!("version {effective_abi}"),
        _ => "less".into(),
    };
    format!(
        "files are confined in part only: the kernel has {has} of Landlock, and signals and abstract \
         sockets take version 6"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_file_is_never_everything() {
        for (file, folder) in [
            ("/etc/hopend/hopend.toml", "/etc/hopend"),
            ("/hopend.toml", "/hopend.toml"),
        ] {
            assert_eq!(folder_of(Path::new(file)), Path::new(folder));
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(folder_of(Path::new("hopend.toml")), here);
    }

    #[test]
    fn a_folder_is_under_another_by_its_real_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
        let allowed = [folder.path().join("link")];
        assert!(is_under(&folder.path().join("real"), &allowed));
        assert!(!is_under(folder.path(), &allowed));
        assert!(!is_under(Path::new("/etc-other"), &["/etc".into()]));
    }

    #[test]
    fn profiles_tell_of_programs_and_tokens() {
        let mut profiles = Profiles::default();
        profiles.add("[default]\nregion = us-east-1\n# credential_process = /bin/false\n");
        assert!(!profiles.programs);
        profiles
            .add("[p]\nweb_identity_token_file=/run/token\ncredential_process = /bin/x --y=z\n");
        assert!(profiles.programs);
        assert_eq!(profiles.files, [PathBuf::from("/run/token")]);
    }
}
