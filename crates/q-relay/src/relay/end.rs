//! How a session ends, and what that means for the client.

use std::io;

use q_ipc::frame::HeaderError;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client closed its handle.
    #[error("the client closed")]
    ClientClosed,
    /// The client's connection broke.
    #[error("the client's connection broke")]
    ClientLost(#[source] io::Error),
    /// The client closed without waiting for its answers.
    #[error("the client closed{}", unanswered(.0))]
    ClientGone(u64),
    /// The cluster closed, or its connection broke, between messages.
    #[error("the cluster closed the connection{}", unanswered(.outstanding))]
    UpstreamClosed {
        /// Sync requests that were left without an answer of the cluster's.
        outstanding: u64,
        /// What broke, unless it was a plain end of the stream.
        #[source]
        error: Option<io::Error>,
    },
    /// The cluster's connection ended inside a message.
    #[error("the cluster's connection ended inside a message")]
    UpstreamCut {
        /// What broke, unless it was a plain end of the stream.
        #[source]
        error: Option<io::Error>,
        /// Whether the client has had a part of that message.
        torn: bool,
    },
    /// What the client sent is no q message.
    #[error("the client sent what is no q message")]
    ClientMessage {
        /// What is wrong with it.
        #[source]
        error: HeaderError,
        /// Whether the client was in the middle of a message from the cluster.
        torn: bool,
    },
    /// The client answered what nobody had asked it.
    #[error("the client sent a response, and nothing had been asked of it")]
    ClientResponse,
    /// What the cluster sent is no q message.
    #[error("the cluster sent what is no q message")]
    UpstreamMessage(#[source] HeaderError),
    /// The cluster left a sync keepalive without an answer while messages of the client waited for it.
    #[error(
        "the cluster has not answered a sync keepalive for {} s while messages of the client waited \
         behind it (answer_timeout)",
        .limit.as_secs_f32()
    )]
    PingUnanswered {
        /// `answer_timeout` of the endpoint's keepalive.
        limit: std::time::Duration,
        /// Whether the client has had a part of a message of the cluster.
        torn: bool,
    },
    /// The daemon is stopping and nothing was outstanding.
    #[error("hopend is stopping")]
    Drained,
    /// The session was ended by hopend, whatever was under way.
    #[error("hopend cut the session")]
    Cut,
    /// Nobody used it for as long as it may go unused.
    #[error("neither used nor waiting for {} s (idle_timeout)", .0.as_secs_f32())]
    Idle(std::time::Duration),
    /// The session was ended by `hopend kill`.
    #[error("killed by `hopend kill`, which uid {uid} ran")]
    Killed {
        /// Whose order it was.
        uid: u32,
    },
    /// A reload has taken the user's access away.
    #[error("ended by a reload: {0}")]
    LostAccess(String),
    /// The session was open for as long as one may be.
    #[error("open for {} s (max_session_time)", .limit.as_secs_f32())]
    TimeUp {
        /// How long that is.
        limit: std::time::Duration,
        /// Whether a request was still without an answer at the very end.
        cut: bool,
    },
}

impl End {
    /// Whether the client has to see a reset: a plain end inside a message would leave it waiting
    /// for the rest, or taking a part for the whole.
    pub fn resets_client(&self) -> bool {
        matches!(
            self,
            Self::UpstreamCut { torn: true, .. }
                | Self::PingUnanswered { torn: true, .. }
                | Self::Cut
                | Self::Killed { .. }
                | Self::LostAccess(_)
                | Self::TimeUp { cut: true, .. }
                | Self::ClientMessage { torn: true, .. }
        )
    }
}

fn unanswered(outstanding: &u64) -> String {
    match outstanding {
        0 => String::new(),
        1 => " with a request outstanding".into(),
        n => format!(" with {n} requests outstanding"),
    }
}
