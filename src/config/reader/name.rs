//! Names that the file gives to its parts.

use base::invalid_value::InvalidValue;

/// The least similarity, from 0 to 1, of a mistyped name to the name that an error suggests.
const SIMILAR: f64 = 0.75;

/// Checks the name of an endpoint or environment, which appears in logs, metrics and command lines.
///
/// # Errors
/// The name is empty, longer than 64 bytes, or has other characters than letters, digits, `.`, `_`
/// and `-`.
pub(super) fn check(text: &str) -> Result<(), InvalidValue> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&text.len()) && text.chars().all(is_allowed) {
        return Ok(());
    }
    Err(InvalidValue::new(
        "is not a name",
        "write 1 to 64 letters, digits, dots, hyphens and underscores",
    ))
}

/// Checks the name of a user, which a client gives to hopen. The user in the argument of hopen ends at
/// the first colon.
///
/// # Errors
/// The name is empty, longer than 64 bytes, or has a colon, a blank or a control character.
pub(super) fn check_user(text: &str) -> Result<(), InvalidValue> {
    let is_allowed = |c: char| !c.is_control() && !c.is_whitespace() && c != ':';
    if (1..=64).contains(&text.len()) && text.chars().all(is_allowed) {
        return Ok(());
    }
    Err(InvalidValue::new(
        "is not a user's name",
        "write 1 to 64 characters without colons and blanks",
    ))
}

/// The name among `known` that resembles a mistyped name most, if one is similar enough.
pub(super) fn nearest<'k>(mistyped: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|known| (strsim::jaro_winkler(mistyped, known), known))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}
