//! A TLS handshake with a stranger ends in an error and never in a panic, whichever side hopend is
//! on, and holds no more memory than it may. With a peer whose bytes are changed on their way it
//! ends in an error, or nothing that is heard is other than what the peer said.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use q_relay::budget::{self, MemoryBudget};
use q_relay::tls_stream::{Side, TlsStream};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What the peer says once it has shaken hands.
const SAID: &[u8] = b"alice:secret\x06\0";
/// What a handshake may hold, in bytes.
const GUARANTEE: usize = 16 * 1024 + budget::TLS;
/// For what nothing stands in the way of.
const PATIENCE: Duration = Duration::from_secs(20);
/// For a side that waits for bytes that a change has made it expect.
const CHANGED_PATIENCE: Duration = Duration::from_millis(100);

/// Bit 0 of the first byte makes hopend the client, else it is the server. With bit 1 the rest is an
/// offset of two bytes and a mask over what a real peer sends from there on; without it the rest is
/// all that a stranger sends.
pub fn holds(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let stage = Stage::get();
    let as_client = kind & 1 == 1;
    if kind & 2 == 0 {
        stage.runtime.block_on(stage.stranger(as_client, bytes));
        return;
    }
    let Some((offset, mask)) = bytes.split_first_chunk() else {
        return;
    };
    let change = Change {
        offset: usize::from(u16::from_be_bytes(*offset)),
        mask: mask.to_vec(),
    };
    stage.runtime.block_on(stage.changed(as_client, change));
}

struct Stage {
    runtime: Runtime,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// What is changed of what a peer sends.
struct Change {
    offset: usize,
    mask: Vec<u8>,
}

impl Stage {
    fn get() -> &'static Self {
        static STAGE: OnceLock<Stage> = OnceLock::new();
        STAGE.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
            let made = made.expect("a certificate");
            let certificate = made.cert.der().clone();
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
            let server = ServerConfig::builder_with_provider(q_relay::crypto::provider())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key.expect("a key"))
                .expect("a pair");
            let mut roots = RootCertStore::empty();
            roots.add(certificate).expect("an authority");
            let mut client = ClientConfig::builder_with_provider(q_relay::crypto::provider())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
            // Each handshake is a whole one.
            client.resumption = rustls::client::Resumption::disabled();
            Self {
                runtime: tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime"),
                server: Arc::new(server),
                client: Arc::new(client),
            }
        })
    }

    /// hopend's socket and the other side's.
    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (dialled.expect("a socket"), accepted.expect("a socket").0)
    }

    async fn stranger(&self, as_client: bool, bytes: &[u8]) {
        let (own, mut theirs) = Self::sockets().await;
        let stranger = async {
            // Who is refused at once may not get rid of all of it.
            let _ = theirs.write_all(bytes).await;
            let _ = theirs.shutdown().await;
            let mut heard = Vec::new();
            let _ = theirs.read_to_end(&mut heard).await;
            heard
        };
        let shaken = async {
            if as_client {
                TlsStream::connect(Arc::clone(&self.client), name(), own)
                    .await
                    .map(|_| ())
            } else {
                self.serve(own).await
            }
        };
        let (heard, shaken) = timeout(PATIENCE, async { tokio::join!(stranger, shaken) })
            .await
            .expect("an end of the stream is an end of the handshake");
        assert!(shaken.is_err(), "nobody has shaken hands");
        // What is sent to it are records of TLS.
        let mut rest = &heard[..];
        while let Some((head, behind)) = rest.split_first_chunk::<5>() {
            assert!(
                (20..=23).contains(&head[0]) && head[1] == 3,
                "no TLS: {head:?}"
            );
            let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
            rest = behind.get(length..).unwrap_or_default();
        }
    }

    /// hopend's side of a handshake that has to fail, and stays failed.
    async fn serve(&self, tcp: TcpStream) -> io::Result<()> {
        let budget = MemoryBudget::of(1 << 30);
        let account = Arc::new(budget.try_handshake(GUARANTEE).expect("room"));
        let mut served = TlsStream::serve(Arc::clone(&self.server), tcp).expect("a server");
        served.charge(&account);
        let shaken = served.handshake().await;
        account.settle();
        assert_eq!(budget.used(), GUARANTEE, "more than it may");
        if shaken.is_err() {
            assert!(served.handshake().await.is_err(), "it has failed");
        }
        shaken
    }

    async fn changed(&self, as_client: bool, change: Change) {
        let untouched = change.mask.iter().all(|&byte| byte == 0);
        let patience = if untouched {
            PATIENCE
        } else {
            CHANGED_PATIENCE
        };
        let (own, theirs) = Self::sockets().await;
        let theirs = Changed {
            tcp: theirs,
            change,
            sent: 0,
        };
        let heard = if as_client {
            let peer = async {
                let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
                say(acceptor.accept(theirs).await?).await
            };
            let own = async {
                let dialled = TlsStream::connect(Arc::clone(&self.client), name(), own);
                hear(dialled.await?).await
            };
            timeout(patience, async { tokio::join!(peer, own).1 }).await
        } else {
            let peer = async {
                let connector = TlsConnector::from(Arc::clone(&self.client));
                say(connector.connect(name(), theirs).await?).await
            };
            let own = async {
                let served = TlsStream::serve(Arc::clone(&self.server), own);
                let mut served = served.map_err(io::Error::other)?;
                served.handshake().await?;
                hear(served).await
            };
            timeout(patience, async { tokio::join!(peer, own).1 }).await
        };
        match heard {
            Ok(Ok(heard)) => assert_eq!(heard, SAID, "something else was heard"),
            Ok(Err(_)) | Err(_) => assert!(!untouched, "an honest handshake failed"),
        }
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// Says it, and stays: who leaves with something unread resets the connection.
async fn say<S: AsyncWrite + Unpin>(mut stream: S) -> io::Result<S> {
    stream.write_all(SAID).await?;
    stream.flush().await?;
    Ok(stream)
}

/// As much as the peer says.
async fn hear<S: Side>(mut stream: TlsStream<S>) -> io::Result<Vec<u8>> {
    stream.flush().await?;
    let mut heard = vec![0; SAID.len()];
    stream.read_exact(&mut heard).await?;
    Ok(heard)
}

/// A socket that changes what is written to it.
struct Changed {
    tcp: TcpStream,
    change: Change,
    sent: usize,
}

impl AsyncRead for Changed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, room)
    }
}

impl AsyncWrite for Changed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut bytes = bytes.to_vec();
        for (at, byte) in (this.sent..).zip(&mut bytes) {
            let mask = at.checked_sub(this.change.offset);
            let mask = mask.and_then(|at| this.change.mask.get(at));
            *byte ^= mask.copied().unwrap_or_default();
        }
        let count = ready!(Pin::new(&mut this.tcp).poll_write(context, &bytes))?;
        this.sent += count;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
