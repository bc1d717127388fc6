//! Configurations, and the policies that they need.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::config::{Config, OsUser, parse};

const ENVIRONMENT: &str = r#"
[environment.prod]
id = "sdb3moagybykax4oexvsq4"
region = "us-east-1"
"#;

const ALICE: &str = r#"
[[user]]
name = "alice"
os_user = "alice"
role_arn = "arn:aws:iam::111122223333:role/user-alice"
"#;

const BOB: &str = r#"
[[user]]
name = "bob/ops"
os_user = "bob"
kx_user = "bob"
"#;

/// An endpoint with these lines.
fn endpoint(name: &str, lines: &str) -> String {
    let port = 5010 + name.bytes().map(u32::from).sum::<u32>() % 100;
    format!("[[endpoint]]\nname = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\n{lines}\n")
}

fn config(tables: &[&str]) -> Config {
    let account = |name: &str| {
        let uid = name.bytes().map(u32::from).sum();
        Ok(Some(OsUser {
            name: name.to_owned(),
            uid,
        }))
    };
    let text = tables.concat();
    parse(&text, Path::new("/hopend.toml"), &account).unwrap_or_else(|p| panic!("{p}"))
}

fn needs(tables: &[&str], facts: &IamFacts) -> (Value, Vec<PolicyGap>) {
    let policies = Policies::of(&config(tables).endpoints, facts);
    let json = serde_json::to_value(&policies).unwrap();
    (json, policies.gaps)
}

const PROD: &str = "arn:aws:finspace:us-east-1:111122223333:kxEnvironment/sdb3moagybykax4oexvsq4";

#[test]
fn one_user_with_a_role_and_one_cluster() {
    let hdb = endpoint("hdb", "cluster = \"hdb-cluster\"");
    let (json, gaps) = needs(&[ENVIRONMENT, ALICE, &hdb], &IamFacts::default());
    assert_eq!(
        json,
        json!({
            "daemon": { "policy": { "Version": "2012-10-17", "Statement": [{
                "Effect": "Allow",
                "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
                "Resource": ["arn:aws:iam::111122223333:role/user-alice"]
            }] } },
            "roles": [{
                "role": "arn:aws:iam::111122223333:role/user-alice",
                "users": ["alice"],
                "policy": { "Version": "2012-10-17", "Statement": [{
                    "Effect": "Allow",
                    "Action": ["finspace:GetKxConnectionString", "finspace:ConnectKxCluster"],
                    "Resource": [format!("{PROD}/kxCluster/hdb-cluster")]
                }] },
                "trust": { "Version": "2012-10-17", "Statement": [{
                    "Effect": "Allow",
                    "Principal": { "AWS": "arn:aws:iam::111122223333:root" },
                    "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
                    "Condition": { "StringEquals": { "sts:SourceIdentity": ["alice"] } }
                }] }
            }]
        })
    );
    assert_eq!(gaps, []);
}

#[test]
fn a_role_that_only_finspace_knows_is_a_gap_until_it_is_told() {
    let hdb = endpoint("hdb", "cluster = \"hdb-cluster\"");
    let tables = [ENVIRONMENT, BOB, &hdb];
    let (json, gaps) = needs(&tables, &IamFacts::default());
    let user = json!({
        "Effect": "Allow",
        "Action": ["finspace:GetKxUser"],
        "Resource": [format!("{}/kxUser/bob", PROD.replace("111122223333", "*"))]
    });
    assert_eq!(json["daemon"]["policy"]["Statement"][0], user);
    assert_eq!(
        json["roles"][0]["role"],
        "arn:aws:iam::ACCOUNT:role/ROLE-OF-bob-ops"
    );
    assert_eq!(gaps.len(), 2, "{gaps:?}");

    let role = "arn:aws:iam::111122223333:role/team/bob".parse().unwrap();
    let owner = RoleOwner {
        environment: "prod".into(),
        user: "bob/ops".into(),
    };
    let facts = IamFacts {
        roles: HashMap::from([(owner, role)]),
        daemon: Some("arn:aws:iam::111122223333:role/hopend".into()),
        trust_finspace: true,
        ..IamFacts::default()
    };
    let (json, gaps) = needs(&tables, &facts);
    assert_eq!(gaps, []);
    assert_eq!(
        json["daemon"]["policy"]["Statement"][0]["Resource"],
        json!([format!("{PROD}/kxUser/bob")])
    );
    assert_eq!(
        json["roles"][0]["trust"]["Statement"],
        json!([
            {
                "Effect": "Allow",
                "Principal": { "AWS": "arn:aws:iam::111122223333:role/hopend" },
                "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
                "Condition": { "StringEquals": { "sts:SourceIdentity": ["bob-ops"] } }
            },
            {
                "Effect": "Allow",
                "Principal": { "Service": "finspace.amazonaws.com" },
                "Action": ["sts:AssumeRole"]
            }
        ])
    );
}

#[test]
fn a_role_that_is_shared_has_every_user_and_every_cluster_of_theirs() {
    let shared = BOB.replace(
        "kx_user",
        "role_arn = \"arn:aws:iam::111122223333:role/user-alice\"\nkx_user",
    );
    let hdb = endpoint("hdb", "cluster = \"hdb-cluster\"\nusers = [\"alice\"]");
    let rdb = endpoint("rdb", "cluster = \"rdb-cluster\"");
    let (json, _) = needs(
        &[ENVIRONMENT, ALICE, &shared, &hdb, &rdb],
        &IamFacts::default(),
    );
    assert_eq!(json["roles"].as_array().unwrap().len(), 1);
    assert_eq!(json["roles"][0]["users"], json!(["alice", "bob/ops"]));
    let clusters = ["hdb-cluster", "rdb-cluster"].map(|c| format!("{PROD}/kxCluster/{c}"));
    assert_eq!(
        json["roles"][0]["policy"]["Statement"][0]["Resource"],
        json!(clusters)
    );
    assert_eq!(
        json["roles"][0]["trust"]["Statement"][0]["Condition"]["StringEquals"]["sts:SourceIdentity"],
        json!(["alice", "bob-ops"])
    );
}

#[test]
fn nodes_that_are_chosen_are_listed_and_a_console_lists_everything() {
    let hdb = endpoint("hdb", "cluster = \"hdb-cluster\"\nnode = \"spread\"");
    let tables = [ENVIRONMENT, ALICE, &hdb];
    let (json, _) = needs(&tables, &IamFacts::default());
    assert_eq!(
        json["daemon"]["policy"]["Statement"][0],
        json!({
            "Effect": "Allow",
            "Action": ["finspace:ListKxClusterNodes"],
            "Resource": [format!("{PROD}/kxCluster/hdb-cluster")]
        })
    );
    let console = endpoint("console", "kind = \"console\"");
    let (json, _) = needs(&[ENVIRONMENT, ALICE, &hdb, &console], &IamFacts::default());
    let statements = json["daemon"]["policy"]["Statement"].as_array().unwrap();
    let of = |action: &str| {
        let statement = statements.iter().find(|s| s["Action"] == json!([action]));
        statement.unwrap()["Resource"].clone()
    };
    assert_eq!(of("finspace:ListKxClusters"), json!([PROD]));
    assert_eq!(
        of("finspace:ListKxClusterNodes"),
        json!([format!("{PROD}/kxCluster/*")]),
        "the one cluster is among them"
    );
}

#[test]
fn what_needs_no_aws_needs_no_policy() {
    let rdb = endpoint("rdb", "connect = \":tcps://rdb:5011\"\nlogin = \"client\"");
    let console = endpoint("console", "kind = \"console\"");
    let (json, gaps) = needs(&[ALICE, &rdb, &console], &IamFacts::default());
    assert_eq!(json, json!({ "daemon": { "policy": null }, "roles": [] }));
    assert_eq!(gaps, []);
}

#[test]
fn partitions_are_those_of_the_roles_or_of_the_regions() {
    let console = endpoint("console", "kind = \"console\"");
    let china = ENVIRONMENT.replace("us-east-1", "cn-north-1");
    let plain = ALICE.lines().filter(|line| !line.starts_with("role_arn"));
    let plain = plain.collect::<Vec<_>>().join("\n") + "\n";
    let facts = IamFacts {
        account: Some("444455556666".into()),
        ..IamFacts::default()
    };
    let (json, gaps) = needs(&[&china, &plain, &console], &facts);
    let lists = &json["daemon"]["policy"]["Statement"];
    assert_eq!(
        lists[1]["Resource"][0],
        "arn:aws-cn:finspace:cn-north-1:444455556666:kxEnvironment/sdb3moagybykax4oexvsq4"
    );
    assert_eq!(gaps, []);
}

#[test]
fn the_account_that_is_said_is_for_environments_whose_roles_do_not_tell_it() {
    let test = ENVIRONMENT.replace("prod", "test").replace("sdb3", "tst3");
    let console = |environment: &str| {
        let lines =
            format!("kind = \"console\"\nenvironment = \"{environment}\"\nusers = [\"carol\"]");
        endpoint(&format!("console-{environment}"), &lines)
    };
    let carol = "[[user]]\nname = \"carol\"\nos_user = \"carol\"\n";
    let hdb = endpoint(
        "hdb",
        "cluster = \"hdb-cluster\"\nenvironment = \"prod\"\nusers = [\"alice\"]",
    );
    let facts = IamFacts {
        account: Some("444455556666".into()),
        ..IamFacts::default()
    };
    let (prod, other) = (console("prod"), console("test"));
    let tables = [ENVIRONMENT, &test, ALICE, carol, &prod, &other, &hdb];
    let (json, _) = needs(&tables, &facts);
    let lists = &json["daemon"]["policy"]["Statement"];
    let other = PROD
        .replace("sdb3", "tst3")
        .replace("111122223333", "444455556666");
    assert_eq!(lists[1]["Resource"], json!([PROD, other]));
    let clusters = &json["roles"][0]["policy"]["Statement"][0]["Resource"];
    assert_eq!(*clusters, json!([format!("{PROD}/kxCluster/hdb-cluster")]));
}
