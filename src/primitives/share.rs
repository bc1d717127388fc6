//! The share of a limit that one user may use.

/// The most of `limit` that one user may use. A 64th of the limit, and at least 1, stays for other
/// users, so that one user cannot keep them all out. The result is at least 1.
pub(crate) fn max_for_one_user(limit: usize) -> usize {
    limit.saturating_sub((limit / 64).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64th_is_for_others_and_at_least_one() {
        for (limit, expected) in [(0, 1), (1, 1), (2, 1), (10, 9), (64, 63), (640, 630)] {
            assert_eq!(max_for_one_user(limit), expected, "{limit}");
        }
    }
}
