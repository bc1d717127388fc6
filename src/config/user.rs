//! `[[user]]`.

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;

use super::account::{Accounts, LocalAccount};
use super::left_out::{Part, PartKind, Reach};
use super::limit;
use super::named::Named;
use super::password_file::{self, NoPassword};
use super::reader::{Table, Value};
use super::source::Basis;
use super::{CertificateName, User, Verifier};
use base::invalid::Invalid;
use secret::Secret;

pub(super) const KEYS: &[&str] = &[
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

/// Every `[[user]]`.
pub(super) struct Users {
    pub(super) named: Named<User>,
    /// The certificates that the file gives to users, those that are left out included.
    pub(super) certificates: Vec<OwnCertificate>,
}

/// A certificate, and the name of its user.
pub(super) struct OwnCertificate {
    pub(super) user: String,
    pub(super) certificate: CertificateName,
}

/// Reads every `[[user]]`.
pub(super) fn read_all(root: &Table<'_>, accounts: &Accounts<'_>) -> Users {
    let mut named = Named::new(PartKind::User);
    let mut certificates = Vec::new();
    for mut table in root.tables(PartKind::User) {
        let name = table.name_itself("user", user_name);
        table.only(KEYS);
        let certificate = table.get("certificate");
        if let Some(Ok(certificate)) = certificate.and_then(|v| v.raw().as_str().map(str::parse)) {
            let user = name.unwrap_or_default().to_owned();
            certificates.push(OwnCertificate { user, certificate });
        }
        let Some(name) = name else { continue };
        if let Some(value) = table.get("name") {
            named.claim(&value, name);
        }
        let user = read(name, &table, accounts);
        named.push(name, table.line(), user);
    }
    named.settle(root.source);
    Users {
        named,
        certificates,
    }
}

fn read(name: &str, table: &Table<'_>, accounts: &Accounts<'_>) -> Option<User> {
    let identities = ["os_user", "password", "password_file", "certificate"];
    if identities.iter().all(|key| table.get(key).is_none()) {
        table.absent(
            "",
            "has nothing to be recognised by",
            "add os_user, password, password_file or certificate",
        );
    }
    let os_user = table.get("os_user").map(|value| {
        let part = table.part()?.clone();
        account(&value, part, accounts)
    });
    let password = table.get("password").map(|value| password(&value));
    let from_file = table
        .get("password_file")
        .map(|value| line_of(&value, name));
    if let (Some(_), Some(_), Some(value)) = (&password, &from_file, table.get("password_file")) {
        value.problem("stands beside a password", "leave one of the two");
    }
    let kx_user = match table.get("kx_user") {
        Some(value) => value.made_of(
            1..=50,
            |c| c.is_ascii_alphanumeric() || c == '_' || c == '-',
            "write the FinSpace user's name: 1 to 50 letters, digits, hyphens and underscores",
        ),
        None => Some(name.to_owned()),
    };
    let role_arn = table
        .get("role_arn")
        .map(|value| value.text().and_then(|text| value.check(text.parse())));
    let console = table
        .get("console")
        .map_or(Some(false), |value| value.boolean());
    let certificate = table
        .get("certificate")
        .map(|value| value.text().and_then(|text| value.check(text.parse())));
    let max_sessions = limit::sessions(table, "max_sessions");
    let max_opens_per_second = limit::rate(table);
    let idle_timeout = limit::time(table, "idle_timeout");
    let max_session_time = limit::time(table, "max_session_time");
    Some(User {
        name: name.to_owned(),
        os_user: all_or_none(os_user)?,
        password: all_or_none(password.or(from_file))?,
        kx_user: kx_user?,
        role_arn: all_or_none(role_arn)?,
        console: console?,
        certificate: all_or_none(certificate)?,
        max_sessions: max_sessions?,
        max_opens_per_second: max_opens_per_second?,
        idle_timeout: idle_timeout?,
        max_session_time: max_session_time?,
    })
}

/// A key that is not there is fine, one that is there and not valid is not.
fn all_or_none<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(None) => None,
        Some(valid) => Some(valid),
    }
}

/// What hopen's user can be: it ends at the first colon.
pub(super) fn user_name(text: &str) -> Result<(), Invalid> {
    let fine = |c: char| !c.is_control() && !c.is_whitespace() && c != ':';
    if (1..=64).contains(&text.len()) && text.chars().all(fine) {
        return Ok(());
    }
    Err(Invalid::new(
        "is not a user's name",
        "write 1 to 64 characters without colons and blanks",
    ))
}

/// The account of `part`, which waits for it where it does not resolve. The text is not repeated:
/// people have written the password here.
pub(super) fn account(
    value: &Value<'_>,
    part: Part,
    accounts: &Accounts<'_>,
) -> Option<LocalAccount> {
    let text = value.text()?;
    let (what, remedy) = match accounts(text) {
        Ok(Some(account)) => return Some(LocalAccount::known(text, account)),
        Ok(None) => (
            "there is no such local account".to_owned(),
            "write an account of this host (`getent passwd` lists them), or its number",
        ),
        Err(error) => (
            format!("the account database can't be asked: {error}"),
            "mend the name service (`getent passwd` asks it); hopend asks again",
        ),
    };
    let account = LocalAccount::unknown(text);
    let reach = Reach::Account(part, account.clone());
    value.report_reaching(Basis::Seen, reach, what, remedy);
    Some(account)
}

fn password(value: &Value<'_>) -> Option<Verifier> {
    let text = value.text()?;
    let fine = PasswordHash::new(text).is_ok_and(|hash| {
        hash.algorithm.as_str() == "argon2id"
            && hash.salt.is_some()
            && hash.hash.is_some()
            && Params::try_from(&hash).is_ok()
    });
    if !fine {
        value.problem(
            "is not an argon2id hash",
            "write what `hopend hash-password` prints, in quotes",
        );
    }
    fine.then(|| Verifier::Argon2(Secret::from(text)))
}

fn line_of(value: &Value<'_>, name: &str) -> Option<Verifier> {
    let (_, bytes) = value.secret_file()?;
    match password_file::verifier(&bytes, name) {
        Ok(verifier) => Some(verifier),
        Err(NoPassword::Unclear(invalid)) => value.check(Err(invalid)),
        Err(NoPassword::Gone(invalid)) => {
            let reach = Reach::Proof(value.part.clone()?);
            value.report_reaching(Basis::Seen, reach, invalid.message, invalid.remedy);
            None
        }
    }
}
