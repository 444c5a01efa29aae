//! A write of several transactions. The first puts a marker beside the data, the last takes it away, and who follows the
//! data shows nothing of them in between.
//!
//! - No write begins while there is a marker, so two never mix.
//! - Each transaction but the first needs the marker, so doing one again changes nothing, and one that was delayed on its
//!   way does nothing once the write has ended.
//! - The marker goes with its lease if the writer does. The lease is revoked at the end: a first transaction that was
//!   delayed needs it.

use super::Failure;
use super::etcd::{Committed, Etcd, PAUSES, STAGING, failed};
use super::plan::{self, Op};
use crate::state::Table;
use api::etcdserverpb::{Compare, LeaseRevokeRequest, PutRequest, TxnRequest, TxnResponse};
use bytes::Bytes;
use client::message::{self, op};
use tokio::time::{Instant, sleep};

/// The lease and the marker of a write.
struct Stage {
    marker: Vec<u8>,
    marker_lease: i64,
    /// Until then the lease lives, whatever happens.
    until: Instant,
    /// Of what is written, if it goes by itself.
    lease: i64,
}

/// How the parts of a write have ended.
enum Ended {
    /// All are done, the last with this revision.
    Done(i64),
    /// The first was not, so none is.
    Refused(Committed),
}

impl Etcd {
    /// Commits the parts of a write, the first under conditions.
    pub(super) async fn stage(
        &self,
        table: Table,
        parts: Vec<Vec<Op>>,
        guard: Vec<Compare>,
        lease: i64,
    ) -> Result<Committed, Failure> {
        let until = Instant::now() + STAGING;
        let seconds = i64::try_from(STAGING.as_secs()).unwrap_or(i64::MAX);
        let marker_lease = self.client.grant(seconds).await.map_err(|error| failed(&error))?;
        let mut marker = self.layout.markers(table);
        marker.extend_from_slice(format!("{:016x}", rand::random::<u64>()).as_bytes());
        let stage = Stage { marker, marker_lease, until, lease };
        let ended = self.commit_parts(table, parts, guard, &stage).await;
        let revoking = async {
            if let Err(error) = self.client.lease_revoke(LeaseRevokeRequest { id: marker_lease }).await {
                tracing::debug!("the lease of a marker was not revoked, and ends by itself: {error}");
            }
        };
        match ended {
            Ok(Ended::Done(revision)) => {
                tokio::join!(revoking, self.echo(table, revision));
                Ok(Committed::Done)
            }
            Ok(Ended::Refused(committed)) => {
                revoking.await;
                Ok(committed)
            }
            // Nothing more will come, so nobody needs to wait for it.
            Err(failure) => {
                revoking.await;
                Err(failure)
            }
        }
    }

    async fn commit_parts(
        &self,
        table: Table,
        parts: Vec<Vec<Op>>,
        guard: Vec<Compare>,
        stage: &Stage,
    ) -> Result<Ended, Failure> {
        let last = parts.len().saturating_sub(1);
        let mut guard = Some(guard);
        for (number, part) in parts.into_iter().enumerate() {
            let request = match guard.take() {
                Some(guard) => stage.first(part, guard, message::prefix_range(self.layout.markers(table))),
                None => stage.next(part, number == last),
            };
            let (answer, is_repeated) = self.insist(&request, stage.until, number == 0).await?;
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            if answer.succeeded {
                if number == last {
                    return Ok(Ended::Done(revision));
                }
                continue;
            }
            if number == 0 {
                if plan::found(&answer).any(|kv| kv.key == stage.marker) {
                    // It was done the first time, when the answer got lost.
                    continue;
                }
                let is_marked = plan::found(&answer).next().is_some();
                return Ok(Ended::Refused(if is_marked { Committed::Marked } else { Committed::Changed }));
            }
            if number == last && is_repeated && Instant::now() < stage.until {
                // While the lease lives only this very part takes the marker away.
                return Ok(Ended::Done(revision));
            }
            return Err(Failure::Store(format!("the write took longer than {STAGING:?}; a part of it was done")));
        }
        Ok(Ended::Refused(Committed::Changed))
    }

    /// Sends a part again until it is known whether it was done: its answer, and whether it was sent before.
    async fn insist(
        &self,
        request: &TxnRequest,
        until: Instant,
        is_first: bool,
    ) -> Result<(TxnResponse, bool), Failure> {
        let (mut is_repeated, mut pause) = (false, PAUSES.0);
        loop {
            let error = match self.client.txn(request.clone()).await {
                Ok(answer) => return Ok((answer, is_repeated)),
                Err(error) => error,
            };
            // Nothing is done yet, and nothing has to be brought to its end.
            let is_undone = is_first && !is_repeated && !error.may_be_done();
            let is_over = Instant::now() + pause >= until || self.stop.is_cancelled();
            if is_undone || is_over || !(error.may_pass() || error.may_be_done()) {
                return Err(failed(&error));
            }
            is_repeated |= error.may_be_done();
            if self.stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return Err(failed(&error));
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

impl Stage {
    /// The first part: it needs the guard to hold, and puts the marker. If it does not hold it answers with the markers.
    fn first(&self, part: Vec<Op>, guard: Vec<Compare>, markers: (Bytes, Bytes)) -> TxnRequest {
        let mut request = plan::transaction(part, guard, self.lease, Some(plan::some_keys(markers)));
        // An empty list, because other metads take it for rules.
        let put = PutRequest { lease: self.marker_lease, ..message::put(self.marker.clone(), "[]") };
        request.success.insert(0, op::put(put));
        request
    }

    /// Another part, which needs the marker. The last takes it away.
    fn next(&self, part: Vec<Op>, is_last: bool) -> TxnRequest {
        let mut request = plan::transaction(part, vec![plan::exists(&self.marker)], self.lease, None);
        if is_last {
            request.success.push(op::delete(message::delete(self.marker.clone())));
        }
        request
    }
}
