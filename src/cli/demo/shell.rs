//! Parts of commands that a user copies into a shell.

/// The command that starts this program in a shell: `hopend` if PATH leads to this program, else its path.
pub(super) fn own_command() -> String {
    let Ok(own) = std::env::current_exe().and_then(|own| own.canonicalize()) else {
        return "hopend".into();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find_map(|folder| {
        let file = folder.join("hopend").canonicalize().ok()?;
        file.is_file().then_some(file)
    });
    match in_path {
        Some(found) if found == own => "hopend".into(),
        _ => quoted(&own.to_string_lossy()),
    }
}

/// Quotes a word for a shell, if necessary.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_word_in_a_shell() {
        assert_eq!(quoted("/opt/hopend/bin/hopend"), "/opt/hopend/bin/hopend");
        assert_eq!(quoted("/my tools/hopend"), "'/my tools/hopend'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
