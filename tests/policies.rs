//! `hopend policy` prints what a configuration needs of IAM: enough of it, nothing that could be left
//! out, and nothing that a public linter of policies objects to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hopend::config;
use hopend::credential::{Clock, Sources};
use hopend::daemon::app::App;
use q_ipc::value::Value;
use serde_json::{Value as Json, json};
use simulator::{ApiFault, Options, Simulator, Times};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::process::command;
use crate::support::{
    Configuration, Log, QClient, Stage, account, address_of, python, write_configuration,
};

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

/// A simulator with a configuration of two users and two clusters.
struct Place {
    sim: Simulator,
    folder: TempDir,
    config: PathBuf,
}

impl Place {
    async fn with(change: impl FnOnce(&Simulator, Configuration) -> Configuration) -> Self {
        let sim = Simulator::start(Options::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = write_configuration(&sim, folder.path(), |config| change(&sim, config));
        Self {
            sim,
            folder,
            config,
        }
    }

    /// What `hopend policy` prints, without a word of complaint.
    async fn policies(&self, arguments: &[&str]) -> Json {
        let config = self.config.to_str().unwrap();
        let (code, out, said) =
            hopend(&[&["policy", "--config", config], arguments].concat()).await;
        assert_eq!((code, &*said), (Some(0), ""));
        serde_json::from_str(&out).unwrap()
    }

    /// Has the simulator enforce these, as an administrator would apply them.
    fn apply(&self, policies: &Json) {
        let daemon = policies["daemon"]["policy"].to_string();
        self.sim.set_policy(&self.sim.base_arn(), &daemon).unwrap();
        for role in policies["roles"].as_array().unwrap() {
            let arn = role["role"].as_str().unwrap();
            self.sim
                .set_policy(arn, &role["policy"].to_string())
                .unwrap();
            self.sim.set_trust(arn, &role["trust"].to_string()).unwrap();
        }
    }

    /// A daemon of its own, with nothing fetched before.
    fn daemon(&self) -> App {
        let config = config::load(&self.config).unwrap_or_else(|problems| panic!("{problems}"));
        App::start(config, Arc::new(Sources::default()), Clock::system()).unwrap()
    }

    /// Whether every user gets an answer from every cluster and from the console, if there is one;
    /// else what the console says.
    async fn works(&self, app: &App) -> Result<(), String> {
        let mut said = self.console_works(app).await;
        let password = std::fs::read_to_string(self.folder.path().join("alice.password")).unwrap();
        for endpoint in ["hdb", "rdb"] {
            for (user, password) in [("", ""), ("alice", password.trim_end())] {
                let opened = QClient::open(address_of(app, endpoint), user, password).await;
                let answer = match opened {
                    Ok(mut handle) => handle.ask("1+1").await,
                    Err(_) => Err("no handle".into()),
                };
                said = said.and(answer.map(|answer| assert_eq!(answer, Value::Long(2))));
            }
        }
        said
    }

    async fn console_works(&self, app: &App) -> Result<(), String> {
        if !app.addresses().iter().any(|(name, _)| name == "console") {
            return Ok(());
        }
        let opened = QClient::open(address_of(app, "console"), "", "").await;
        let mut handle = opened.unwrap();
        for question in ["clusters[]", "cluster_nodes[\"rdb-cluster\"]"] {
            handle.ask(&format!(".aws.list_kx_{question}")).await?;
        }
        Ok(())
    }
}

/// Every set of policies with a little less in it: one action, one resource, one trusted identity.
/// With each the actions that are then missing, for some user or some cluster.
fn one_less(policies: &Json) -> Vec<(Json, Vec<String>)> {
    let mut pointers = vec!["/daemon/policy".to_owned()];
    for at in 0..policies["roles"].as_array().unwrap().len() {
        pointers.push(format!("/roles/{at}/policy"));
        pointers.push(format!("/roles/{at}/trust"));
    }
    let mut lesser = Vec::new();
    for pointer in pointers {
        let statements = format!("{pointer}/Statement");
        let count = policies.pointer(&statements).unwrap().as_array().unwrap();
        for at in 0..count.len() {
            for list in [
                "Action",
                "Resource",
                "Condition/StringEquals/sts:SourceIdentity",
            ] {
                let list = format!("{statements}/{at}/{list}");
                let Some(items) = policies.pointer(&list).and_then(Json::as_array) else {
                    continue;
                };
                let actions = format!("{statements}/{at}/Action");
                for item in items {
                    let missing = if list == actions {
                        vec![item.clone()]
                    } else {
                        policies
                            .pointer(&actions)
                            .unwrap()
                            .as_array()
                            .unwrap()
                            .clone()
                    };
                    let missing = missing
                        .iter()
                        .map(|action| action.as_str().unwrap().to_owned());
                    lesser.push((without(policies, &list, item), missing.collect()));
                }
            }
        }
    }
    lesser
}

/// Without one item of a list; one that would be empty, which IAM does not take, names nothing.
fn without(policies: &Json, list: &str, item: &Json) -> Json {
    let mut lesser = policies.clone();
    let items = lesser.pointer_mut(list).unwrap().as_array_mut().unwrap();
    items.retain(|other| other != item);
    if items.is_empty() {
        items.push(json!(if list.ends_with("/Resource") {
            "arn:aws:iam::111122223333:role/nobody"
        } else {
            "nobody:Nothing"
        }));
    }
    lesser
}

/// With the policies as printed everything works; with anything less, something does not, and the
/// daemon says which action it was refused.
async fn enough_and_no_more(place: &Place, policies: &Json) -> usize {
    let (log, guard) = Log::capture();
    place.apply(policies);
    let works = place.works(&place.daemon()).await;
    assert_eq!(works, Ok(()), "{}", log.text());
    drop(guard);
    let lesser = one_less(policies);
    for (lesser, missing) in &lesser {
        let (log, _guard) = Log::capture();
        place.apply(lesser);
        let app = place.daemon();
        let Err(said) = place.works(&app).await else {
            panic!("works without {missing:?}: {lesser:#}");
        };
        let text = log.text();
        let mut refusals = text
            .lines()
            .filter(|line| line.contains("session refused"))
            .chain([&*said]);
        assert!(
            refusals.any(|line| missing.iter().any(|action| line.contains(&**action))),
            "no word of {missing:?} in {said}\n{text}"
        );
    }
    lesser.len()
}

#[tokio::test]
async fn users_whose_role_is_asked_of_finspace_and_a_console() {
    let place = Place::with(|_, config| config).await;
    let policies = place.policies(&["--ask"]).await;
    let tried = enough_and_no_more(&place, &policies).await;
    // Of the daemon an action and two users, two actions and two roles, and for the console two
    // times an action and its resource; of each role two actions, two clusters, two actions of trust
    // and a name.
    assert_eq!(tried, (1 + 2) + (2 + 2) + 2 * (1 + 1) + 2 * (2 + 2 + 2 + 1));
    assert!(policies.to_string().contains("finspace:GetKxUser"));
}

/// The daemon's own credentials may do everything here, and still ask for nobody's string.
#[tokio::test]
async fn where_a_role_is_refused_the_daemons_own_stands_in_for_nobody() {
    let sim = Simulator::start(Options::default()).await.unwrap();
    let denied = ApiFault::Error {
        status: 403,
        code: "AccessDenied".into(),
        message: "not authorized to perform: sts:AssumeRole".into(),
    };
    sim.faults().api("AssumeRole", denied, Times::Always);
    let stage = Stage::builder().simulator(sim).start().await;
    let refused = QClient::open(stage.address("hdb"), "", "").await;
    assert!(refused.is_err());
    assert!(stage.sim.calls("AssumeRole") > 0);
    assert_eq!(stage.sim.calls("GetKxConnectionString"), 0);
}

/// Without the endpoint that is a console.
fn without_console(config: Configuration) -> Configuration {
    config.only_endpoints(&["hdb", "rdb", "plain"])
}

/// With role_arn for each user, and no console.
fn with_roles(sim: &Simulator, config: Configuration) -> Configuration {
    without_console(config).every_user(|user| {
        let role = sim.role_arn(user.text("name"));
        user.role_arn(role)
    })
}

#[tokio::test]
async fn users_whose_role_is_configured_and_a_daemon_that_alone_is_trusted() {
    let place = Place::with(with_roles).await;
    let daemon = place.sim.base_arn();
    let policies = place.policies(&["--daemon-role", &daemon]).await;
    let trust = &policies["roles"][0]["trust"]["Statement"][0];
    assert_eq!(trust["Principal"], json!({ "AWS": daemon }));
    let tried = enough_and_no_more(&place, &policies).await;
    assert_eq!(tried, (2 + 2) + 2 * (2 + 2 + 2 + 1));
}

#[tokio::test]
async fn nodes_that_are_chosen_here() {
    let place = Place::with(|sim, config| {
        with_roles(sim, config)
            .endpoint("hdb", |hdb| hdb.node("spread"))
            .endpoint("rdb", |rdb| rdb.node("spread"))
    })
    .await;
    let policies = place.policies(&[]).await;
    let tried = enough_and_no_more(&place, &policies).await;
    assert_eq!(tried, (1 + 2) + (2 + 2) + 2 * (2 + 2 + 2 + 1));
}

#[tokio::test]
async fn a_node_whose_string_the_cluster_gives() {
    let place = Place::with(|sim, config| {
        with_roles(sim, config)
            .endpoint("hdb", |hdb| hdb.node("sim-hdb-node-2").node_via("cluster"))
            .endpoint("rdb", |rdb| rdb.node("sim-rdb-node-2").node_via("cluster"))
    })
    .await;
    let mut policies = place.policies(&[]).await;
    // Without the list a node that is named is used all the same; that it has gone is then not
    // noticed, and the log tells that it can't be looked at.
    let list = &policies["daemon"]["policy"]["Statement"][0];
    assert_eq!(list["Action"], json!(["finspace:ListKxClusterNodes"]));
    let statements = &mut policies["daemon"]["policy"]["Statement"];
    statements.as_array_mut().unwrap().remove(0);
    let tried = enough_and_no_more(&place, &policies).await;
    assert_eq!(tried, (2 + 2) + 2 * (2 + 2 + 2 + 1));
    let (log, _guard) = Log::capture();
    let _app = place.daemon();
    log.line_with(&["finspace:ListKxClusterNodes"]).await;
}

#[tokio::test]
async fn a_policy_that_is_enforced_allows_nothing_else() {
    let place = Place::with(|_, config| without_console(config)).await;
    let config = place.config.to_str().unwrap();
    let (code, ..) = hopend(&["clusters", "--config", config]).await;
    assert_eq!(code, Some(0));
    place.apply(&place.policies(&["--ask"]).await);
    let (code, _, said) = hopend(&["clusters", "--config", config]).await;
    assert_eq!(code, Some(77));
    assert!(
        said.contains("User: arn:aws:iam::111122223333:user/hopend is not authorized to perform: finspace:ListKxClusters on resource: arn:aws:finspace:us-east-1:111122223333:kxEnvironment/"),
        "{said}"
    );
    // A role that denies explicitly does so, whatever else it allows.
    let role = place.sim.role_arn("alice");
    let denies = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "*", "Resource": "*" },
        { "Effect": "Deny", "Action": "finspace:GetKxConn*", "Resource": "*" }
    ] });
    place.sim.set_policy(&role, &denies.to_string()).unwrap();
    let ask = [
        "connection-string",
        "--config",
        config,
        "--user",
        "alice",
        "--cluster",
    ];
    let (code, _, said) = hopend(&[&ask[..], &["hdb-cluster"]].concat()).await;
    assert_eq!(code, Some(77));
    assert!(
        said.contains("with an explicit deny in an identity-based policy"),
        "{said}"
    );
}

#[tokio::test]
async fn a_document_by_itself_is_whole_or_not_printed() {
    let place = Place::with(|_, config| config).await;
    let config = place.config.to_str().unwrap();
    let policy = async |arguments: &[&str]| {
        hopend(&[&["policy", "--config", config], arguments].concat()).await
    };
    // Nobody told the roles: all of it can be read, with what stands for them, and none be applied.
    let (code, out, said) = policy(&[]).await;
    assert_eq!(code, Some(0));
    assert!(
        out.contains("role/ROLE-OF-alice") && said.contains("--role alice=ARN"),
        "{said}"
    );
    serde_json::from_str::<Json>(&out).unwrap();
    for document in [&["daemon"][..], &["trust", "--user", "alice"]] {
        let (code, out, said) = policy(&[&["--document"], document].concat()).await;
        assert_eq!((code, &*out), (Some(78), ""));
        assert!(said.contains("the role of user alice"), "{said}");
    }
    let whole = place.policies(&["--ask"]).await;
    let (code, out, said) = policy(&["--ask", "--document", "daemon"]).await;
    assert_eq!((code, &*said), (Some(0), ""));
    assert_eq!(
        serde_json::from_str::<Json>(&out).unwrap(),
        whole["daemon"]["policy"]
    );
    let told = format!("alice={}", place.sim.role_arn("alice"));
    let (_, out, _) = policy(&["--role", &told, "--document", "trust", "--user", "alice"]).await;
    let roles = whole["roles"].as_array().unwrap();
    let alice = roles.iter().find(|role| role["users"] == json!(["alice"]));
    assert_eq!(
        serde_json::from_str::<Json>(&out).unwrap(),
        alice.unwrap()["trust"]
    );

    // An endpoint without FinSpace, one that is not there, two roles to choose from, no FinSpace.
    let (code, _, said) = policy(&["--endpoint", "plain", "--document", "daemon"]).await;
    assert_eq!(code, Some(78));
    assert!(said.contains("these endpoints do not use AWS"), "{said}");
    let (code, _, said) = policy(&["--endpoint", "tape"]).await;
    assert_eq!(code, Some(78));
    assert!(said.contains("name one of these: hdb rdb plain"), "{said}");
    let (code, _, said) = policy(&["--ask", "--document", "role"]).await;
    assert_eq!(code, Some(78));
    assert!(said.contains("--user"), "{said}");
    place.sim.faults().deny("*", "finspace:GetKxUser", "*");
    let (code, out, said) = policy(&["--ask"]).await;
    assert_eq!((code, &*out), (Some(77), ""));
    assert!(said.contains("finspace:GetKxUser"), "{said}");
    assert_eq!(policy(&["--account", "12"]).await.0, Some(64));
    assert_eq!(policy(&["--daemon-role", "hopend"]).await.0, Some(64));
}

/// Two environments, several users, a shared role, chosen nodes and a console.
const EVERYTHING: &str = r#"
[environment.prod]
id = "sdb3moagybykax4oexvsq4"
region = "us-east-1"

[environment.china]
id = "cn3moagybykax4oexvsq45"
region = "cn-north-1"

[[user]]
name = "alice"
os_user = "ACCOUNT"
role_arn = "arn:aws:iam::111122223333:role/team/user-alice"

[[user]]
name = "bob@desk"
os_user = "ACCOUNT"
kx_user = "bob"

[[user]]
name = "carol"
os_user = "ACCOUNT"
role_arn = "arn:aws-cn:iam::444455556666:role/user-carol"

[[endpoint]]
name = "hdb"
listen = "127.0.0.1:0"
cluster = "hdb-cluster"
environment = "prod"
node = "spread"
users = ["alice", "bob@desk"]

[[endpoint]]
name = "rdb"
listen = "127.0.0.1:0"
cluster = "rdb-cluster"
environment = "prod"
users = ["alice"]

[[endpoint]]
name = "far"
listen = "127.0.0.1:0"
cluster = "far-cluster"
environment = "china"
node = "zone"
users = ["carol"]

[[endpoint]]
name = "console"
listen = "127.0.0.1:0"
kind = "console"
environment = "prod"
users = ["alice"]
"#;

/// What the linter says of these policies, and how many documents it has read.
async fn lint(folder: &Path, policies: &Json) -> (Vec<String>, usize) {
    let path = folder.join("policies.json");
    std::fs::write(&path, policies.to_string()).unwrap();
    let lines = python::run("lint_policies.py", &[path.to_str().unwrap()], &[]).await;
    let (read, findings): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.starts_with("read "));
    (findings, read.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_linter_finds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hopend.toml");
    std::fs::write(&config, EVERYTHING.replace("ACCOUNT", &account())).unwrap();
    let config = config.to_str().unwrap();
    let bob = "bob@desk=arn:aws:iam::111122223333:role/user-bob";
    let policy = ["policy", "--config", config, "--role", bob];
    let daemon = [
        "--daemon-role",
        "arn:aws:iam::111122223333:role/hopend",
        "--trust-finspace",
    ];
    for more in [&[][..], &daemon] {
        let (code, out, said) = hopend(&[&policy, more].concat()).await;
        assert_eq!((code, &*said), (Some(0), ""));
        let policies: Json = serde_json::from_str(&out).unwrap();
        let (findings, read) = lint(folder.path(), &policies).await;
        assert_eq!(findings, Vec::<String>::new());
        assert_eq!(read, 1 + 3 * 2, "the daemon's and of three roles two");
        if more.is_empty() {
            it_would_object(folder.path(), &policies).await;
        }
    }
}

/// The same linter, with one mistake at a time in what it has just passed.
async fn it_would_object(folder: &Path, policies: &Json) {
    for (place, mistake, finding) in [
        (
            "/daemon/policy/Statement/0/Action/0",
            json!("finspace:GetKxUsr"),
            "UNKNOWN_ACTION",
        ),
        (
            "/roles/0/policy/Statement/0/Resource/0",
            json!("*"),
            "RESOURCE_STAR",
        ),
        (
            "/roles/0/policy/Statement/0/Resource",
            json!(["arn:aws:finspace:us-east-1:111122223333:kxEnvironment/e/kxUser/alice"]),
            "RESOURCE_MISMATCH",
        ),
        (
            "/roles/1/trust/Statement/0/Action/1",
            json!("sts:SetIdentity"),
            "UNKNOWN_ACTION",
        ),
        (
            "/roles/1/trust/Statement/0/Principal/AWS",
            json!("hopend"),
            "UNKNOWN_PRINCIPAL",
        ),
        (
            "/roles/2/trust/Statement/0/Condition/StringEquals",
            json!({ "sts:SourceIdentty": ["alice"] }),
            "UNKNOWN_CONDITION_FOR_ACTION",
        ),
        (
            "/roles/2/trust/Version",
            json!("2017-10-12"),
            "INVALID_VERSION",
        ),
    ] {
        let mut broken = policies.clone();
        *broken.pointer_mut(place).unwrap() = mistake;
        let (findings, _) = timeout(Duration::from_secs(60), lint(folder, &broken))
            .await
            .unwrap();
        assert!(
            findings.iter().any(|line| line.contains(finding)),
            "{place}: {findings:?}"
        );
    }
}
