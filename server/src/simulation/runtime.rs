//! The runtime under openraft in tests: tokio's, without what tokio decides at random.
//!
//! Two things: openraft's own randomness (election timeouts) comes from the simulation's seed when a simulation runs on
//! this thread; and a watch channel wakes who waits in the order in which they came, where tokio's chooses. Tests that
//! simulate nothing notice neither. So no part of the product needs `--cfg tokio_unstable`, which could seed tokio
//! itself.

use super::watch::{Receiver, Ref, Sender};
use futures::FutureExt;
use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::impls::TokioRuntime;
use openraft_rt::deterministic_rng::DeterministicRng;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// What the calendar says when a simulation begins.
const CALENDAR_BEGINS: u64 = 1_700_000_000;

type Seeded = DeterministicRng<TokioRuntime>;

thread_local! {
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static CALENDAR: Cell<u64> = const { Cell::new(CALENDAR_BEGINS) };
    static SEEDS: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// From here on, chance on this thread follows from `seed`.
pub(crate) fn seed(seed: u64) {
    SEEDS.set(Some(SmallRng::seed_from_u64(seed)));
}

/// The simulation's time begins now.
pub(crate) fn start_clock() {
    BEGAN.set(Some(Instant::now()));
    CALENDAR.set(CALENDAR_BEGINS);
}

/// Somebody sets the calendar, which begins anew at `seconds` and goes on from there.
pub(crate) fn set_calendar(seconds: u64) {
    CALENDAR.set(seconds);
}

/// The time of a simulation that runs on this thread, as a calendar would have it.
pub(crate) fn unix_seconds() -> Option<u64> {
    BEGAN.get().map(|began| CALENDAR.get() + began.elapsed().as_secs())
}

/// True on a thread that simulates.
pub(crate) fn is_seeded() -> bool {
    SEEDS.with_borrow(Option::is_some)
}

/// See the module.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = InOrder;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = SEEDS.with_borrow_mut(|seeds| seeds.as_mut().map_or_else(rand::random, SmallRng::random));
        let generator = Seeded::scope(seed, async { Seeded::thread_rng() }).now_or_never();
        generator.expect("invariant: nothing to wait for")
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    async fn spawn_blocking<F, T>(f: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(f())
    }
}

/// Watch channels that wake in order.
pub struct InOrder;

impl Watch for InOrder {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = Ref<'a, T>;

    fn channel<T: Send + Sync>(init: T) -> (Sender<T>, Receiver<T>) {
        super::watch::channel(init)
    }
}

impl<T: Send + Sync> WatchSender<InOrder, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        Self::send(self, value).map_err(|error| SendError(error.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        Self::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Self::subscribe(self)
    }
}

impl<T: Send + Sync> WatchReceiver<InOrder, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        Self::changed(self).await.map_err(|_| RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Self::borrow_and_update(self)
    }
}
