//! Asks the kernel about one socket, by its four-tuple or its name, over NETLINK_SOCK_DIAG
//! (`sock_diag(7)`).

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr as InetAddress, TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName};
use netlink_packet_sock_diag::unix::{
    ShowFlags, StateFlags as UnixStateFlags, UnixRequest, UnixResponse,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use socket2::SockRef;

use super::kernel_socket::{FourTuple, KernelSocket, canonical};

/// The longest wait for an answer. The kernel answers within the call of `send`, so the wait should
/// never be this long.
const TIMEOUT: Duration = Duration::from_millis(200);

/// INET_DIAG_NOCOOKIE: matches whichever socket has the four-tuple now.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Matches sockets that are bound to no interface.
const NO_INTERFACE: u32 = 0;

/// The number of the loopback interface in every network namespace. Any account may bind its socket to
/// this interface (SO_BINDTODEVICE). The kernel finds such a socket only if the question names the
/// interface.
const LOOPBACK: u32 = 1;

/// UDIAG_SHOW_UID: asks for the account of a Unix socket. Linux knows it since 5.3.
const SHOW_UID: u32 = 0x40;
/// UNIX_DIAG_UID: the attribute with that account.
const UNIX_DIAG_UID: u16 = 7;

/// The buffer for one part of an answer in several parts, in bytes.
const PART: usize = 64 * 1024;

thread_local! {
    /// This thread's netlink socket. `None` while a question is under way, and after an error. The next
    /// question then opens another socket.
    static DIAG_SOCKET: Cell<Option<DiagSocket>> = const { Cell::new(None) };
}

/// The socket at the client's address of `four_tuple`. `Ok(None)` if the kernel has no such socket.
///
/// The kernel also answers ENOENT if the `tcp_diag` module is missing. So `Ok(None)` is reliable only
/// if [`is_reliable`] returns true.
pub(crate) fn lookup(four_tuple: &FourTuple) -> io::Result<Option<KernelSocket>> {
    // Without an exact match the kernel answers with a listener.
    let exact = |interface| {
        let found = ask(four_tuple, interface)?;
        Ok::<_, io::Error>(found.filter(|(found, _)| found == four_tuple))
    };
    // The order matters. A question that names the loopback interface matches sockets with and without
    // a bound interface, and the kernel may answer with either.
    let found = match exact(NO_INTERFACE)? {
        Some(found) => Some(found),
        None => exact(LOOPBACK)?,
    };
    Ok(found.map(|(_, socket)| socket))
}

/// The socket that accepts connections to `address`, because it listens there or at a wildcard address.
pub(crate) fn listener(address: InetAddress) -> io::Result<Option<KernelSocket>> {
    let no_peer: IpAddr = match address {
        InetAddress::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        InetAddress::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let four_tuple = FourTuple {
        client: InetAddress::new(address.ip(), address.port()),
        server: InetAddress::new(no_peer, 0),
    };
    // A connection on this host arrives at the loopback interface. The kernel prefers a listener that
    // is bound to that interface.
    let found = match ask(&four_tuple, LOOPBACK)? {
        Some(found) => Some(found),
        None => ask(&four_tuple, NO_INTERFACE)?,
    };
    Ok(found
        .map(|(_, socket)| socket)
        .filter(KernelSocket::listens))
}

/// The listening Unix socket that is bound to `name`. Reads all listening Unix sockets of the network
/// namespace.
pub(crate) fn unix_listener(name: &UnixDiagName) -> io::Result<Option<KernelSocket>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    SockRef::from(&socket).set_read_timeout(Some(TIMEOUT))?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = 1;
    let request = UnixRequest {
        state_flags: UnixStateFlags::LISTEN,
        inode: 0,
        show_flags: ShowFlags::from_bits_retain(ShowFlags::NAME.bits() | SHOW_UID),
        cookie: NO_COOKIE,
    };
    socket.send(&bytes(header, SockDiagMessage::UnixRequest(request)), 0)?;
    let mut found = None;
    let mut buffer = Vec::with_capacity(PART);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while let Some(length) = message_length(rest) {
            let (message, behind) = rest.split_at(length);
            rest = behind
                .get(length.next_multiple_of(4) - length..)
                .unwrap_or(&[]);
            // A message that cannot be parsed holds a name that no endpoint can have.
            let Ok(message) = NetlinkMessage::<SockDiagMessage>::deserialize(message) else {
                continue;
            };
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => {
                    found = found.or_else(|| named(&response, name));
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

/// The length of the netlink message at the start of `bytes`. `None` if the message is not complete.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (16..=bytes.len()).contains(&length).then_some(length)
}

/// The socket of `response`, if it has this name and the kernel reported its account.
fn named(response: &UnixResponse, name: &UnixDiagName) -> Option<KernelSocket> {
    let is_named = |nla: &Nla| matches!(nla, Nla::Name(found) if found == name);
    if !response.nlas.iter().any(is_named) {
        return None;
    }
    let uid = response.nlas.iter().find_map(|nla| match nla {
        Nla::Other(other) if other.kind() == UNIX_DIAG_UID => {
            let mut value = [0; 4];
            (other.value_len() == value.len()).then(|| other.emit_value(&mut value))?;
            Some(u32::from_ne_bytes(value))
        }
        _ => None,
    })?;
    Some(KernelSocket {
        uid,
        inode: response.header.inode.into(),
        state: response.header.state,
        unsent: 0,
    })
}

/// Whether the kernel finds sockets that exist, so that its answer "no such socket" is reliable. The
/// first call looks up a connection of this process. Later calls return that result.
pub(crate) fn is_reliable() -> bool {
    static RELIABLE: OnceLock<bool> = OnceLock::new();
    let finds_own_connection = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let found = lookup(&FourTuple::new(client.local_addr()?, client.peer_addr()?))?;
        Ok::<_, io::Error>(found.is_some())
    };
    match RELIABLE.get() {
        Some(reliable) => *reliable,
        // An error decides nothing, so the next caller tries again.
        None => finds_own_connection().is_ok_and(|found| *RELIABLE.get_or_init(|| found)),
    }
}

fn ask(four_tuple: &FourTuple, interface: u32) -> io::Result<Option<(FourTuple, KernelSocket)>> {
    let mut diag_socket = match DIAG_SOCKET.take() {
        Some(diag_socket) => diag_socket,
        None => DiagSocket::new()?,
    };
    let answer = diag_socket.ask(four_tuple, interface)?;
    DIAG_SOCKET.set(Some(diag_socket));
    Ok(answer)
}

/// A netlink socket that has received an answer to each of its questions.
struct DiagSocket {
    socket: Socket,
    /// The sequence number of the last question.
    sequence: u32,
    buffer: Vec<u8>,
}

impl DiagSocket {
    fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        SockRef::from(&socket).set_read_timeout(Some(TIMEOUT))?;
        socket.bind_auto()?;
        // The socket is connected to the kernel, so that no process can answer instead of the kernel.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(8 * 1024),
        })
    }

    /// Asks one question. After an error, drop the socket, because a late answer would be taken for the
    /// answer to the next question.
    fn ask(
        &mut self,
        four_tuple: &FourTuple,
        interface: u32,
    ) -> io::Result<Option<(FourTuple, KernelSocket)>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket
            .send(&request(four_tuple, interface, self.sequence), 0)?;
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
                let address = |ip, port| canonical(InetAddress::new(ip, port));
                let found = FourTuple {
                    client: address(id.source_address, id.source_port),
                    server: address(id.destination_address, id.destination_port),
                };
                let socket = KernelSocket {
                    uid: header.uid,
                    inode: header.inode.into(),
                    state: header.state,
                    unsent: header.send_queue,
                };
                Ok(Some((found, socket)))
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

fn request(four_tuple: &FourTuple, interface: u32, sequence: u32) -> Vec<u8> {
    let (source, destination) = (four_tuple.client, four_tuple.server);
    let family = match source {
        InetAddress::V4(_) => AF_INET,
        InetAddress::V6(_) => AF_INET6,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = sequence;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: source.port(),
            destination_port: destination.port(),
            source_address: source.ip(),
            destination_address: destination.ip(),
            interface_id: interface,
            cookie: NO_COOKIE,
        },
    };
    bytes(header, SockDiagMessage::InetRequest(request))
}

fn bytes(header: NetlinkHeader, request: SockDiagMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
