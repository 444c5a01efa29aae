//! A copy of all keys with a prefix that is kept up to date.
//!
//! A [`Mirror`] reads the keys, watches them from the next revision on, and reads them again when the store cannot tell
//! what came next. It has no task and no copy of its own: it works while [`Mirror::next`] is polled, and who polls keeps
//! what it tells.

use crate::call::pause_between;
use crate::client::{Client, Listing};
use crate::error::Error;
use crate::message;
use crate::watch::{Events, Watch, WatchOptions};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// After a first failure; each that follows doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A watch that lasted so long was a good one, with an event or without.
const STEADY: Duration = Duration::from_secs(10);

/// What is new about the keys.
#[derive(Debug)]
pub enum Update {
    /// All keys, in the place of those that were known.
    Listing(Listing),
    /// What happened since.
    Events(Events),
    /// The keys cannot be read now. What was known may be old; it is tried again.
    Unread(Error),
    /// The store cannot tell what came next, so all keys will be read again.
    Lost(Error),
}

/// Follows the keys with a prefix.
#[derive(Debug)]
pub struct Mirror {
    client: Client,
    prefix: Bytes,
    watch: Option<Watch>,
    watched_since: Option<Instant>,
    /// Revision that a watch has to be made for.
    listed: Option<i64>,
    pause: Duration,
    next_try: Option<Instant>,
}

impl Mirror {
    /// Nothing is asked yet.
    pub fn new(client: Client, prefix: impl Into<Bytes>) -> Self {
        Self {
            client,
            prefix: prefix.into(),
            watch: None,
            watched_since: None,
            listed: None,
            pause: FIRST_PAUSE,
            next_try: None,
        }
    }

    /// What is new, however long that takes. The first is a listing, or why there is none. Cancel safe: what was not
    /// returned comes the next time.
    pub async fn next(&mut self) -> Update {
        if let Some(next_try) = self.next_try {
            sleep_until(next_try).await;
            self.next_try = None;
        }
        if let Some(revision) = self.listed {
            match self.begin_watch(revision + 1).await {
                Ok(watch) => {
                    (self.watch, self.listed) = (Some(watch), None);
                    self.watched_since = Some(Instant::now());
                }
                Err(error) => return self.lost(error),
            }
        }
        if let Some(watch) = &mut self.watch {
            return match watch.next().await {
                Ok(events) => {
                    self.pause = FIRST_PAUSE;
                    Update::Events(events)
                }
                Err(error) => self.lost(error),
            };
        }
        match self.client.list(self.prefix.clone()).await {
            Ok(listing) => {
                // The pause stays: a store that lists and refuses to be watched would be listed in a loop.
                self.listed = Some(listing.revision);
                Update::Listing(listing)
            }
            Err(error) => {
                self.rest();
                Update::Unread(error)
            }
        }
    }

    async fn begin_watch(&self, start_revision: i64) -> Result<Watch, Error> {
        let (key, range_end) = message::prefix_range(self.prefix.clone());
        self.client.watch(WatchOptions { key, range_end, start_revision, ..WatchOptions::default() }).await
    }

    fn lost(&mut self, error: Error) -> Update {
        (self.watch, self.listed) = (None, None);
        if self.watched_since.take().is_some_and(|since| since.elapsed() >= STEADY) {
            self.pause = FIRST_PAUSE;
        }
        self.rest();
        Update::Lost(error)
    }

    fn rest(&mut self) {
        self.next_try = Some(Instant::now() + pause_between(self.pause));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
