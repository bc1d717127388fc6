//! What there is, from the command line.

use simulator::{Options, Simulator};
use tempfile::TempDir;

use crate::support::account;
use crate::support::process::command;

/// A simulator whose lists come in pages of two, and the configuration for it.
async fn simulated() -> (Simulator, TempDir, String) {
    let options = Options {
        page: 2,
        ..Options::default()
    };
    let sim = Simulator::start(options).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = sim.write_files(folder.path(), &account()).unwrap();
    (sim, folder, path.to_str().unwrap().to_owned())
}

/// Exit code, standard output and standard error.
async fn hopend(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_and_nodes_as_tables_and_as_json_all_pages_of_them() {
    let (sim, _folder, config) = simulated().await;
    let (code, table, _) = hopend(&["clusters", "--config", &config]).await;
    assert_eq!(code, Some(0));
    let first: Vec<_> = table
        .lines()
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        first,
        ["NAME", "gateway-cluster", "hdb-cluster", "rdb-cluster"]
    );
    assert_eq!(sim.calls("ListKxClusters"), 2, "two pages");

    let (code, json, _) = hopend(&["clusters", "--config", &config, "--json"]).await;
    assert_eq!(code, Some(0));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[1]["cluster_name"], "hdb-cluster");
    assert_eq!(rows[1]["cluster_type"], "HDB");
    assert_eq!(rows[1]["status"], "RUNNING");

    let (code, table, _) = hopend(&["nodes", "hdb-cluster", "--config", &config]).await;
    assert_eq!(code, Some(0));
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(
        table.contains("sim-hdb-node-1") && table.contains("use1-az1"),
        "{table}"
    );

    let before = sim.assumed().len();
    let as_alice = [
        "nodes",
        "hdb-cluster",
        "--user",
        "alice",
        "--config",
        &config,
    ];
    let (code, _, said) = hopend(&as_alice).await;
    assert_eq!(code, Some(77), "her role may log in and no more");
    assert!(
        said.contains("allow finspace:ListKxClusterNodes to arn:aws:iam::")
            && said.contains("/user-alice"),
        "{said}"
    );
    let assumed = sim.assumed();
    assert_eq!(assumed[before..].len(), 1, "{assumed:?}");
    assert!(assumed[before].role.ends_with("/user-alice"), "{assumed:?}");
    let as_nobody = ["clusters", "--user", "carol", "--config", &config];
    assert_eq!(hopend(&as_nobody).await.0, Some(78));

    let (code, _, said) = hopend(&["nodes", "no-such-cluster", "--config", &config]).await;
    assert_eq!(code, Some(78));
    assert!(
        said.contains("no-such-cluster") && said.contains("check the name"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_string_with_a_warning_beside_it() {
    let (sim, _folder, config) = simulated().await;
    let ask = [
        "connection-string",
        "--config",
        &config,
        "--cluster",
        "hdb-cluster",
        "--user",
    ];
    let (code, string, warning) = hopend(&[&ask[..], &["alice"]].concat()).await;
    assert_eq!(code, Some(0), "{warning}");
    let port = sim.port("hdb-cluster").unwrap();
    assert!(
        string.starts_with(&format!(":tcps://localhost:{port}:alice:")),
        "{string}"
    );
    assert!(warning.contains("secret"));
    let of_node = [&ask[..], &["alice", "--node", "sim-hdb-node-2"]].concat();
    for via in ["api", "cluster"] {
        let (code, string, said) = hopend(&[&of_node[..], &["--node-via", via]].concat()).await;
        assert_eq!(code, Some(0), "{via}: {said}");
        let port = sim.port("sim-hdb-node-2").unwrap();
        assert!(
            string.starts_with(&format!(":tcps://localhost:{port}:alice:")),
            "{via}: {string}"
        );
    }
    let (code, nothing, said) = hopend(&[&ask[..], &["carol"]].concat()).await;
    assert_eq!((code, nothing.as_str()), (Some(78), ""));
    assert!(said.contains("alice"), "the names that there are: {said}");
    sim.faults().deny("*", "sts:AssumeRole", "*");
    let (code, _, said) = hopend(&[&ask[..], &["alice"]].concat()).await;
    assert_eq!(code, Some(77));
    assert!(said.contains("allow sts:AssumeRole"), "{said}");
}
