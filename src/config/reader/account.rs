//! Reads a reference to a local account, in `os_user` of a user and in `viewers` of `[daemon]`.

use super::diagnostics::Evidence;
use super::document::TomlValue;
use super::reported::Reported;
use crate::config::account_database::AccountResolver;
use crate::config::local_account::LocalAccount;
use crate::config::problem_scope::ProblemScope;

/// Reads the name or number of a local account. If the account database does not know the account, this
/// reports it and still returns the reference. hopend repeats the query later.
///
/// An error does not repeat the text, because people have written a password here by mistake.
pub(super) fn read(
    value: &TomlValue<'_>,
    accounts: &AccountResolver<'_>,
) -> Result<LocalAccount, Reported> {
    let text = value.text()?;
    let (message, remedy) = match accounts(text) {
        Ok(Some(account)) => return Ok(LocalAccount::known(text, account)),
        Ok(None) => (
            "there is no such local account".to_owned(),
            "write an account of this host (`getent passwd` lists them), or its number",
        ),
        Err(error) => (
            format!("the account database does not answer: {error}"),
            "repair the name service (`getent passwd` queries it); hopend repeats the query",
        ),
    };
    let account = LocalAccount::unknown(text);
    let reach = value.reach(|part| ProblemScope::Account(part, account.clone()));
    value.report_reaching(Evidence::Present, reach, message, remedy);
    Ok(account)
}
