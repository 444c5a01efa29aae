//! Keeps what was made of files up to date with them.
//!
//! [`Reloading::current`] is asked for every connection. It looks at the files at most once in [`LOOK_INTERVAL`],
//! reads them when they look different, and makes the value anew when their bytes are. Files that cannot be used
//! leave the old value in place and a warning in the log, once for each content. Files that cannot be read are tried
//! again at every look: how they look says nothing about when reading works again, as after a shortage of descriptors.

use super::files::{Contents, Stamps, TlsError};
use parking_lot::Mutex;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a changed file may go unnoticed while connections come in.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

type Build<T> = dyn Fn(&Contents) -> Result<T, TlsError> + Send + Sync;

/// A value made of files.
pub(super) struct Reloading<T> {
    files: Vec<PathBuf>,
    build: Box<Build<T>>,
    /// What the value is for, in log lines.
    purpose: &'static str,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Arc<T>,
    seen: Seen,
    looked: Instant,
    /// One look at a time; whoever comes meanwhile takes the current value.
    is_looking: bool,
}

#[derive(Clone)]
struct Seen {
    stamps: Stamps,
    /// Of the last contents that could be read, fit for use or not.
    digest: [u8; 32],
    /// Why the files could not be read at the last look.
    unread: Option<String>,
}

impl Seen {
    /// True if reading the files again cannot bring anything new.
    fn is_up_to_date(&self, stamps: &Stamps) -> bool {
        self.unread.is_none() && self.stamps.show_no_change(stamps)
    }
}

impl<T> fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Reads the files and makes the value for the first time.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub(super) fn new(
        files: Vec<PathBuf>,
        purpose: &'static str,
        build: impl Fn(&Contents) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, TlsError> {
        // Before the reading: a change in between is then seen as one.
        let stamps = Stamps::of(&files);
        let contents = Contents::read(&files)?;
        let current = Arc::new(build(&contents)?);
        let seen = Seen { stamps, digest: contents.digest(), unread: None };
        let state = Mutex::new(State { current, seen, looked: Instant::now(), is_looking: false });
        Ok(Arc::new(Self { files, build: Box::new(build), purpose, state }))
    }

    /// The value of the newest files that could be used.
    pub(super) async fn current(self: &Arc<Self>) -> Arc<T> {
        {
            let mut state = self.state.lock();
            if state.is_looking || state.looked.elapsed() < LOOK_INTERVAL {
                return Arc::clone(&state.current);
            }
            state.is_looking = true;
        }
        let this = Arc::clone(self);
        // A caller that goes away does not end the look.
        let looked = tokio::task::spawn_blocking(move || this.look(Contents::read)).await;
        let mut state = self.state.lock();
        if let Err(error) = looked {
            // It did not come to its end, so the next caller looks.
            state.is_looking = false;
            tracing::warn!(purpose = self.purpose, %error, "cannot look at TLS files");
        }
        Arc::clone(&state.current)
    }

    /// Looks whether the files have changed, and acts on it. How they are read is a parameter for tests of failures
    /// that do not show in how files look.
    pub(super) fn look(&self, read: impl FnOnce(&[PathBuf]) -> Result<Contents, TlsError>) {
        let seen = self.state.lock().seen.clone();
        let stamps = Stamps::of(&self.files);
        let renewed =
            if seen.is_up_to_date(&stamps) { None } else { Some(self.renew(seen, stamps, read(&self.files))) };
        let mut state = self.state.lock();
        state.looked = Instant::now();
        state.is_looking = false;
        if let Some((seen, value)) = renewed {
            state.seen = seen;
            if let Some(value) = value {
                state.current = Arc::new(value);
            }
        }
    }

    /// Judges what was read; None if there is no new value.
    fn renew(&self, mut seen: Seen, stamps: Stamps, read: Result<Contents, TlsError>) -> (Seen, Option<T>) {
        seen.stamps = stamps;
        let contents = match read {
            Ok(contents) => contents,
            Err(error) => {
                let reason = error.to_string();
                if seen.unread.as_ref() != Some(&reason) {
                    tracing::warn!(purpose = self.purpose, %error, "TLS files cannot be read; keeping the old ones");
                }
                seen.unread = Some(reason);
                return (seen, None);
            }
        };
        if seen.unread.take().is_some() {
            tracing::info!(purpose = self.purpose, "TLS files can be read again");
        }
        let digest = contents.digest();
        if digest == seen.digest {
            return (seen, None);
        }
        seen.digest = digest;
        let value = match (self.build)(&contents) {
            Ok(value) => {
                tracing::info!(purpose = self.purpose, "TLS files have changed; new connections use the new ones");
                Some(value)
            }
            Err(error) => {
                tracing::warn!(purpose = self.purpose, %error, "TLS files have changed and cannot be used; keeping the old ones");
                None
            }
        };
        (seen, value)
    }
}
