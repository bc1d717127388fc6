use super::*;
use crate::identity::fixtures::{ALICE, BOB, SVC, endpoint, user, with_certificate};

/// What a client of these tests shows. By default hopen gives neither user nor password, and the account is
/// no user's.
#[derive(Clone, Copy)]
struct Client {
    account: AccountClaim<'static>,
    certificate: Option<&'static str>,
    user: Option<&'static str>,
    has_password: bool,
}

const STRANGER: Client = Client {
    account: AccountClaim::Known(3_999_990_009),
    certificate: None,
    user: None,
    has_password: false,
};

impl Client {
    fn account(self, uid: u32) -> Self {
        self.account_claim(AccountClaim::Known(uid))
    }

    fn account_claim(self, account: AccountClaim<'static>) -> Self {
        Self { account, ..self }
    }

    fn certificate(self, name: &'static str) -> Self {
        let certificate = Some(name);
        Self {
            certificate,
            ..self
        }
    }

    fn named(self, user: &'static str) -> Self {
        let user = Some(user);
        Self { user, ..self }
    }

    fn password(self) -> Self {
        let has_password = true;
        Self {
            has_password,
            ..self
        }
    }

    /// A rule's verdict about the client, in short: `accept bob`, `check bob`, a reason's code, or `-` if
    /// the rule does not apply.
    fn asked_of(self, rule: Rule) -> String {
        let endpoint = bank();
        let names: Vec<CertificateName> = self
            .certificate
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        let claims = Claims {
            account: self.account,
            certificate: self.certificate.map(|_| &names[..]),
            user: self.user,
            has_password: self.has_password,
        };
        match rule(&claims, &Candidates::find(&endpoint, &claims)) {
            Some(verdict) => short(&verdict),
            None => "-".into(),
        }
    }
}

fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept(user) => format!("accept {}", user.name),
        Verdict::CheckPassword(user) => format!("check {}", user.name),
        Verdict::Refuse(reason) => reason.code().into(),
    }
}

/// | user          | account | password | certificate |
/// |---------------|---------|----------|-------------|
/// | bob           | bob     |          |             |
/// | alice         | alice   | yes      | CN=alice    |
/// | carol         |         | yes      |             |
/// | feed1, feed2  | svc     |          | CN=feed     |
///
/// User gone is left out. User zoe (CN=zoe) may use other endpoints only.
fn bank() -> Endpoint {
    let alice = user("alice", Some(("alice", ALICE)), Some("wonder"));
    let feed = |name| with_certificate(&user(name, Some(("svc", SVC)), None), "CN=feed");
    endpoint(&[
        user("bob", Some(("bob", BOB)), None),
        with_certificate(&alice, "CN=alice"),
        user("carol", None, Some("coal")),
        feed("feed1"),
        feed("feed2"),
    ])
}

#[track_caller]
fn assert_rule(rule: Rule, table: &[(Client, &str)]) {
    for (row, (client, expected)) in table.iter().enumerate() {
        assert_eq!(client.asked_of(rule), *expected, "row {row}");
    }
}

#[test]
fn the_certificate_of_the_named_user_proves_it_and_a_given_password_is_checked() {
    let alice = STRANGER.certificate("CN=alice").named("alice");
    assert_rule(
        certificate_of_named_user,
        &[
            (alice, "accept alice"),
            (alice.password(), "check alice"),
            (alice.named("feed1").certificate("CN=feed"), "accept feed1"),
            // feed1 has no password to check.
            (
                alice.named("feed1").certificate("CN=feed").password(),
                "accept feed1",
            ),
            (alice.named("bob"), "-"),
            (alice.certificate("DNS:alice"), "-"),
            (STRANGER.certificate("CN=alice"), "-"),
            (STRANGER.named("alice").account(ALICE), "-"),
        ],
    );
}

#[test]
fn a_certificate_of_another_than_the_named_user_refuses() {
    let host = STRANGER.certificate("CN=host7");
    assert_rule(
        certificate_of_other_user,
        &[
            // alice has another certificate.
            (host.named("alice"), "other_certificate"),
            (host.named("alice").password(), "other_certificate"),
            (host.named("alice").account(ALICE), "other_certificate"),
            // The certificate is somebody else's.
            (
                host.certificate("CN=alice").named("carol"),
                "other_certificate",
            ),
            (
                host.certificate("CN=zoe").named("carol"),
                "other_certificate",
            ),
            // Neither.
            (host.named("carol").password(), "-"),
            (host.named("nobody"), "-"),
            (host, "-"),
            (STRANGER.named("alice"), "-"),
        ],
    );
}

#[test]
fn an_owner_of_a_certificate_who_names_a_user_of_other_endpoints_is_refused() {
    let alice = STRANGER.certificate("CN=alice");
    assert_rule(
        certificate_owner_names_user_elsewhere,
        &[
            (alice.named("zoe"), "other_certificate"),
            (alice.named("zoe").password(), "other_certificate"),
            (alice.named("nobody"), "-"),
            (alice.named("bob"), "-"),
            (alice, "-"),
            (alice.certificate("CN=host7").named("zoe"), "-"),
            (STRANGER.named("zoe"), "-"),
        ],
    );
}

#[test]
fn a_certificate_of_one_user_proves_it_where_hopen_names_no_user() {
    let alice = STRANGER.certificate("CN=alice");
    assert_rule(
        certificate_of_one_user,
        &[
            (alice, "accept alice"),
            (alice.password(), "check alice"),
            // Not the account's user.
            (alice.account(BOB), "accept alice"),
            // q sends the name of its account by itself, and without a password.
            (alice.named("login17"), "accept alice"),
            (alice.named("login17").password(), "-"),
            (alice.named("bob"), "-"),
            (alice.certificate("CN=feed"), "-"),
            (alice.certificate("CN=host7"), "-"),
            (STRANGER, "-"),
        ],
    );
}

#[test]
fn a_certificate_of_several_users_refuses_where_hopen_names_none_of_them() {
    let feed = STRANGER.certificate("CN=feed");
    assert_rule(
        certificate_of_several_users,
        &[
            (feed, "ambiguous"),
            (feed.password(), "ambiguous"),
            (feed.named("login17"), "ambiguous"),
            (feed.named("login17").password(), "-"),
            (feed.named("feed1"), "-"),
            (feed.certificate("CN=alice"), "-"),
            (STRANGER, "-"),
        ],
    );
}

#[test]
fn a_password_of_the_named_user_is_checked_where_the_user_has_one() {
    assert_rule(
        password_of_named_user,
        &[
            (STRANGER.named("carol").password(), "check carol"),
            // The account is no substitute for a password that is given.
            (
                STRANGER.named("alice").password().account(ALICE),
                "check alice",
            ),
            (STRANGER.named("carol"), "-"),
            (STRANGER.named("bob").password(), "-"),
            (STRANGER.named("nobody").password(), "-"),
            (STRANGER.password(), "-"),
        ],
    );
}

#[test]
fn the_account_of_the_named_user_proves_it() {
    let bob = STRANGER.account(BOB).named("bob");
    assert_rule(
        account_of_named_user,
        &[
            (bob, "accept bob"),
            (bob.password(), "accept bob"),
            (bob.named("alice"), "-"),
            (bob.named("carol"), "-"),
            (bob.account_claim(AccountClaim::Ignored), "-"),
            (bob.account_claim(AccountClaim::OtherHost), "-"),
            (
                bob.account_claim(AccountClaim::Unidentified { why: "x" }),
                "-",
            ),
            (STRANGER.account(BOB), "-"),
        ],
    );
}

#[test]
fn a_named_user_whom_nothing_proves_is_refused() {
    let exposed = STRANGER.account_claim(AccountClaim::Ignored);
    assert_rule(
        no_proof_for_named_user,
        &[
            (STRANGER.named("alice"), "password_missing"),
            (exposed.named("alice"), "password_missing"),
            (STRANGER.named("bob"), "other_account"),
            (STRANGER.named("bob").password(), "other_account"),
            (exposed.named("bob"), "no_password"),
            (
                STRANGER.named("bob").account_claim(AccountClaim::OtherHost),
                "other_account",
            ),
            (STRANGER.named("nobody"), "-"),
            (STRANGER, "-"),
        ],
    );
}

#[test]
fn a_name_that_is_no_user_is_refused_unless_it_is_the_name_of_the_account() {
    assert_rule(
        unknown_name,
        &[
            (STRANGER.named("nobody"), "unknown_user"),
            (STRANGER.named("nobody").password(), "unknown_user"),
            (STRANGER.named("zoe"), "unknown_user"),
            (STRANGER.named("gone"), "left_out"),
            (STRANGER.named("svc"), "unknown_user"),
            (STRANGER.named("svc").account(SVC), "-"),
            (
                STRANGER.named("svc").account(SVC).password(),
                "unknown_user",
            ),
            (
                STRANGER.named("svc").account_claim(AccountClaim::Ignored),
                "unknown_user",
            ),
            (STRANGER.named("bob"), "-"),
            (STRANGER, "-"),
        ],
    );
}

#[test]
fn an_account_does_not_stand_in_for_another_certificate() {
    let host = STRANGER.certificate("CN=host7");
    assert_rule(
        account_owner_has_other_certificate,
        &[
            (host.account(ALICE), "other_certificate"),
            (host.account(ALICE).password(), "other_certificate"),
            (host.certificate("CN=zoe").account(BOB), "other_certificate"),
            (host.account(BOB), "-"),
            (host.account(SVC), "-"),
            (host, "-"),
            (STRANGER.account(ALICE), "-"),
        ],
    );
}

#[test]
fn an_account_of_one_user_proves_it_and_a_given_password_is_checked() {
    assert_rule(
        account_of_one_user,
        &[
            (STRANGER.account(BOB), "accept bob"),
            (STRANGER.account(BOB).password(), "accept bob"),
            (STRANGER.account(ALICE), "accept alice"),
            (STRANGER.account(ALICE).password(), "check alice"),
            (STRANGER.account(SVC), "-"),
            (STRANGER, "-"),
            (STRANGER.account_claim(AccountClaim::Ignored), "-"),
        ],
    );
}

#[test]
fn an_account_of_several_users_refuses() {
    assert_rule(
        account_of_several_users,
        &[
            (STRANGER.account(SVC), "ambiguous"),
            (STRANGER.account(SVC).password(), "ambiguous"),
            (STRANGER.account(BOB), "-"),
            (STRANGER, "-"),
        ],
    );
}

#[test]
fn a_password_without_a_user_is_refused() {
    assert_rule(
        password_without_user,
        &[(STRANGER.password(), "user_missing"), (STRANGER, "-")],
    );
}

#[test]
fn where_no_claim_decides_the_reason_is_what_the_client_lacks() {
    let names = ["CN=host7".parse().unwrap()];
    for (account, certificate, expected) in [
        (AccountClaim::Known(7), false, "account_not_allowed"),
        (AccountClaim::Known(7), true, "account_not_allowed"),
        (
            AccountClaim::Unidentified { why: "x" },
            false,
            "peer_unknown",
        ),
        (
            AccountClaim::Unidentified { why: "x" },
            true,
            "peer_unknown",
        ),
        (AccountClaim::OtherHost, false, "password_only"),
        (AccountClaim::OtherHost, true, "certificate_unknown"),
        (AccountClaim::Ignored, false, "password_only"),
        (AccountClaim::Ignored, true, "certificate_unknown"),
    ] {
        let claims = Claims {
            account,
            certificate: certificate.then_some(&names[..]),
            user: None,
            has_password: false,
        };
        assert_eq!(short(&no_claim_decides(&claims)), expected);
    }
}

#[test]
fn a_user_whose_account_is_unknown_is_refused_whatever_vouches_for_it() {
    let mut waiting = User::clone(&user("alice", None, Some("wonder")));
    waiting.os_user = Some(LocalAccount::unknown("alice"));
    let (waiting, bob) = (Arc::new(waiting), user("bob", Some(("bob", BOB)), None));
    for (verdict, expected) in [
        (Verdict::Accept(Arc::clone(&waiting)), "account_unknown"),
        (Verdict::CheckPassword(waiting), "account_unknown"),
        (Verdict::Accept(Arc::clone(&bob)), "accept bob"),
        (Verdict::CheckPassword(bob), "check bob"),
        (Verdict::Refuse(Reason::UserMissing), "user_missing"),
    ] {
        assert_eq!(short(&refuse_user_left_out(verdict)), expected);
    }
}

#[test]
fn a_name_that_clients_send_by_default_counts_as_none_unless_a_password_comes_with_it() {
    let (endpoint, peer) = (
        bank(),
        Peer::Local {
            uid: BOB,
            pid: None,
            address: None,
        },
    );
    let proof = Proof {
        exposed: false,
        peer: &peer,
        certificate: None,
    };
    for (user, password, expected) in [
        ("", "", None),
        ("", "x", None),
        ("anonymous", "", None),
        ("anonymous", "x", Some("anonymous")),
        ("bob", "", Some("bob")),
    ] {
        let hello = Hello {
            user: user.into(),
            password: password.into(),
            capability: Some(3),
        };
        let claims = Claims::collect(&endpoint, &proof, &hello);
        assert_eq!(claims.user, expected);
        assert_eq!(claims.has_password, !password.is_empty());
    }
}

#[test]
fn an_exposed_listener_ignores_the_account() {
    let local = Peer::Local {
        uid: BOB,
        pid: None,
        address: None,
    };
    let address = "10.0.0.9:40212".parse().unwrap();
    // An account of a remote client only counts its connections.
    let remote = Peer::Remote {
        address,
        account: Some(BOB),
    };
    let unidentified = Peer::Unidentified {
        address: None,
        reason: "no netlink".into(),
    };
    for (peer, expected) in [
        (&local, AccountClaim::Known(BOB)),
        (&remote, AccountClaim::OtherHost),
        (
            &unidentified,
            AccountClaim::Unidentified { why: "no netlink" },
        ),
    ] {
        let proof = |exposed| Proof {
            exposed,
            peer,
            certificate: None,
        };
        assert_eq!(AccountClaim::of(&proof(false)), expected);
        assert_eq!(AccountClaim::of(&proof(true)), AccountClaim::Ignored);
    }
}
