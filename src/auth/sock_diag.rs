//! One socket by its four-tuple, from NETLINK_SOCK_DIAG (`sock_diag(7)`).

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use socket2::SockRef;

use super::socket::{Ends, KernelSocket, canonical};

/// The kernel answers inside `send`; this only bounds the unexpected.
const TIMEOUT: Duration = Duration::from_millis(200);

/// INET_DIAG_NOCOOKIE: whichever incarnation of the tuple is there.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Finds sockets that are bound to no interface.
const NO_INTERFACE: u32 = 0;

/// The loopback's number in every network namespace. Any account may bind its socket to it
/// (SO_BINDTODEVICE), and is found only if it is named.
const LOOPBACK: u32 = 1;

thread_local! {
    /// The thread's own; gone while it is in use, and for good after an error.
    static ASKER: Cell<Option<Asker>> = const { Cell::new(None) };
}

/// The client's end of `ends`. `Ok(None)` when the kernel has no such socket, or, unless it
/// [`works`], cannot look for one: it says ENOENT also when the `tcp_diag` module is missing.
pub(super) fn lookup(ends: &Ends) -> io::Result<Option<KernelSocket>> {
    // In this order: asked for the loopback's, the kernel may choose between one that is bound to it
    // and one that is not.
    match ask(ends, NO_INTERFACE)? {
        Some(socket) => Ok(Some(socket)),
        None => ask(ends, LOOPBACK),
    }
}

/// Whether the kernel finds a socket that is there, so that it is believed when it finds none. Found
/// out once, with a connection of its own.
pub(super) fn works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let finds_own = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let found = lookup(&Ends::new(client.local_addr()?, client.peer_addr()?))?;
        Ok::<_, io::Error>(found.is_some())
    };
    match WORKS.get() {
        Some(works) => *works,
        // Without an answer the next one asks again.
        None => finds_own().is_ok_and(|works| *WORKS.get_or_init(|| works)),
    }
}

fn ask(ends: &Ends, interface: u32) -> io::Result<Option<KernelSocket>> {
    let mut asker = match ASKER.take() {
        Some(asker) => asker,
        None => Asker::new()?,
    };
    let answer = asker.ask(ends, interface)?;
    ASKER.set(Some(asker));
    Ok(answer)
}

/// A netlink socket that has had an answer to each of its questions.
struct Asker {
    socket: Socket,
    /// Of the last question.
    sequence: u32,
    buffer: Vec<u8>,
}

impl Asker {
    fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        SockRef::from(&socket).set_read_timeout(Some(TIMEOUT))?;
        socket.bind_auto()?;
        // Connected to the kernel, so that no process can answer in its place.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(8 * 1024),
        })
    }

    /// After an error it is of no use: an answer may still come.
    fn ask(&mut self, ends: &Ends, interface: u32) -> io::Result<Option<KernelSocket>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket
            .send(&request(ends, interface, self.sequence), 0)?;
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&self.buffer)
            .map_err(io::Error::other)?;
        if answer.header.sequence_number != self.sequence {
            return Err(io::Error::other(
                "the kernel answered another question than the last",
            ));
        }
        match answer.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let header = response.header;
                let id = header.socket_id;
                let found = Ends {
                    client: canonical(id.source_address, id.source_port),
                    server: canonical(id.destination_address, id.destination_port),
                };
                // Without an exact match the kernel goes on to listeners.
                Ok((found == *ends).then_some(KernelSocket {
                    uid: header.uid,
                    inode: header.inode.into(),
                    state: header.state,
                    unsent: header.send_queue,
                }))
            }
            NetlinkPayload::Error(error) => {
                let error = error.to_io();
                if error.kind() == io::ErrorKind::NotFound {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
            _ => Err(io::Error::other(
                "the kernel answered neither socket nor error",
            )),
        }
    }
}

fn request(ends: &Ends, interface: u32, sequence: u32) -> Vec<u8> {
    let (source_address, source_port) = ends.client;
    let (destination_address, destination_port) = ends.server;
    let family = match source_address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(
        header,
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port,
                destination_port,
                source_address,
                destination_address,
                interface_id: interface,
                cookie: NO_COOKIE,
            },
        })
        .into(),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
