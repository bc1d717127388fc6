//! Explains the end of a session: which party caused it, and what the user can do.

use q_ipc::frame::HeaderError;
use q_relay::relay::End;

use base::error::ErrorKind;

/// Explains the end of a session.
pub(crate) trait Explained {
    /// The party that caused the end. `None` for an end that somebody intended.
    fn kind(&self) -> Option<ErrorKind>;

    /// The user's remedy. `None` if the end was intended, or if its text says enough.
    fn remedy(&self) -> Option<&'static str>;
}

impl Explained for End {
    fn kind(&self) -> Option<ErrorKind> {
        match self {
            End::ClientClosed
            | End::Drained
            | End::Idle(_)
            | End::TimeUp { .. }
            | End::Killed { .. } => None,
            End::LostAccess(_) => Some(ErrorKind::Denied),
            End::ClientLost(_)
            | End::ClientGone(_)
            | End::ClientMessage { .. }
            | End::ClientResponse => Some(ErrorKind::Client),
            End::UpstreamClosed { .. }
            | End::UpstreamCut { .. }
            | End::UpstreamMessage(_)
            | End::PingUnanswered { .. } => Some(ErrorKind::Upstream),
            End::Cut => Some(ErrorKind::Internal),
        }
    }

    fn remedy(&self) -> Option<&'static str> {
        match self {
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
            | End::Cut
            | End::Idle(_)
            | End::TimeUp { .. }
            | End::LostAccess(_)
            | End::Killed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_keepalive_that_kdb_leaves_unanswered_is_the_fault_of_kdb() {
        let end = End::PingUnanswered {
            limit: Duration::from_secs(7_200),
            torn: false,
        };
        assert_eq!(end.kind(), Some(ErrorKind::Upstream));
        assert!(
            end.remedy()
                .is_some_and(|remedy| remedy.contains("answer_timeout"))
        );
    }
}
