//! A configuration is read to its end or refused with every problem on a line that is there, and no
//! password of it is shown.

use std::path::Path;

use hopend::config::{self, Config, Problems};

/// A password that no text has by chance.
const PASSWORD: &str = "sesame-7319-open";

pub fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // Files that it names are looked at: devices are none of it.
    if ["dev", "proc", "sys"]
        .iter()
        .any(|folder| text.contains(folder))
    {
        return;
    }
    let read = parse(text);
    if let Err(problems) = &read {
        check(problems, text);
    }
    // A comment changes nothing, unless a text of several lines goes on at the end.
    if text.parse::<toml::Table>().is_ok() {
        let commented = parse(&format!("# first\n{text}\n# last\n"));
        match (&read, &commented) {
            (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}")),
            (Err(one), Err(other)) => assert_eq!(one.iter().count(), other.iter().count()),
            _ => panic!("a comment changed the outcome"),
        }
        let user = format!("{text}\n[[user]]\nname = \"last\"\npassword = \"{PASSWORD}\"\n");
        let shown = match parse(&user) {
            Ok(config) => format!("{config:?}"),
            Err(problems) => format!("{problems} {problems:?}"),
        };
        assert!(!shown.contains(PASSWORD), "a password is shown: {shown}");
    } else {
        assert!(read.is_err(), "what is no TOML was read");
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    // No account is there, so that it is the same on every machine.
    config::parse(text, Path::new("/nonexistent/hopend.toml"), &|_| Ok(None))
}

fn check(problems: &Problems, text: &str) {
    let lines = text.split('\n').count();
    assert!(problems.iter().next().is_some(), "refused without a reason");
    for problem in problems.iter() {
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
        assert!(!problem.message.is_empty() && !problem.remedy.is_empty());
    }
}
