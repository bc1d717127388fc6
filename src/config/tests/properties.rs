//! Properties of reading any text: the result is a configuration or a list of problems.

use proptest::prelude::*;

use super::*;

/// Checks that a configuration contains all tables of the text, and that problems exist, have valid lines
/// and contain no secret.
fn ends(text: &str) {
    let result = read(text);
    if let Ok(config) = &result {
        let document = toml::de::DeTable::parse(text).unwrap();
        let count = |key| document.get_ref()[key].get_ref().as_array().unwrap().len();
        assert_eq!(config.endpoints.len(), count("endpoint"));
        assert_eq!(config.users.len(), count("user"));
    }
    if let Err(problems) = result {
        assert!(problems.iter().count() > 0);
        let lines = text.matches('\n').count() + 1;
        assert!(
            problems
                .iter()
                .all(|p| p.line.is_none_or(|line| line <= lines))
        );
        assert!(!problems.to_string().contains("7ChDpfMSI3Ld"));
    }
}

fn with_hash() -> String {
    LARGE.replace(
        "password_file = \"users\"",
        &format!("password = \"{HASH}\""),
    )
}

proptest! {
    #[test]
    fn of_any_text(text in "\\PC*") {
        ends(&text);
    }

    #[test]
    fn of_anything_that_looks_like_toml(
        text in "(\\[{0,2}(user|endpoint|environment|daemon)(\\.[a-z]{1,3})?\\]{0,2}\n|[a-z_]{1,8} ?= ?(\"[^\"]{0,9}\"|[0-9]{1,30}|true|\\{\\}|\\[\\]|[-0-9:T]{9})\n){0,12}"
    ) {
        ends(&text);
    }

    #[test]
    fn of_a_file_with_a_slip(
        at in any::<prop::sample::Index>(),
        removed in 0_usize..40,
        inserted in "[\\[\\]{}\"'=.#\n a-z0-9$]{0,4}",
    ) {
        let text: Vec<char> = with_hash().chars().collect();
        let at = at.index(text.len());
        let end = (at + removed).min(text.len());
        let slipped: String = text[..at]
            .iter()
            .chain(inserted.chars().collect::<Vec<_>>().iter())
            .chain(&text[end..])
            .collect();
        ends(&slipped);
    }

    #[test]
    fn of_a_file_with_a_line_missing_or_twice(line in any::<prop::sample::Index>(), twice: bool) {
        let text = with_hash();
        let mut lines: Vec<&str> = text.lines().collect();
        let line = line.index(lines.len());
        if twice {
            lines.insert(line, lines[line]);
        } else {
            lines.remove(line);
        }
        ends(&lines.join("\n"));
    }
}
