//! Tests of the example configuration that hopend ships.

use super::*;

const EXAMPLE: &str = include_str!("../../../config/hopend.toml");

/// The example with its commented-out keys enabled. Their lines begin with `#` and no blank.
fn in_full() -> String {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => key,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_a_working_skeleton() {
    let config = read(EXAMPLE).unwrap();
    assert_eq!(config.endpoints.len(), 1);
    assert_eq!(config.users.len(), 1);
}

#[test]
fn every_key_of_the_example_is_valid_and_the_defaults_are_what_it_says() {
    let text = in_full();
    let directory = FILES.path().display().to_string();
    let mut placed = text.clone();
    for (named, file) in [
        ("/etc/hopend/aws-credentials", "credentials"),
        ("/etc/hopend/clusters-ca.pem", "ca.pem"),
        ("/etc/hopend/internal-ca.pem", "ca.pem"),
        ("/etc/hopend/users", "users"),
        ("/etc/hopend/rdb.password", "login"),
        ("/usr/local/bin/kdb-login", "program"),
        ("/etc/hopend/vault.token", "login"),
        ("/etc/hopend/hopend.pem", "ca.pem"),
        ("/etc/hopend/hopend.key", "ca.key"),
        ("/etc/hopend/clients-ca.pem", "ca.pem"),
    ] {
        assert!(placed.contains(named), "{named}");
        placed = placed.replace(named, &format!("{directory}/{file}"));
    }
    let full = read(&placed).unwrap();
    let short = read(EXAMPLE).unwrap();
    assert_eq!(full.users.len(), 3);
    assert_eq!(full.endpoints.len(), 5);

    let (full, short) = (&full.endpoints[0], &short.endpoints[0]);
    assert_eq!(full.keepalive, short.keepalive);
    assert_eq!(full.expose, short.expose);
    assert_eq!(full.max_handshake, short.max_handshake);
    assert_eq!(full.handshake_timeout, short.handshake_timeout);
    assert_eq!(full.connect_timeout, short.connect_timeout);
    assert_eq!(full.max_sessions, short.max_sessions);
    assert_eq!(full.idle_timeout, short.idle_timeout);
    assert_eq!(full.errors, short.errors);
}

#[test]
fn the_example_tells_every_key() {
    let text = in_full();
    let tells = |key: &&str| {
        !text.lines().any(|line| {
            line.split('=')
                .next()
                .is_some_and(|word| word.trim() == *key)
                || line.contains(&format!("{key} = ")) && !line.starts_with("# ")
        })
    };
    let keys = [
        crate::config::reader::environment::KEYS,
        crate::config::reader::user::KEYS,
        crate::config::reader::endpoint::KEYS,
        crate::config::reader::keepalive::KEYS,
        crate::config::reader::login::KEYS,
        crate::config::reader::server_tls::KEYS,
        crate::config::reader::daemon::KEYS,
    ];
    let missing: Vec<&str> = keys.into_iter().flatten().copied().filter(tells).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
