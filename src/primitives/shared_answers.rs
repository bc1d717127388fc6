//! Shared answers to slow look-ups, such as a host name for the resolver or a uid for the account database.
//!
//! Callers that ask for the same key at the same time share one look-up. Later callers share its answer
//! as long as the answer is fresh.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout_at};

use base::mutex::locked;

/// The number of keys from which on stale answers are forgotten. If that frees no room, all answers are
/// forgotten.
const MAX_KEPT: usize = 1024;

/// The look-ups in progress and their answers, by key.
pub(crate) struct SharedAnswers<K, A> {
    lookups: Mutex<HashMap<K, SharedLookup<A>>>,
    /// Whether an answer may still be used.
    is_fresh: fn(&A) -> bool,
}

/// A look-up in progress, or its answer. Clones share the answer.
pub(crate) struct SharedLookup<A> {
    started: Instant,
    answer: Shared<BoxFuture<'static, A>>,
}

impl<K, A> SharedAnswers<K, A>
where
    K: Clone + Eq + Hash,
    A: Clone + Send + Sync + 'static,
{
    /// Starts without look-ups. An answer for which `is_fresh` returns false goes only to the callers
    /// that waited for that answer.
    pub(crate) fn new(is_fresh: fn(&A) -> bool) -> Self {
        Self {
            lookups: Mutex::default(),
            is_fresh,
        }
    }

    /// Starts a look-up, unless one for the key is in progress or has a fresh answer. The look-up runs
    /// as a task, so it goes on if the caller stops waiting. Must be called within a tokio runtime.
    pub(crate) fn ask<F>(&self, key: K, ask: impl FnOnce(K) -> F) -> SharedLookup<A>
    where
        F: Future<Output = A> + Send + 'static,
    {
        let mut lookups = self.lock();
        if let Some(lookup) = lookups.get(&key)
            && lookup.answer.peek().is_none_or(self.is_fresh)
        {
            return lookup.clone();
        }
        if lookups.len() >= MAX_KEPT {
            lookups.retain(|_, lookup| lookup.answer.peek().is_none_or(self.is_fresh));
        }
        if lookups.len() >= MAX_KEPT {
            lookups.retain(|_, lookup| lookup.answer.peek().is_none());
        }
        let lookup = SharedLookup {
            started: Instant::now(),
            answer: ask(key.clone()).boxed().shared(),
        };
        tokio::spawn(lookup.answer.clone());
        lookups.insert(key, lookup.clone());
        lookup
    }

    /// Forgets the answer of a key. A look-up in progress goes on.
    pub(crate) fn forget(&self, key: &K) {
        let mut lookups = self.lock();
        if lookups.get(key).and_then(|it| it.answer.peek()).is_some() {
            lookups.remove(key);
        }
    }

    /// The answer of a key, fresh or not.
    #[cfg(test)]
    pub(crate) fn answered(&self, key: &K) -> Option<A> {
        self.lock().get(key)?.answer.peek().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, SharedLookup<A>>> {
        locked(&self.lookups)
    }
}

impl<A: Clone> SharedLookup<A> {
    /// Waits for the answer without a limit.
    pub(crate) async fn answer(self) -> A {
        self.answer.await
    }

    /// Waits for the answer until `limit` after the start of the look-up. So a look-up that hangs does
    /// not delay later callers.
    pub(crate) async fn within(self, limit: Duration) -> Option<A> {
        let deadline = self.started + limit;
        if deadline <= Instant::now() {
            return self.answer.peek().cloned();
        }
        timeout_at(deadline, self.answer).await.ok()
    }
}

impl<A> Clone for SharedLookup<A> {
    fn clone(&self) -> Self {
        Self {
            started: self.started,
            answer: self.answer.clone(),
        }
    }
}

impl<K, A> fmt::Debug for SharedAnswers<K, A> {
    /// Omits the answers, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedAnswers").finish_non_exhaustive()
    }
}
