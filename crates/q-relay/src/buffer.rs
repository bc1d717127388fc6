//! Buffers that are lent while bytes flow. An idle connection holds none.
//!
//! Each thread keeps a pool of large buffers. A buffer that is given back goes to the pool of its thread.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use zeroize::Zeroize;

use crate::budget::MemoryAccount;

/// Bytes that are read or encrypted at once.
pub(crate) const CHUNK: usize = 128 * 1024;
/// Length of a large buffer, in bytes: a chunk, and the bytes that TLS adds to its records.
pub(crate) const SIZE: usize = CHUNK + 4 * 1024;
/// Number of large buffers that the pool of a thread keeps. The allocator gets further ones.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer, or none. A lent buffer still contains the bytes of its last use.
#[derive(Default)]
pub(crate) struct Buffer {
    bytes: Option<Box<[u8]>>,
    /// The account to which the buffer is charged, if any.
    account: Option<Arc<MemoryAccount>>,
    /// Whether the buffer is wiped after use, because secrets pass through it.
    secret: bool,
    /// Whether it never becomes a large buffer.
    stays_small: bool,
}

impl Buffer {
    /// A buffer of at least `least` bytes that begins with `bytes`; none if `bytes` is empty.
    pub(crate) fn holding(bytes: &[u8], least: usize) -> Self {
        let mut buffer = Self::default();
        if !bytes.is_empty() {
            let mut held = vec![0; bytes.len().max(least)];
            held[..bytes.len()].copy_from_slice(bytes);
            buffer.bytes = Some(held.into_boxed_slice());
        }
        buffer
    }

    /// Charges the buffer to `account` from now on, instead of its previous account.
    pub(crate) fn charge(&mut self, account: &Arc<MemoryAccount>) {
        if let Some(before) = self.account.replace(Arc::clone(account)) {
            before.release(self.len());
        }
        account.hold(self.len());
        self.secret = account.keeps_secrets();
        self.stays_small = false;
    }

    /// Lends no large buffer from now on, until [`Self::charge`] sets an account that decides it.
    pub(crate) fn stay_small(&mut self) {
        self.stays_small = true;
    }

    /// Wipes the buffer after each use from now on.
    pub(crate) fn keep_secrets(&mut self) {
        self.secret = true;
    }

    /// Lends a buffer if there is none: one of [`SIZE`] bytes, or one of `least` bytes if the account has no
    /// room for a large one.
    #[inline]
    pub(crate) fn lend(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.is_none() {
            self.bytes = Some(self.take(least));
        }
        self
    }

    /// Makes the buffer at least `bytes` long, and keeps its content.
    pub(crate) fn hold(&mut self, bytes: usize) {
        if self.bytes.is_none() && bytes > 0 {
            self.bytes = Some(self.take(bytes));
        }
        let before = self.len();
        if before >= bytes {
            return;
        }
        if let Some(buffer) = self.bytes.take() {
            let mut larger = buffer.into_vec();
            larger.resize(bytes, 0);
            self.bytes = Some(larger.into_boxed_slice());
        }
        if let Some(account) = &self.account {
            account.hold(bytes - before);
        }
    }

    /// Makes the buffer at least `bytes` long if its account allows it. Returns whether it does.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.len());
        let allowed = self
            .account
            .as_ref()
            .is_none_or(|account| account.allows(more));
        if allowed {
            self.hold(bytes);
        }
        allowed
    }

    /// Wipes a used part, if secrets pass through the buffer.
    #[inline]
    pub(crate) fn forget(&mut self, from: usize, to: usize) {
        if self.secret {
            self[from..to].zeroize();
        }
    }

    /// Gives the buffer back to the pool, or to the allocator.
    #[inline]
    pub(crate) fn give_back(&mut self) {
        let Some(mut buffer) = self.bytes.take() else {
            return;
        };
        if self.secret {
            buffer.zeroize();
        }
        if let Some(account) = &self.account {
            account.release(buffer.len());
        }
        if buffer.len() != SIZE {
            return;
        }
        // A thread that is ending has no pool: then the buffer is freed.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }

    /// Takes a buffer of [`SIZE`] or of `least` bytes from the pool or the allocator, and charges it.
    fn take(&self, least: usize) -> Box<[u8]> {
        let size = match &self.account {
            _ if least > SIZE || self.stays_small => least,
            Some(account) if !account.has_room_for(SIZE) => least,
            _ => SIZE,
        };
        if let Some(account) = &self.account {
            account.hold(size);
        }
        let kept = (size == SIZE)
            .then(|| FREE.with(|free| free.borrow_mut().pop()))
            .flatten();
        kept.unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::MemoryBudget;

    #[test]
    fn a_buffer_is_lent_given_back_and_lent_again() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        buffer.lend(1)[0] = 7;
        assert_eq!(buffer.len(), SIZE);
        let at = buffer.as_ptr();
        buffer.give_back();
        assert!(buffer.is_empty());
        let mut other = Buffer::default();
        assert_eq!(other.lend(1).as_ptr(), at, "the same one");
        drop(other);
        assert_eq!(buffer.lend(1).as_ptr(), at, "dropped is given back");
        buffer[3] = 9;
        buffer.hold(SIZE + 1);
        assert_eq!((buffer[3], buffer.len()), (9, SIZE + 1));
        buffer.give_back();
        buffer.hold(1);
        assert_eq!(buffer.len(), SIZE, "one of another size is not kept");
    }

    #[test]
    fn a_buffer_is_the_least_one_where_its_account_has_no_room() {
        let budget = MemoryBudget::of(6 * SIZE);
        let account = Arc::new(budget.session("a", 0).unwrap());
        let mut buffers: [Buffer; 4] = Default::default();
        for buffer in &mut buffers {
            buffer.charge(&account);
            buffer.lend(100);
            account.settle();
        }
        let sizes = buffers.each_ref().map(|buffer| buffer.len());
        assert_eq!(sizes, [SIZE, SIZE, 100, 100], "a third of the budget");
        assert_eq!(budget.used(), 2 * SIZE + 200);
        buffers[0].hold(SIZE + 50);
        assert!(buffers[2].grow(150));
        account.settle();
        assert_eq!(budget.used(), 2 * SIZE + 300);
        drop(buffers);
        account.settle();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_buffer_of_a_handshake_never_outgrows_its_guarantee_and_is_wiped() {
        let budget = MemoryBudget::of(4 * SIZE);
        let account = Arc::new(budget.try_handshake(200).unwrap());
        let mut buffer = Buffer::default();
        buffer.charge(&account);
        buffer.lend(100).fill(7);
        buffer.forget(0, 50);
        assert!(buffer[..50].iter().all(|&byte| byte == 0) && buffer[50] == 7);
        assert!(buffer.grow(200) && !buffer.grow(201));
        // A session's is not: what passes there is the user's data.
        buffer.charge(&Arc::new(budget.session("a", 0).unwrap()));
        buffer.forget(50, 60);
        assert_eq!(buffer[50], 7);
    }

    #[test]
    fn a_buffer_with_secrets_is_wiped_when_it_is_given_back() {
        let mut buffer = Buffer::default();
        buffer.keep_secrets();
        buffer.lend(1).fill(7);
        let at = buffer.as_ptr();
        buffer.give_back();
        let mut next = Buffer::default();
        assert_eq!(next.lend(1).as_ptr(), at, "the same one");
        assert!(next.iter().all(|&byte| byte == 0));
    }
}
