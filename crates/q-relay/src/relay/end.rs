//! The reasons for which a relay ends.

use std::io;
use std::time::Duration;

use q_ipc::frame::HeaderError;

/// The reason for which a relay ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client closed its handle.
    #[error("the client closed")]
    ClientClosed,
    /// The client's connection broke.
    #[error("the client's connection broke")]
    ClientLost(#[source] io::Error),
    /// The client closed while this many of its sync requests had no answer.
    #[error("the client closed{}", unanswered(.0))]
    ClientGone(u64),
    /// kdb+ closed, or its connection broke, between two messages.
    #[error("the cluster closed the connection{}", unanswered(.outstanding))]
    UpstreamClosed {
        /// Sync requests that kdb+ left without an answer.
        outstanding: u64,
        /// The error of a broken connection. None if kdb+ closed it.
        #[source]
        error: Option<io::Error>,
    },
    /// The connection to kdb+ ended inside a message.
    #[error("the cluster's connection ended inside a message")]
    UpstreamCut {
        /// The error of a broken connection. None if kdb+ closed it.
        #[source]
        error: Option<io::Error>,
        /// How much of that message the client has received.
        client: ClientPosition,
    },
    /// The client sent a header that is not that of a q message, or a message over the limit.
    #[error("the client sent what is no q message")]
    ClientMessage {
        /// What is wrong with the header.
        #[source]
        error: HeaderError,
        /// How much of kdb+'s current message the client has received.
        client: ClientPosition,
    },
    /// The client sent a response although no request was open.
    #[error("the client sent a response, and nothing had been asked of it")]
    ClientResponse,
    /// kdb+ sent a header that is not that of a q message, or a message over the limit.
    #[error("the cluster sent what is no q message")]
    UpstreamMessage(#[source] HeaderError),
    /// kdb+ did not answer a sync keepalive while messages of the client waited behind it.
    #[error(
        "the cluster has not answered a sync keepalive for {} s while messages of the client waited \
         behind it (answer_timeout)",
        .limit.as_secs_f32()
    )]
    PingUnanswered {
        /// `answer_timeout` of the endpoint's keepalive.
        limit: Duration,
        /// How much of kdb+'s current message the client has received.
        client: ClientPosition,
    },
    /// The relay drained, and no request was outstanding. See [`Relay::drain`](super::Relay::drain).
    #[error("hopend is stopping")]
    Drained,
    /// The caller ended the relay. See [`Relay::finish`](super::Relay::finish).
    #[error("hopend ended the session")]
    Finished(Farewell),
}

/// How much of a message from kdb+ the client has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientPosition {
    /// Complete messages only.
    BetweenMessages,
    /// The first bytes of a message. The client never receives the other bytes.
    InsideMessage,
}

/// The way in which hopend closes the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// With the end of the stream.
    EndOfStream,
    /// With a TCP reset, which no client mistakes for the regular end of a message.
    Reset,
}

impl End {
    /// How hopend closes the client's connection.
    ///
    /// A client that has received only a part of a message gets a reset. After a regular end, it would wait
    /// for the rest of the message, or mistake the part for the whole.
    pub fn farewell(&self) -> Farewell {
        match self {
            Self::Finished(farewell) => *farewell,
            Self::UpstreamCut { client, .. }
            | Self::PingUnanswered { client, .. }
            | Self::ClientMessage { client, .. } => client.farewell(),
            Self::ClientClosed
            | Self::ClientLost(_)
            | Self::ClientGone(_)
            | Self::UpstreamClosed { .. }
            | Self::ClientResponse
            | Self::UpstreamMessage(_)
            | Self::Drained => Farewell::EndOfStream,
        }
    }
}

impl ClientPosition {
    fn farewell(self) -> Farewell {
        match self {
            Self::BetweenMessages => Farewell::EndOfStream,
            Self::InsideMessage => Farewell::Reset,
        }
    }
}

fn unanswered(outstanding: &u64) -> String {
    match outstanding {
        0 => String::new(),
        1 => " with a request outstanding".into(),
        n => format!(" with {n} requests outstanding"),
    }
}
