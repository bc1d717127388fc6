//! Tests that read whole configuration files, valid and invalid.

use q_relay::relay::{KeepaliveMode, KeepaliveSettings};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use secret::Secret;
use tempfile::TempDir;

use super::*;
use crate::config::MaxMemory;

mod bad;
mod example;
mod left_out;
mod properties;

pub(super) const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$7ChDpfMSI3LdcmmPFBVKqvk2q1qbqVg1hQZ8mT8kKwE";

/// The directory of the files that the configurations name by relative paths.
static FILES: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    for (name, content, mode) in [
        ("ca.pem", ca.cert.pem().as_str(), 0o644),
        ("ca.key", ca.signing_key.serialize_pem().as_str(), 0o600),
        ("other.key", other.serialize_pem().as_str(), 0o600),
        ("open.key", ca.signing_key.serialize_pem().as_str(), 0o644),
        ("empty", "", 0o600),
        ("users", "carol:hunter2\n", 0o600),
        ("open", "carol:hunter2\n", 0o644),
        ("written", "carol:hunter2\n", 0o602),
        ("written.pem", ca.cert.pem().as_str(), 0o666),
        ("written.sh", "#!/bin/sh\n", 0o777),
        ("login", "hunter2\n", 0o600),
        ("program", "#!/bin/sh\n", 0o700),
        ("credentials", "[sim]\n", 0o600),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    directory
});

fn accounts(name: &str) -> std::io::Result<Option<OsUser>> {
    let uid = match name {
        "alice" => 1000,
        "1001" => 1001,
        _ => return Ok(None),
    };
    Ok(Some(OsUser {
        name: name.to_owned(),
        uid,
    }))
}

/// Parses a configuration. In its text, `@` stands for the directory of [`FILES`].
fn read(text: &str) -> Result<Config, Problems> {
    let directory = FILES.path();
    let text = text.replace("@/", &format!("{}/", directory.display()));
    parse(&text, &directory.join("hopend.toml"), &accounts)
}

/// Parses a configuration as a reload does while the endpoints `running` are served.
fn read_to_serve(text: &str, running: &[Arc<Endpoint>]) -> PartialConfig {
    let file = FILES.path().join("hopend.toml");
    let mut loaded = parse_valid_parts(text, &file, &accounts).unwrap();
    loaded.keep_running(running);
    loaded
}

const SMALL: &str = r#"
[environment.prod]
id = "sdb3moagybykax4oexvsq4"
region = "us-east-1"

[[user]]
name = "alice"
os_user = "alice"

[[endpoint]]
name = "hdb"
listen = ["127.0.0.1:5010", "unix:5010"]
cluster = "testhdb-cluster"
"#;

const LARGE: &str = r#"
[environment.prod]
id = "abc"
region = "us-east-1"
profile = "sim"
credentials_file = "credentials"
endpoint_url = "http://127.0.0.1:4000"
sts_endpoint_url = "http://127.0.0.1:4001/"
ca_file = "ca.pem"
[environment.test]
id = "def"
region = "eu-west-1"
[[user]]
name = "alice"
os_user = "1001"
console = true
kx_user = "alice-kx"
role_arn = "arn:aws:iam::111122223333:role/user-alice"
[[user]]
name = "carol"
os_user = "alice"
password_file = "users"
[[endpoint]]
name = "hdb"
listen = "0.0.0.0:0"
expose = true
max_opens_per_second_per_user = "off"
cluster = "testhdb-cluster"
environment = "test"
node = "zone"
node_via = "cluster"
errors = "explain"
plaintext = true
users = ["carol"]
keepalive = "off"
[[endpoint]]
name = "rdb"
listen = ["127.0.0.1:0", "unix:/run/hopend/rdb"]
connect = [":tcps://a:1", "[::1]:2"]
policy = "spread"
login = { user = "svc", password_file = "login" }
ca_file = "ca.pem"
max_message = "1GB"
max_handshake = "1KiB"
handshake_timeout = "100ms"
connect_timeout = "1m 30s"
max_sessions = 7
max_opens_per_second_per_user = 20
warm = 8
keepalive = { every = "100ms", message = "Ping", mode = "sync", answer_timeout = "1h 30m" }
[[endpoint]]
name = "vault"
listen = "127.0.0.1:0"
login = { command = ["@/program", "x"] }
[[endpoint]]
name = "console"
kind = "console"
listen = "127.0.0.1:0"
environment = "test"
[daemon]
control = "control"
zone = "use1-az1"
admin = "127.0.0.1:0"
log = "json"
drain = "0s"
"#;

#[test]
fn the_smallest_useful_file_gets_every_default() {
    let config = read(SMALL).unwrap();
    assert_eq!(config.daemon, DaemonSettings::default());
    let endpoint = &config.endpoints[0];
    assert_eq!(
        endpoint.listen,
        [
            ListenAddress::Tcp("127.0.0.1:5010".parse().unwrap()),
            ListenAddress::Abstract(5010)
        ]
    );
    assert_eq!(endpoint.users, config.users);
    assert_eq!(endpoint.users[0].kx_user, "alice");
    assert_eq!(
        endpoint.users[0].os_user.as_ref().unwrap().uid(),
        Some(1000)
    );
    assert_eq!(
        endpoint.target,
        Target::FinSpace {
            environment: Arc::clone(&config.environments[0]),
            cluster: "testhdb-cluster".into(),
            node: NodeSelector::Any,
            node_via: NodeVia::Api,
            plaintext: false
        }
    );
    assert_eq!(
        endpoint.keepalive,
        KeepaliveSettings::On {
            every: Duration::from_secs(60),
            message: String::new(),
            mode: KeepaliveMode::Async
        }
    );
    assert_eq!(endpoint.max_message, None);
    assert_eq!(endpoint.max_handshake, 16_384);
    assert_eq!(endpoint.handshake_timeout, Duration::from_secs(10));
    assert_eq!(endpoint.connect_timeout, Duration::from_secs(10));
    assert_eq!(endpoint.max_sessions, 4096);
    assert_eq!(endpoint.opens_per_user, OpensPerUser::Default);
    assert_eq!(endpoint.errors, OnOpenFailure::Close);
    assert_eq!(endpoint.warm, 0);
}

#[test]
fn every_key_arrives() {
    let config = read(LARGE).unwrap();
    let directory = FILES.path();
    let prod = &config.environments[0];
    assert_eq!(prod.profile.as_deref(), Some("sim"));
    assert_eq!(prod.credentials_file, Some(directory.join("credentials")));
    assert_eq!(prod.endpoint_url.as_deref(), Some("http://127.0.0.1:4000"));
    assert_eq!(
        prod.sts_endpoint_url.as_deref(),
        Some("http://127.0.0.1:4001/")
    );
    assert_eq!(prod.ca_file, Some(directory.join("ca.pem")));
    let [alice, carol] = config.users.as_slice() else {
        panic!("not two users")
    };
    assert_eq!(alice.os_user.as_ref().unwrap().uid(), Some(1001));
    assert_eq!(alice.kx_user, "alice-kx");
    assert!(alice.console && !carol.console);
    assert_eq!(alice.role_arn.as_ref().unwrap().account, "111122223333");
    assert_eq!(
        carol.password,
        Some(PasswordVerifier::Plain(Secret::from("hunter2")))
    );
    let [hdb, rdb, vault, console] = config.endpoints.as_slice() else {
        panic!("not four endpoints")
    };
    assert!(hdb.expose);
    assert_eq!(hdb.users, [Arc::clone(carol)]);
    assert_eq!(hdb.keepalive, KeepaliveSettings::Off);
    let Target::FinSpace {
        environment,
        node: NodeSelector::Zone,
        node_via: NodeVia::Cluster,
        plaintext: true,
        ..
    } = &hdb.target
    else {
        panic!("{:?}", hdb.target)
    };
    assert_eq!(environment.name, "test");
    assert_eq!(hdb.errors, OnOpenFailure::Explain);
    assert_eq!(hdb.opens_per_user, OpensPerUser::Unlimited);
    assert_eq!(
        rdb.target,
        Target::Addresses {
            addresses: vec![":tcps://a:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
            policy: AddressOrder::Spread,
            login: Login::Fixed {
                user: "svc".into(),
                password_file: directory.join("login")
            },
            ca_file: Some(directory.join("ca.pem")),
            plaintext: false
        }
    );
    assert_eq!(rdb.max_message, Some(1_000_000_000));
    assert_eq!(rdb.max_handshake, 1024);
    assert_eq!(rdb.handshake_timeout, Duration::from_millis(100));
    assert_eq!(rdb.connect_timeout, Duration::from_secs(90));
    assert_eq!(rdb.max_sessions, 7);
    assert_eq!(rdb.opens_per_user, OpensPerUser::PerSecond(20));
    assert_eq!(rdb.warm, 8);
    assert_eq!(
        rdb.keepalive,
        KeepaliveSettings::On {
            every: Duration::from_millis(100),
            message: "Ping".into(),
            mode: KeepaliveMode::Sync {
                answer_timeout: Duration::from_secs(5_400)
            }
        }
    );
    let Target::Addresses {
        addresses, login, ..
    } = &vault.target
    else {
        panic!("{:?}", vault.target)
    };
    assert!(addresses.is_empty());
    assert!(matches!(login, Login::Command(command) if command.argv[1] == "x"));
    let Target::Console {
        environment: Some(environment),
    } = &console.target
    else {
        panic!("{:?}", console.target)
    };
    assert_eq!(environment.name, "test");
    assert_eq!(config.daemon.control, Some(directory.join("control")));
    assert_eq!(config.daemon.zone.as_deref(), Some("use1-az1"));
    let admin = config.daemon.admin.unwrap();
    assert_eq!(admin.address, "127.0.0.1:0".parse().unwrap());
    assert_eq!((admin.exposure, admin.tls), (Exposure::default(), None));
    assert_eq!(config.daemon.log, LogFormat::Json);
    assert_eq!(config.daemon.drain, Duration::ZERO);
}

#[test]
fn a_configuration_without_finspace_needs_no_environment() {
    let text = r#"
        [[user]]
        name = "alice"
        os_user = "alice"
        [[endpoint]]
        name = "rdb"
        listen = "127.0.0.1:5011"
        connect = ":localhost:5012"
        login = "client""#;
    assert!(read(text).unwrap().environments.is_empty());
}

#[test]
fn only_what_changed_differs_after_a_reload() {
    let before = read(LARGE).unwrap();
    let after = read(&LARGE.replace("\"1GB\"", "\"2GB\"")).unwrap();
    assert_eq!(before, read(LARGE).unwrap());
    assert_eq!(before.endpoints[0], after.endpoints[0]);
    assert_ne!(before.endpoints[1], after.endpoints[1]);
    let after = read(&LARGE.replace("alice-kx", "other")).unwrap();
    assert_eq!(before.endpoints[0], after.endpoints[0], "carol's alone");
    assert_ne!(before.endpoints[1], after.endpoints[1], "alice's too");
    let after = read(&LARGE.replace("eu-west-1", "eu-west-2")).unwrap();
    assert_ne!(before.endpoints[0], after.endpoints[0]);
}

#[test]
fn load_tells_why_a_file_cannot_be_read_and_who_may_read_a_hash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hopend.toml");
    let missing = load(&path).unwrap_err().to_string();
    assert!(missing.contains("hopend.toml: can't be read"), "{missing}");

    fs::write(&path, b"a\n\xff").unwrap();
    let bytes = load(&path).unwrap_err().to_string();
    assert!(bytes.contains("not UTF-8 on line 2"), "{bytes}");

    let text = SMALL.replace("os_user = \"alice\"", &format!("password = \"{HASH}\""));
    fs::write(&path, &text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let open = load(&path).unwrap_err().to_string();
    assert!(open.contains("hopend.toml:8: this configuration file holds secrets"));
    assert!(open.contains("chmod o-rwx"), "{open}");

    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(load(Path::new(&path)).is_ok());
}

#[test]
fn a_configuration_that_others_can_change_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hopend.toml");
    fs::write(&path, SMALL.replace("\"alice\"\n\n", "\"root\"\n\n")).unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        load(&directory.path().join("hopend.toml"))
    };
    mode(&path, 0o644).unwrap();
    let said = mode(&path, 0o666).unwrap_err().to_string();
    assert!(said.contains("every account can change"), "{said}");
    assert!(said.contains("chmod o-w"), "{said}");
    mode(&path, 0o644).unwrap();
    // An account that can write to the directory of the file can replace the file.
    let said = mode(directory.path(), 0o777).unwrap_err().to_string();
    assert!(said.contains("(mode 0777)"), "{said}");
    mode(directory.path(), 0o1777).unwrap();
    let loaded = load_valid_parts(&path, &system_account).unwrap();
    assert_eq!((loaded.config.endpoints.len(), loaded.problems), (1, None));
}

#[test]
fn a_directory_is_answered_with_the_advice_to_name_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let said = load(directory.path()).unwrap_err().to_string();
    assert!(said.contains("name the file in it"), "{said}");
}

#[test]
fn names_that_count_as_none_are_never_those_of_users() {
    let names = |text: &str| read(text).unwrap().endpoints[0].default_user_names.clone();
    assert_eq!(names(SMALL), ["unknown", "anonymous"]);
    let anonymous = SMALL.replacen("name = \"alice\"", "name = \"anonymous\"", 1);
    assert_eq!(names(&anonymous), ["unknown"]);
    // This includes users who may not use the endpoint.
    let other = "[[user]]\nname = \"unknown\"\nos_user = \"1001\"\n[[endpoint]]";
    let other = SMALL.replacen("[[endpoint]]", other, 1) + "users = [\"alice\"]\n";
    assert_eq!(names(&other), ["anonymous"]);
    assert!(names(&format!("{SMALL}default_user_names = []\n")).is_empty());
}

/// A configuration with an endpoint whose login command has these environment variables.
fn with_env(env: &str) -> String {
    format!(
        "[[user]]\nname = \"alice\"\nos_user = \"alice\"\n[[endpoint]]\nname = \"rdb\"\nlisten = \
         \"127.0.0.1:0\"\nconnect = \":127.0.0.1:1\"\nlogin = {{ command = [\"/bin/true\"], env = {env} }}\n"
    )
}

#[test]
fn variables_of_a_login_command_are_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, "geheim-too\n").unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    let env = format!(
        "{{ KEY = \"geheim\", TOKEN = {{ file = {:?} }} }}",
        token.to_str().unwrap()
    );
    let path = directory.path().join("hopend.toml");
    fs::write(
        &path,
        with_env(&env).replace("os_user = \"alice\"", "os_user = \"0\""),
    )
    .unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let config = load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    let shown = format!("{config:?}");
    assert!(
        shown.contains("KEY") && !shown.contains("geheim"),
        "{shown}"
    );

    // Other accounts must not be able to read a file with a value.
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let open = load(&path).unwrap_err().to_string();
    assert!(
        open.contains("hopend.toml:8: this configuration file holds secrets"),
        "{open}"
    );
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o644)).unwrap();
    let open = load(&path).unwrap_err().to_string();
    assert!(open.contains("login.env.TOKEN.file"), "{open}");
    assert!(
        open.contains("chmod o-rwx") && !open.contains("geheim"),
        "{open}"
    );
}

#[test]
fn mistakes_in_variables_of_a_login_command_are_told_without_their_values() {
    for (env, said) in [
        (
            "{ \"A-B\" = \"geheim\" }",
            "is not the name of an environment variable",
        ),
        (
            "{ 1A = \"geheim\" }",
            "is not the name of an environment variable",
        ),
        ("{ HOPEND_USER = \"geheim\" }", "is set by hopend itself"),
        ("{ A = \"geheim\\u0000\" }", "contains a NUL character"),
        ("{ A = 7 }", "must be a text or a table"),
        ("{ A = { path = \"geheim\" } }", "path"),
        ("\"geheim\"", "env"),
    ] {
        let problems = read(&with_env(env)).unwrap_err().to_string();
        assert!(problems.contains(said), "{env}: {problems}");
        assert!(!problems.contains("geheim"), "{env}: {problems}");
    }
    let text = with_env("{}").replace("command = [\"/bin/true\"], ", "user = \"u\", ");
    let problems = read(&text).unwrap_err().to_string();
    assert!(
        problems.contains("has no effect without command"),
        "{problems}"
    );
}

#[test]
fn max_memory_is_a_number_of_bytes_or_a_share() {
    let with = |max_memory: &str| read(&format!("{SMALL}[daemon]\nmax_memory = {max_memory}\n"));
    for (written, expected) in [
        ("67108864", MaxMemory::Bytes(67_108_864)),
        ("\"512MB\"", MaxMemory::Bytes(512_000_000)),
        ("\"40%\"", MaxMemory::Percent(40)),
    ] {
        assert_eq!(with(written).unwrap().daemon.max_memory, expected);
    }
    for (written, said) in [
        ("\"0%\"", "is not a share of the memory"),
        ("\"91%\"", "is not a share of the memory"),
        ("\"15MiB\"", "is too small"),
        ("\"much\"", "is not a number of bytes"),
    ] {
        let problems = with(written).unwrap_err().to_string();
        assert!(problems.contains(said), "{written}: {problems}");
    }
}
