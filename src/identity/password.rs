//! Checks passwords against argon2 hashes (`hopend hash-password`) and lines of q's `-u` files.

use std::num::NonZeroUsize;
use std::sync::Arc;

use argon2::{Argon2, Block, PasswordHash, PasswordHasher};
use md5::Md5;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::config::{PasswordVerifier, hash_cost};
use secret::Secret;

/// The hash that a refused password is checked against if no user of the endpoint has an argon2 hash.
/// So the time of a refusal does not reveal whether a user exists. The hash has the parameters of
/// [`hash`] and random bytes, so no known password matches.
const HASH_OF_NO_PASSWORD: &str = "$argon2id$v=19$m=19456,t=2,p=1$7QXNJo2XXMFWSWPjlxY32Q$928TeSh8KWP/Un79P8FE/bLj7eeHWRY3YS4MfAemROk";

/// The fewest argon2 blocks to allocate: 33 MiB. glibc maps an allocation of more than 32 MiB
/// separately, and returns it to the kernel when it is freed. glibc would keep a smaller allocation for
/// each thread that has ever checked a password. Blocks that are not used take no memory.
const LEAST_BLOCKS: usize = (33 << 20) / Block::SIZE;

/// Why a password cannot be hashed, or a hash cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The password is empty.
    #[error("client: an empty password never matches. Fix: give one.")]
    Empty,
    /// argon2 or the system's random numbers failed.
    #[error("hopend: argon2 failed to hash the password")]
    Hash(#[source] argon2::password_hash::Error),
    /// The hash is not a PHC string of argon2.
    #[error("configuration: not an argon2 hash. Fix: print one with hopend hash-password.")]
    Malformed,
}

/// Hashes a password. The result is a PHC string, `$argon2id$…`, for the `password` of a `[[user]]`. Takes
/// some 20 ms and 19 MiB.
pub fn hash(password: &Secret) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    let hash = Argon2::default()
        .hash_password(password.expose())
        .map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

/// Checks that a PHC string is an argon2 hash with a salt and valid parameters.
///
/// # Errors
/// No password could be checked against it.
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

/// Checks passwords, a limited number at the same time.
#[derive(Debug)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// The parameters of every argon2 check so far.
    #[cfg(test)]
    pub(super) checks: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Default for Passwords {
    /// Allows as many checks at the same time as the host has processors.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }
}

impl Passwords {
    /// Allows `concurrent` argon2 checks at the same time. Each takes 19 MiB with the parameters of
    /// [`hash`].
    pub fn new(concurrent: NonZeroUsize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(concurrent.get())),
            #[cfg(test)]
            checks: Arc::default(),
        }
    }

    /// Whether `verifier` was made of `password`. Always false for an empty password.
    ///
    /// Every refusal does the same work, whatever the verifier: one MD5 digest, one SHA-1 digest, and
    /// one argon2 check of each cost in `refusal_costs`. `refusal_costs` must include the verifier's
    /// own cost.
    ///
    /// Waits for a permit without a limit, so put a deadline around the call. A check that has begun
    /// counts towards the limit until it ends, even if the caller gives up.
    pub async fn matches(
        &self,
        password: &Secret,
        verifier: Option<&PasswordVerifier>,
        refusal_costs: &[Secret],
    ) -> bool {
        if password.is_empty() {
            return false;
        }
        if matches_q_file(password, verifier) {
            return true;
        }
        let own = match verifier {
            Some(PasswordVerifier::Argon2(phc)) => Some(phc.clone()),
            _ => None,
        };
        let differs = |phc: &&Secret| {
            own.as_ref()
                .is_none_or(|own| hash_cost(own) != hash_cost(phc))
        };
        let mut others: Vec<Secret> = refusal_costs.iter().filter(differs).cloned().collect();
        if own.is_none() && others.is_empty() {
            others.push(Secret::from(HASH_OF_NO_PASSWORD));
        }
        let password = password.clone();
        #[cfg(test)]
        let checks = Arc::clone(&self.checks);
        let check = move |phc: &Secret| {
            #[cfg(test)]
            if let Ok(mut checks) = checks.lock() {
                checks.push(String::from_utf8_lossy(hash_cost(phc)).into_owned());
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

    /// Runs `work` on a blocking thread. The thread holds the permit, so that no other check starts
    /// early if the caller gives up.
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

/// Whether a line of q's `-u` file matches. Makes both digests for every user, so that the time does
/// not reveal whether the line is plain, MD5 or SHA-1.
fn matches_q_file(password: &Secret, verifier: Option<&PasswordVerifier>) -> bool {
    let md5 = Md5::digest(password.expose());
    let sha1 = Sha1::digest(password.expose());
    match verifier {
        Some(PasswordVerifier::Plain(plain)) => plain == password,
        Some(PasswordVerifier::Md5(digest)) => equal_in_constant_time(&md5, digest),
        Some(PasswordVerifier::Sha1(digest)) => equal_in_constant_time(&sha1, digest),
        Some(PasswordVerifier::Argon2(_)) | None => false,
    }
}

/// Whether the argon2 hash `phc` was made of the password. `None` if `phc` is not a usable argon2 hash.
fn verify(password: &Secret, phc: &Secret) -> Option<bool> {
    let hash = parse(phc)?;
    let algorithm = argon2::Algorithm::new(hash.algorithm.as_str()).ok()?;
    let version = hash.version.map(argon2::Version::try_from);
    let params = argon2::Params::try_from(&hash).ok()?;
    let mut memory = Vec::with_capacity(params.block_count().max(LEAST_BLOCKS));
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
    Some(equal_in_constant_time(&made, expected.as_bytes()))
}

fn parse(phc: &Secret) -> Option<PasswordHash> {
    PasswordHash::new(std::str::from_utf8(phc.expose()).ok()?).ok()
}

fn equal_in_constant_time(one: &[u8], other: &[u8]) -> bool {
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
            PasswordVerifier::Argon2(argon2.into()),
            PasswordVerifier::Plain("s3cret:é".into()),
            PasswordVerifier::Md5(Md5::digest("s3cret:é").into()),
            PasswordVerifier::Sha1(Sha1::digest("s3cret:é").into()),
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
            PasswordVerifier::Plain(Secret::default()),
            PasswordVerifier::Md5(Md5::digest("").into()),
            PasswordVerifier::Sha1(Sha1::digest("").into()),
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
        let other = PasswordVerifier::Plain("his".into());
        assert!(!passwords.matches(&"hers".into(), Some(&other), &like).await);
    }

    #[test]
    fn the_hash_of_nobody_is_one_and_costs_what_others_cost() {
        check_hash(&HASH_OF_NO_PASSWORD.into()).unwrap();
        let ours = hash(&"x".into()).unwrap();
        let parameters = |phc: &str| phc.rsplitn(3, '$').nth(2).map(str::to_owned);
        assert_eq!(parameters(HASH_OF_NO_PASSWORD), parameters(&ours));
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
