//! The manual pages in man/ are what the command line says of itself, and the completions know it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::process::hopend;

/// What to do when a page is not what it should be.
const REMEDY: &str = "write the pages anew with `MAN=write cargo test --test behaviour man`";

fn pages(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let read = entries.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&path).unwrap())
    });
    read.collect()
}

/// The pages in man/ are those of a build with every feature.
#[cfg(feature = "demo")]
#[test]
fn the_manual_pages_are_up_to_date() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    if std::env::var_os("MAN").is_some_and(|value| value == "write") {
        // A subcommand that is gone leaves no page behind.
        let _ = fs::remove_dir_all(&kept);
        assert!(
            hopend(&["man", "--dir", kept.to_str().unwrap()])
                .status
                .success()
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("man1");
    assert!(
        hopend(&["man", "--dir", made.to_str().unwrap()])
            .status
            .success()
    );
    let (kept, made) = (pages(&kept), pages(&made));
    let names = |pages: &BTreeMap<String, String>| pages.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&kept), names(&made), "{REMEDY}");
    for (name, page) in &made {
        assert!(kept[name] == *page, "man/{name} is out of date; {REMEDY}");
    }
    let printed = hopend(&["man"]);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), made["hopend.1"]);

    for section in ["NAME", "SYNOPSIS", "\"EXIT STATUS\"", "FILES", "EXAMPLES"] {
        assert!(
            made["hopend.1"].contains(&format!(".SH {section}\n")),
            "no {section}"
        );
    }
    let refused = hopend(&["man", "--dir", "/dev/null/man"]);
    assert_eq!(refused.status.code(), Some(69));
}

#[test]
fn completions_are_for_every_subcommand_in_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = hopend(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        for name in [
            "run",
            "hash-password",
            "completions",
            "--trust-finspace",
            "trust-finspace",
        ] {
            let name = if shell == "fish" {
                name.trim_start_matches("--")
            } else {
                name
            };
            assert!(script.contains(name), "{shell}: no {name}");
        }
    }
    assert_eq!(hopend(&["completions", "csh"]).status.code(), Some(64));
}

/// A bash that has read the script, at the end of what somebody typed.
#[test]
fn bash_completes_what_was_begun() {
    let script = String::from_utf8(hopend(&["completions", "bash"]).stdout).unwrap();
    let complete = |words: &[&str]| {
        let typed = words.join(" ");
        let text = format!(
            "{script}\nCOMP_WORDS=({typed})\nCOMP_CWORD={}\n_hopend hopend '{}' '{}'\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let output = std::process::Command::new("bash")
            .args(["-c", &text])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete(&["hopend", "pol"]), "policy\n");
    assert_eq!(
        complete(&["hopend", "policy", "--trust"]),
        "--trust-finspace\n"
    );
    assert_eq!(
        complete(&["hopend", "policy", "--document", "d"]),
        "daemon\n"
    );
}
