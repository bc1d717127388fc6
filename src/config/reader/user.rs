//! Reads the `[[user]]` tables.

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use secret::Secret;

use super::account;
use super::definitions::Definitions;
use super::diagnostics::Evidence;
use super::document::{TomlTable, TomlValue};
use super::limit;
use super::name;
use super::password_file::{self, NoPassword};
use super::reported::Reported;
use crate::config::account_database::AccountResolver;
use crate::config::certificate_name::CertificateName;
use crate::config::config_part::ConfigPartKind;
use crate::config::problem_scope::ProblemScope;
use crate::config::user::{PasswordVerifier, User};

pub(in crate::config) const KEYS: &[&str] = &[
    "name",
    "os_user",
    "password",
    "password_file",
    "kx_user",
    "role_arn",
    "console",
    "certificate",
    "max_sessions",
    "max_opens_per_second",
    "idle_timeout",
    "max_session_time",
];

/// The keys that identify a user. Each user needs at least one of them.
const PROOFS: [&str; 4] = ["os_user", "password", "password_file", "certificate"];

/// The users of a file.
pub(super) struct Users {
    pub(super) definitions: Definitions<User>,
    /// The certificate of each user that has one, including users with an error.
    pub(super) certificates: Vec<UserCertificate>,
}

/// The certificate of a user.
pub(super) struct UserCertificate {
    /// The name of the user. Empty if the table has no valid name.
    pub(super) user: String,
    pub(super) certificate: CertificateName,
}

/// Reads every `[[user]]`.
pub(super) fn read_all(root: &TomlTable<'_>, accounts: &AccountResolver<'_>) -> Users {
    let mut definitions = Definitions::new(ConfigPartKind::User);
    let mut certificates = Vec::new();
    for mut table in root.tables(ConfigPartKind::User) {
        let name = table.read_name(ConfigPartKind::User, name::check_user);
        table.reject_keys_except(KEYS);
        if let Some(certificate) = valid_certificate(&table) {
            let user = name.unwrap_or_default().to_owned();
            certificates.push(UserCertificate { user, certificate });
        }
        let Ok(name) = name else { continue };
        if let Some(value) = table.get("name") {
            definitions.report_duplicate(&value, name);
        }
        definitions.add(name, table.line(), read(name, &table, accounts));
    }
    definitions.drop_unsound(root.diagnostics());
    Users {
        definitions,
        certificates,
    }
}

/// The certificate of a user, if it is valid. An invalid one is not reported here.
fn valid_certificate(table: &TomlTable<'_>) -> Option<CertificateName> {
    table.get("certificate")?.raw().as_str()?.parse().ok()
}

fn read(
    name: &str,
    table: &TomlTable<'_>,
    accounts: &AccountResolver<'_>,
) -> Result<User, Reported> {
    if PROOFS.iter().all(|key| table.get(key).is_none()) {
        table.absent(
            "",
            "has no proof of identity",
            "add os_user, password, password_file or certificate",
        );
    }
    let os_user = table.optional("os_user", |value| account::read(value, accounts));
    let password = password(name, table);
    let kx_user = table.with_default("kx_user", name.to_owned(), |value| {
        value.restricted_text(
            1..=50,
            |c| c.is_ascii_alphanumeric() || c == '_' || c == '-',
            "write the FinSpace user's name: 1 to 50 letters, digits, hyphens and underscores",
        )
    });
    let role_arn = table.optional("role_arn", |value| value.check(value.text()?.parse()));
    let console = table.with_default("console", false, TomlValue::boolean);
    let certificate = table.optional("certificate", |value| value.check(value.text()?.parse()));
    let max_sessions = limit::sessions(table, "max_sessions");
    let max_opens_per_second = limit::opens_per_second(table);
    let idle_timeout = limit::time(table, "idle_timeout");
    let max_session_time = limit::time(table, "max_session_time");
    Ok(User {
        name: name.to_owned(),
        os_user: os_user?,
        password: password?,
        kx_user: kx_user?,
        role_arn: role_arn?,
        console: console?,
        certificate: certificate?,
        max_sessions: max_sessions?,
        max_opens_per_second: max_opens_per_second?,
        idle_timeout: idle_timeout?,
        max_session_time: max_session_time?,
    })
}

/// Reads `password` or `password_file`. A user may have only one of the two keys.
fn password(name: &str, table: &TomlTable<'_>) -> Result<Option<PasswordVerifier>, Reported> {
    let hash = table.optional("password", argon2_hash);
    let from_file = table.optional("password_file", |value| password_from_file(value, name));
    if let (Some(_), Some(value)) = (table.get("password"), table.get("password_file")) {
        value.problem("cannot be combined with password", "leave one of the two");
    }
    match hash? {
        Some(hash) => Ok(Some(hash)),
        None => from_file,
    }
}

fn argon2_hash(value: &TomlValue<'_>) -> Result<PasswordVerifier, Reported> {
    let text = value.text()?;
    let is_valid = PasswordHash::new(text).is_ok_and(|hash| {
        hash.algorithm.as_str() == "argon2id"
            && hash.salt.is_some()
            && hash.hash.is_some()
            && Params::try_from(&hash).is_ok()
    });
    if !is_valid {
        return Err(value.problem(
            "is not an argon2id hash",
            "write what `hopend hash-password` prints, in quotes",
        ));
    }
    Ok(PasswordVerifier::Argon2(Secret::from(text)))
}

fn password_from_file(value: &TomlValue<'_>, user: &str) -> Result<PasswordVerifier, Reported> {
    let file = value.secret_file()?;
    password_file::verifier(&file.content, user).map_err(|no_password| match no_password {
        NoPassword::Ambiguous(invalid) => value.problem(invalid.message, invalid.remedy),
        NoPassword::Gone(invalid) => {
            let reach = value.reach(ProblemScope::Proof);
            value.report_reaching(Evidence::Present, reach, invalid.message, invalid.remedy)
        }
    })
}
