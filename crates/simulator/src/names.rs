//! Checks names and ARNs against the patterns of the service model.

/// Whether a cluster may have this name: `[a-zA-Z0-9][a-zA-Z0-9-_]*[a-zA-Z0-9]`, 3 to 63 long.
pub(crate) fn is_cluster(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    (3..=63).contains(&name.len())
        && name.chars().all(is_word)
        && ends(name.chars().next())
        && ends(name.chars().last())
}

/// Whether a FinSpace user may have this name: `[0-9A-Za-z_-]{1,50}`.
pub(crate) fn is_user(name: &str) -> bool {
    (1..=50).contains(&name.len()) && name.chars().all(is_word)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Whether this is the ARN of a role: `arn:aws…:iam::ACCOUNT:role/PATH…NAME`.
pub(crate) fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [_, partition, "iam", "", account, role] = parts[..] else {
        return false;
    };
    partition.starts_with("aws")
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && role
            .strip_prefix("role/")
            .is_some_and(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_the_patterns_of_the_model() {
        assert!(is_cluster("hdb-cluster") && is_cluster("a_1"));
        assert!(
            !is_cluster("-hdb") && !is_cluster("hdb-") && !is_cluster("a b c") && !is_cluster("ab")
        );
        assert!(is_user("alice") && is_user("_") && !is_user("") && !is_user("a.b"));
        assert!(!is_user(&"a".repeat(51)));
    }

    #[test]
    fn roles_of_every_partition_and_path() {
        assert!(is_role("arn:aws:iam::111122223333:role/user-alice"));
        assert!(is_role("arn:aws-cn:iam::111122223333:role/team/alice"));
        for wrong in [
            "none",
            "arn:aws:iam::111122223333:user/alice",
            "arn:aws:iam::1111:role/alice",
            "arn:aws:sts::111122223333:role/alice",
            "arn:aws:iam::111122223333:role/",
        ] {
            assert!(!is_role(wrong), "{wrong}");
        }
    }
}
