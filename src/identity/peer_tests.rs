use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;
use base::user_namespace::maps_every_account;

#[path = "../../tests/support/root.rs"]
mod root;

const NOBODY: u32 = 65_534;

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

async fn listener(address: &str) -> TcpListener {
    TcpListener::bind(address).await.unwrap()
}

/// A client, and the accepted end of its connection.
async fn pair(address: &str) -> (std::net::TcpStream, TcpStream) {
    let listener = listener(address).await;
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

fn four_tuple(server: &TcpStream) -> FourTuple {
    FourTuple::new(server.peer_addr().unwrap(), server.local_addr().unwrap())
}

async fn assert_uid(server: &TcpStream, uid: u32) {
    let four_tuple = four_tuple(server);
    let diag = sock_diag::lookup(&four_tuple).unwrap().unwrap();
    let proc = proc_net::lookup(&four_tuple).unwrap().unwrap();
    // Not the state: between the two the answer to a FIN may come.
    assert_eq!((diag.uid, diag.inode), (proc.uid, proc.inode));
    assert_ne!(diag.inode, 0);
    assert_eq!(diag.owner(), Some(uid));
    assert_eq!(
        Peer::of_tcp(server, false).await.unwrap(),
        Peer::Local {
            uid,
            pid: None,
            address: Some(server.peer_addr().unwrap()),
        }
    );
}

#[tokio::test]
async fn a_tcp_client_is_known_over_both_families() {
    for address in ["127.0.0.1:0", "127.0.0.9:0", "[::1]:0", "[::]:0"] {
        let (_client, server) = pair(address).await;
        assert_uid(&server, own_uid()).await;
    }
}

#[tokio::test]
async fn an_ipv6_socket_that_reaches_an_ipv4_listener_is_known() {
    let listener = listener("127.0.0.1:0").await;
    let port = listener.local_addr().unwrap().port();
    let client = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    client.set_only_v6(false).unwrap();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse().unwrap();
    client.connect(&mapped.into()).unwrap();
    let (server, address) = listener.accept().await.unwrap();
    assert!(address.is_ipv4());
    assert_uid(&server, own_uid()).await;
}

/// Any account may bind its socket to the interface. The kernel finds that socket only if the question
/// names the interface.
#[tokio::test]
async fn a_client_that_is_bound_to_the_loopback_interface_is_known() {
    for (address, domain) in [("127.0.0.1:0", Domain::IPV4), ("[::1]:0", Domain::IPV6)] {
        let listener = listener(address).await;
        let client = Socket::new(domain, Type::STREAM, None).unwrap();
        client.bind_device(Some(b"lo")).unwrap();
        let server = listener.local_addr().unwrap();
        client.connect(&server.into()).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert_uid(&server, own_uid()).await;
    }
}

#[tokio::test]
async fn an_ipv4_client_of_a_listener_for_both_families_is_known() {
    let listener = listener("[::]:0").await;
    let port = listener.local_addr().unwrap().port();
    let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (server, address) = listener.accept().await.unwrap();
    assert!(address.is_ipv6());
    assert_uid(&server, own_uid()).await;
}

#[tokio::test]
async fn a_client_that_has_sent_its_last_byte_is_still_known() {
    let (client, server) = pair("127.0.0.1:0").await;
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_uid(&server, own_uid()).await;
}

#[tokio::test]
async fn a_client_that_has_closed_is_nobody_and_not_root() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (client, mut server) = pair(address).await;
        let four_tuple = four_tuple(&server);
        drop(client);
        // Wait for its FIN; the kernel keeps the orphan in FIN_WAIT2.
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        let diag = sock_diag::lookup(&four_tuple).unwrap();
        assert!(diag.is_none_or(|socket| socket.inode == 0 && socket.owner().is_none()));
        let proc = proc_net::lookup(&four_tuple).unwrap();
        assert!(proc.is_none_or(|socket| socket.owner().is_none()));
        assert!(matches!(
            Peer::of_tcp(&server, false).await,
            Err(PeerError::Gone { .. })
        ));
    }
}

fn reset(client: std::net::TcpStream) {
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
}

#[tokio::test]
async fn a_client_that_has_reset_is_nobody_and_not_root() {
    let (client, server) = pair("127.0.0.1:0").await;
    reset(client);
    server.readable().await.unwrap();
    let error = Peer::of_tcp(&server, false).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "client: it closed its socket before hopend could look up its account"
    );
    assert!(matches!(
        Peer::of_tcp(&server, false).await,
        Err(PeerError::Gone { .. })
    ));
}

/// The attack against which the daemon checks its own end after the lookup: the client resets, and
/// somebody else connects from its port before the daemon asks the kernel.
#[tokio::test]
async fn the_next_owner_of_a_port_is_not_taken_for_the_one_before() {
    let listener = listener("127.0.0.1:0").await;
    let port = listener.local_addr().unwrap();
    // From an address of its own, so that no other test can take the port in between.
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let own: SocketAddr = "127.0.0.77:0".parse().unwrap();
    first.bind(&own.into()).unwrap();
    first.connect(&port.into()).unwrap();
    let first = std::net::TcpStream::from(first);
    let reused = first.local_addr().unwrap();
    let (server, address) = listener.accept().await.unwrap();
    std::io::Write::write_all(&mut &first, b"bob:\x03\0").unwrap();
    server.readable().await.unwrap();

    reset(first);
    let next = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    next.set_reuse_address(true).unwrap();
    next.bind(&reused.into()).unwrap();
    next.connect(&port.into()).unwrap();
    let found = sock_diag::lookup(&FourTuple::new(address, port)).unwrap();
    // The kernel does find an owner of this four-tuple.
    assert_eq!(found.unwrap().owner(), Some(own_uid()));
    let outcome = tcp_account(&server, address, Ok(found));
    assert!(
        matches!(outcome, Err(PeerError::Gone { .. })),
        "{outcome:?}"
    );
    // The attack is real: what the first client sent can still be read.
    let mut sent = [0; 5];
    assert_eq!(server.try_read(&mut sent).unwrap(), 5);
    assert_eq!(&sent, b"bob:\x03");
}

#[tokio::test]
async fn four_tuples_that_are_nobodys_are_not_found() {
    let (_client, server) = pair("127.0.0.1:0").await;
    let four_tuple = four_tuple(&server);
    // A listener's own address: the kernel would fall back to the listener.
    let other = FourTuple {
        client: four_tuple.server,
        server: SocketAddr::new(four_tuple.server.ip(), 1),
    };
    assert_eq!(sock_diag::lookup(&other).unwrap(), None);
    assert_eq!(proc_net::lookup(&other).unwrap(), None);
}

/// The client's loopback address does not matter: the account's failures and connections count together.
#[tokio::test]
async fn a_local_client_of_an_exposed_listener_counts_as_its_account_and_is_not_believed() {
    let listener = listener("127.0.0.1:0").await;
    for own in ["127.0.0.1:0", "127.9.8.7:0"] {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let own: SocketAddr = own.parse().unwrap();
        client.bind(&own.into()).unwrap();
        client
            .connect(&listener.local_addr().unwrap().into())
            .unwrap();
        let (server, address) = listener.accept().await.unwrap();
        let peer = Peer::of_tcp(&server, true).await.unwrap();
        assert_eq!(peer.uid(), None);
        let account = Some(own_uid());
        assert_eq!(peer, Peer::Remote { address, account });
    }
}

#[tokio::test]
async fn without_a_word_of_the_kernel_a_client_is_unidentified() {
    let (_client, server) = pair("127.0.0.1:0").await;
    let address = server.peer_addr().unwrap();
    let failed = Err(io::ErrorKind::PermissionDenied.into());
    let peer = tcp_account(&server, address, failed).unwrap();
    assert_eq!(peer.uid(), None);
    assert!(matches!(peer, Peer::Unidentified { reason, .. } if reason.contains("AF_NETLINK")));
}

#[tokio::test]
async fn a_unix_client_is_known_over_a_path_and_an_abstract_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hdb");
    let name = format!("\0hopend-test-{}", std::process::id());
    for address in [path.to_str().unwrap(), &name] {
        let listener = UnixListener::bind(address).unwrap();
        let client = UnixStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // The kernel keeps the account and the process of `connect` after the client has gone.
        drop(client);
        assert_eq!(
            Peer::of_unix(&server).unwrap(),
            Peer::Local {
                uid: own_uid(),
                pid: i32::try_from(std::process::id()).ok(),
                address: None,
            }
        );
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_client_of_another_account_is_that_account() {
    if !root::is_root() {
        return;
    }
    let listener = listener("127.0.0.1:0").await;
    let port = listener.local_addr().unwrap().port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -r line <&3");
    let child = Command::new("bash")
        .args(["-c", &script])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let child = Killed(child);
    let (mut server, _) = listener.accept().await.unwrap();
    assert_uid(&server, NOBODY).await;
    server.write_all(b"\n").await.unwrap();
    drop(server);
    drop(child);
}

#[test]
fn a_namespace_that_maps_some_accounts_only_is_noticed() {
    assert!(maps_every_account("         0          0 4294967295\n"));
    for some in [
        "",
        "0 1000 1",
        "0 0 65536",
        "0 0 1\n1 1 4294967294",
        "0 100000 65536",
    ] {
        assert!(!maps_every_account(some), "{some}");
    }
}

#[test]
fn peers_print_what_is_known() {
    let address = Some("127.0.0.1:40212".parse().unwrap());
    let peer = |pid, address| Peer::Local {
        uid: 7,
        pid,
        address,
    };
    assert_eq!(peer(None, address).to_string(), "uid 7 at 127.0.0.1:40212");
    assert_eq!(peer(Some(9), None).to_string(), "uid 7 pid 9");
}

#[test]
fn only_tcp_beyond_loopback_is_exposed() {
    for (listen, exposed) in [
        (ListenAddress::Tcp("127.0.0.1:1".parse().unwrap()), false),
        (ListenAddress::Tcp("[::1]:1".parse().unwrap()), false),
        (ListenAddress::Tcp("0.0.0.0:1".parse().unwrap()), true),
        (ListenAddress::Tcp("[::]:1".parse().unwrap()), true),
        (ListenAddress::Tcp("10.0.0.1:1".parse().unwrap()), true),
        (ListenAddress::Localhost(1), false),
        (ListenAddress::Abstract(1), false),
        (ListenAddress::Path("/run/hopend/hdb".into()), false),
    ] {
        assert_eq!(is_exposed(&listen), exposed, "{listen}");
    }
}
