use std::path::Path;

use futures_util::future::join_all;

use super::handshake::TooManyHandshakes;
use super::rate::OpenRate;
use super::*;
use crate::config::{self, OsUser};
use crate::identity::Peer;

fn account(uid: u32) -> Peer {
    Peer::Local {
        uid,
        pid: None,
        address: None,
    }
}

fn host(address: &str) -> Peer {
    Peer::Remote {
        address: address.parse().unwrap(),
        account: None,
    }
}

/// Two users, a and b, at endpoint hdb of ten sessions, and the rest of the configuration.
fn config(daemon: &str, endpoint: &str) -> Config {
    let text = format!(
        "[[user]]\nname = \"a\"\nos_user = \"a\"\n[[user]]\nname = \"b\"\nos_user = \"b\"\n\
         [[endpoint]]\nname = \"hdb\"\nlisten = \"127.0.0.1:0\"\nconnect = \":127.0.0.1:1\"\n\
         login = {{ command = [\"/bin/true\"] }}\n{endpoint}\n[daemon]\n{daemon}\n"
    );
    let accounts = |name: &str| {
        let (name, uid) = (name.to_owned(), 1_000);
        Ok(Some(OsUser { name, uid }))
    };
    config::parse(&text, Path::new("hopend.toml"), &accounts).unwrap_or_else(|p| panic!("{p}"))
}

/// Opens a hundred sessions of a user at the same moment. Returns the permits, and the reason for the last refusal.
async fn opens(limits: &Limits, config: &Config, user: usize) -> (Vec<SessionPermit>, String) {
    let (endpoint, user) = (&config.endpoints[0], &config.users[user]);
    let mut permits = Vec::new();
    let all = (0..100).map(|_| limits.session_permit(endpoint, user));
    let mut why = String::new();
    for open in join_all(all).await {
        match open {
            Ok(permit) => permits.push(permit),
            Err(exceeded) => why = exceeded.to_string(),
        }
    }
    (permits, why)
}

#[test]
fn warm_connections_have_their_file_descriptors() {
    let budget = |warm, files| {
        let config = config("", &format!("max_sessions = 100\nwarm = {warm}"));
        DescriptorBudget::new(&config, files)
    };
    for (warm, files, expected) in [(0, 1_000, 375), (8, 1_000, 369), (64, 100, 19)] {
        let budget = budget(warm, files);
        let found = (budget.sessions, budget.warm, budget.possible);
        assert_eq!(found, (100, 2 * warm, expected), "{warm}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_has_all_of_the_daemons_places() {
    let config = config("max_sessions = 10", "");
    let limits = Limits::default();
    limits.configure(&config, MachineMemory::read());
    let (first, why) = opens(&limits, &config, 0).await;
    assert_eq!(first.len(), 9);
    let expected = "user a has 9 sessions, which is max_sessions of [daemon], less a share for \
                    other users";
    assert!(why.starts_with(expected), "{why}");
    let (second, why) = opens(&limits, &config, 1).await;
    assert_eq!(second.len(), 1);
    assert!(why.starts_with("hopend has 10 sessions"), "{why}");
    drop(first);
    assert_eq!(opens(&limits, &config, 1).await.0.len(), 8);
}

/// One user opens sessions all the time, within a limit of the endpoint or of the daemon.
#[tokio::test]
async fn nobody_has_all_of_a_pace() {
    for config in [
        config("", "max_opens_per_second = 10"),
        config("max_opens_per_second = 10", ""),
    ] {
        let limits = Limits::default();
        limits.configure(&config, MachineMemory::read());
        let endpoint = &config.endpoints[0];
        let start = Instant::now();
        let enter = |user: usize, millis| {
            let now = start + Duration::from_millis(millis);
            locked(&limits.sessions).enter(endpoint, &config.users[user], now)
        };
        let (mut first, mut second) = (0, 0);
        for millis in (0..10_000).step_by(10) {
            first += usize::from(enter(0, millis).is_ok());
            if millis % 1_000 == 0 {
                second += usize::from(enter(1, millis).is_ok());
            }
        }
        assert_eq!(second, 10, "one a second is kept for others");
        // Nine a second, and the burst.
        assert!((90..=110).contains(&first), "{first}");
    }
}

/// A user who opens and closes a session every millisecond for ten seconds.
#[test]
fn a_user_opens_a_hundred_a_second_where_nothing_is_configured() {
    for (daemon, endpoint, expected) in [
        ("", "max_sessions = 10", 100 + 1_100),
        ("", "max_sessions_per_user = 400", 400 + 1_100),
        ("", "max_opens_per_second_per_user = 5", 5 + 55),
        ("", "max_opens_per_second_per_user = \"off\"", 10_000),
        ("", "max_opens_per_second = 1000", 10_000),
        ("max_opens_per_second = 10", "", 9 + 99),
    ] {
        let config = config(daemon, endpoint);
        let limits = Limits::default();
        limits.configure(&config, MachineMemory::read());
        let (at, start) = (&config.endpoints[0], Instant::now());
        let mut opened = 0;
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            let mut state = locked(&limits.sessions);
            opened += i32::from(state.enter(at, &config.users[0], now).is_ok());
            close_all(&mut state);
        }
        // Some of them wait, for up to a second.
        assert!(
            (expected - 2..=expected).contains(&opened),
            "{endpoint}: {opened}"
        );
    }
}

fn close_all(ledger: &mut SessionLedger) {
    ledger.sessions = 0;
    let users = ledger.users.values_mut();
    let named = users.chain(ledger.endpoints.values_mut());
    for usage in named.chain(ledger.users_at_endpoints.values_mut()) {
        usage.sessions = 0;
    }
}

#[tokio::test(start_paused = true)]
async fn who_gets_no_place_takes_no_turn_and_the_other_way_round() {
    let config = config("", "max_opens_per_second = 50\nmax_sessions = 40");
    let limits = Limits::default();
    limits.configure(&config, MachineMemory::read());
    let (held, why) = opens(&limits, &config, 0).await;
    assert_eq!(held.len(), 39);
    assert!(why.contains("has 39 sessions"), "{why}");
    let state = || locked(&limits.sessions);
    let endpoint = &config.endpoints[0];
    let wait = state().endpoints["hdb"]
        .opens
        .wait(OpenRate::even(50), Instant::now());
    assert_eq!(wait, Duration::ZERO, "39 of 50 are taken");
    limits
        .session_permit(endpoint, &config.users[1])
        .await
        .unwrap();
    drop(held);
    assert_eq!(state().sessions, 0);
}

/// A handshake permit for each peer, until one is refused.
async fn handshakes(limits: &Limits, peers: &[Peer]) -> Vec<HandshakePermit> {
    let mut permits = Vec::new();
    for peer in peers {
        let mut permit = limits.handshake_permit().await;
        if permit
            .try_assign(peer, &config("", "").endpoints[0])
            .is_err()
        {
            break;
        }
        permits.push(permit);
    }
    permits
}

#[tokio::test]
async fn nobody_holds_more_than_half_of_the_doors() {
    // 40 descriptors allow ten handshakes at a time.
    let (limits, hdb) = (Limits::within(40), config("", "").endpoints.remove(0));
    let mut held = handshakes(&limits, &vec![account(1); 6]).await;
    assert_eq!(held.len(), 5);
    let mut sixth = limits.handshake_permit().await;
    let Err(TooManyHandshakes::OfOrigin(refused)) = sixth.try_assign(&account(1), &hdb) else {
        panic!("it has half already");
    };
    assert!(
        matches!(&refused, Exceeded::Unidentified { count: 5, .. }),
        "{refused}"
    );
    assert!(refused.to_string().starts_with("uid 1 has 5 connections"));
    // A refused connection counts for nothing: another account can use its permit, and the account one that is freed.
    sixth.try_assign(&account(2), &hdb).unwrap();
    held.pop();
    limits
        .handshake_permit()
        .await
        .try_assign(&account(1), &hdb)
        .unwrap();
}

/// A quarter of 16 MiB is for handshakes, of 16 KiB each.
#[tokio::test]
async fn half_is_half_of_the_memory_too() {
    let config = config("max_memory = \"16MiB\"", "");
    let limits = Limits::within(40_000);
    limits.configure(&config, MachineMemory::read());
    let held = handshakes(&limits, &vec![account(1); 200]).await;
    assert_eq!(held.len(), 128);
    assert_eq!(handshakes(&limits, &vec![account(2); 200]).await.len(), 128);
}

#[tokio::test]
async fn other_hosts_leave_a_quarter_to_this_one() {
    let hosts: Vec<_> = (1..=10).map(|n| host(&format!("10.0.0.{n}:1"))).collect();
    let limits = Limits::within(40);
    let held = handshakes(&limits, &hosts).await;
    assert_eq!(held.len(), 7);
    assert_eq!(handshakes(&limits, &vec![account(1); 3]).await.len(), 3);
}

#[tokio::test]
async fn addresses_of_one_host_share_its_half() {
    for (first, second, same) in [
        ("[2001:db8::1]:1", "[2001:db8::2:1]:1", true),
        ("[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false),
        ("127.0.0.1:1", "127.9.8.7:1", true),
        ("10.0.0.1:1", "10.0.0.2:1", false),
    ] {
        let (limits, hdb) = (Limits::within(40), config("", "").endpoints.remove(0));
        let _held = handshakes(&limits, &vec![host(first); 5]).await;
        let refused = limits
            .handshake_permit()
            .await
            .try_assign(&host(second), &hdb)
            .is_err();
        assert_eq!(refused, same, "{first} {second}");
    }
}
