//! Work that blocks, away from the runtime's workers. The tasks of a simulation do it where they are: time stands still
//! meanwhile, and a thread would bring chance into it.

use tokio::task::JoinError;

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
