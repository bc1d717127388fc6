//! The listeners of clusters and nodes. Each connection passes the faults, TLS and the signed login, and
//! then a node serves it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::connection::{ClientLogin, Connection, ConnectionEnd, MeteredSocket, SocketMeter};
use super::faults::{ClusterFault, Cut};
use super::interpreter::Interpreter;
use super::state::{NodePower, Simulation};
use q_ipc::frame::{HEADER_LEN, Header, MessageType};
use q_ipc::handshake::{Hello, common_capability};
use secret::Secret;

/// Length of the longest login that is accepted, in bytes.
const LONGEST_LOGIN: usize = 128 * 1024;

/// The pause between two attempts of a node to bind its port again.
const REBIND_EVERY: Duration = Duration::from_millis(50);

/// The server behind a listener.
#[derive(Debug, Clone)]
pub(crate) enum ListenerTarget {
    /// The endpoint of the cluster with this name. It distributes connections to the nodes in turn.
    Cluster(String),
    /// The node with this ID.
    Node { cluster: String, node: String },
    /// kdb+ outside of FinSpace, with one user and one password.
    Plain { user: String, password: Secret },
}

/// The node that serves one connection.
struct ServingNode {
    cluster: String,
    node: String,
    /// The name of the listener in faults and refusals.
    listener: String,
}

/// Accepts connections for one target. It never returns; dropping it also ends its connections.
pub(crate) async fn serve(
    simulation: Arc<Simulation>,
    listener: TcpListener,
    target: ListenerTarget,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    let (simulation, target) = (simulation.clone(), target.clone());
                    connections.spawn(async move {
                        // A failed connection affects its client only.
                        let _ = Box::pin(accept(&simulation, tcp, &target)).await;
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

/// Accepts connections for a node whose machine can be switched off. While it is off, its port is closed.
pub(crate) async fn serve_node(
    simulation: Arc<Simulation>,
    listener: TcpListener,
    target: ListenerTarget,
    power: NodePower,
) {
    let mut wanted = power.wanted.subscribe();
    let port = listener.local_addr();
    let mut listener = Some(listener);
    loop {
        if let Some(listener) = listener.take() {
            power.on.send_replace(true);
            tokio::select! {
                () = serve(simulation.clone(), listener, target.clone()) => {}
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

async fn accept(
    simulation: &Arc<Simulation>,
    tcp: TcpStream,
    target: &ListenerTarget,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut socket = MeteredSocket::new(tcp);
    let meter = socket.meter();
    let Some(serving) = choose_node(simulation, target) else {
        return Ok(());
    };
    let fault = simulation
        .faults
        .take_cluster(&[&serving.node, &serving.listener]);
    match fault {
        Some(ClusterFault::CloseAtAccept) => Ok(()),
        Some(ClusterFault::ResetAtAccept) => {
            meter.reset_on_close();
            Ok(())
        }
        Some(ClusterFault::Stall) => std::future::pending().await,
        Some(ClusterFault::CloseAtTls) => {
            // Closing a socket with unread bytes would send RST, so the ClientHello is read first.
            socket.read(&mut [0; 16 * 1024]).await.map(drop)
        }
        Some(ClusterFault::ResetAtTls) => {
            meter.reset_on_close();
            socket.read(&mut [0; 16 * 1024]).await.map(drop)
        }
        Some(ClusterFault::Plaintext) => {
            login(simulation, socket, target, &serving, fault, meter).await
        }
        _ => {
            let config = match fault {
                Some(ClusterFault::Certificate(flaw)) => simulation.certificates.flawed(flaw),
                _ => simulation.certificates.good.clone(),
            };
            let stream = handshake(config, socket).await.inspect_err(|error| {
                simulation.record_refusal(&serving.listener, &format!("TLS: {error}"));
            })?;
            login(simulation, stream, target, &serving, fault, meter).await
        }
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    socket: MeteredSocket,
) -> io::Result<tokio_rustls::server::TlsStream<MeteredSocket>> {
    TlsAcceptor::from(config).accept(socket).await
}

/// The node that serves the next connection; `None` if the cluster has no running node, or if it was
/// deleted.
fn choose_node(simulation: &Simulation, target: &ListenerTarget) -> Option<ServingNode> {
    let serving = |cluster: &str, node: &str, listener: &str| ServingNode {
        cluster: cluster.to_owned(),
        node: node.to_owned(),
        listener: listener.to_owned(),
    };
    match target {
        ListenerTarget::Cluster(name) => simulation.update(|state| {
            let cluster = state.clusters.get_mut(name)?;
            let on: Vec<_> = cluster
                .nodes
                .iter()
                .filter(|n| *n.power.on.borrow())
                .collect();
            let at = cluster.next % on.len().max(1);
            cluster.next = cluster.next.wrapping_add(1);
            let node = on.get(at)?;
            Some(serving(name, &node.id, name))
        }),
        ListenerTarget::Node { cluster, node } => simulation.read(|state| {
            let nodes = &state.clusters.get(cluster)?.nodes;
            let node = nodes.iter().find(|known| known.id == *node)?;
            Some(serving(cluster, &node.id, &node.id))
        }),
        ListenerTarget::Plain { .. } => Some(serving("plain", "plain", "plain")),
    }
}

async fn login<S>(
    simulation: &Arc<Simulation>,
    mut stream: S,
    target: &ListenerTarget,
    serving: &ServingNode,
    fault: Option<ClusterFault>,
    meter: Arc<SocketMeter>,
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
        simulation.record_refusal(&serving.listener, "no q login");
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
        _ => check(simulation, target, &hello),
    };
    if let Err(why) = verdict {
        simulation.record_refusal(&serving.listener, &why);
        return stream.shutdown().await;
    }

    let common = common_capability(hello.capability, simulation.options.capability);
    let login = ClientLogin {
        cluster: serving.cluster.clone(),
        node: serving.node.clone(),
        user: hello.user,
        capability: hello.capability,
    };
    let connection = Arc::new(Connection::new(login, meter));
    stream.write_all(&[common]).await?;
    stream.flush().await?;
    simulation.update(|state| state.connections.push(connection.clone()));
    if fault == Some(ClusterFault::Silent) {
        std::future::pending::<()>().await;
    }
    let ended = converse(simulation, &mut stream, &connection, common, early).await;
    let result = finish(&mut stream, &connection, ended).await;
    connection.end(ended);
    drop(stream);
    simulation.notify();
    result
}

/// Runs the node until the client closes the connection, the idle limit passes or a test cuts it.
async fn converse<S>(
    simulation: &Arc<Simulation>,
    stream: &mut S,
    connection: &Arc<Connection>,
    capability: u8,
    early: Vec<u8>,
) -> ConnectionEnd
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limit = match connection.cluster() {
        "plain" => None,
        _ => Some(simulation.options.idle_limit),
    };
    let idle = async {
        match limit {
            Some(limit) => connection.meter().until_idle(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        how = connection.until_cut() => ConnectionEnd::Cut(how),
        () = idle => ConnectionEnd::Idle,
        result = Interpreter::run(simulation, stream, connection, capability, early) => match result {
            Ok(()) => ConnectionEnd::ByClient,
            Err(_) => ConnectionEnd::Broken,
        },
    }
}

/// Closes the connection in the way that belongs to its end.
async fn finish<S>(stream: &mut S, connection: &Connection, ended: ConnectionEnd) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    match ended {
        ConnectionEnd::Idle | ConnectionEnd::Cut(Cut::Reset) => {
            connection.meter().reset_on_close();
            Ok(())
        }
        ConnectionEnd::Cut(how @ (Cut::InsideFrame | Cut::InsideFrameReset)) => {
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
        ConnectionEnd::Cut(Cut::Fin) | ConnectionEnd::ByClient | ConnectionEnd::Broken => {
            stream.shutdown().await
        }
    }
}

/// Checks the login for this target.
///
/// # Errors
/// The reason of the refusal.
fn check(simulation: &Simulation, target: &ListenerTarget, hello: &Hello) -> Result<(), String> {
    let (cluster, node) = match target {
        ListenerTarget::Cluster(cluster) => (&**cluster, None),
        ListenerTarget::Node { cluster, node } => (&**cluster, Some(&**node)),
        ListenerTarget::Plain { user, password } => {
            return if hello.user == *user && hello.password == *password {
                Ok(())
            } else {
                Err("another user or password".into())
            };
        }
    };
    simulation.verify_login(&hello.user, hello.password.expose(), cluster, node)
}

/// Reads the login, and the bytes that the client has sent after it. `None` if the client sends
/// something else or closes the connection.
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
