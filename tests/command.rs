//! The command line: what each subcommand prints and how it ends.

use std::io::Write;
use std::process::Stdio;

use hopend::q::value::Value;
use nix::sys::signal::Signal;

use crate::support::process::{self, hopend};
use crate::support::{Process, QClient};

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
    assert_eq!(hopend(&["sim"]).status.code(), Some(64));
    for arguments in [&["--help"][..], &["--version"], &["sim", "--help"]] {
        let output = hopend(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    assert!(text(&hopend(&["sim", "--help"]).stdout).contains("test double"));
    assert!(text(&hopend(&["sim", "--expressions"]).stdout).contains("til n"));
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

/// As a person would: `sim` in one shell, `check` and `run` in another, with nothing in the
/// environment.
#[tokio::test(flavor = "multi_thread")]
async fn sim_writes_what_check_and_run_need() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("sim");
    let mut sim = Process::start(&["sim", "--dir", dir.to_str().unwrap()]);
    sim.line_with("ready");
    let config = dir.join("hopend.toml");
    let config = config.to_str().unwrap();
    let check = hopend(&["check", "--config", config]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("hdb: 127.0.0.1:"));

    let mut daemon = Process::start(&["run", "--config", config]);
    let line = daemon.line_with("endpoint=\"hdb\" address=127.0.0.1:");
    daemon.line_with("ready");
    let address = line.rsplit("address=").next().unwrap().parse().unwrap();
    let mut handle = QClient::open(address, "", "").await.unwrap();
    handle.ask("1+1").await.unwrap();

    // Its ports are taken now.
    let second = hopend(&["run", "--config", config]);
    assert_eq!(second.status.code(), Some(69));
    assert!(text(&second.stderr).contains("another process listens there"));

    drop(handle);
    for process in [daemon, sim] {
        process.signal(Signal::SIGTERM);
        let (status, output) = process.end();
        assert!(status.success(), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_prints_what_to_type_and_what_it_prints_works() {
    let mut demo = Process::start(&["demo"]);
    let hopen = demo.line_with("h:hopen `:localhost:");
    let port: u16 = hopen.rsplit(':').next().unwrap().parse().unwrap();
    demo.line_with("A shell, with nothing installed");
    let mut script = demo.line_with("bash -c '").trim().to_owned();
    script.push('\n');
    script.push_str(demo.line_with("od -An -tx1").trim());
    let console = demo.line_with("c:hopen `:localhost:");
    let output = tokio::task::spawn_blocking(move || {
        std::process::Command::new("bash")
            .args(["-c", &script])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let answer: String = text(&output.stdout).split_whitespace().collect();
    assert_eq!(answer, "060102000011000000f90200000000000000");

    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut handle = QClient::open(address, "", "").await.unwrap();
    handle.ask("trades").await.unwrap();
    let mut questions = console.split("; ");
    let port = questions.next().unwrap().rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut console = QClient::open(address, "", "").await.unwrap();
    for question in questions {
        let question = question.trim_start_matches("c\"").trim_end_matches('"');
        let answer = console.ask(question).await;
        assert!(
            matches!(answer, Ok(Value::Table(_))),
            "{question}: {answer:?}"
        );
    }
    demo.signal(Signal::SIGINT);
    drop((handle, console));
    let (status, output) = demo.end();
    assert!(status.success(), "{output}");
}
