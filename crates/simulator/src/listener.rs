//! The listeners of clusters and nodes: faults, TLS, the signed login, then the node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::connection::{Connection, Ended, Meter, Socket};
use super::faults::{ClusterFault, Cut};
use super::node::Node;
use super::state::{Power, Shared};
use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::handshake::{Hello, common_capability};
use secret::Secret;

/// Most bytes of a login that are read.
const LONGEST_LOGIN: usize = 128 * 1024;

/// Between attempts of a node to have its port back.
const REBIND_EVERY: Duration = Duration::from_millis(50);

/// What stands behind a listener.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A cluster's endpoint, which lands on one node after the other.
    Cluster(String),
    /// One node: cluster and ID.
    Node(String, String),
    /// kdb+ that knows nothing of FinSpace, with one user and one password.
    Plain { user: String, password: Secret },
}

/// Where one connection lands.
struct Landing {
    cluster: String,
    node: String,
    /// What the listener is called in faults and refusals.
    listener: String,
}

/// Accepts for one place until the task is dropped, and every connection with it.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, place: Place) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    let (shared, place) = (shared.clone(), place.clone());
                    connections.spawn(async move {
                        // A connection that ends badly concerns its client only.
                        let _ = Box::pin(accept(&shared, tcp, &place)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulator could not accept");
                    tokio::task::yield_now().await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// As [`serve`], for a node whose machine can be switched off: then its port is closed.
pub(super) async fn serve_node(
    shared: Arc<Shared>,
    listener: TcpListener,
    place: Place,
    power: Power,
) {
    let mut wanted = power.wanted.subscribe();
    let port = listener.local_addr();
    let mut listener = Some(listener);
    loop {
        if let Some(listener) = listener.take() {
            power.on.send_replace(true);
            tokio::select! {
                () = serve(shared.clone(), listener, place.clone()) => {}
                _ = wanted.wait_for(|on| !on) => {}
            }
        }
        power.on.send_replace(false);
        let on = wanted.wait_for(|on| *on).await.is_ok();
        let (true, Ok(port)) = (on, &port) else {
            return;
        };
        listener = loop {
            match TcpListener::bind(port).await {
                Ok(listener) => break Some(listener),
                Err(error) => {
                    tracing::warn!(%error, "the simulator could not listen again");
                    tokio::time::sleep(REBIND_EVERY).await;
                }
            }
        };
    }
}

async fn accept(shared: &Arc<Shared>, tcp: TcpStream, place: &Place) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut socket = Socket::new(tcp);
    let meter = socket.meter();
    let Some(landing) = land(shared, place) else {
        return Ok(());
    };
    let fault = shared
        .faults
        .take_cluster(&[&landing.node, &landing.listener]);
    match fault {
        Some(ClusterFault::CloseAtAccept) => Ok(()),
        Some(ClusterFault::ResetAtAccept) => {
            meter.reset_on_close();
            Ok(())
        }
        Some(ClusterFault::Stall) => std::future::pending().await,
        Some(ClusterFault::CloseAtTls) => {
            // A ClientHello is read first, or the close would come as an RST.
            socket.read(&mut [0; 16 * 1024]).await.map(drop)
        }
        Some(ClusterFault::ResetAtTls) => {
            meter.reset_on_close();
            socket.read(&mut [0; 16 * 1024]).await.map(drop)
        }
        Some(ClusterFault::Plaintext) => login(shared, socket, place, &landing, fault, meter).await,
        _ => {
            let config = match fault {
                Some(ClusterFault::Certificate(flaw)) => shared.certificates.flawed(flaw),
                _ => shared.certificates.good.clone(),
            };
            let stream = handshake(config, socket).await.inspect_err(|error| {
                shared.refused(&landing.listener, &format!("TLS: {error}"));
            })?;
            login(shared, stream, place, &landing, fault, meter).await
        }
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    socket: Socket,
) -> io::Result<tokio_rustls::server::TlsStream<Socket>> {
    TlsAcceptor::from(config).accept(socket).await
}

fn land(shared: &Shared, place: &Place) -> Option<Landing> {
    let landing = |cluster: &str, node: &str, listener: &str| Landing {
        cluster: cluster.to_owned(),
        node: node.to_owned(),
        listener: listener.to_owned(),
    };
    match place {
        Place::Cluster(name) => shared.with(|state| {
            let cluster = state.clusters.get_mut(name)?;
            let on: Vec<_> = cluster
                .nodes
                .iter()
                .filter(|n| *n.power.on.borrow())
                .collect();
            let at = cluster.next % on.len().max(1);
            cluster.next = cluster.next.wrapping_add(1);
            let node = on.get(at)?;
            Some(landing(name, &node.id, name))
        }),
        Place::Node(cluster, node) => shared.look(|state| {
            let nodes = &state.clusters.get(cluster)?.nodes;
            let node = nodes.iter().find(|known| known.id == *node)?;
            Some(landing(cluster, &node.id, &node.id))
        }),
        Place::Plain { .. } => Some(landing("plain", "plain", "plain")),
    }
}

async fn login<S>(
    shared: &Arc<Shared>,
    mut stream: S,
    place: &Place,
    landing: &Landing,
    fault: Option<ClusterFault>,
    meter: Arc<Meter>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match fault {
        Some(ClusterFault::CloseAfterTls) => return stream.shutdown().await,
        Some(ClusterFault::ResetAfterTls) => {
            meter.reset_on_close();
            return Ok(());
        }
        Some(ClusterFault::StallAfterTls) => std::future::pending().await,
        _ => {}
    }
    let Some((hello, early)) = read_hello(&mut stream).await? else {
        shared.refused(&landing.listener, "no q login");
        return stream.shutdown().await;
    };
    let verdict = match fault {
        Some(ClusterFault::CloseAfterLogin) => Err("a fault: closed after the login".to_owned()),
        Some(ClusterFault::RefuseLogin) => Err("a fault: the login is refused".to_owned()),
        Some(ClusterFault::ResetAfterLogin) => {
            meter.reset_on_close();
            return Ok(());
        }
        Some(ClusterFault::StallAfterLogin) => std::future::pending().await,
        _ => check(shared, place, &hello),
    };
    if let Err(why) = verdict {
        shared.refused(&landing.listener, &why);
        return stream.shutdown().await;
    }

    let common = common_capability(hello.capability, shared.options.capability);
    let connection = Arc::new(Connection::new(
        (&landing.cluster, &landing.node),
        &hello.user,
        hello.capability,
        meter,
    ));
    stream.write_all(&[common]).await?;
    stream.flush().await?;
    shared.with(|state| state.connections.push(connection.clone()));
    if fault == Some(ClusterFault::Silent) {
        std::future::pending::<()>().await;
    }
    let ended = converse(shared, &mut stream, &connection, (common, early)).await;
    let result = finish(&mut stream, &connection, ended).await;
    connection.end(ended);
    drop(stream);
    shared.happened();
    result
}

/// Runs the node until the client goes, the idle limit strikes or a test cuts the connection.
async fn converse<S>(
    shared: &Arc<Shared>,
    stream: &mut S,
    connection: &Arc<Connection>,
    (capability, early): (u8, Vec<u8>),
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limit = match connection.cluster() {
        "plain" => None,
        _ => Some(shared.options.idle_limit),
    };
    let idle = async {
        match limit {
            Some(limit) => connection.meter().until_idle(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        how = connection.until_cut() => Ended::Cut(how),
        () = idle => Ended::Idle,
        result = Node::run(shared, stream, connection, capability, early) => match result {
            Ok(()) => Ended::ByClient,
            Err(_) => Ended::Broken,
        },
    }
}

async fn finish<S>(stream: &mut S, connection: &Connection, ended: Ended) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    match ended {
        Ended::Idle | Ended::Cut(Cut::Reset) => {
            connection.meter().reset_on_close();
            Ok(())
        }
        Ended::Cut(how @ (Cut::InsideFrame | Cut::InsideFrameReset)) => {
            let header = Header {
                little_endian: true,
                message_type: MessageType::Response,
                compression: 0,
                length: 1_000,
            };
            let mut start = header.encode().to_vec();
            start.resize(HEADER_LEN + 10, 0);
            if !connection.is_inside_frame() {
                stream.write_all(&start).await?;
                stream.flush().await?;
            }
            if how == Cut::InsideFrameReset {
                connection.meter().reset_on_close();
                return Ok(());
            }
            stream.shutdown().await
        }
        Ended::Cut(Cut::Fin) | Ended::ByClient | Ended::Broken => stream.shutdown().await,
    }
}

fn check(shared: &Shared, place: &Place, hello: &Hello) -> Result<(), String> {
    let place = match place {
        Place::Cluster(cluster) => (&**cluster, None),
        Place::Node(cluster, node) => (&**cluster, Some(&**node)),
        Place::Plain { user, password } => {
            return if hello.user == *user && hello.password == *password {
                Ok(())
            } else {
                Err("another user or password".into())
            };
        }
    };
    shared.verify_login(&hello.user, hello.password.expose(), place)
}

/// The login and what was sent ahead of its answer; `None` for what is none.
async fn read_hello<S>(stream: &mut S) -> io::Result<Option<(Hello, Vec<u8>)>>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = Vec::new();
    loop {
        match Hello::parse(&bytes, LONGEST_LOGIN) {
            Ok(Some((hello, used))) => return Ok(Some((hello, bytes.split_off(used)))),
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}
