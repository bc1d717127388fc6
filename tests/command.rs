//! The command line: what each subcommand prints and how it ends.

use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::addresses::free_port;
use crate::support::process::{self, hopend};
use crate::support::root::is_root;
use crate::support::{Process, account};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn usage_errors_end_with_64_and_help_with_0() {
    assert_eq!(hopend(&["fly"]).status.code(), Some(64));
    assert_eq!(
        hopend(&["run", "--log-level", "loud"]).status.code(),
        Some(64)
    );
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"]] {
        let output = hopend(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_broken_configuration_ends_check_and_run_with_78_and_every_error_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hopend.toml");
    let broken = "[[endpoint]]\nname = \"hdb\"\nlistne = \"127.0.0.1:5010\"\ncluster = 7\n";
    std::fs::write(&path, broken).unwrap();
    for subcommand in ["check", "run"] {
        let output = hopend(&[subcommand, "--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(78), "{subcommand}");
        let said = text(&output.stderr);
        assert!(
            said.contains("hopend.toml:3: ") && said.contains("did you mean `listen`?"),
            "{said}"
        );
        assert!(said.contains("hopend.toml:4: "), "{said}");
    }
    let missing = hopend(&["check", "--config", "/nonexistent/hopend.toml"]);
    assert_eq!(missing.status.code(), Some(78));
    assert!(text(&missing.stderr).contains("/nonexistent/hopend.toml"));
}

/// One FinSpace-less endpoint of the account that runs this, and what else is given.
fn configuration(listen: &str, more: &str) -> String {
    format!(
        "[[user]]\nname = \"me\"\nos_user = \"{}\"\n\n[[endpoint]]\nname = \"rdb\"\n\
         listen = \"{listen}\"\nconnect = \":192.0.2.1:1\"\nlogin = \"client\"\n{more}",
        account()
    )
}

/// What the host lacks is an error of `check` with its line; advice is a warning, and `check` succeeds.
#[test]
fn check_tells_of_what_the_host_lacks_and_of_exposure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hopend.toml");
    let missing = folder.path().join("missing");
    let missing = missing.display();
    let password = "[[user]]\nname = \"you\"\npassword = \"$argon2id$v=19$m=19456,t=2,p=1$\
                    c29tZXNhbHRzb21lc2FsdA$7ChDpfMSI3LdcmmPFBVKqvk2q1qbqVg1hQZ8mT8kKwE\"\n";
    for (listen, more, code, line, part) in [
        (
            &*format!("unix:{missing}/rdb"),
            "",
            78,
            7,
            "rdb\".listen: the directory",
        ),
        (
            "127.0.0.1:0",
            &*format!("[daemon]\naudit = \"{missing}/audit.log\"\n"),
            78,
            11,
            "daemon.audit: the directory",
        ),
        (
            "0.0.0.0:5010",
            &*format!("expose = true\n{password}"),
            0,
            7,
            "warning: endpoint \"rdb\".listen: 0.0.0.0:5010 is reachable from other hosts without TLS",
        ),
    ] {
        std::fs::write(&path, configuration(listen, more)).unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, closed).unwrap();
        let check = hopend(&["check", "--config", path.to_str().unwrap()]);
        let said = text(&check.stderr);
        assert_eq!(check.status.code(), Some(code), "{said}");
        assert!(said.contains(&format!("hopend.toml:{line}: ")), "{said}");
        assert!(said.contains(part) && said.contains(". Fix: "), "{said}");
    }
    let directory = hopend(&["check", "--config", folder.path().to_str().unwrap()]);
    assert_eq!(directory.status.code(), Some(78));
    assert!(text(&directory.stderr).contains("name the file in it"));
}

/// An account without the right to bind it hears so; root has it.
#[test]
fn check_warns_of_a_port_that_the_account_may_not_bind() {
    let folder = tempfile::tempdir().unwrap();
    crate::attacks::open_folder(folder.path());
    let path = folder.path().join("hopend.toml");
    std::fs::write(&path, configuration("127.0.0.1:443", "")).unwrap();
    let program = process::command(&["check", "--config", path.to_str().unwrap()]);
    let mut stranger = std::process::Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    stranger.arg(program.get_program()).args(program.get_args());
    let check = stranger.output().unwrap();
    let said = text(&check.stderr);
    assert!(check.status.success(), "{said}");
    assert!(
        said.contains("warning: endpoint \"rdb\".listen: this account may not bind port 443"),
        "{said}"
    );
}

/// By an `/etc/hosts` of its own, in a mount namespace. That takes root.
#[tokio::test(flavor = "multi_thread")]
async fn check_and_the_log_warn_of_one_loopback_family_where_localhost_is_both() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, hosts) = (
        folder.path().join("hopend.toml"),
        folder.path().join("hosts"),
    );
    let port = free_port();
    let more = "[daemon]\ncontrol = \"off\"\n";
    let listen = format!("127.0.0.1:{port}");
    std::fs::write(&path, configuration(&listen, more)).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, private).unwrap();
    let with_hosts = |subcommand: &str| {
        let hopend = process::command(&[subcommand, "--config", path.to_str().unwrap()]);
        let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", &mount, "sh"]);
        command.arg(hopend.get_program()).args(hopend.get_args());
        command
    };
    let warning = format!(
        "endpoint \"rdb\" listens at 127.0.0.1:{port} only, but localhost is ::1 as well: another \
         account can bind [::1]:{port} and receive what clients send to localhost:{port}. Fix: write \
         \"localhost:{port}\" in listen."
    );
    for (families, warns) in [
        ("127.0.0.1 localhost\n::1 localhost\n", true),
        ("127.0.0.1 localhost\n::1 ip6-localhost\n", false),
    ] {
        std::fs::write(&hosts, families).unwrap();
        let check = with_hosts("check").output().unwrap();
        let said = text(&check.stderr);
        assert!(check.status.success(), "{said}");
        let printed = format!("hopend: warning: {warning}");
        assert_eq!(said.lines().any(|line| line == printed), warns, "{said}");
        let mut daemon = Process::spawn(&mut with_hosts("run"));
        daemon.line_with("ready endpoints=");
        let logged = daemon.seen();
        let mut lines = logged.lines();
        let warned = lines.any(|line| line.contains("WARN") && line.ends_with(&warning));
        assert_eq!(warned, warns, "{logged}");
    }
}

/// As they are shipped, on a host without the accounts that they name: those are warnings.
#[test]
fn check_passes_the_shipped_configuration_and_the_examples() {
    let folder = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let shipped = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let yaml = shipped("examples/kubernetes.yaml");
    let inside = yaml.split("hopend.toml: |\n").nth(1).unwrap();
    let inside = inside.split("\n---\n").next().unwrap();
    let inside = inside
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(""));
    let inside: Vec<&str> = inside.collect();
    let secret = folder.path().join("rdb.password");
    std::fs::write(&secret, "secret\n").unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, closed).unwrap();
    let path = folder.path().join("hopend.toml");
    for configuration in [
        shipped("hopend.toml"),
        shipped("examples/finspace.toml"),
        shipped("examples/kdb.toml"),
        inside.join("\n"),
    ] {
        let configuration = configuration
            .replace("\"alice\"", "\"no-such-account-1\"")
            .replace("\"feed\"", "\"no-such-account-2\"");
        std::fs::write(&path, &configuration).unwrap();
        let check = process::command(&["check", "--config", path.to_str().unwrap()])
            .env("CREDENTIALS_DIRECTORY", folder.path())
            .output()
            .unwrap();
        let said = text(&check.stderr);
        assert!(check.status.success(), "{said}\n{configuration}");
        let unknown = configuration.contains("no-such-account");
        let warned = said.contains("warning: user \"no-such-account-1\".os_user");
        assert_eq!(warned, unknown, "{said}");
    }
}

/// The daemon waits for the directory, also where it has no other address.
#[tokio::test(flavor = "multi_thread")]
async fn run_goes_on_without_the_directory_of_a_socket_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hopend.toml");
    let sockets = folder.path().join("sockets");
    let listen = format!("unix:{}/rdb", sockets.display());
    let off = "[daemon]\ncontrol = \"off\"\nconfine = \"off\"\n";
    std::fs::write(&path, configuration(&listen, off)).unwrap();
    let mut daemon = Process::start(&["run", "--config", path.to_str().unwrap()]);
    daemon.line_with("hopend goes on trying");
    daemon.line_with("ready");
    std::fs::create_dir(&sockets).unwrap();
    daemon.line_with("listening at last");
    daemon.signal(Signal::SIGTERM);
    let (status, output) = daemon.end();
    assert!(status.success(), "{output}");
}

#[test]
fn a_password_becomes_a_hash_that_the_configuration_takes() {
    let mut child = process::command(&["hash-password"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"tiger\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let hash = text(&output.stdout);
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    assert!(!hash.contains("tiger"));
    // Standard input is empty here.
    assert_eq!(hopend(&["hash-password"]).status.code(), Some(64));
}
