//! How long a client waits for answers. One request at a time is followed, so that a client that sends
//! many at once takes no memory; one that waits for each answer has all of them followed.

use std::time::Duration;

/// Told the time since the session opened.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    /// When the client sent something last.
    heard: Duration,
    followed: Followed,
}

#[derive(Debug, Default)]
enum Followed {
    #[default]
    Nothing,
    /// A request that came at `since` and has `ahead` answers of others to wait for.
    Request { since: Duration, ahead: u64 },
    /// Its answer has come and has yet to be written.
    Answer { since: Duration },
}

impl Stopwatch {
    /// The client has sent something.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    /// A request of what was heard last is passed on; `ahead` others are without an answer.
    pub(super) fn asked(&mut self, ahead: u64) {
        if let Followed::Nothing = self.followed {
            let since = self.heard;
            self.followed = Followed::Request { since, ahead };
        }
    }

    /// The answer to the oldest request is passed on.
    pub(super) fn answered(&mut self) {
        match &mut self.followed {
            Followed::Request { since, ahead: 0 } => {
                self.followed = Followed::Answer { since: *since };
            }
            Followed::Request { ahead, .. } => *ahead -= 1,
            Followed::Nothing | Followed::Answer { .. } => {}
        }
    }

    /// Something was written to the client: how long it has waited, if that was the answer.
    pub(super) fn written(&mut self, now: Duration) -> Option<Duration> {
        let Followed::Answer { since } = self.followed else {
            return None;
        };
        self.followed = Followed::Nothing;
        Some(now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn from_the_request_to_its_answer() {
        let mut watch = Stopwatch::default();
        watch.heard(at(10));
        watch.asked(0);
        // Something else of the cluster's.
        assert_eq!(watch.written(at(12)), None);
        watch.answered();
        assert_eq!(watch.written(at(15)), Some(at(5)));
        assert_eq!(watch.written(at(16)), None);
    }

    #[test]
    fn of_requests_sent_at_once_the_first_is_followed_to_its_own_answer() {
        let mut watch = Stopwatch::default();
        watch.heard(at(10));
        watch.asked(0);
        watch.heard(at(20));
        watch.asked(1);
        watch.answered();
        assert_eq!(watch.written(at(30)), Some(at(20)));
        // The next one has the second in front of it.
        watch.heard(at(40));
        watch.asked(1);
        watch.answered();
        assert_eq!(watch.written(at(50)), None);
        watch.answered();
        assert_eq!(watch.written(at(60)), Some(at(20)));
    }

    #[test]
    fn an_answer_to_nothing_is_none() {
        let mut watch = Stopwatch::default();
        watch.answered();
        assert_eq!(watch.written(at(1)), None);
    }
}
