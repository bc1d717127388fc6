//! Measures how long a client waits for answers.
//!
//! The stopwatch measures one request at a time, so that a client with many outstanding requests costs no
//! memory. It measures every request of a client that waits for each answer.

use std::time::Duration;

/// The state of the measurement. All times count from the opening of the session.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    /// When hopend last read bytes from the client.
    last_read: Duration,
    measured: Followed,
}

#[derive(Debug, Default)]
enum Followed {
    #[default]
    Nothing,
    /// A request that hopend read at `since`. kdb+ sends `ahead` other answers before its answer.
    Request { since: Duration, ahead: u64 },
    /// The answer to the request has arrived, and hopend has not written it to the client yet.
    Answer { since: Duration },
}

impl Stopwatch {
    /// Records that hopend has read bytes from the client.
    pub(super) fn client_read(&mut self, now: Duration) {
        self.last_read = now;
    }

    /// Records that hopend passes on a request out of the bytes that it read last. `ahead` earlier requests
    /// have no answer yet.
    pub(super) fn request_passed(&mut self, ahead: u64) {
        if let Followed::Nothing = self.measured {
            let since = self.last_read;
            self.measured = Followed::Request { since, ahead };
        }
    }

    /// Records that hopend passes on the answer to the oldest request.
    pub(super) fn answer_passed(&mut self) {
        match &mut self.measured {
            Followed::Request { since, ahead: 0 } => {
                self.measured = Followed::Answer { since: *since };
            }
            Followed::Request { ahead, .. } => *ahead -= 1,
            Followed::Nothing | Followed::Answer { .. } => {}
        }
    }

    /// Records that hopend has written bytes to the client. Returns how long the client has waited, if they
    /// belong to the measured answer.
    pub(super) fn client_written(&mut self, now: Duration) -> Option<Duration> {
        let Followed::Answer { since } = self.measured else {
            return None;
        };
        self.measured = Followed::Nothing;
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
        watch.client_read(at(10));
        watch.request_passed(0);
        // An update from kdb+, which is no answer.
        assert_eq!(watch.client_written(at(12)), None);
        watch.answer_passed();
        assert_eq!(watch.client_written(at(15)), Some(at(5)));
        assert_eq!(watch.client_written(at(16)), None);
    }

    #[test]
    fn of_requests_sent_at_once_the_first_is_followed_to_its_own_answer() {
        let mut watch = Stopwatch::default();
        watch.client_read(at(10));
        watch.request_passed(0);
        watch.client_read(at(20));
        watch.request_passed(1);
        watch.answer_passed();
        assert_eq!(watch.client_written(at(30)), Some(at(20)));
        // kdb+ answers the second request before this one.
        watch.client_read(at(40));
        watch.request_passed(1);
        watch.answer_passed();
        assert_eq!(watch.client_written(at(50)), None);
        watch.answer_passed();
        assert_eq!(watch.client_written(at(60)), Some(at(20)));
    }

    #[test]
    fn an_answer_to_nothing_is_none() {
        let mut watch = Stopwatch::default();
        watch.answer_passed();
        assert_eq!(watch.client_written(at(1)), None);
    }
}
