//! Looks up the IP addresses of a host's name.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::Instant;

use super::UpstreamError;
use crate::primitives::shared_answers::SharedAnswers;
use base::error::{clone_io_error, out_of_descriptors};
use base::kdb_address::KdbAddress;

/// How long an answer of the resolver is used.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The lookups of all sessions.
static CACHE: LazyLock<LookupCache> = LazyLock::new(LookupCache::default);

/// Asks the resolver for every IP address of the host. The addresses keep the resolver's order, but
/// IPv4 and IPv6 take turns. Cancel-safe.
///
/// # Errors
/// The name does not resolve, or this host has no file descriptor left.
pub(crate) async fn resolve(address: &KdbAddress) -> Result<Vec<SocketAddr>, UpstreamError> {
    if let Some(known) = literal(address) {
        return Ok(known);
    }
    let found = look_up(HostAndPort::of(address)).await;
    found.map_err(|source| failed(address, source))
}

/// Does the same as [`resolve`], but may return an answer that is up to [`FRESH_FOR`] old. Sessions
/// that open at the same time share one question to the resolver for each name.
pub(super) async fn resolve_cached(address: &KdbAddress) -> Result<Vec<SocketAddr>, UpstreamError> {
    if let Some(known) = literal(address) {
        return Ok(known);
    }
    let found = CACHE.get(HostAndPort::of(address), look_up).await;
    found.map_err(|source| failed(address, clone_io_error(&source)))
}

/// Forgets the cached answer for `address`.
pub(super) fn forget(address: &KdbAddress) {
    CACHE.forget(&HostAndPort::of(address));
}

/// The key of a lookup.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct HostAndPort {
    host: String,
    port: u16,
}

impl HostAndPort {
    fn of(address: &KdbAddress) -> Self {
        Self {
            host: address.host.clone(),
            port: address.port,
        }
    }
}

/// The address itself, if the host is an IP address.
fn literal(address: &KdbAddress) -> Option<Vec<SocketAddr>> {
    let ip: IpAddr = address.host.parse().ok()?;
    Some(vec![SocketAddr::new(ip, address.port)])
}

fn failed(address: &KdbAddress, source: io::Error) -> UpstreamError {
    let address = address.clone();
    if out_of_descriptors(&source) {
        UpstreamError::Descriptors { address, source }
    } else {
        UpstreamError::Resolve { address, source }
    }
}

async fn look_up(key: HostAndPort) -> io::Result<Vec<SocketAddr>> {
    let found = lookup_host((key.host.as_str(), key.port)).await;
    let found = found.and_then(|found| {
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Err(io::Error::other("no address"));
        }
        Ok(interleave(found))
    });
    // The resolver also reports "not found" if it could not open its own files.
    found.map_err(|error| match std::fs::File::open("/dev/null") {
        Err(full) if out_of_descriptors(&full) => full,
        _ => error,
    })
}

/// The lookups that are under way, and their recent answers.
struct LookupCache(SharedAnswers<HostAndPort, LookupOutcome>);

type LookupOutcome = Result<ResolvedHost, Arc<io::Error>>;

/// The resolver's answer for a host and port.
#[derive(Clone)]
struct ResolvedHost {
    resolved: Instant,
    sockets: Vec<SocketAddr>,
}

impl Default for LookupCache {
    fn default() -> Self {
        Self(SharedAnswers::new(is_fresh))
    }
}

impl LookupCache {
    /// Returns the recent answer. Without one, waits for the lookup that is under way, or starts a new
    /// one with `look_up`. Only the callers that wait for a lookup get its failure.
    async fn get<F>(
        &self,
        key: HostAndPort,
        look_up: impl FnOnce(HostAndPort) -> F,
    ) -> Result<Vec<SocketAddr>, Arc<io::Error>>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let question = self.0.ask(key, |key| {
            let lookup = look_up(key);
            async move {
                let sockets = lookup.await.map_err(Arc::new)?;
                let resolved = Instant::now();
                Ok(ResolvedHost { resolved, sockets })
            }
        });
        question.answer().await.map(|host| host.sockets)
    }

    /// Forgets an answer. A lookup that is under way goes on.
    fn forget(&self, key: &HostAndPort) {
        self.0.forget(key);
    }
}

fn is_fresh(outcome: &LookupOutcome) -> bool {
    outcome
        .as_ref()
        .is_ok_and(|host| host.resolved.elapsed() < FRESH_FOR)
}

/// Keeps the resolver's order within IPv4 and within IPv6, and lets the two take turns.
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

    fn key() -> HostAndPort {
        HostAndPort {
            host: "kdb.internal".into(),
            port: 5010,
        }
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
        let (cache, times) = (LookupCache::default(), Arc::new(AtomicUsize::new(0)));
        let (answer, said) = oneshot::channel::<()>();
        let asked = Arc::clone(&times);
        let mut first = Box::pin(cache.get(key(), |_| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            said.await.unwrap();
            Ok(addresses())
        }));
        assert!(poll!(&mut first).is_pending());
        drop(first);
        cache.forget(&key());
        let others = (0..1_000).map(|_| cache.get(key(), |_| async { panic!("asked once more") }));
        let mut others = Box::pin(join_all(others));
        assert!(poll!(&mut others).is_pending());
        answer.send(()).unwrap();
        assert!(
            others
                .await
                .into_iter()
                .all(|found| found.unwrap() == addresses())
        );
        // The answer is used for a second, unless a dial failed and forgot it.
        let again = cache.get(key(), |_| async { panic!("asked once more") });
        assert_eq!(again.await.unwrap(), addresses());
        cache.forget(&key());
        let anew = cache.get(key(), |_| async { Ok(Vec::new()) }).await;
        assert_eq!(anew.unwrap(), []);
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }

    /// An answer ages from the moment the resolver gives it, even if nobody waits for it.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_waited_for_is_no_younger_than_it_is() {
        let cache = LookupCache::default();
        let (answer, said) = oneshot::channel::<()>();
        let mut only = Box::pin(cache.get(key(), |_| async move {
            said.await.unwrap();
            Ok(addresses())
        }));
        assert!(poll!(&mut only).is_pending());
        drop(only);
        answer.send(()).unwrap();
        // Lets the task of the lookup receive the answer.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        advance(FRESH_FOR).await;
        let newer = || vec!["192.0.2.2:5010".parse().unwrap()];
        let anew = cache.get(key(), |_| async move { Ok(newer()) }).await;
        assert_eq!(anew.unwrap(), newer());
    }

    #[tokio::test]
    async fn a_failure_is_for_those_who_waited_for_it() {
        let cache = LookupCache::default();
        let fails = |_| async { Err(io::Error::from_raw_os_error(libc::EMFILE)) };
        for failed in join_all((0..3).map(|_| cache.get(key(), fails))).await {
            assert!(out_of_descriptors(&clone_io_error(&failed.unwrap_err())));
        }
        let found = cache.get(key(), |_| async { Ok(addresses()) }).await;
        assert_eq!(found.unwrap(), addresses());
    }
}
