//! How long requests take, by what they are: histograms whose labels are etcd's names of requests.
//!
//! A series begins with its first value, so that only what is used is shown. Its place is known from then on: to count costs
//! no look-up by label.

use api::cleatpb::command::Op;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry, Result};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Buckets of what is done in memory: from 0.1 ms on. etcd's.
const SHORT: (f64, usize) = (0.0001, 20);

/// Buckets of what waits for a disk or other members: from 1 ms on. etcd's.
const LONG: (f64, usize) = (0.001, 14);

/// A kind of request. Its name is the label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are etcd's")]
pub enum Kind {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterMemberAttrSet,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
    /// A member that was removed, and what the v2 API changes.
    Unknown,
}

const KINDS: usize = Kind::Unknown as usize + 1;

impl Kind {
    /// The kind of a command.
    pub fn of(op: &Op) -> Self {
        match op {
            Op::Put(_) => Self::Put,
            Op::DeleteRange(_) => Self::DeleteRange,
            Op::Txn(_) => Self::Txn,
            Op::Compaction(_) => Self::Compaction,
            Op::LeaseGrant(_) => Self::LeaseGrant,
            Op::LeaseRevoke(_) => Self::LeaseRevoke,
            Op::LeaseCheckpoint(_) => Self::LeaseCheckpoint,
            Op::Alarm(_) => Self::Alarm,
            Op::MemberAttributes(_) => Self::ClusterMemberAttrSet,
            Op::Authentication(_) => Self::Authenticate,
            Op::AuthEnable(_) => Self::AuthEnable,
            Op::AuthDisable(_) => Self::AuthDisable,
            Op::AuthUserAdd(_) => Self::AuthUserAdd,
            Op::AuthUserDelete(_) => Self::AuthUserDelete,
            Op::AuthUserChangePassword(_) => Self::AuthUserChangePassword,
            Op::AuthUserGrantRole(_) => Self::AuthUserGrantRole,
            Op::AuthUserRevokeRole(_) => Self::AuthUserRevokeRole,
            Op::AuthRoleAdd(_) => Self::AuthRoleAdd,
            Op::AuthRoleDelete(_) => Self::AuthRoleDelete,
            Op::AuthRoleGrantPermission(_) => Self::AuthRoleGrantPermission,
            Op::AuthRoleRevokePermission(_) => Self::AuthRoleRevokePermission,
            Op::MemberRemoved(_) | Op::V2(_) => Self::Unknown,
        }
    }
}

/// A family with the labels of a kind and of success. Clones are the same.
#[derive(Clone)]
pub struct Times(Arc<Inner>);

struct Inner {
    family: HistogramVec,
    /// What is before the kind among the labels: etcd's API version, of applied requests.
    version: Option<&'static str>,
    /// Whether the kind is a label.
    has_kind: bool,
    known: [[OnceLock<Histogram>; 2]; KINDS],
}

impl fmt::Debug for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Times").finish_non_exhaustive()
    }
}

impl Times {
    /// `{version, op, success}`, for what is applied.
    pub(super) fn applied(registry: &Registry, name: &str, help: &str) -> Result<Self> {
        Self::register(registry, (name, help), &["version", "op", "success"], Some("v3"), SHORT)
    }

    /// `{type, success}`, for what a client waits for.
    pub(super) fn answered(registry: &Registry, name: &str, help: &str) -> Result<Self> {
        Self::register(registry, (name, help), &["type", "success"], None, LONG)
    }

    /// `{success}`, for reads.
    pub(super) fn read(registry: &Registry, name: &str, help: &str) -> Result<Self> {
        Self::register(registry, (name, help), &["success"], None, SHORT)
    }

    fn register(
        registry: &Registry,
        (name, help): (&str, &str),
        labels: &[&str],
        version: Option<&'static str>,
        (start, count): (f64, usize),
    ) -> Result<Self> {
        let buckets = prometheus::exponential_buckets(start, 2.0, count)?;
        let family = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
        let family = super::registered(registry, family)?;
        let known = std::array::from_fn(|_| [OnceLock::new(), OnceLock::new()]);
        Ok(Self(Arc::new(Inner { family, version, has_kind: labels.len() > 1, known })))
    }

    /// Counts a request that took so long.
    pub fn observe(&self, kind: Kind, is_success: bool, took: Duration) {
        let place = &self.0.known[kind as usize][usize::from(is_success)];
        place.get_or_init(|| self.series(kind, is_success)).observe(took.as_secs_f64());
    }

    fn series(&self, kind: Kind, is_success: bool) -> Histogram {
        let (kind, success) = (format!("{kind:?}"), if is_success { "true" } else { "false" });
        let labels: Vec<&str> =
            self.0.version.into_iter().chain(self.0.has_kind.then_some(&*kind)).chain([success]).collect();
        self.0.family.with_label_values(&labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder as _, TextEncoder};

    #[test]
    fn series_have_etcds_labels() {
        let registry = Registry::new();
        let took = Duration::from_millis(3);
        Times::applied(&registry, "applied", "a").unwrap().observe(Kind::Put, true, took);
        let answered = Times::answered(&registry, "answered", "b").unwrap();
        answered.observe(Kind::ReadonlyTxn, false, took);
        answered.clone().observe(Kind::ReadonlyTxn, false, took);
        Times::read(&registry, "read", "c").unwrap().observe(Kind::Range, true, took);
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            r#"applied_count{op="Put",success="true",version="v3"} 1"#,
            r#"applied_bucket{op="Put",success="true",version="v3",le="0.0032"} 1"#,
            r#"applied_bucket{op="Put",success="true",version="v3",le="52.4288"} 1"#,
            r#"answered_count{success="false",type="ReadonlyTxn"} 2"#,
            r#"answered_bucket{success="false",type="ReadonlyTxn",le="8.192"} 2"#,
            r#"read_count{success="true"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(text.lines().filter(|line| line.contains("_count{")).count(), 3);
    }
}
