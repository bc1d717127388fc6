//! What a session of a user's role is called: CloudTrail shows it, and a trust policy can ask for it.

/// Longest RoleSessionName and SourceIdentity.
const NAME_LIMIT: usize = 64;

/// A local user as RoleSessionName and SourceIdentity take it: 2 to 64 of `[A-Za-z0-9_+=,.@-]`.
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
