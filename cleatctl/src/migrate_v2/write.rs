//! Writes files to the target, batch by batch, each in a transaction.

use super::plan::File;
use anyhow::{Context as _, Result, bail};
use api::error::Error as ApiError;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use api::mvccpb::KeyValue;
use client::message::{get, is_absent, modified_at, op};
use client::{Client, Error};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a batch is read again because somebody changed a key of it meanwhile.
const MAX_TRIES: usize = 10;

/// What became of the files.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) created: usize,
    pub(super) overwritten: usize,
    pub(super) unchanged: usize,
    /// Keys of the target that have another value, or another kind of life.
    pub(super) conflicts: Vec<String>,
    pub(super) expired: usize,
    pub(super) leases: usize,
}

/// Copies batches, or finds out what that would do.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    target: &'a Client,
    writes: bool,
    overwrites: bool,
    /// When the times of the files were read.
    read_at: Instant,
    /// By time: keys that expire in the same second share a lease. 0 while nothing is written.
    leases: BTreeMap<u64, i64>,
    outcome: Outcome,
}

/// A batch sorted by what the target has.
#[derive(Debug, Default)]
struct Sorted<'f> {
    absent: Vec<&'f File>,
    /// With the revision at which they were seen.
    replaced: Vec<(&'f File, i64)>,
    unchanged: usize,
    conflicts: Vec<String>,
    expired: usize,
}

impl<'f> Sorted<'f> {
    /// The files to write, as the transaction has them.
    fn written(&self) -> impl Iterator<Item = &'f File> {
        self.absent.iter().copied().chain(self.replaced.iter().map(|(file, _)| *file))
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(target: &'a Client, writes: bool, overwrites: bool, read_at: Instant) -> Self {
        Self { target, writes, overwrites, read_at, leases: BTreeMap::new(), outcome: Outcome::default() }
    }

    pub(super) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    pub(super) fn into_outcome(self) -> Outcome {
        self.outcome
    }

    /// Copies some files, all at once.
    pub(super) async fn batch(&mut self, files: &[File]) -> Result<()> {
        for _ in 0..MAX_TRIES {
            let sorted = self.sort(files).await?;
            if self.write(&sorted).await? {
                self.outcome.created += sorted.absent.len();
                self.outcome.overwritten += sorted.replaced.len();
                self.outcome.unchanged += sorted.unchanged;
                self.outcome.conflicts.extend(sorted.conflicts);
                self.outcome.expired += sorted.expired;
                return Ok(());
            }
        }
        bail!("keys around {:?} are changed by somebody else all the time", files[0].target)
    }

    /// Reads what the target has.
    async fn sort<'f>(&self, files: &'f [File]) -> Result<Sorted<'f>> {
        let success = files.iter().map(|file| op::range(get(file.target.clone()))).collect();
        let answer = self.target.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        let mut sorted = Sorted::default();
        for (index, file) in files.iter().enumerate() {
            let response = answer.responses.get(index).and_then(|response| response.response.as_ref());
            let Some(Response::ResponseRange(range)) = response else { bail!("the target answers something else") };
            match range.kvs.first() {
                _ if file.ttl.is_some_and(|ttl| self.left(ttl).is_zero()) => sorted.expired += 1,
                None => sorted.absent.push(file),
                Some(kv) if is_same(file, kv) => sorted.unchanged += 1,
                Some(kv) if self.overwrites => sorted.replaced.push((file, kv.mod_revision)),
                Some(_) => sorted.conflicts.push(file.target.clone()),
            }
        }
        Ok(sorted)
    }

    /// Writes what is missing; false if the target has changed since it was read.
    async fn write(&mut self, sorted: &Sorted<'_>) -> Result<bool> {
        let compare = sorted
            .absent
            .iter()
            .map(|file| is_absent(file.target.clone()))
            .chain(sorted.replaced.iter().map(|(file, revision)| modified_at(file.target.clone(), *revision)))
            .collect::<Vec<_>>();
        let mut success = Vec::with_capacity(compare.len());
        for file in sorted.written() {
            let lease = match file.ttl {
                Some(ttl) => self.lease(ttl).await?,
                None => 0,
            };
            let (key, value) = (file.target.clone().into(), file.value.clone().into());
            let put = PutRequest { key, value, lease, ..PutRequest::default() };
            success.push(RequestOp { request: Some(Request::RequestPut(put)) });
        }
        if !self.writes || success.is_empty() {
            return Ok(true);
        }
        match self.target.txn(TxnRequest { compare, success, ..TxnRequest::default() }).await {
            Ok(answer) => Ok(answer.succeeded),
            // Reading it again tells.
            Err(Error::Lost { .. } | Error::Timeout { .. }) => Ok(false),
            // A lease that has expired meanwhile, and its keys with it; or that somebody revoked: then they get another.
            Err(error) if error.is(ApiError::LeaseNotFound) => {
                for ttl in sorted.written().filter_map(|file| file.ttl) {
                    self.leases.remove(&ttl);
                }
                Ok(false)
            }
            Err(error) => Err(error).with_context(|| match sorted.absent.first() {
                Some(file) => format!("cannot write {:?} and the keys behind it", file.target),
                None => "cannot write".to_owned(),
            }),
        }
    }

    /// The lease of keys that expire so many seconds after the tree was read.
    async fn lease(&mut self, ttl: u64) -> Result<i64> {
        if let Some(id) = self.leases.get(&ttl) {
            return Ok(*id);
        }
        let seconds = self.left(ttl).as_secs_f64().ceil();
        let id =
            if self.writes { self.target.grant(seconds as i64).await.context("cannot grant a lease")? } else { 0 };
        self.leases.insert(ttl, id);
        self.outcome.leases = self.leases.len();
        Ok(id)
    }

    fn left(&self, ttl: u64) -> Duration {
        Duration::from_secs(ttl).saturating_sub(self.read_at.elapsed())
    }
}

/// True if the target has the file: the value, and whether it expires.
fn is_same(file: &File, kv: &KeyValue) -> bool {
    kv.value == file.value && (kv.lease != 0) == file.ttl.is_some()
}
