//! Mistakes in a configuration, each with the line, the key and the message that hopend reports.

use super::*;

/// Mistakes in `SMALL`, one per line. The columns are: a text in `SMALL`, its replacement, and the line,
/// the key and a part of the message of the only problem.
#[rustfmt::skip]
const SLIPS: &[(&str, &str, usize, &str, &str)] = &[
    // keys and types
    ("listen =", "lisen =", 10, "endpoint \"hdb\".listen", "is missing. Fix: write the address that clients dial"),
    ("name = \"alice\"", "name = \"alice\"\nkxuser = \"a\"", 8, "user \"alice\".kxuser", "unknown key. Fix: did you mean `kx_user`?"),
    ("name = \"alice\"", "name = \"alice\"\nzzz = 1", 8, "user \"alice\".zzz", "the keys here are name, os_user, password"),
    ("[[user]]", "[daemons]\n[[user]]", 6, "daemons", "did you mean `daemon`?"),
    ("[[user]]", "[daemon]\n\"dr\\nain\" = 1\n[[user]]", 7, "daemon.…", "did you mean `drain`?"),
    ("name = \"hdb\"", "name = 7", 11, "endpoint.name", "must be a string and is an integer. Fix: write it in double quotes"),
    ("cluster =", "expose = \"yes\"\ncluster =", 13, "endpoint \"hdb\".expose", "must be true or false and is a string"),
    ("cluster =", "users = \"alice\"\ncluster =", 13, "endpoint \"hdb\".users", "must be an array and is a string"),
    ("[\"127.0.0.1:5010\", \"unix:5010\"]", "5010", 12, "endpoint \"hdb\".listen", "must be a string or an array of strings"),
    ("[\"127.0.0.1:5010\", \"unix:5010\"]", "[]", 12, "endpoint \"hdb\".listen", "is empty"),
    ("[[user]]", "[daemon]\nlog = \"xml\"\n[[user]]", 7, "daemon.log", "write \"text\" or \"json\""),
    ("[[user]]", "[user]", 6, "user", "write it as [[user]], in double brackets"),
    ("[environment.prod]", "[environment]", 3, "environment.id", "give each environment a table [environment.NAME]"),
    // names
    ("name = \"hdb\"", "name = \"h db\"", 11, "endpoint.name", "is not a name. Fix: write 1 to 64"),
    ("name = \"alice\"", "name = \"al:ice\"", 7, "user.name", "without colons"),
    ("name = \"hdb\"", "", 10, "endpoint.name", "is missing. Fix: give it a name"),
    // addresses
    ("\"127.0.0.1:5010\"", "\"127.0.0.1\"", 12, "endpoint \"hdb\".listen", "write \"127.0.0.1:5010\""),
    ("\"127.0.0.1:5010\"", "\"192.0.2.1:5010\"", 12, "endpoint \"hdb\".listen", "add expose = true"),
    ("\"127.0.0.1:5010\"", "\n\"127.0.0.1:7\", \n\"127.0.0.1:7\"", 14, "endpoint \"hdb\".listen", "127.0.0.1:7 is taken: endpoint \"hdb\".listen has 127.0.0.1:7 on line 13"),
    ("[[user]]", "[daemon]\nadmin = \"0.0.0.0:9100\"\n[[user]]", 7, "daemon.admin", "reachable from other hosts"),
    ("[[user]]", "[daemon]\nadmin = 5099\n[[user]]", 7, "daemon.admin", "an address or a table"),
    ("[[user]]", "[daemon]\nadmin = { expose = [\"/metrics\"] }\n[[user]]", 7, "daemon.admin.listen", "is missing"),
    ("[[user]]", "[daemon]\nadmin = { listen = \"0.0.0.0:9100\" }\n[[user]]", 7, "daemon.admin.listen", "reachable from other hosts. Fix: write an address of this host's loopback, or add expose"),
    ("[[user]]", "[daemon]\nadmin = { listen = \"0.0.0.0:9100\", expose = [\"/status\"] }\n[[user]]", 7, "daemon.admin.expose", "is not a valid choice. Fix: write \"/metrics\""),
    ("[[user]]", "[daemon]\nadmin = { listen = \"0.0.0.0:9100\", expose = [\"/livez\"], metrics_users = true }\n[[user]]", 7, "daemon.admin.metrics_users", "other hosts see no metrics"),
    ("[[user]]", "[daemon]\nadmin = \"127.0.0.1:5010\"\n[[user]]", 7, "daemon.admin", "is taken: endpoint \"hdb\".listen"),
    ("listen = [\"127.", "expose = true\nlisten = [\"0.", 13, "endpoint \"hdb\".listen", "only passwords count, and no permitted user has one"),
    // environments
    ("id = \"sdb3moagybykax4oexvsq4\"", "", 2, "environment.prod.id", "is missing"),
    ("\"us-east-1\"", "\"\"", 4, "environment.prod.region", "write the AWS region"),
    ("region =", "endpoint_url = \"vpce.example\"\nregion =", 4, "environment.prod.endpoint_url", "write \"https://host\""),
    ("region =", "endpoint_url = \"http://10.0.0.1:80\"\nregion =", 4, "environment.prod.endpoint_url", "http://\" is for 127.0.0.0/8, [::1] and localhost only"),
    ("region =", "sts_endpoint_url = \"http://sts.us-east-1.amazonaws.com\"\nregion =", 4, "environment.prod.sts_endpoint_url", "write \"https://host\""),
    ("region =", "credentials_file = \"open\"\nregion =", 4, "environment.prod.credentials_file", "chmod o-rwx"),
    ("region =", "credentials_file = \"written\"\nregion =", 4, "environment.prod.credentials_file", "chmod o-"),
    ("region =", "ca_file = \"written.pem\"\nregion =", 4, "environment.prod.ca_file", "every account can change"),
    ("region =", "ca_file = \"empty\"\nregion =", 4, "environment.prod.ca_file", "holds no certificate"),
    ("region =", "ca_file = \"none.pem\"\nregion =", 4, "environment.prod.ca_file", "does not exist"),
    ("[[user]]", "[environment.test]\nid = \"a\"\nregion = \"eu-west-1\"\n[[user]]", 16, "endpoint \"hdb\".cluster", "add environment = one of \"prod\", \"test\""),
    ("cluster =", "environment = \"prd\"\ncluster =", 13, "endpoint \"hdb\".environment", "there is no environment \"prd\". Fix: did you mean \"prod\"?"),
    // users
    ("os_user = \"alice\"", "", 6, "user \"alice\"", "add os_user, password, password_file or certificate"),
    ("os_user = \"alice\"", "os_user = \"mallory\"", 8, "user \"alice\".os_user", "there is no such local account"),
    ("os_user =", "role_arn = \"arn:aws:iam::1:role/a\"\nos_user =", 8, "user \"alice\".role_arn", "twelve digits"),
    ("os_user = \"alice\"", "password = \"hunter2\"", 8, "user \"alice\".password", "hopend hash-password"),
    ("os_user = \"alice\"", "password = \"$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$hunter2hunter2hunter2A\"", 8, "user \"alice\".password", "is not an argon2id hash"),
    ("os_user = \"alice\"", "password_file = \"users\"", 8, "user \"alice\".password_file", "no line of \"alice\""),
    ("\"alice\"\nos_user = \"alice\"", "\"carol\"\npassword_file = \"open\"", 8, "user \"carol\".password_file", "(mode 0644). Fix: chmod o-rwx"),
    ("os_user = \"alice\"", "password_file = \"hunter2\"", 8, "user \"alice\".password_file", "does not exist"),
    ("[[endpoint]]", "[[user]]\nname = \"alice\"\nos_user = \"alice\"\n[[endpoint]]", 11, "user \"alice\".name", "also the name of the user of line 6"),
    ("cluster =", "default_user_names = [\"a:b\"]\ncluster =", 13, "endpoint \"hdb\".default_user_names", "without colons"),
    ("cluster =", "default_user_names = \"unknown\"\ncluster =", 13, "endpoint \"hdb\".default_user_names", "must be an array"),
    ("cluster =", "users = []\ncluster =", 13, "endpoint \"hdb\".users", "is empty: nobody could use"),
    ("cluster =", "users = [\"alcie\"]\ncluster =", 13, "endpoint \"hdb\".users", "there is no user \"alcie\". Fix: did you mean \"alice\"?"),
    // targets
    ("cluster = \"testhdb-cluster\"", "", 10, "endpoint \"hdb\"", "has no target. Fix: add cluster"),
    ("cluster = \"testhdb-cluster\"", "login = \"client\"", 10, "endpoint \"hdb\"", "has no target"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"", 10, "endpoint \"hdb\".login", "is missing"),
    ("cluster =", "connect = \":a:1\"\ncluster =", 13, "endpoint \"hdb\".connect", "cannot be combined with cluster"),
    ("cluster =", "login = \"client\"\ncluster =", 13, "endpoint \"hdb\".login", "cannot be combined with cluster"),
    ("cluster =", "node = \"no such\"\ncluster =", 13, "endpoint \"hdb\".node", "write \"any\", \"spread\", \"zone\", or a node's id"),
    ("cluster =", "node = \"spead\"\ncluster =", 13, "endpoint \"hdb\".node", "did you mean \"spread\"?"),
    ("cluster =", "node = \"Any\"\ncluster =", 13, "endpoint \"hdb\".node", "did you mean \"any\"?"),
    ("cluster =", "node = \"zones\"\ncluster =", 13, "endpoint \"hdb\".node", "did you mean \"zone\"?"),
    ("cluster = \"testhdb-cluster\"", "connect = \"unix:5000\"\nlogin = \"client\"", 13, "endpoint \"hdb\".connect", "is a Unix socket"),
    ("cluster =", "node_via = \"cluster\"\ncluster =", 13, "endpoint \"hdb\".node_via", "has no effect: no node is chosen"),
    ("cluster =", "node = \"spread\"\nnode_via = \"ssh\"\ncluster =", 14, "endpoint \"hdb\".node_via", "write \"api\" or \"cluster\""),
    ("cluster =", "errors = \"hide\"\ncluster =", 13, "endpoint \"hdb\".errors", "write \"close\" or \"explain\""),
    ("cluster =", "kind = \"shell\"\ncluster =", 13, "endpoint \"hdb\".kind", "write \"kdb\" or \"console\""),
    ("cluster =", "kind = \"console\"\ncluster =", 14, "endpoint \"hdb\".cluster", "has no effect in a console"),
    ("cluster = \"testhdb-cluster\"", "kind = \"console\"\nkeepalive = \"60s\"", 14, "endpoint \"hdb\".keepalive", "has no effect in a console"),
    ("cluster = \"testhdb-cluster\"", "kind = \"console\"\n[environment.test]\nid = \"a\"\nregion = \"eu-west-1\"", 10, "endpoint \"hdb\".environment", "add environment = one of \"prod\", \"test\""),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"\nlogin = \"client\"\nnode = \"spread\"", 15, "endpoint \"hdb\".node", "has no effect without cluster"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"\nlogin = \"client\"\nwarm = 2", 15, "endpoint \"hdb\".warm", "has no effect: with login = \"client\""),
    ("cluster =", "warm = 65\ncluster =", 13, "endpoint \"hdb\".warm", "is too large. Fix: write at most 64"),
    ("cluster = \"testhdb-cluster\"", "kind = \"console\"\nwarm = 1", 14, "endpoint \"hdb\".warm", "has no effect in a console"),
    ("[[user]]", "[daemon]\nzone = \"US East\"\n[[user]]", 7, "daemon.zone", "availability zone's id"),
    ("[[user]]", "[daemon]\ncontrol = \"\"\n[[user]]", 7, "daemon.control", "write the path of a file"),
    ("os_user = \"alice\"", "os_user = \"alice\"\nconsole = 1", 9, "user \"alice\".console", "must be true or false"),
    ("\"testhdb-cluster\"", "\"t!\"", 13, "endpoint \"hdb\".cluster", "3 to 63"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1:svc:hunter2\"\nlogin = \"client\"", 13, "endpoint \"hdb\".connect", "holds more than a host and a port"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"\nlogin = { user = \"svc\", password_file = \"empty\" }", 14, "endpoint \"hdb\".login.password_file", "first line is empty"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"\nlogin = { user = \"svc\", password_file = \"open\" }", 14, "endpoint \"hdb\".login.password_file", "chmod o-rwx"),
    ("cluster = \"testhdb-cluster\"", "login = { command = [\"@/written.sh\"] }", 13, "endpoint \"hdb\".login.command", "every account can change"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"\nlogin = { user = \"svc\" }", 14, "endpoint \"hdb\".login.password_file", "is missing"),
    ("cluster = \"testhdb-cluster\"", "login = { command = [\"login\", \"hunter2\"] }", 13, "endpoint \"hdb\".login.command", "no absolute path"),
    ("cluster = \"testhdb-cluster\"", "login = { command = [\"@/login\", \"hunter2\"] }", 13, "endpoint \"hdb\".login.command", "can't be executed"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"\nlogin = \"client\"\nplaintext = true", 15, "endpoint \"hdb\".plaintext", "has no effect here"),
    ("cluster = \"testhdb-cluster\"", "connect = \":a:1\"\nlogin = \"client\"\nca_file = \"users\"", 15, "endpoint \"hdb\".ca_file", "no certificate"),
    // TLS towards clients
    ("cluster =", "tls = \"cert.pem\"\ncluster =", 13, "endpoint \"hdb\".tls", "must be a table"),
    ("cluster =", "tls = { key = \"ca.key\" }\ncluster =", 13, "endpoint \"hdb\".tls.cert", "is missing"),
    ("cluster =", "tls = { cert = \"ca.pem\", key = \"other.key\" }\ncluster =", 13, "endpoint \"hdb\".tls", "its own key"),
    ("cluster =", "tls = { cert = \"ca.pem\", key = \"open.key\" }\ncluster =", 13, "endpoint \"hdb\".tls.key", "chmod o-rwx"),
    ("cluster =", "tls = { cert = \"ca.pem\", key = \"login\" }\ncluster =", 13, "endpoint \"hdb\".tls.key", "no private key"),
    ("cluster =", "tls = { cert = \"ca.pem\", key = \"ca.key\", client_ca = \"users\" }\ncluster =", 13, "endpoint \"hdb\".tls.client_ca", "no certificate"),
    ("cluster =", "tls = { cert = \"ca.pem\", key = \"ca.key\", min_version = \"1.1\" }\ncluster =", 13, "endpoint \"hdb\".tls.min_version", "not a valid choice"),
    ("[\"127.0.0.1:5010\", \"unix:5010\"]", "\"unix:5010\"\ntls = { cert = \"ca.pem\", key = \"ca.key\" }", 13, "endpoint \"hdb\".tls", "Unix sockets"),
    ("os_user = \"alice\"", "certificate = \"alice\"", 8, "user \"alice\".certificate", "write \"CN=alice\""),
    // numbers
    ("cluster =", "idle_timeout = 60\ncluster =", 13, "endpoint \"hdb\".idle_timeout", "write the unit too"),
    ("cluster =", "max_opens_per_second = 0\ncluster =", 13, "endpoint \"hdb\".max_opens_per_second", "at least 1"),
    ("cluster =", "max_opens_per_second_per_user = \"none\"\ncluster =", 13, "endpoint \"hdb\".max_opens_per_second_per_user", "\"off\""),
    ("os_user =", "max_sessions = 0\nos_user =", 8, "user \"alice\".max_sessions", "at least 1"),
    ("cluster =", "keepalive = \"350s\"\ncluster =", 13, "endpoint \"hdb\".keepalive", "less than \"350s\""),
    ("cluster =", "keepalive = { every = \"10ms\" }\ncluster =", 13, "endpoint \"hdb\".keepalive.every", "at least \"100ms\""),
    ("cluster =", "keepalive = 60\ncluster =", 13, "endpoint \"hdb\".keepalive", "write \"60s\", \"off\""),
    ("cluster =", "keepalive = { every = 60 }\ncluster =", 13, "endpoint \"hdb\".keepalive.every", "write the unit too, such as \"60s\""),
    ("cluster =", "keepalive = { mode = \"sync\", answer_timeout = \"9ms\" }\ncluster =", 13, "endpoint \"hdb\".keepalive.answer_timeout", "at least \"1s\""),
    ("cluster =", "keepalive = { answer_timeout = \"1h\" }\ncluster =", 13, "endpoint \"hdb\".keepalive.answer_timeout", "or write mode = \"sync\""),
    ("cluster = \"testhdb-cluster\"", "connect = [\":a:1\", \":b:1\"]\nlogin = \"client\"\npolicy = \"spread\"\nfailover_after = \"1s\"", 16, "endpoint \"hdb\".failover_after", "has no effect with policy = \"spread\". Fix: remove it"),
    ("cluster = \"testhdb-cluster\"", "connect = [\":a:1\", \":b:1\"]\nlogin = \"client\"\nfailover_after = \"0s\"", 15, "endpoint \"hdb\".failover_after", "is too short"),
    ("cluster =", "failover_after = \"1s\"\ncluster =", 13, "endpoint \"hdb\".failover_after", "cannot be combined with cluster"),
    ("cluster =", "connect_timeout = \"soon\"\ncluster =", 13, "endpoint \"hdb\".connect_timeout", "a number and a unit"),
    ("cluster =", "max_message = 8\ncluster =", 13, "endpoint \"hdb\".max_message", "at least 9"),
    ("cluster =", "max_message = \"1 furlong\"\ncluster =", 13, "endpoint \"hdb\".max_message", "is not a number of bytes"),
    ("cluster =", "max_sessions = -1\ncluster =", 13, "endpoint \"hdb\".max_sessions", "out of range"),
    ("cluster =", "max_sessions = \"9\"\ncluster =", 13, "endpoint \"hdb\".max_sessions", "without quotes"),
    // what is not TOML
    ("[\"127.0.0.1:5010\", \"unix:5010\"]", "127.0.0.1:5010", 12, "", "not TOML"),
    ("os_user = \"alice\"", "password = hunter2", 8, "", "not TOML"),
    ("cluster =", "name = \"rdb\"\ncluster =", 13, "", "duplicate key. Fix: give each key once"),
];

#[test]
fn a_slip_is_told_with_its_line_its_key_and_the_remedy() {
    for (from, to, line, key, part) in SLIPS {
        assert!(SMALL.contains(from), "{from}");
        let text = SMALL.replacen(from, to, 1);
        let problems = read(&text).expect_err(to);
        let shown = problems.to_string();
        // A mistyped key causes two problems: the unknown key, and the key that is missing.
        let misspelt = *to == "lisen =";
        assert_eq!(
            problems.iter().count(),
            1 + usize::from(misspelt),
            "{to}: {shown}"
        );
        let first = problems.iter().next().unwrap();
        assert_eq!(
            (first.line, first.key.as_str()),
            (Some(*line), *key),
            "{shown}"
        );
        assert!(shown.contains(part), "{to}: {shown}");
        assert!(shown.contains(&format!("hopend.toml:{line}: ")), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn all_slips_are_told_at_once_in_the_order_of_the_lines() {
    let text = SMALL
        .replace("us-east-1", "US EAST")
        .replace("\"alice\"\nos", "\"alice\"\nos_usr = 1\nos")
        .replace("listen =", "listen =\nlisten =")
        .replace("cluster =", "max_sessions = 0\ncluster =");
    let problems = read(&text).unwrap_err();
    let lines: Vec<Option<usize>> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [4, 8, 13, 14, 15].map(Some), "{problems}");
}

#[test]
fn two_endpoints_cannot_share_a_name_or_an_address() {
    let second = "[[endpoint]]\nname = \"hdb\"\nlisten = [\"unix:5010\", \"127.0.0.1:5010\"]\ncluster = \"other\"";
    let problems = read(&format!("{SMALL}{second}")).unwrap_err().to_string();
    assert!(
        problems.contains("the name of the endpoint of line 10"),
        "{problems}"
    );
    assert!(problems.contains("unix:5010 is taken"), "{problems}");
    assert!(problems.contains("127.0.0.1:5010 is taken"), "{problems}");
}

#[test]
fn an_empty_file_lacks_users_and_endpoints() {
    for text in ["", "user = []\nendpoint = []"] {
        let problems = read(text).unwrap_err();
        let keys: Vec<&str> = problems
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        assert_eq!(keys, ["endpoint", "user"], "{problems}");
    }
}

#[test]
fn what_a_syntax_error_hides_is_not_called_missing() {
    let text = SMALL
        .replace("[[user]]", "[[user]")
        .replace("cluster = \"testhdb", "cluster = \"!");
    let problems = read(&text).unwrap_err();
    let lines: Vec<Option<usize>> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(6), Some(13)], "{problems}");
}

#[test]
fn endpoints_that_lead_back_to_themselves_are_told_with_the_way() {
    let endpoint = |name: &str, listen: &str, connect: &str| {
        format!(
            "[[endpoint]]\nname = \"{name}\"\nlisten = \"{listen}\"\nconnect = {connect}\nlogin = \"client\"\n"
        )
    };
    let head = "[[user]]\nname = \"alice\"\nos_user = \"alice\"\n";
    let told = |endpoints: &[String]| {
        let problems = read(&(head.to_owned() + &endpoints.concat())).unwrap_err();
        let told = problems
            .iter()
            .map(|p| (p.line.unwrap(), p.key.clone(), p.message.clone()));
        told.collect::<Vec<_>>()
    };
    let own = endpoint("a", "127.0.0.1:5010", "[\":kdb:1\", \":localhost:5010\"]");
    assert_eq!(
        told(&[own]),
        [(
            7,
            "endpoint \"a\".connect".into(),
            "is an address of this endpoint itself".into()
        )]
    );
    let (a, b, c, d) = (
        endpoint("a", "127.0.0.1:5010", "\":127.0.0.1:5011\""),
        endpoint(
            "b",
            "0.0.0.0:5011\"\nexpose = true #",
            "\":tcps://localhost:5012\"",
        ),
        endpoint("c", "[::1]:5012", "\":127.0.0.1:5010\""),
        endpoint("d", "127.0.0.1:5013", "\":127.0.0.1:5010\""),
    );
    let b = b.replace("expose = true #\"", "expose = true\nusers = [\"carol\"]");
    let carol = "[[user]]\nname = \"carol\"\npassword_file = \"users\"\n".to_owned();
    let told = told(&[carol, a, b, c, d.clone()]);
    let messages: Vec<&str> = told
        .iter()
        .map(|(_, _, message)| message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "leads back to this endpoint: b -> c -> a",
            "leads back to this endpoint: c -> a -> b",
            "leads back to this endpoint: a -> b -> c",
        ]
    );
    // An endpoint may lead to another endpoint, if that one leads to kdb+.
    let other = endpoint("a", "127.0.0.1:5010", "\":kdb:1\"");
    read(&(head.to_owned() + &other + &d)).unwrap();
}
