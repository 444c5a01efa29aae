//! Work that blocks, away from the runtime's workers. The tasks of a simulation do it where they are: time stands still
//! meanwhile, and a thread would bring chance into it.

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::sync::oneshot;
use tokio::task::JoinError;

/// How much a gentle thread steps back: beside a busy one it has a quarter of the processor, alone all of it. Further back it
/// would get nothing where other processes are busy, too, and nobody could log in.
const GENTLE_NICENESS: i32 = 5;

/// Runs `work` where it may block.
///
/// # Errors
/// It panicked, or the runtime stops.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(test)]
    if crate::simulation::runtime::is_seeded() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// Runs work that takes the processor for long on a thread of its own, which leaves it to others whenever they want it.
/// The caller bounds how many there are. None if there was no thread for it, or if it panicked.
pub(crate) async fn run_gently<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    #[cfg(test)]
    if crate::simulation::runtime::is_seeded() {
        return Some(work());
    }
    let (done, is_done) = oneshot::channel();
    let run = move || {
        // Linux has a priority for each thread. Without the right to lower it, it works all the same.
        setpriority_process(Some(gettid()), GENTLE_NICENESS).ok();
        // The caller may have stopped waiting.
        drop(done.send(work()));
    };
    // A priority cannot be taken back, so no thread of a pool will do; making one costs little beside such work.
    std::thread::Builder::new().name("gentle".to_owned()).spawn(run).ok()?;
    is_done.await.ok()
}

/// Runs `work` where it may block, and waits for nothing. Without a runtime it is not run: its captures are dropped here.
pub(crate) fn detach(work: impl FnOnce() + Send + 'static) {
    #[cfg(test)]
    if crate::simulation::runtime::is_seeded() {
        return work();
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(work);
    }
}
