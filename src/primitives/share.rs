//! The part of a limit that one user may use.

/// All of `limit` but a 64th, so that one user cannot keep all others out: the rest, at least 1, is for the others.
/// At least 1 itself.
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
