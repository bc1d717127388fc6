//! One socket by its four-tuple, from NETLINK_SOCK_DIAG (`sock_diag(7)`).

use std::io;
use std::net::IpAddr;
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

/// The client's end of `ends`. `Ok(None)` when the kernel has no such socket, or cannot look for
/// one: it says ENOENT also when the `tcp_diag` module is missing.
pub(super) fn lookup(ends: &Ends) -> io::Result<Option<KernelSocket>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    SockRef::from(&socket).set_read_timeout(Some(TIMEOUT))?;
    socket.bind_auto()?;
    // Connected to the kernel, so that no process can answer in its place.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(ends), 0)?;

    let mut buffer = Vec::with_capacity(8 * 1024);
    socket.recv(&mut buffer, 0)?;
    let answer =
        NetlinkMessage::<SockDiagMessage>::deserialize(&buffer).map_err(io::Error::other)?;
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

fn request(ends: &Ends) -> Vec<u8> {
    let (source_address, source_port) = ends.client;
    let (destination_address, destination_port) = ends.server;
    let family = match source_address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
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
                interface_id: 0,
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
