//! Who does the log's work beside its callers: threads. A simulation, whose time stands still while code runs, has
//! tasks in their place, which do the same steps and sleep where a thread waits for the disk.

use std::io;
use std::thread::JoinHandle;

use parking_lot::{Condvar, MutexGuard};

/// Wakes a worker that waits for a change of what a mutex guards.
#[derive(Default)]
pub(super) struct Bell {
    thread: Condvar,
    #[cfg(test)]
    task: tokio::sync::Notify,
}

impl Bell {
    /// Wakes one who waits. Call after the change.
    pub(super) fn ring(&self) {
        self.thread.notify_one();
        #[cfg(test)]
        self.task.notify_one();
    }

    /// Wakes everyone who waits.
    pub(super) fn ring_all(&self) {
        self.thread.notify_all();
        #[cfg(test)]
        self.task.notify_one();
    }

    /// Waits for a ring; lets go of the mutex meanwhile.
    pub(super) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.thread.wait(guard);
    }

    /// Waits for a ring since the last one that was heard.
    #[cfg(test)]
    pub(super) async fn heard(&self) {
        self.task.notified().await;
    }
}

/// A worker; it is waited for when this is dropped, if it is a thread.
pub(super) struct Worker(Option<JoinHandle<()>>);

impl Worker {
    /// Starts a thread.
    pub(super) fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        std::thread::Builder::new().name(name.to_owned()).spawn(run).map(|thread| Self(Some(thread)))
    }

    /// Starts a task, which ends by itself.
    #[cfg(test)]
    pub(super) fn task(run: impl Future<Output = ()> + Send + 'static) -> Self {
        tokio::spawn(run);
        Self(None)
    }

    /// Waits until the thread has ended. A panic in it has been reported by the panic hook already.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of the raft log panicked");
        }
    }
}
