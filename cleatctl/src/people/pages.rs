//! Keys of a prefix as they were at one revision, a page at a time.

use anyhow::{Context as _, Result};
use api::etcdserverpb::RangeRequest;
use api::mvccpb::KeyValue;
use bytes::Bytes;
use client::{Client, Error, WatchOptions, message};
use std::collections::VecDeque;
use std::time::Duration;

/// Keys in the first page: nothing is known of their size yet, and values may be of megabytes.
const KEYS_FIRST: i64 = 16;

/// The most keys in any page.
const KEYS_MAX: i64 = 1000;

/// About the size of a page: the next one has as many keys as fit with values like those before.
const PAGE_BYTES: usize = 4 << 20;

/// How long a server is asked what it has compacted.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Reads the keys of a prefix in ascending order. Holds one page.
#[derive(Debug)]
pub(crate) struct Pages {
    client: Client,
    request: RangeRequest,
    page: VecDeque<KeyValue>,
    is_last: bool,
}

impl Pages {
    /// All keys with a prefix at a revision; 0 is the present one, and every page is of the same.
    pub(crate) fn new(client: &Client, prefix: &[u8], revision: i64) -> Self {
        let mut request = message::get_prefix(Bytes::copy_from_slice(prefix));
        request.revision = revision;
        request.limit = KEYS_FIRST;
        Self { client: client.clone(), request, page: VecDeque::new(), is_last: false }
    }

    /// The present keys of a range; an empty end means one key.
    pub(crate) fn of_range(client: &Client, key: &Bytes, range_end: &Bytes) -> Self {
        let mut pages = Self::new(client, key, 0);
        (pages.request.key, pages.request.range_end) = (key.clone(), range_end.clone());
        pages
    }

    /// Without their values.
    pub(crate) fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// The revision that is read: known after the first page at the latest.
    pub(crate) fn revision(&self) -> i64 {
        self.request.revision
    }

    /// The next key, None behind the last.
    ///
    /// # Errors
    /// As of a range, with the oldest revision that can be read if this one is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<KeyValue>> {
        while self.page.is_empty() && !self.is_last {
            self.read().await?;
        }
        Ok(self.page.pop_front())
    }

    async fn read(&mut self) -> Result<()> {
        let answer = match self.client.range(self.request.clone()).await {
            Ok(answer) => answer,
            Err(error) => return Err(told(&self.client, error, self.request.revision).await),
        };
        if self.request.revision == 0 {
            self.request.revision = answer.header.context("the server's answer has no header")?.revision;
        }
        self.is_last = !answer.more || answer.kvs.is_empty();
        // What is behind a single key is nothing.
        self.is_last |= self.request.range_end.is_empty();
        if let Some(last) = answer.kvs.last() {
            self.request.key = message::after(&last.key);
        }
        let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        self.request.limit = next_limit(self.request.limit, bytes, answer.kvs.len());
        self.page = answer.kvs.into();
        Ok(())
    }
}

/// Keys of the page behind one of so many keys and bytes: as many as fit, but at most twice as many as before.
fn next_limit(limit: i64, bytes: usize, keys: usize) -> i64 {
    let average = (bytes / keys.max(1)).max(1);
    let fitting = i64::try_from(PAGE_BYTES / average).unwrap_or(KEYS_MAX);
    fitting.min(limit.saturating_mul(2)).clamp(1, KEYS_MAX)
}

/// The error of a read at a revision, with what can be done about it.
pub(crate) async fn told(client: &Client, error: Error, revision: i64) -> anyhow::Error {
    if error.is(api::error::Error::Compacted) {
        return match compact_revision(client).await {
            Some(oldest) => {
                anyhow::anyhow!("revision {revision} has been compacted; the oldest that can still be read is {oldest}")
            }
            None => anyhow::anyhow!("revision {revision} has been compacted; name a later one"),
        };
    }
    if error.is(api::error::Error::FutureRevision) {
        return anyhow::anyhow!("revision {revision} does not exist yet; leave it out to read the present state");
    }
    error.into()
}

/// What the store was compacted at, as a watch that begins too early is told.
async fn compact_revision(client: &Client) -> Option<i64> {
    let options = WatchOptions { key: Bytes::from_static(b"\0"), start_revision: 1, ..WatchOptions::default() };
    let probe = async {
        match client.watch(options).await.ok()?.next().await {
            Err(Error::Compacted { compact_revision, .. }) => Some(compact_revision),
            _ => None,
        }
    };
    tokio::time::timeout(PROBE_LIMIT, probe).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_while_they_are_small() {
        let mut limits = vec![KEYS_FIRST];
        for _ in 0..7 {
            let limit = *limits.last().unwrap();
            limits.push(next_limit(limit, 100 * limit as usize, limit as usize));
        }
        assert_eq!(limits, [16, 32, 64, 128, 256, 512, 1000, 1000]);
        assert_eq!(next_limit(16, 16 << 20, 16), 4);
        assert_eq!(next_limit(4, 64 << 20, 4), 1);
        assert_eq!(next_limit(1, 0, 0), 2);
    }
}
