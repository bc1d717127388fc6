//! Tests that an error leaves out the parts that it concerns, and no others.

use super::*;

/// `SMALL` with a second user, a second environment and two more endpoints.
const MIXED: &str = r#"
[environment.prod]
id = "abc"
region = "us-east-1"
[environment.test]
id = "def"
region = "us-east-1"

[[user]]
name = "alice"
os_user = "alice"
[[user]]
name = "carol"
os_user = "1001"
password_file = "users"

[[endpoint]]
name = "hdb"
listen = "127.0.0.1:5010"
cluster = "hdb-cluster"
environment = "prod"
[[endpoint]]
name = "rdb"
listen = "127.0.0.1:5011"
cluster = "rdb-cluster"
environment = "test"
users = ["alice"]
[[endpoint]]
name = "plain"
listen = "127.0.0.1:5012"
connect = ":tcps://a:1"
login = "client"
tls = { cert = "ca.pem", key = "ca.key", client_ca = "ca.pem" }
"#;

/// The parts that are left out, as messages name them.
fn left_out(loaded: &PartialConfig) -> Vec<String> {
    let parts = loaded.left_out.iter();
    parts.map(|left_out| left_out.part.to_string()).collect()
}

fn names(users: &[Arc<User>]) -> Vec<&str> {
    users.iter().map(|user| &*user.name).collect()
}

/// Mistakes in `MIXED`. The columns are: a text in `MIXED`, its replacement, and all parts that are left
/// out because of it. No parts means that the daemon does not start.
#[rustfmt::skip]
const SLIPS: &[(&str, &str, &[&str])] = &[
    // users
    ("os_user = \"alice\"", "os_user = \"mallory\"", &["user \"alice\""]),
    ("os_user = \"alice\"", "os_usr = \"alice\"", &["user \"alice\""]),
    ("os_user = \"alice\"", "os_user = \"alice\"\nrole_arn = \"x\"", &["user \"alice\""]),
    ("os_user = \"alice\"", "os_user = \"alice\"\ncertificate = \"x\"", &["user \"alice\""]),
    ("os_user = \"alice\"", "os_user = \"alice\"\npassword = \"x\"", &["user \"alice\""]),
    ("password_file = \"users\"", "password_file = \"none\"", &["user \"carol\""]),
    ("password_file = \"users\"", "password_file = \"open\"", &["user \"carol\""]),
    ("password_file = \"users\"", "password_file = \"empty\"", &["user \"carol\""]),
    ("name = \"alice\"", "name = \"carol\"", &["user \"carol\"", "endpoint \"rdb\""]),
    ("name = \"alice\"\n", "", &["user of line 9", "endpoint \"rdb\""]),
    // endpoints
    ("hdb-cluster", "!", &["endpoint \"hdb\""]),
    ("environment = \"test\"", "", &["endpoint \"rdb\""]),
    ("environment = \"test\"", "environment = \"tset\"", &["endpoint \"rdb\""]),
    ("users = [\"alice\"]", "users = [\"alcie\"]", &["endpoint \"rdb\""]),
    ("users = [\"alice\"]", "users = []", &["endpoint \"rdb\""]),
    ("users = [\"alice\"]", "users = 7", &["endpoint \"rdb\""]),
    ("tls = { cert = \"ca.pem\"", "tls = { cert = \"none.pem\"", &["endpoint \"plain\""]),
    ("key = \"ca.key\"", "key = \"other.key\"", &["endpoint \"plain\""]),
    ("key = \"ca.key\"", "key = \"open.key\"", &["endpoint \"plain\""]),
    ("client_ca = \"ca.pem\"", "client_ca = \"empty\"", &["endpoint \"plain\""]),
    ("127.0.0.1:5012", "0.0.0.0:5012", &["endpoint \"plain\""]),
    ("127.0.0.1:5011", "127.0.0.1:5010", &["endpoint \"hdb\"", "endpoint \"rdb\""]),
    ("name = \"rdb\"", "name = \"hdb\"", &["endpoint \"hdb\""]),
    ("name = \"rdb\"", "name = 7", &["endpoint of line 22"]),
    // environments, and what uses them
    ("id = \"def\"", "", &["environment \"test\"", "endpoint \"rdb\""]),
    ("id = \"def\"", "id = \"def\"\nca_file = \"none\"", &["environment \"test\"", "endpoint \"rdb\""]),
    ("id = \"def\"", "id = \"def\"\nidd = 1", &["environment \"test\"", "endpoint \"rdb\""]),
    // viewers
    ("[environment.prod]", "[daemon]\nadmin = \"127.0.0.1:9\"\nviewers = [\"mallory\"]\n[environment.prod]", &["viewer of line 4"]),
    // the daemon
    ("[environment.prod]", "[daemon]\ndrian = \"1s\"\n[environment.prod]", &[]),
    ("[environment.prod]", "[daemon]\nadmin = \"127.0.0.1:5010\"\n[environment.prod]", &[]),
    ("[environment.prod]", "[demon]\n[environment.prod]", &[]),
];

#[test]
fn an_error_leaves_out_the_parts_that_it_concerns_and_no_others() {
    for (from, to, expected) in SLIPS {
        assert!(MIXED.contains(from), "{from}");
        let loaded = read_to_serve(&MIXED.replacen(from, to, 1), &[]);
        let problems = loaded.problems.as_ref().expect(to);
        assert_eq!(problems.concern_daemon(), expected.is_empty(), "{problems}");
        assert_eq!(left_out(&loaded), *expected, "{to}: {problems}");
        let all = ["hdb", "rdb", "plain"].iter();
        let rest = all.filter(|name| !expected.contains(&&*format!("endpoint {name:?}")));
        let rest: Vec<&str> = rest.copied().collect();
        let served = loaded
            .config
            .endpoints
            .iter()
            .map(|endpoint| &*endpoint.name);
        if *to != "name = 7" && *to != "name = \"hdb\"" {
            assert_eq!(served.collect::<Vec<_>>(), rest, "{to}");
        }
    }
}

#[test]
fn an_endpoint_whose_users_are_left_out_is_nobodys_rather_than_everybodys() {
    let loaded = read_to_serve(&MIXED.replace("os_user = \"alice\"", "os_usr = 1"), &[]);
    let [hdb, rdb, plain] = &loaded.config.endpoints[..] else {
        panic!("{:?}", loaded.config.endpoints)
    };
    assert_eq!(names(&hdb.users), ["carol"]);
    assert_eq!(names(&rdb.users), [""; 0]);
    assert_eq!(rdb.users_left_out, ["alice"]);
    assert_eq!(names(&plain.users), ["carol"]);
}

#[test]
fn the_certificate_of_a_user_who_is_left_out_is_still_somebody_elses() {
    let text = MIXED.replace(
        "os_user = \"alice\"",
        "certificate = \"CN=alice\"\nrole_arn = \"x\"",
    );
    let loaded = read_to_serve(&text, &[]);
    let plain = loaded.config.endpoints.last().unwrap();
    assert_eq!(names(&plain.users), ["carol"]);
    let others = ["CN=alice".parse::<CertificateName>().unwrap()];
    assert_eq!(plain.other_certificates, others);
}

#[test]
fn a_user_whose_account_does_not_resolve_waits_for_it() {
    let loaded = read_to_serve(&MIXED.replace("\"1001\"", "\"mallory\""), &[]);
    let carol = &loaded.config.users[1];
    assert!(carol.awaits_account() && carol.password.is_some());
    assert_eq!(names(&loaded.config.endpoints[0].users), ["alice", "carol"]);
    let [left_out] = &loaded.left_out[..] else {
        panic!("{:?}", loaded.left_out)
    };
    assert!(!left_out.is_served());
    let LeftOutCause::AccountUnknown(account) = &left_out.cause else {
        panic!("{left_out:?}")
    };
    account.set_resolved(OsUser {
        name: "mallory".into(),
        uid: 1002,
    });
    assert!(!carol.awaits_account() && left_out.is_served());
    assert_eq!(carol.os_user.as_ref().unwrap().uid(), Some(1002));
}

#[test]
fn an_account_stays_known_while_the_account_database_cannot_be_asked() {
    let (folder, fails) = (
        tempfile::tempdir().unwrap(),
        std::sync::atomic::AtomicBool::new(false),
    );
    let path = folder.path().join("hopend.toml");
    std::fs::write(&path, SMALL).unwrap();
    let accounts = |name: &str| match fails.load(std::sync::atomic::Ordering::SeqCst) {
        true => Err(std::io::ErrorKind::TimedOut.into()),
        false => accounts(name),
    };
    let running = load_to_serve(&path, &accounts, &[]).unwrap().config;
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let loaded = load_to_serve(&path, &accounts, &running.endpoints).unwrap();
    assert!(loaded.left_out.is_empty(), "{:?}", loaded.left_out);
    assert_eq!(loaded.config.users, running.users);
    let restarted = load_to_serve(&path, &accounts, &[]).unwrap();
    assert_eq!(left_out(&restarted), ["user \"alice\""]);
}

#[test]
fn an_endpoint_that_runs_stays_as_it_was_where_the_file_is_wrong_about_it() {
    let running = read(MIXED).unwrap().endpoints;
    let broken = MIXED.replace("hdb-cluster\"", "new-cluster\"\nwarm = -1");
    let loaded = read_to_serve(&broken, &running);
    assert_eq!(loaded.left_out[0].cause, LeftOutCause::Kept);
    let hdb = loaded.config.endpoints.last().unwrap();
    assert_eq!(**hdb, *running[0], "none of its changes counts");

    // A user who is not in the new file loses access to the endpoint nevertheless.
    let (start, end) = (
        broken.find("[[user]]").unwrap(),
        broken.rfind("[[user]]").unwrap(),
    );
    let without_alice = format!("{}{}", &broken[..start], &broken[end..]);
    let without_alice = without_alice.replace("users = [\"alice\"]", "");
    let loaded = read_to_serve(&without_alice, &running);
    let hdb = loaded.config.endpoints.last().unwrap();
    assert_eq!((&*hdb.name, names(&hdb.users)), ("hdb", vec!["carol"]));
    let loaded = read_to_serve(&broken.replace("\"users\"", "\"none\""), &running);
    let hdb = loaded.config.endpoints.last().unwrap();
    assert_eq!(names(&hdb.users), ["alice"], "carol's password is unknown");
    let other_password = broken.replace("\"1001\"", "\"alice\"");
    let loaded = read_to_serve(&other_password, &running);
    let hdb = loaded.config.endpoints.last().unwrap();
    assert_eq!(hdb.users[1], loaded.config.users[1], "as the file has her");

    // If the new file gives its address to another endpoint, the old endpoint ends.
    let moved = broken
        .replace("127.0.0.1:5010", "127.0.0.1:5013")
        .replace("127.0.0.1:5012", "127.0.0.1:5010");
    let loaded = read_to_serve(&moved, &running);
    assert_eq!(loaded.left_out[0].cause, LeftOutCause::Broken);
    assert!(loaded.config.endpoints.iter().all(|e| e.name != "hdb"));
}
