//! One socket by its four-tuple or its name, from NETLINK_SOCK_DIAG (`sock_diag(7)`).

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

/// UDIAG_SHOW_UID and UNIX_DIAG_UID, from Linux 5.3 on.
const SHOW_UID: u32 = 0x40;
const UNIX_DIAG_UID: u16 = 7;

/// Bytes of an answer that comes in parts.
const PART: usize = 64 * 1024;

thread_local! {
    /// The thread's own; gone while it is in use, and for good after an error.
    static ASKER: Cell<Option<Asker>> = const { Cell::new(None) };
}

/// The client's end of `ends`. `Ok(None)` when the kernel has no such socket, or, unless it
/// [`works`], cannot look for one: it says ENOENT also when the `tcp_diag` module is missing.
pub(super) fn lookup(ends: &Ends) -> io::Result<Option<KernelSocket>> {
    // In this order: asked for the loopback's, the kernel may choose between one that is bound to it
    // and one that is not.
    // Without an exact match the kernel goes on to listeners.
    let exact = |interface| {
        let found = ask(ends, interface)?;
        Ok::<_, io::Error>(found.filter(|(found, _)| found == ends))
    };
    let found = match exact(NO_INTERFACE)? {
        Some(found) => Some(found),
        None => exact(LOOPBACK)?,
    };
    Ok(found.map(|(_, socket)| socket))
}

/// The socket that takes connections to `address`: one that listens there, or at a wildcard address.
pub(super) fn listener(address: InetAddress) -> io::Result<Option<KernelSocket>> {
    let nobody: IpAddr = match address {
        InetAddress::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        InetAddress::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let ends = Ends {
        client: (address.ip(), address.port()),
        server: (nobody, 0),
    };
    // A connection on this host arrives at the loopback: a listener that is bound to it goes first.
    let found = match ask(&ends, LOOPBACK)? {
        Some(found) => Some(found),
        None => ask(&ends, NO_INTERFACE)?,
    };
    Ok(found
        .map(|(_, socket)| socket)
        .filter(KernelSocket::listens))
}

/// The Unix socket that is bound to this name. Reads all of the host.
pub(super) fn unix_listener(name: &UnixDiagName) -> io::Result<Option<KernelSocket>> {
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
            // One that cannot be read has a name that no endpoint has.
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

/// Of the message at the start of `bytes`, if it is whole.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (16..=bytes.len()).contains(&length).then_some(length)
}

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

fn ask(ends: &Ends, interface: u32) -> io::Result<Option<(Ends, KernelSocket)>> {
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
    fn ask(&mut self, ends: &Ends, interface: u32) -> io::Result<Option<(Ends, KernelSocket)>> {
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
    let request = InetRequest {
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
