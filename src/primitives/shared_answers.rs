//! Questions that take time, such as a name for the resolver or a number for the account database. All
//! that ask at the same time share one answer, and an answer may be good for a while.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout_at};

/// From so many questions on, answers that are no longer good are forgotten.
const KEPT: usize = 1024;

/// What is being asked, and what was answered.
pub(crate) struct SharedAnswers<K, A> {
    questions: Mutex<HashMap<K, Question<A>>>,
    /// Whether an answer is still good.
    is_good: fn(&A) -> bool,
}

/// A question that is being asked, or its answer.
pub(crate) struct Question<A> {
    since: Instant,
    answer: Shared<BoxFuture<'static, A>>,
}

impl<K, A> SharedAnswers<K, A>
where
    K: Clone + Eq + Hash,
    A: Clone + Send + Sync + 'static,
{
    /// Nothing is asked yet. An answer for which `is_good` is false serves only those that waited for
    /// it.
    pub(crate) fn new(is_good: fn(&A) -> bool) -> Self {
        Self {
            questions: Mutex::default(),
            is_good,
        }
    }

    /// Asks, unless the question is being asked or has a good answer.
    pub(crate) fn ask<F>(&self, key: K, ask: impl FnOnce(K) -> F) -> Question<A>
    where
        F: Future<Output = A> + Send + 'static,
    {
        let mut questions = self.lock();
        if let Some(question) = questions.get(&key)
            && question.answer.peek().is_none_or(self.is_good)
        {
            return question.clone();
        }
        if questions.len() >= KEPT {
            questions.retain(|_, question| question.answer.peek().is_none_or(self.is_good));
        }
        if questions.len() >= KEPT {
            questions.retain(|_, question| question.answer.peek().is_none());
        }
        let question = Question {
            since: Instant::now(),
            answer: ask(key.clone()).boxed().shared(),
        };
        // As a task: whoever asks may go away, and the answer is for the others.
        tokio::spawn(question.answer.clone());
        questions.insert(key, question.clone());
        question
    }

    /// Forgets the answer, unless the question is being asked.
    pub(crate) fn forget(&self, key: &K) {
        let mut questions = self.lock();
        if questions.get(key).and_then(|q| q.answer.peek()).is_some() {
            questions.remove(key);
        }
    }

    /// The answer to a question that has been asked, good or not.
    #[cfg(test)]
    pub(crate) fn answered(&self, key: &K) -> Option<A> {
        self.lock().get(key)?.answer.peek().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Question<A>>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Clone> Question<A> {
    /// The answer, however long it takes.
    pub(crate) async fn answer(self) -> A {
        self.answer.await
    }

    /// The answer, if there is one `patience` after the question was first asked. So nobody waits anew
    /// for one that hangs.
    pub(crate) async fn within(self, patience: Duration) -> Option<A> {
        let deadline = self.since + patience;
        if deadline <= Instant::now() {
            return self.answer.peek().cloned();
        }
        timeout_at(deadline, self.answer).await.ok()
    }
}

impl<A> Clone for Question<A> {
    fn clone(&self) -> Self {
        Self {
            since: self.since,
            answer: self.answer.clone(),
        }
    }
}

impl<K, A> fmt::Debug for SharedAnswers<K, A> {
    /// Without the answers, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedAnswers").finish_non_exhaustive()
    }
}
