//! Locks a mutex that another thread may have poisoned.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also if a thread panicked while it held the lock.
///
/// Use this for data that every statement leaves consistent, so that a panic in one session does not
/// stop all others.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_panic_while_the_lock_is_held_does_not_lock_others_out() {
        let mutex = Arc::new(Mutex::new(1));
        let poisoning = Arc::clone(&mutex);
        let panicked = thread::spawn(move || {
            let mut value = locked(&poisoning);
            *value = 2;
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert!(mutex.is_poisoned());
        assert_eq!(*locked(&mutex), 2);
    }
}
