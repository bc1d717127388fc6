use super::*;
use crate::config::{LocalAccount, PasswordVerifier, hash_cost};
use crate::identity::fixtures::{ALICE, BOB, SVC, endpoint, user, with_certificate};
use crate::identity::password;
use secret::Secret;

const DORA: u32 = 3_999_990_060;
const STRANGER: u32 = 3_999_990_009;

fn proof(exposed: bool, peer: &Peer) -> Proof<'_> {
    Proof {
        exposed,
        peer,
        certificate: None,
    }
}

fn hello(user: &str, password: &str) -> Hello {
    Hello {
        user: user.into(),
        password: password.into(),
        capability: Some(3),
    }
}

fn local(uid: u32) -> Peer {
    Peer::Local {
        uid,
        pid: None,
        address: None,
    }
}

fn remote() -> Peer {
    Peer::Remote {
        address: "10.0.0.9:40212".parse().unwrap(),
        account: None,
    }
}

fn unidentified() -> Peer {
    Peer::Unidentified {
        address: None,
        reason: "no netlink".into(),
    }
}

/// bob has an account only, alice an account and a password, carol a password only. batch and feed share
/// the account `svc`, which is no user's name. dora's account has another name than she.
fn users() -> Vec<Arc<User>> {
    vec![
        user("bob", Some(("bob", BOB)), None),
        user("alice", Some(("alice", ALICE)), Some("wonder")),
        user("carol", None, Some("coal")),
        user("batch", Some(("svc", SVC)), None),
        user("feed", Some(("svc", SVC)), Some("food")),
        user("dora", Some(("dora_os", DORA)), Some("explore")),
        user("empty", None, Some("")),
    ]
}

#[tokio::test]
async fn who_is_who() {
    let endpoint = endpoint(&users());
    let authenticator = Authenticator::default();
    let here = false;
    let exposed = true;
    for (row, (exposed, peer, name, password, expected)) in [
        // hopen named a user
        (here, local(BOB), "bob", "", Ok("bob")),
        (here, local(BOB), "bob", "passed on", Ok("bob")),
        (here, local(STRANGER), "bob", "", Err("other_account")),
        (here, local(STRANGER), "bob", "x", Err("other_account")),
        (here, local(0), "bob", "", Err("other_account")),
        (here, local(ALICE), "alice", "", Ok("alice")),
        (here, local(ALICE), "alice", "wonder", Ok("alice")),
        (here, local(ALICE), "alice", "wrong", Err("wrong_password")),
        (here, local(BOB), "alice", "wonder", Ok("alice")),
        (here, local(BOB), "alice", "", Err("password_missing")),
        (here, local(BOB), "carol", "coal", Ok("carol")),
        (here, local(BOB), "empty", "", Err("password_missing")),
        (here, local(SVC), "feed", "", Ok("feed")),
        (here, local(SVC), "feed", "x", Err("wrong_password")),
        (here, local(SVC), "batch", "", Ok("batch")),
        (here, local(BOB), "zed", "", Err("unknown_user")),
        (here, local(BOB), "zed", "x", Err("unknown_user")),
        (here, local(BOB), "BOB", "", Err("unknown_user")),
        // hopen named no user
        (here, local(BOB), "", "", Ok("bob")),
        (here, local(BOB), "", "passed on", Ok("bob")),
        (here, local(ALICE), "", "wonder", Ok("alice")),
        (here, local(ALICE), "", "x", Err("wrong_password")),
        (here, local(SVC), "", "", Err("ambiguous")),
        (here, local(SVC), "", "food", Err("ambiguous")),
        (here, local(STRANGER), "", "", Err("account_not_allowed")),
        (here, local(0), "", "", Err("account_not_allowed")),
        (here, local(STRANGER), "", "coal", Err("user_missing")),
        // q named the account itself
        (here, local(DORA), "dora_os", "", Ok("dora")),
        (here, local(DORA), "dora_os", "explore", Err("unknown_user")),
        (here, local(BOB), "dora_os", "", Err("unknown_user")),
        (here, local(SVC), "svc", "", Err("ambiguous")),
        (here, local(ALICE), "bob", "", Err("other_account")),
        // a client sent the name that its library sends by default
        (here, local(BOB), "unknown", "", Ok("bob")),
        (here, local(BOB), "anonymous", "", Ok("bob")),
        (here, local(BOB), "unknown", "x", Err("unknown_user")),
        (here, local(BOB), "Unknown", "", Err("unknown_user")),
        (
            here,
            local(STRANGER),
            "unknown",
            "",
            Err("account_not_allowed"),
        ),
        (here, local(SVC), "anonymous", "", Err("ambiguous")),
        // the kernel does not tell the account
        (here, unidentified(), "", "", Err("peer_unknown")),
        (here, unidentified(), "dora_os", "", Err("unknown_user")),
        (here, unidentified(), "bob", "", Err("other_account")),
        (here, unidentified(), "alice", "wonder", Ok("alice")),
        (here, remote(), "", "", Err("password_only")),
        (here, remote(), "alice", "wonder", Ok("alice")),
        // beyond this host
        (exposed, local(BOB), "bob", "", Err("no_password")),
        (exposed, local(BOB), "bob", "x", Err("no_password")),
        (exposed, local(BOB), "", "", Err("password_only")),
        (exposed, local(BOB), "unknown", "", Err("password_only")),
        (exposed, local(DORA), "dora_os", "", Err("unknown_user")),
        (exposed, local(ALICE), "alice", "", Err("password_missing")),
        (exposed, remote(), "alice", "wonder", Ok("alice")),
        (exposed, remote(), "carol", "wonder", Err("wrong_password")),
        (exposed, remote(), "", "wonder", Err("user_missing")),
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = authenticator
            .identify(&endpoint, &proof(exposed, &peer), &hello(name, password))
            .await;
        let outcome = match &outcome {
            Ok(user) => Ok(user.name.as_str()),
            Err(denied) => Err(denied.reason.code()),
        };
        assert_eq!(outcome, expected, "row {row}: {peer} as {name:?}");
    }
}

#[tokio::test]
async fn a_user_of_exactly_that_name_is_never_taken_for_the_account() {
    // Account svc is user batch; another user is called svc and has another account.
    let endpoint = endpoint(&[
        user("batch", Some(("svc", SVC)), None),
        user("svc", Some(("other", DORA)), None),
    ]);
    let denied = Authenticator::default()
        .identify(&endpoint, &proof(false, &local(SVC)), &hello("svc", ""))
        .await
        .unwrap_err();
    assert_eq!(denied.reason.code(), "other_account");
}

#[tokio::test]
async fn an_argon2_user_is_told_by_the_password() {
    let mut alice = User::clone(&users()[1]);
    alice.password = Some(PasswordVerifier::Argon2(
        password::hash(&"wonder".into()).unwrap().into(),
    ));
    let endpoint = endpoint(&[Arc::new(alice)]);
    let authenticator = Authenticator::default();
    for (name, password, expected) in [
        ("alice", "wonder", Ok("alice")),
        ("alice", "wander", Err("wrong_password")),
        ("malice", "wonder", Err("unknown_user")),
    ] {
        let outcome = authenticator
            .identify(&endpoint, &proof(true, &remote()), &hello(name, password))
            .await;
        let outcome = match &outcome {
            Ok(user) => Ok(user.name.as_str()),
            Err(denied) => Err(denied.reason.code()),
        };
        assert_eq!(outcome, expected, "{name}");
    }
}

/// For every reason, so that the time of a refusal does not tell the reason.
#[tokio::test]
async fn a_refusal_costs_one_argon2_check_where_a_password_was_given_and_none_elsewhere() {
    let mut argon2 = User::clone(&user("erin", None, None));
    let hash = password::hash(&"emerald".into()).unwrap();
    argon2.password = Some(PasswordVerifier::Argon2(hash.into()));
    let by_certificate = with_certificate(&user("frank", None, Some("forest")), "CN=frank");
    let mut all = users();
    all.extend([Arc::new(argon2), by_certificate]);
    let authenticator = Authenticator::default();
    let names = ["CN=host7".parse().unwrap()];
    for (row, (users, exposed, certificate, name, given, expected, cost)) in [
        (&all, true, false, "erin", "emerald", "in", 1),
        (&all, true, false, "erin", "ruby", "wrong_password", 1),
        (&all, true, false, "carol", "coal", "in", 0),
        (&all, true, false, "carol", "cole", "wrong_password", 1),
        (&all, true, false, "zed", "x", "unknown_user", 1),
        (&all, true, false, "bob", "x", "no_password", 1),
        (&all, true, false, "", "x", "user_missing", 1),
        (&all, false, false, "bob", "x", "other_account", 1),
        (&all, false, false, "", "x", "ambiguous", 1),
        (&all, true, true, "frank", "forest", "other_certificate", 1),
        (&all, true, true, "zed", "x", "unknown_user", 1),
        // no user has an argon2 hash: the check uses the hash of no password
        (&users(), true, false, "carol", "cole", "wrong_password", 1),
        (&users(), true, false, "zed", "x", "unknown_user", 1),
        (&all, true, false, "zed", "", "unknown_user", 0),
        (&all, true, false, "erin", "", "password_missing", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let peer = local(SVC);
        let proof = Proof {
            certificate: certificate.then_some(&names[..]),
            ..proof(exposed, &peer)
        };
        let checks = || authenticator.passwords.checks.lock().unwrap().len();
        let before = checks();
        let outcome = authenticator
            .identify(&endpoint(users), &proof, &hello(name, given))
            .await;
        let code = outcome.map_or_else(|denied| denied.reason.code(), |_| "in");
        assert_eq!((code, checks() - before), (expected, cost), "row {row}");
    }
}

/// A refusal does the same work for every name: one check of each cost that the endpoint's hashes have.
/// That is so for users without a hash or without a password, too.
#[tokio::test]
async fn every_refusal_does_the_same_work_whatever_the_hash_of_the_user() {
    let phc = |parameters| {
        let salt_and_hash = "c29tZXNhbHRzb21lc2FsdA$7ChDpfMSI3LdcmmPFBVKqvk2q1qbqVg1hQZ8mT8kKwE";
        Secret::from(format!("{parameters}${salt_and_hash}"))
    };
    let (cheap, dear) = (
        "$argon2id$v=19$m=64,t=1,p=1",
        "$argon2id$v=19$m=512,t=3,p=1",
    );
    let with = |name, verifier| {
        let mut user = User::clone(&user(name, None, None));
        user.password = verifier;
        Arc::new(user)
    };
    let users = [
        with("cheap", Some(PasswordVerifier::Argon2(phc(cheap)))),
        with("dear", Some(PasswordVerifier::Argon2(phc(dear)))),
        with("dear2", Some(PasswordVerifier::Argon2(phc(dear)))),
        with("plain", Some(PasswordVerifier::Plain("plum".into()))),
        with("md5", Some(PasswordVerifier::Md5([1; 16]))),
        with("sha1", Some(PasswordVerifier::Sha1([1; 20]))),
        with("none", None),
    ];
    let endpoint = endpoint(&users);
    let authenticator = Authenticator::default();
    let names = users.iter().map(|user| user.name.as_str());
    for name in names.chain(["nobody", ""]) {
        let denied = authenticator
            .identify(&endpoint, &proof(true, &remote()), &hello(name, "wrong"))
            .await;
        assert!(denied.unwrap_err().guess, "{name}");
        let mut work = std::mem::take(&mut *authenticator.passwords.checks.lock().unwrap());
        work.sort();
        assert_eq!(work, [dear, cheap], "{name}");
    }
    assert_eq!(hash_cost(&phc(dear)), dear.as_bytes());
}

#[tokio::test]
async fn messages_name_account_endpoint_and_remedy_and_no_secret() {
    let endpoint = endpoint(&users());
    let authenticator = Authenticator::default();
    let denied = |peer: Peer, name: &'static str, password: &'static str| {
        let (authenticator, endpoint) = (&authenticator, &endpoint);
        async move {
            authenticator
                .identify(endpoint, &proof(false, &peer), &hello(name, password))
                .await
                .unwrap_err()
        }
    };
    let message = denied(local(0), "", "").await.to_string();
    assert_eq!(
        message,
        "client: endpoint hdb refused root (uid 0): the account belongs to none of its users. Fix: give \
         a user and password to hopen, or add os_user = \"root\" to a [[user]] of the endpoint."
    );
    assert_eq!(
        denied(local(SVC), "", "").await.to_string(),
        "client: endpoint hdb refused uid 3999990050: the account or certificate belongs to several users. Fix: give hopen one \
         of batch, feed."
    );
    let wrong = denied(local(BOB), "carol", "hunter2").await;
    assert!(wrong.guess);
    for text in [wrong.to_string(), format!("{wrong:?}")] {
        assert!(
            !text.contains("hunter2") && !text.contains("coal"),
            "{text}"
        );
    }
    // A client's user name can neither forge a line of the log nor fill it.
    let forged = denied(local(BOB), "x\nclient: endpoint hdb let in root", "").await;
    assert!(!forged.to_string().contains('\n'));
    let long: &'static str = Box::leak("y".repeat(5000).into_boxed_str());
    assert!(denied(local(BOB), long, "").await.to_string().len() < 300);
}

/// alice has a certificate and a password, bob a certificate, carol a password. Two feeds share one
/// certificate.
#[tokio::test]
async fn a_certificate_makes_its_user_of_a_client_and_nobody_else() {
    let with = |name: &str, password, certificate: Option<&str>| {
        let mut user = User::clone(&user(name, None, password));
        user.certificate = certificate.map(|text| text.parse().unwrap());
        Arc::new(user)
    };
    let endpoint = endpoint(&[
        with("alice", Some("wonder"), Some("CN=alice")),
        with("bob", None, Some("CN=bob")),
        with("carol", Some("coal"), None),
        with("feed1", None, Some("URI:spiffe://bank/feed")),
        with("feed2", None, Some("URI:spiffe://bank/feed")),
    ]);
    let authenticator = Authenticator::default();
    for (row, (certificate, name, password, expected)) in [
        ("CN=alice", "", "", Ok("alice")),
        ("CN=alice", "alice", "", Ok("alice")),
        ("CN=alice", "alice", "wonder", Ok("alice")),
        ("CN=alice", "", "wonder", Ok("alice")),
        // the name of the account, which q sends by itself
        ("CN=alice", "login17", "", Ok("alice")),
        ("CN=alice", "login17", "wonder", Err("unknown_user")),
        ("CN=alice", "unknown", "", Ok("alice")),
        // a user who may use other endpoints only
        ("CN=alice", "zoe", "", Err("other_certificate")),
        ("CN=alice", "zoe", "wonder", Err("other_certificate")),
        // a wrong password
        ("CN=alice", "alice", "wander", Err("wrong_password")),
        // another user's certificate, and with the right password, too
        ("CN=bob", "alice", "", Err("other_certificate")),
        ("CN=bob", "alice", "wonder", Err("other_certificate")),
        ("CN=bob", "carol", "coal", Err("other_certificate")),
        ("CN=bob", "bob", "x", Ok("bob")),
        // another kind of name, or a longer or differently written one
        ("DNS:alice", "alice", "", Err("other_certificate")),
        ("DNS:alice", "alice", "wonder", Err("other_certificate")),
        ("CN=alice2", "alice", "wonder", Err("other_certificate")),
        ("CN=Alice", "", "", Err("certificate_unknown")),
        // no user's certificate: users without one still have their password
        ("CN=host7", "carol", "coal", Ok("carol")),
        ("CN=host7", "carol", "cole", Err("wrong_password")),
        ("CN=host7", "carol", "", Err("password_missing")),
        ("CN=host7", "", "", Err("certificate_unknown")),
        ("CN=host7", "alice", "wonder", Err("other_certificate")),
        // the certificate of a user who may use other endpoints only
        ("CN=zoe", "carol", "coal", Err("other_certificate")),
        ("CN=zoe", "alice", "wonder", Err("other_certificate")),
        ("CN=zoe", "", "", Err("certificate_unknown")),
        ("CN=zoe", "zoe", "", Err("unknown_user")),
        // a certificate that two users share
        ("URI:spiffe://bank/feed", "", "", Err("ambiguous")),
        ("URI:spiffe://bank/feed", "feed2", "", Ok("feed2")),
        (
            "URI:spiffe://bank/feed",
            "zoe",
            "",
            Err("other_certificate"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let names = [certificate.parse().unwrap()];
        let peer = remote();
        let proof = Proof {
            certificate: Some(&names),
            ..proof(true, &peer)
        };
        let outcome = authenticator
            .identify(&endpoint, &proof, &hello(name, password))
            .await;
        let outcome = match &outcome {
            Ok(user) => Ok(user.name.as_str()),
            Err(denied) => Err(denied.reason.code()),
        };
        assert_eq!(outcome, expected, "row {row}: {certificate} as {name:?}");
    }
}

#[tokio::test]
async fn a_user_whose_account_does_not_resolve_is_admitted_by_no_other_proof() {
    let waiting = |password: Option<&str>| {
        let mut user = User::clone(&user("alice", None, password));
        user.os_user = Some(LocalAccount::unknown("alice"));
        user.certificate = Some("CN=alice".parse().unwrap());
        Arc::new(user)
    };
    for alice in [waiting(Some("sesame")), waiting(None)] {
        let endpoint = endpoint(&[alice]);
        let peer = Peer::Local {
            uid: ALICE,
            pid: None,
            address: None,
        };
        let names = ["CN=alice".parse().unwrap()];
        for certificate in [None, Some(&names[..])] {
            for (user, password) in [("alice", "sesame"), ("alice", ""), ("", "sesame"), ("", "")] {
                let proof = Proof {
                    exposed: false,
                    peer: &peer,
                    certificate,
                };
                let hello = hello(user, password);
                let identified = Authenticator::default()
                    .identify(&endpoint, &proof, &hello)
                    .await;
                assert!(identified.is_err(), "{user} {password} {certificate:?}");
            }
        }
    }
}
