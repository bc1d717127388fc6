//! From a name to addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::Instant;

use super::UpstreamError;
use crate::primitives::shared_answers::SharedAnswers;
use base::address::Address;
use base::error::{again, out_of_descriptors};

/// How long what the resolver said is good for.
const LATELY: Duration = Duration::from_secs(1);

/// What all sessions have asked.
static ASKED: LazyLock<Lately> = LazyLock::new(Lately::default);

/// Every address of the host, in the resolver's order with the families taking turns. Cancel-safe.
pub async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, UpstreamError> {
    if let Some(known) = literal(address) {
        return Ok(known);
    }
    let asked = ask(name_of(address)).await;
    asked.map_err(|source| failed(address, source))
}

/// The same, but with those who ask meanwhile, and as it was found when it was asked for last, if that
/// is no longer ago than [`LATELY`]. However many sessions open at once, and however long the resolver
/// takes, it is asked once for each name.
pub(super) async fn resolve_lately(address: &Address) -> Result<Vec<SocketAddr>, UpstreamError> {
    if let Some(known) = literal(address) {
        return Ok(known);
    }
    let asked = ASKED.get(name_of(address), ask).await;
    asked.map_err(|source| failed(address, again(&source)))
}

/// Forgets what was found for `address`.
pub(super) fn forget(address: &Address) {
    ASKED.forget(&name_of(address));
}

/// A host and a port.
type Name = (String, u16);

fn name_of(address: &Address) -> Name {
    (address.host.clone(), address.port)
}

fn literal(address: &Address) -> Option<Vec<SocketAddr>> {
    let ip: IpAddr = address.host.parse().ok()?;
    Some(vec![SocketAddr::new(ip, address.port)])
}

fn failed(address: &Address, source: io::Error) -> UpstreamError {
    let address = address.clone();
    if out_of_descriptors(&source) {
        UpstreamError::Descriptors { address, source }
    } else {
        UpstreamError::Resolve { address, source }
    }
}

async fn ask((host, port): Name) -> io::Result<Vec<SocketAddr>> {
    let found = lookup_host((host.as_str(), port)).await;
    let found = found.and_then(|found| {
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Err(io::Error::other("no address"));
        }
        Ok(interleave(found))
    });
    // The resolver says that it found nothing also where it could not open its own files.
    found.map_err(|error| match std::fs::File::open("/dev/null") {
        Err(full) if out_of_descriptors(&full) => full,
        _ => error,
    })
}

/// What is being asked, and what was answered lately.
struct Lately(SharedAnswers<Name, Answer>);

type Answer = Result<Found, Arc<io::Error>>;

/// What the resolver said of a host and port.
#[derive(Clone)]
struct Found {
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Default for Lately {
    fn default() -> Self {
        Self(SharedAnswers::new(is_fresh))
    }
}

impl Lately {
    /// Asks, unless somebody does or has lately. A failure is shared with those who wait for it, and
    /// no one else.
    async fn get<F>(
        &self,
        name: Name,
        ask: impl FnOnce(Name) -> F,
    ) -> Result<Vec<SocketAddr>, Arc<io::Error>>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let question = self.0.ask(name, |name| {
            let asking = ask(name);
            async move {
                let addresses = asking.await.map_err(Arc::new)?;
                let at = Instant::now();
                Ok(Found { at, addresses })
            }
        });
        question.answer().await.map(|found| found.addresses)
    }

    /// Unless it is being asked.
    fn forget(&self, name: &Name) {
        self.0.forget(name);
    }
}

fn is_fresh(answer: &Answer) -> bool {
    answer
        .as_ref()
        .is_ok_and(|found| found.at.elapsed() < LATELY)
}

/// The resolver's order, with the families taking turns.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return mixed;
        }
        mixed.extend(pair.0.into_iter().chain(pair.1));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use futures_util::poll;
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    fn name() -> Name {
        ("kdb.internal".into(), 5010)
    }

    fn addresses() -> Vec<SocketAddr> {
        vec!["192.0.2.1:5010".parse().unwrap()]
    }

    #[test]
    fn families_take_turns_in_the_resolvers_order() {
        let parse = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|text| text.parse().unwrap()).collect()
        };
        assert_eq!(
            interleave(parse(&[
                "[::1]:1",
                "[::2]:1",
                "1.1.1.1:1",
                "1.1.1.2:1",
                "1.1.1.3:1"
            ])),
            parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "1.1.1.3:1"])
        );
    }

    #[tokio::test]
    async fn many_who_ask_at_once_ask_once_also_when_the_first_goes_away() {
        let (lately, times) = (Lately::default(), Arc::new(AtomicUsize::new(0)));
        let (answer, said) = oneshot::channel::<()>();
        let asked = Arc::clone(&times);
        let mut first = Box::pin(lately.get(name(), |_| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            said.await.unwrap();
            Ok(addresses())
        }));
        assert!(poll!(&mut first).is_pending());
        drop(first);
        lately.forget(&name());
        let others =
            (0..1_000).map(|_| lately.get(name(), |_| async { panic!("asked once more") }));
        let mut others = Box::pin(join_all(others));
        assert!(poll!(&mut others).is_pending());
        answer.send(()).unwrap();
        assert!(
            others
                .await
                .into_iter()
                .all(|found| found.unwrap() == addresses())
        );
        // What was said is good for a moment, unless it was of no use.
        let again = lately.get(name(), |_| async { panic!("asked once more") });
        assert_eq!(again.await.unwrap(), addresses());
        lately.forget(&name());
        let anew = lately.get(name(), |_| async { Ok(Vec::new()) }).await;
        assert_eq!(anew.unwrap(), []);
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }

    /// An answer ages from the moment the resolver gives it, also where nobody awaits it.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_waited_for_is_no_younger_than_it_is() {
        let lately = Lately::default();
        let (answer, said) = oneshot::channel::<()>();
        let mut only = Box::pin(lately.get(name(), |_| async move {
            said.await.unwrap();
            Ok(addresses())
        }));
        assert!(poll!(&mut only).is_pending());
        drop(only);
        answer.send(()).unwrap();
        // Lets the resolver's task take the answer.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        advance(LATELY).await;
        let newer = || vec!["192.0.2.2:5010".parse().unwrap()];
        let anew = lately.get(name(), |_| async move { Ok(newer()) }).await;
        assert_eq!(anew.unwrap(), newer());
    }

    #[tokio::test]
    async fn a_failure_is_for_those_who_waited_for_it() {
        let lately = Lately::default();
        let fails = |_| async { Err(io::Error::from_raw_os_error(libc::EMFILE)) };
        for failed in join_all((0..3).map(|_| lately.get(name(), fails))).await {
            assert!(out_of_descriptors(&again(&failed.unwrap_err())));
        }
        let found = lately.get(name(), |_| async { Ok(addresses()) }).await;
        assert_eq!(found.unwrap(), addresses());
    }
}
