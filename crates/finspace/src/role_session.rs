//! The name of a role session. CloudTrail shows it, and a trust policy can require it.

/// The longest RoleSessionName and SourceIdentity that STS accepts, in characters.
const NAME_LIMIT: usize = 64;

/// Turns the name of a local user into a RoleSessionName and SourceIdentity: 2 to 64 characters of
/// `[A-Za-z0-9_+=,.@-]`.
///
/// Other characters become `-`, so two users may get the same name.
///
/// ```
/// use finspace::role_session::session_name;
/// assert_eq!(session_name("alice@desk"), "alice@desk");
/// assert_eq!(session_name("bob/ops"), "bob-ops");
/// ```
pub fn session_name(local_user: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let mut name: String = local_user
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(NAME_LIMIT)
        .collect();
    if name.len() < 2 {
        name.insert_str(0, "hopend-");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_after_the_local_user_within_what_sts_takes() {
        assert_eq!(session_name("alice@desk"), "alice@desk");
        assert_eq!(session_name("zoë b"), "zo--b");
        assert_eq!(session_name("x"), "hopend-x");
        assert_eq!(session_name(&"a".repeat(99)).len(), NAME_LIMIT);
    }
}
