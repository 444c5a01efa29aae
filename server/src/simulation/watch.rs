//! A watch channel that wakes who waits in the order in which they came.
//!
//! tokio's chooses the order at random, which no seed reaches without `--cfg tokio_unstable`. The interface is that part
//! of tokio's which the server uses; tests have this in its place ([`crate::sync`]), the product has tokio's.

use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use tokio::sync::Notify;

/// A look at the value, which cannot change meanwhile.
pub(crate) type Ref<'a, T> = RwLockReadGuard<'a, T>;

/// The senders are gone.
#[derive(Debug)]
pub struct RecvError;

/// The receivers are gone.
#[derive(Debug)]
pub struct SendError<T>(pub T);

#[derive(Default)]
struct Channel<T> {
    value: RwLock<T>,
    version: AtomicU64,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

/// The sending half.
pub struct Sender<T>(Arc<Channel<T>>);

/// The receiving half.
pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

/// Creates a channel that holds `value`.
pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Channel<T> {
    fn receiver(self: &Arc<Self>, seen: u64) -> Receiver<T> {
        self.receivers.fetch_add(1, SeqCst);
        Receiver { channel: Arc::clone(self), seen }
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, SeqCst) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Sender<T> {
    /// A channel without receivers.
    pub fn new(value: T) -> Self {
        let zero = AtomicUsize::default;
        let (value, version, changed) = (RwLock::new(value), AtomicU64::default(), Notify::new());
        let channel = Channel { value, version, changed, senders: zero(), receivers: zero() };
        channel.senders.store(1, SeqCst);
        Self(Arc::new(channel))
    }

    /// Replaces the value, if anybody receives it.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(SeqCst) == 0 {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    /// Replaces the value and returns the one before.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|now| std::mem::swap(now, &mut value));
        value
    }

    /// Changes the value.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Changes the value, and tells receivers if `modify` says so.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let mut value = self.0.value.write();
        if !modify(&mut value) {
            return false;
        }
        self.0.version.fetch_add(1, SeqCst);
        drop(value);
        self.0.changed.notify_waiters();
        true
    }

    /// Looks at the value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.value.read_recursive()
    }

    /// A receiver that has seen the value.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receiver(self.0.version.load(SeqCst))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.channel.receiver(self.seen)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.channel.receivers.fetch_sub(1, SeqCst);
    }
}

impl<T> Receiver<T> {
    /// Waits for a value that was not seen.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            let mut changed = std::pin::pin!(self.channel.changed.notified());
            changed.as_mut().enable();
            let version = self.channel.version.load(SeqCst);
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.channel.senders.load(SeqCst) == 0 {
                return Err(RecvError);
            }
            changed.await;
        }
    }

    /// Waits for a value that is as asked.
    pub async fn wait_for(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, RecvError> {
        loop {
            if is_it(&self.borrow_and_update()) {
                return Ok(self.channel.value.read_recursive());
            }
            self.changed().await?;
        }
    }

    /// Looks at the value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.channel.value.read_recursive()
    }

    /// Looks at the value, which is seen then.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.channel.value.read_recursive();
        self.seen = self.channel.version.load(SeqCst);
        value
    }

    /// Takes the value for seen.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.channel.version.load(SeqCst);
    }
}
