//! `hopend demo` and `hopend sim`: a build without the feature `demo` has neither.

use nix::sys::signal::Signal;
use q_ipc::value::Value;

use crate::support::process::hopend;
use crate::support::{Process, QClient};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn sim_tells_what_its_nodes_are() {
    assert_eq!(hopend(&["sim"]).status.code(), Some(64));
    assert!(text(&hopend(&["sim", "--help"]).stdout).contains("test double"));
    assert!(text(&hopend(&["sim", "--expressions"]).stdout).contains("til n"));
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
    assert!(text(&check.stdout).contains("hdb: localhost:"));

    let mut daemon = Process::start(&["run", "--config", config]);
    let line = daemon.line_with("endpoint=\"hdb\" address=localhost:");
    daemon.line_with("ready");
    let port = line.rsplit(':').next().unwrap();
    let address = format!("[::1]:{port}").parse().unwrap();
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
    // As a shell has it that nobody has told otherwise.
    let program = crate::support::process::command(&[]);
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", "ulimit -n 1024; exec \"$0\" demo"]);
    shell.arg(program.get_program());
    let mut demo = Process::spawn(&mut shell);
    let hopen = demo.line_with("h:hopen `:localhost:");
    let port: u16 = hopen.rsplit(':').next().unwrap().parse().unwrap();
    demo.line_with("A shell, with nothing installed");
    let mut script = demo.line_with("bash -c '").trim().to_owned();
    script.push('\n');
    script.push_str(demo.line_with("od -An -tx1").trim());
    let watch = demo.line_with(" status --watch --config ");
    let page = demo.line_with("http://127.0.0.1:");
    let console = demo.line_with("c:hopen `:localhost:");
    // It is in nobody's PATH, and yet what is printed can be typed.
    let once = watch.trim().replace(" --watch", "");
    let shown = std::process::Command::new("bash")
        .args(["-c", &once])
        .output();
    let shown = shown.unwrap();
    assert!(shown.status.success(), "{once}: {}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("hdb-cluster"), "{once}");
    let (_, page) = page.split_once("http://").unwrap();
    let (page, path) = page.split_once('/').unwrap();
    let request = format!("GET /{path}");
    let (head, body) = crate::telemetry::ask(page.parse().unwrap(), &request, page).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(body.contains("hdb-cluster"), "{body}");
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
    // It does not begin with a warning about file descriptors, or any other.
    assert!(!output.contains("WARN"), "{output}");
}
