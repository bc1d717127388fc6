//! Passwords: `hopend hash-password`'s, and those of q's -u files.

use std::num::NonZeroUsize;
use std::sync::Arc;

use argon2::{Argon2, Block, PasswordHash, PasswordHasher};
use md5::Md5;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::config::{Verifier, hash_cost as cost};
use secret::Secret;

/// The hash that a refusal is checked against where no configured password has an argon2 hash, so
/// that the time of a refusal does not tell a name. Random bytes, with the parameters of [`hash`]: no
/// password is known to have this hash.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$7QXNJo2XXMFWSWPjlxY32Q$928TeSh8KWP/Un79P8FE/bLj7eeHWRY3YS4MfAemROk";

/// Blocks of argon2 that glibc's allocator maps by themselves, and unmaps when they are freed: more
/// than 32 MiB. After the first check it would keep less than that, for each thread that has ever
/// checked a password. What is not used of them costs nothing.
const OF_ITS_OWN: usize = (33 << 20) / Block::SIZE;

/// Why there is no hash of a password, or no use of a hash.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// There is nothing to hash.
    #[error("client: an empty password never matches. Fix: give one.")]
    Empty,
    /// argon2 or the system's random numbers failed.
    #[error("hopend: argon2 failed to hash the password")]
    Hash(#[source] argon2::password_hash::Error),
    /// Not a PHC string of argon2.
    #[error("configuration: not an argon2 hash. Fix: print one with hopend hash-password.")]
    Malformed,
}

/// The PHC string, `$argon2id$…`, to be put in a user's `password`. Takes some 20 ms and 19 MiB.
pub fn hash(password: &Secret) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    let hash = Argon2::default()
        .hash_password(password.expose())
        .map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

/// Whether a PHC string is one that a password can be checked against.
pub fn check_hash(phc: &Secret) -> Result<(), PasswordError> {
    let hash = parse(phc).ok_or(PasswordError::Malformed)?;
    let argon2 = argon2::Algorithm::new(hash.algorithm.as_str()).is_ok();
    let params = argon2::Params::try_from(&hash).is_ok();
    if argon2 && params && hash.salt.is_some() && hash.hash.is_some() {
        Ok(())
    } else {
        Err(PasswordError::Malformed)
    }
}

/// Checks passwords, a few at a time.
#[derive(Debug)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// The parameters of every argon2 check so far.
    #[cfg(test)]
    pub(super) checks: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Default for Passwords {
    /// As many at a time as there are processors.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }
}

impl Passwords {
    /// At most `concurrent` argon2 checks at a time, of 19 MiB each with the usual parameters.
    pub fn new(concurrent: NonZeroUsize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(concurrent.get())),
            #[cfg(test)]
            checks: Arc::default(),
        }
    }

    /// Whether `password` is the one that `verifier` was made from. An empty one never is.
    ///
    /// Every refusal does the same work, whatever the verifier: one MD5 digest, one SHA-1 digest, and
    /// one argon2 check of each cost in `refusal_costs`. The verifier's own cost has to be among them.
    ///
    /// Waits for its turn without a limit: put a deadline around it. A check that has begun keeps its
    /// place until it ends, even if the caller gives up.
    pub async fn matches(
        &self,
        password: &Secret,
        verifier: Option<&Verifier>,
        refusal_costs: &[Secret],
    ) -> bool {
        if password.is_empty() {
            return false;
        }
        if matches_at_once(password, verifier) {
            return true;
        }
        let own = match verifier {
            Some(Verifier::Argon2(phc)) => Some(phc.clone()),
            _ => None,
        };
        let differs = |phc: &&Secret| own.as_ref().is_none_or(|own| cost(own) != cost(phc));
        let mut others: Vec<Secret> = refusal_costs.iter().filter(differs).cloned().collect();
        if own.is_none() && others.is_empty() {
            others.push(Secret::from(NOBODY));
        }
        let password = password.clone();
        #[cfg(test)]
        let checks = Arc::clone(&self.checks);
        let check = move |phc: &Secret| {
            #[cfg(test)]
            if let Ok(mut checks) = checks.lock() {
                checks.push(String::from_utf8_lossy(cost(phc)).into_owned());
            }
            verify(&password, phc).unwrap_or(false)
        };
        let work = move || {
            if own.as_ref().is_some_and(&check) {
                return true;
            }
            for phc in &others {
                check(phc);
            }
            false
        };
        self.bounded(work).await.unwrap_or(false)
    }

    /// Runs `work` on a blocking thread. The permit goes with it, so that a caller that gives up
    /// does not make room for more.
    async fn bounded<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .ok()
    }
}

/// Whether a line of a q password file matches. Makes both digests for every user, so that the time
/// does not tell which kind a user's line has.
fn matches_at_once(password: &Secret, verifier: Option<&Verifier>) -> bool {
    let md5 = Md5::digest(password.expose());
    let sha1 = Sha1::digest(password.expose());
    match verifier {
        Some(Verifier::Plain(plain)) => plain == password,
        Some(Verifier::Md5(digest)) => same(&md5, digest),
        Some(Verifier::Sha1(digest)) => same(&sha1, digest),
        Some(Verifier::Argon2(_)) | None => false,
    }
}

/// Whether argon2 makes this hash of the password. None where the hash is none.
fn verify(password: &Secret, phc: &Secret) -> Option<bool> {
    let hash = parse(phc)?;
    let algorithm = argon2::Algorithm::new(hash.algorithm.as_str()).ok()?;
    let version = hash.version.map(argon2::Version::try_from);
    let params = argon2::Params::try_from(&hash).ok()?;
    let mut memory = Vec::with_capacity(params.block_count().max(OF_ITS_OWN));
    memory.resize(params.block_count(), Block::new());
    let argon2 = Argon2::new(
        algorithm,
        version.transpose().ok()?.unwrap_or_default(),
        params,
    );
    let expected = hash.hash?;
    let mut made = vec![0; expected.len()];
    argon2
        .hash_password_into_with_memory(password.expose(), &hash.salt?, &mut made, &mut memory)
        .ok()?;
    Some(same(&made, expected.as_bytes()))
}

fn parse(phc: &Secret) -> Option<PasswordHash> {
    PasswordHash::new(std::str::from_utf8(phc.expose()).ok()?).ok()
}

fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn each_kind_of_verifier_matches_its_password_and_no_other() {
        let passwords = Passwords::default();
        let argon2 = hash(&"s3cret:é".into()).unwrap();
        assert!(argon2.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        for verifier in [
            Verifier::Argon2(argon2.into()),
            Verifier::Plain("s3cret:é".into()),
            Verifier::Md5(Md5::digest("s3cret:é").into()),
            Verifier::Sha1(Sha1::digest("s3cret:é").into()),
        ] {
            for (password, expected) in [("s3cret:é", true), ("s3cret:e", false), ("", false)] {
                let matches = passwords
                    .matches(&password.into(), Some(&verifier), &[])
                    .await;
                assert_eq!(matches, expected, "{password}");
            }
        }
    }

    #[tokio::test]
    async fn an_empty_password_matches_nothing() {
        let passwords = Passwords::default();
        let empty = Secret::default();
        for verifier in [
            Verifier::Plain(Secret::default()),
            Verifier::Md5(Md5::digest("").into()),
            Verifier::Sha1(Sha1::digest("").into()),
        ] {
            assert!(!passwords.matches(&empty, Some(&verifier), &[]).await);
        }
        assert!(matches!(hash(&empty), Err(PasswordError::Empty)));
    }

    #[tokio::test]
    async fn without_a_verifier_nothing_matches_not_even_the_hash_that_is_used_for_its_cost() {
        let passwords = Passwords::default();
        let like = [Secret::from(hash(&"hers".into()).unwrap())];
        assert!(!passwords.matches(&"hers".into(), None, &like).await);
        let other = Verifier::Plain("his".into());
        assert!(!passwords.matches(&"hers".into(), Some(&other), &like).await);
    }

    #[test]
    fn the_hash_of_nobody_is_one_and_costs_what_others_cost() {
        check_hash(&NOBODY.into()).unwrap();
        let ours = hash(&"x".into()).unwrap();
        let parameters = |phc: &str| phc.rsplitn(3, '$').nth(2).map(str::to_owned);
        assert_eq!(parameters(NOBODY), parameters(&ours));
    }

    #[test]
    fn what_is_no_argon2_hash_is_told() {
        for bad in [
            "",
            "secret",
            "$argon2id$",
            "$argon2id$v=19$m=19456,t=2,p=1",
            "$scrypt$ln=15,r=8,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
        ] {
            assert!(check_hash(&bad.into()).is_err(), "{bad}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_burst_of_logins_runs_two_at_a_time() {
        let passwords = Arc::new(Passwords::new(NonZeroUsize::new(2).unwrap()));
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (passwords, running, most) = (passwords.clone(), running.clone(), most.clone());
                tokio::spawn(async move {
                    passwords
                        .bounded(move || {
                            most.fetch_max(
                                running.fetch_add(1, Ordering::SeqCst) + 1,
                                Ordering::SeqCst,
                            );
                            hash(&"x".into()).unwrap();
                            running.fetch_sub(1, Ordering::SeqCst);
                        })
                        .await
                        .unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_does_not_make_room() {
        let passwords = Arc::new(Passwords::new(NonZeroUsize::MIN));
        let (release, wait) = mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let caller = {
            let passwords = passwords.clone();
            tokio::spawn(async move {
                passwords
                    .bounded(move || {
                        begun.send(()).unwrap();
                        wait.recv().unwrap();
                    })
                    .await
            })
        };
        has_begun.await.unwrap();
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(passwords.permits.available_permits(), 0);
        release.send(()).unwrap();
        assert!(passwords.bounded(|| ()).await.is_some());
    }
}
