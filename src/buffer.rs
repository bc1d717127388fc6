//! Large buffers that are lent while bytes flow: an idle connection holds none.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Bytes that are read or encrypted at a time.
pub const CHUNK: usize = 128 * 1024;
/// Bytes of each buffer: a chunk, and what TLS adds to its records.
pub const SIZE: usize = CHUNK + 4 * 1024;
/// How many a thread keeps for the next who asks; more are given back to the system.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`SIZE`] bytes, or none. What it holds at first is what its last user left in it.
#[derive(Default)]
pub struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    /// Makes it a buffer of [`SIZE`] bytes, if it is none yet.
    pub fn lend(&mut self) -> &mut [u8] {
        self.0.get_or_insert_with(|| {
            let kept = FREE.with(|free| free.borrow_mut().pop());
            kept.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice())
        })
    }

    /// Makes it one of `bytes` at least, and keeps what it holds.
    pub fn hold(&mut self, bytes: usize) {
        match self.0.take() {
            Some(buffer) if buffer.len() < bytes => {
                let mut larger = buffer.into_vec();
                larger.resize(bytes, 0);
                self.0 = Some(larger.into_boxed_slice());
            }
            Some(buffer) => self.0 = Some(buffer),
            None if bytes == 0 => {}
            None if bytes <= SIZE => {
                self.lend();
            }
            None => self.0 = Some(vec![0; bytes].into_boxed_slice()),
        }
    }

    /// Gives it back.
    pub fn give_back(&mut self) {
        let Some(buffer) = self.0.take().filter(|buffer| buffer.len() == SIZE) else {
            return;
        };
        // A thread that ends has no pool any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
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

    #[test]
    fn a_buffer_is_lent_given_back_and_lent_again() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        buffer.lend()[0] = 7;
        assert_eq!(buffer.len(), SIZE);
        let at = buffer.as_ptr();
        buffer.give_back();
        assert!(buffer.is_empty());
        let mut other = Buffer::default();
        assert_eq!(other.lend().as_ptr(), at, "the same one");
        drop(other);
        assert_eq!(buffer.lend().as_ptr(), at, "dropped is given back");
        buffer[3] = 9;
        buffer.hold(SIZE + 1);
        assert_eq!((buffer[3], buffer.len()), (9, SIZE + 1));
        buffer.give_back();
        buffer.hold(1);
        assert_eq!(buffer.len(), SIZE, "one of another size is not kept");
    }
}
