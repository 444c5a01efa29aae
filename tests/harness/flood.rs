//! More puts than a server takes.
//!
//! A [`Flood`] has thousands of puts under way at any time, so that its server's queue is full, and counts which were refused
//! as too many.

use crate::client::Client;
use anyhow::{Context, Result};
use api::etcdserverpb::{PutRequest, RangeRequest};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::{Code, Status};

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// Between a refusal and the next try. It is the queue that is to be full, and not the processor.
const PAUSE: Duration = Duration::from_millis(300);
/// Puts under way: more than a server of either maker lets wait.
const WRITERS: usize = 6000;
/// Large enough that a log entry has 64 of them.
const VALUE_BYTES: usize = 16 << 10;

/// Puts without an end.
#[derive(Debug)]
pub struct Flood {
    writers: JoinSet<()>,
    refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    /// Begins, with the puts shared out among connections.
    pub fn start(connections: &[Client]) -> Self {
        let (refused, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut writers = JoinSet::new();
        for (n, client) in connections.iter().cycle().take(WRITERS).enumerate() {
            writers.spawn(write(client.clone(), n, Arc::clone(&refused), Arc::clone(&stop)));
        }
        Self { writers, refused, stop }
    }

    /// Waits until more puts are refused.
    ///
    /// # Errors
    /// None is.
    pub async fn refuses(&self) -> Result<()> {
        let before = self.refused.load(Ordering::Relaxed);
        let more = async {
            while self.refused.load(Ordering::Relaxed) == before {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(DEADLINE, more).await.context("no put is refused")
    }

    /// Stops, and waits for what is under way.
    pub async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.writers.join_next().await.is_some() {}
    }
}

async fn write(client: Client, n: usize, refused: Arc<AtomicUsize>, stop: Arc<AtomicBool>) {
    let mut kv = client.kv;
    let (key, value) = (Bytes::from(format!("flood/{n}")), Bytes::from(vec![b'v'; VALUE_BYTES]));
    while !stop.load(Ordering::Relaxed) {
        let put = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        if let Err(error) = kv.put(put).await {
            // Others waited for too long.
            refused.fetch_add(usize::from(is_too_many(&error)), Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn is_too_many(error: &Status) -> bool {
    error.code() == Code::Unknown && error.message() == "etcdserver: too many requests"
}

/// The revision of a server as it is now.
///
/// # Errors
/// It does not answer.
pub async fn revision(client: &Client) -> Result<i64> {
    let request = RangeRequest { key: "none".into(), serializable: true, ..Default::default() };
    Ok(client.kv.clone().range(request).await?.into_inner().header.unwrap_or_default().revision)
}
