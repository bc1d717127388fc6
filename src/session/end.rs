//! The reasons for which a session ends. Each has a responsible party, and some have a remedy for the user.

use std::time::Duration;

use base::error::ErrorKind;
use q_ipc::frame::HeaderError;
use q_relay::relay::{End, Farewell};

/// The reason for which an open session ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndReason {
    /// The relay ended the session: because of the client, of kdb+, or of the daemon's drain.
    #[error(transparent)]
    Relay(#[from] End),
    /// The daemon stopped, and cut the sessions that were still open.
    #[error("hopend cut the session")]
    Cut,
    /// The client did not use the session for `idle_timeout`, and no request was outstanding.
    #[error("neither used nor waiting for {} s (idle_timeout)", .0.as_secs_f32())]
    Idle(Duration),
    /// An administrator ended it with `hopend kill`.
    #[error("killed by `hopend kill`, which uid {uid} ran")]
    Killed {
        /// The account that ran the command.
        uid: u32,
    },
    /// A reload took the user's access away.
    #[error("ended by a reload: {0}")]
    LostAccess(String),
    /// The session was open for its `max_session_time`.
    #[error("open for {} s (max_session_time)", .limit.as_secs_f32())]
    TimeUp {
        /// `max_session_time`.
        limit: Duration,
        /// Whether the client has received the responses to its last requests.
        responses: LastResponses,
    },
}

/// The responses that a session waited for when its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastResponses {
    /// The client has received all of them.
    Received,
    /// Some did not arrive before the deadline.
    Missing,
}

impl EndReason {
    /// The party that caused the failure. None for an end that is no failure.
    pub(super) fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Relay(end) => kind_of(end),
            Self::Cut => Some(ErrorKind::Internal),
            Self::LostAccess(_) => Some(ErrorKind::Denied),
            Self::Idle(_) | Self::Killed { .. } | Self::TimeUp { .. } => None,
        }
    }

    /// The user's remedy. None if the reason itself tells enough, or if the end is no failure.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Relay(end) => remedy_of(end),
            Self::Cut
            | Self::Idle(_)
            | Self::Killed { .. }
            | Self::LostAccess(_)
            | Self::TimeUp { .. } => None,
        }
    }

    /// How hopend closes the client's connection.
    pub(super) fn farewell(&self) -> Farewell {
        match self {
            Self::Relay(end) => end.farewell(),
            Self::Cut | Self::Killed { .. } | Self::LostAccess(_) => Farewell::Reset,
            Self::Idle(_) => Farewell::EndOfStream,
            Self::TimeUp { responses, .. } => match responses {
                LastResponses::Received => Farewell::EndOfStream,
                LastResponses::Missing => Farewell::Reset,
            },
        }
    }
}

fn kind_of(end: &End) -> Option<ErrorKind> {
    match end {
        End::ClientClosed | End::Drained | End::Finished(_) => None,
        End::ClientLost(_)
        | End::ClientGone(_)
        | End::ClientMessage { .. }
        | End::ClientResponse => Some(ErrorKind::Client),
        End::UpstreamClosed { .. }
        | End::UpstreamCut { .. }
        | End::UpstreamMessage(_)
        | End::PingUnanswered { .. } => Some(ErrorKind::Upstream),
    }
}

fn remedy_of(end: &End) -> Option<&'static str> {
    match end {
        End::UpstreamClosed { .. } | End::UpstreamCut { .. } => {
            Some("look for the reason in the log of kdb+ there, and hopen again")
        }
        End::PingUnanswered { .. } => Some(
            "find out what that kdb+ computes; raise answer_timeout of the endpoint's keepalive, or \
             set its mode to \"async\", which needs no answer",
        ),
        End::UpstreamMessage(_) => Some("check what listens at that address"),
        End::ClientMessage {
            error: HeaderError::TooLong { .. },
            ..
        } => Some("send less at a time, or raise max_message of the endpoint"),
        End::ClientMessage { .. } | End::ClientResponse => Some("check what the client sends"),
        End::ClientClosed
        | End::ClientLost(_)
        | End::ClientGone(_)
        | End::Drained
        | End::Finished(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use q_relay::relay::ClientPosition;

    use super::*;

    #[test]
    fn a_keepalive_that_kdb_leaves_unanswered_is_the_fault_of_kdb() {
        let end = EndReason::from(End::PingUnanswered {
            limit: Duration::from_secs(7_200),
            client: ClientPosition::BetweenMessages,
        });
        assert_eq!(end.kind(), Some(ErrorKind::Upstream));
        let remedy = end.remedy().unwrap();
        assert!(remedy.contains("answer_timeout"), "{remedy}");
        assert_eq!(end.farewell(), Farewell::EndOfStream);
    }
}
