//! Events on their way to streams: a queue for each, and one account of the bytes of all.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

/// Events that wait for a stream's connection. etcd's number. One more, and the stream is cut.
pub(super) const EVENTS_MAX: usize = 100;

/// Their bytes, beside the one that is taken next.
pub(super) const BYTES_MAX: usize = 8 << 20;

/// Bytes of the events that are somewhere on their way, each counted once however many wait for it. Over that, streams that
/// are behind are cut.
const ALL_BYTES_MAX: usize = 256 << 20;

/// Counts the bytes of events until the last one who holds them has dropped them.
#[derive(Clone)]
pub(super) struct Account {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

struct Counted {
    event: Vec<u8>,
    account: Account,
}

impl Default for Account {
    fn default() -> Self {
        Self::new(ALL_BYTES_MAX)
    }
}

impl Account {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: Arc::default(), bytes_max }
    }

    /// The event, counted from now on.
    pub(super) fn hold(&self, event: Vec<u8>) -> Bytes {
        self.bytes.fetch_add(event.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { event, account: self.clone() })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_overdrawn(&self) -> bool {
        self.bytes() > self.bytes_max
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.event
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(self.event.len(), Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Bytes>,
    bytes: usize,
    waiting: Option<Waker>,
    /// Nothing more comes, or nobody takes it.
    is_over: bool,
}

impl Queue {
    fn clear(&mut self) {
        self.events.clear();
        self.bytes = 0;
    }
}

/// Ends the stream when it is dropped: what is in the queue is still sent.
pub(super) struct Sender(Arc<Mutex<Queue>>);

/// The connection's side.
pub(super) struct Receiver(Arc<Mutex<Queue>>);

/// A queue for one stream.
pub(super) fn channel() -> (Sender, Receiver) {
    let queue = Arc::default();
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

impl Sender {
    /// Hands an event over. False if there is no room for it, or nobody who takes it.
    pub(super) fn send(&self, event: Bytes) -> bool {
        let mut queue = self.0.lock();
        let fits = queue.events.is_empty() || queue.bytes + event.len() <= BYTES_MAX;
        if queue.is_over || !fits || queue.events.len() >= EVENTS_MAX {
            return false;
        }
        queue.bytes += event.len();
        queue.events.push_back(event);
        let waiting = queue.waiting.take();
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
        true
    }

    /// True if events wait for the connection.
    pub(super) fn is_behind(&self) -> bool {
        !self.0.lock().events.is_empty()
    }

    /// Ends the stream now: what waits is not sent.
    pub(super) fn cut(&self) {
        self.0.lock().clear();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_over = true;
        let waiting = queue.waiting.take();
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Receiver {
    /// The next event, or None at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut queue = self.0.lock();
        if let Some(event) = queue.events.pop_front() {
            queue.bytes -= event.len();
            return Poll::Ready(Some(event));
        }
        if queue.is_over {
            return Poll::Ready(None);
        }
        queue.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_over = true;
        queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(receiver: &mut Receiver) -> Poll<Option<Bytes>> {
        receiver.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_was_sent_before_the_end_is_taken_and_what_was_cut_is_not() {
        for cut in [false, true] {
            let (sender, mut receiver) = channel();
            assert_eq!(next(&mut receiver), Poll::Pending);
            assert!(sender.send("a".into()) && sender.send("b".into()) && sender.is_behind());
            assert_eq!(next(&mut receiver), Poll::Ready(Some("a".into())));
            if cut {
                sender.cut();
            }
            drop(sender);
            if !cut {
                assert_eq!(next(&mut receiver), Poll::Ready(Some("b".into())));
            }
            assert_eq!(next(&mut receiver), Poll::Ready(None));
        }
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let (sender, mut receiver) = channel();
        let taker = tokio::spawn(async move {
            let first = std::future::poll_fn(|cx| receiver.poll_next(cx)).await;
            (first, std::future::poll_fn(|cx| receiver.poll_next(cx)).await)
        });
        tokio::task::yield_now().await;
        assert!(sender.send("a".into()));
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(taker.await.unwrap(), (Some("a".into()), None));
    }

    #[test]
    fn an_event_is_counted_once_until_the_last_has_dropped_it() {
        let account = Account::default();
        let event = account.hold(vec![0; 100]);
        let (sender, receiver) = channel();
        let (other, mut others) = channel();
        assert!(sender.send(event.clone()) && other.send(event));
        assert_eq!(account.bytes(), 100);
        drop(receiver);
        assert!(!sender.send("nobody is there".into()));
        assert_eq!(account.bytes(), 100);
        let Poll::Ready(Some(event)) = next(&mut others) else { panic!("it was sent") };
        drop(event);
        assert_eq!(account.bytes(), 0);
    }
}
