//! The ways to an endpoint: over TCP, over TLS and through a Unix socket, as one's account or with a
//! password.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use toml::{Table, Value};

use crate::Result;

/// The endpoint whose cluster has faults, and how those begin that lead there too.
pub(crate) const TROUBLED: &str = "hdb";
/// Those that have none.
const STEADY: [&str; 2] = ["rdb", "plain"];
/// Often enough that every session is pinged between two requests.
const KEEPALIVE: &str = "5s";
/// Connections that wait for each user at each node.
const WARM: i64 = 2;
/// As whoever runs this.
const ACCOUNT: &[u8] = b":\x06\0";

/// A way to the daemon.
#[derive(Clone)]
pub(crate) enum Way {
    Tcp(SocketAddr),
    Tls(SocketAddr, TlsConnector),
    Unix(PathBuf),
}

/// Where a client goes, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct At {
    pub(crate) way: Way,
    pub(crate) hello: Vec<u8>,
    /// Sessions end there now and then.
    pub(crate) troubled: bool,
}

/// A handle of a client's.
pub(crate) type Handle = Box<dyn Stream>;

/// What a client reads from and writes to.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Whoever drops it now goes with a reset, where there is such a thing.
    fn reset_at_close(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn reset_at_close(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }
}

impl Stream for TlsStream<TcpStream> {
    fn reset_at_close(&self) -> io::Result<()> {
        self.get_ref().0.reset_at_close()
    }
}

impl Stream for UnixStream {
    fn reset_at_close(&self) -> io::Result<()> {
        Ok(())
    }
}

impl At {
    /// As `hopen` does.
    pub(crate) async fn open(&self) -> io::Result<Handle> {
        let mut handle: Handle = match &self.way {
            Way::Tcp(address) => Box::new(dial(*address).await?),
            Way::Tls(address, connector) => {
                let name = ServerName::IpAddress(address.ip().into());
                Box::new(connector.connect(name, dial(*address).await?).await?)
            }
            Way::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        handle.write_all(&self.hello).await?;
        handle.flush().await?;
        handle.read_u8().await?;
        Ok(handle)
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Tls(address, _) => write!(f, "{address} over TLS"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What all ways need.
pub(crate) struct Ways {
    folder: PathBuf,
    connector: TlsConnector,
    /// The second user's name and password, as hopen sends them.
    password: Vec<u8>,
}

impl Ways {
    /// Writes a certificate for the daemon to the folder that has the simulator's files.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        std::fs::write(folder.join("server.pem"), made.cert.pem())?;
        let key = folder.join("server.key");
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let config = ClientConfig::builder_with_provider(q_relay::crypto::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let password = std::fs::read_to_string(folder.join("alice.password"))?;
        Ok(Self {
            folder: folder.to_owned(),
            connector: Arc::new(config).into(),
            password: format!("alice:{}\x06\0", password.trim_end()).into_bytes(),
        })
    }

    /// Makes the simulator's endpoints ready for all ways: where they lead, each way as often as it
    /// is to be taken.
    pub(crate) fn add_to(&self, file: &mut Table, sessions: usize) -> Result<Vec<At>> {
        let most = i64::try_from(2 * sessions + 100)?;
        let mut ways = Vec::new();
        for name in STEADY.iter().flat_map(|steady| [TROUBLED, steady]) {
            let troubled = name == TROUBLED;
            let at = |way: Way, hello: &[u8]| At {
                way,
                hello: hello.to_owned(),
                troubled,
            };
            let socket = self.folder.join(format!("{name}.socket"));
            let tls = format!("{name}-tls");
            if endpoint(file, &tls).is_err() {
                let mut over_tls = endpoint(file, name)?.clone();
                set(endpoint(file, name)?, most, Some(&socket));
                set(&mut over_tls, most, None);
                over_tls.insert("name".into(), tls.clone().into());
                over_tls.insert("listen".into(), vec![free_address()?.to_string()].into());
                let path = |name: &str| self.folder.join(name).display().to_string();
                let mut keys = Table::new();
                keys.insert("cert".into(), path("server.pem").into());
                keys.insert("key".into(), path("server.key").into());
                over_tls.insert("tls".into(), keys.into());
                all_endpoints(file)?.push(over_tls.into());
            }
            let (tcp, tls) = (listens(file, name)?, listens(file, &tls)?);
            for number in 0..10 {
                ways.push(match number {
                    0..4 => at(Way::Tcp(tcp), ACCOUNT),
                    4..7 => at(Way::Tls(tls, self.connector.clone()), ACCOUNT),
                    7..9 => at(Way::Unix(socket.clone()), ACCOUNT),
                    _ => at(Way::Tcp(tcp), &self.password),
                });
            }
        }
        // One after the other, not all of one kind in a row.
        fastrand::Rng::with_seed(3).shuffle(&mut ways);
        Ok(ways)
    }
}

fn set(endpoint: &mut Table, most: i64, socket: Option<&Path>) {
    endpoint.insert("keepalive".into(), KEEPALIVE.into());
    endpoint.insert("max_sessions".into(), most.into());
    endpoint.insert("warm".into(), WARM.into());
    let addresses = endpoint.get_mut("listen").and_then(Value::as_array_mut);
    if let (Some(addresses), Some(socket)) = (addresses, socket) {
        addresses.push(format!("unix:{}", socket.display()).into());
    }
}

fn all_endpoints(file: &mut Table) -> Result<&mut Vec<Value>> {
    let all = file.get_mut("endpoint").and_then(Value::as_array_mut);
    Ok(all.ok_or("no endpoints")?)
}

fn endpoint<'a>(file: &'a mut Table, name: &str) -> Result<&'a mut Table> {
    let mut all = all_endpoints(file)?
        .iter_mut()
        .filter_map(Value::as_table_mut);
    let found = all.find(|endpoint| endpoint["name"].as_str() == Some(name));
    Ok(found.ok_or("an endpoint is missing")?)
}

/// The TCP address that an endpoint has.
pub(crate) fn listens(file: &Table, name: &str) -> Result<SocketAddr> {
    let all = file.get("endpoint").and_then(Value::as_array);
    let mut all = all.into_iter().flatten();
    let found = all.find(|endpoint| endpoint["name"].as_str() == Some(name));
    let address = found.and_then(|endpoint| endpoint["listen"][0].as_str());
    let address = address.ok_or("an endpoint listens nowhere")?;
    Ok(address.replace("localhost:", "127.0.0.1:").parse()?)
}

/// One that was free a moment ago.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
