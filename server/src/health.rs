//! Whether this member is healthy: the checks, their HTTP answers (`/health`, `/livez`, `/readyz`) and gRPC's health
//! service.
//!
//! `server` fills [`HealthChecks`] with closures over the node; `http` routes to the answers made here. The texts are
//! etcd's, because probes and operators' scripts read them.

use crate::metrics::Metrics;
use api::health::health_check_response::ServingStatus;
use api::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use api::server::health_server::Health;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// A check that takes longer has failed. Longer than a linearizable read waits at the default election timeout.
const CHECK_DEADLINE: Duration = Duration::from_secs(8);

/// An active alarm, as a check sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The store is full.
    NoSpace,
    /// The data of members differs.
    Corrupt,
}

impl Alarm {
    fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }
}

/// A read of the store, or the reason why it failed.
pub type ReadCheck = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What can be asked of a member.
pub struct HealthChecks {
    /// True if a leader is known.
    pub has_leader: Box<dyn Fn() -> bool + Send + Sync>,
    /// True if this member is a learner.
    pub is_learner: Box<dyn Fn() -> bool + Send + Sync>,
    /// The active alarms.
    pub alarms: Box<dyn Fn() -> Vec<Alarm> + Send + Sync>,
    /// Reads from this member's store.
    pub serializable_read: ReadCheck,
    /// Reads after the leader confirmed that the answer is current.
    pub linearizable_read: ReadCheck,
    /// Why this member has no place in a cluster yet, if it has none.
    pub found_its_place: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// False once this member ends.
    pub serves: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for HealthChecks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthChecks").finish_non_exhaustive()
    }
}

/// One of the probes that Kubernetes asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Should the process be restarted?
    Livez,
    /// Should it get traffic?
    Readyz,
}

/// A check of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// No CORRUPT alarm.
    DataCorruption,
    /// A read from this member's store.
    SerializableRead,
    /// A read confirmed by the leader.
    LinearizableRead,
    /// Not a learner.
    NonLearner,
    /// It is part of a cluster. Not etcd's.
    FoundItsPlace,
    /// It has not been asked to end. Not etcd's.
    NotStopping,
}

impl Probe {
    fn name(self) -> &'static str {
        match self {
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }

    /// The checks of this probe.
    pub fn checks(self) -> &'static [Check] {
        match self {
            Self::Livez => &[Check::SerializableRead],
            Self::Readyz => &[
                Check::NotStopping,
                Check::FoundItsPlace,
                Check::DataCorruption,
                Check::SerializableRead,
                Check::LinearizableRead,
                Check::NonLearner,
            ],
        }
    }

    /// The check with this name, if it belongs to this probe.
    pub fn check(self, name: &str) -> Option<Check> {
        self.checks().iter().copied().find(|check| check.name() == name)
    }
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
            Self::FoundItsPlace => "found_its_place",
            Self::NotStopping => "not_stopping",
        }
    }

    /// True for what etcd checks, too. The others are named only where they fail or are asked for, so that what is read
    /// of a member that is well is etcd's.
    fn is_etcds(self) -> bool {
        !matches!(self, Self::FoundItsPlace | Self::NotStopping)
    }
}

/// The answer of a probe.
#[derive(Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// True if all checks succeeded.
    pub is_ok: bool,
    /// One line for each check.
    pub details: String,
}

impl HealthChecks {
    /// Answers `/health`: `None` is healthy, otherwise the reason.
    pub async fn health(&self, metrics: &Metrics, serializable: bool, excluded: &[String]) -> Option<String> {
        let reason = self.unhealthy_reason(serializable, excluded).await;
        match reason {
            None => metrics.server.health_success.inc(),
            Some(_) => metrics.server.health_failures.inc(),
        }
        reason
    }

    async fn unhealthy_reason(&self, serializable: bool, excluded: &[String]) -> Option<String> {
        let alarm = (self.alarms)().into_iter().find(|alarm| excluded.iter().all(|name| name != alarm.name()));
        if let Some(alarm) = alarm {
            return Some(format!("ALARM {}", alarm.name()));
        }
        if !serializable && !(self.has_leader)() {
            return Some("RAFT NO LEADER".to_owned());
        }
        let read = if serializable { &self.serializable_read } else { &self.linearizable_read };
        in_time(read()).await.err().map(|reason| format!("RANGE ERROR:{reason}"))
    }

    /// Answers a probe with these checks.
    pub async fn probe(&self, metrics: &Metrics, probe: Probe, checks: &[Check]) -> ProbeAnswer {
        let mut answer = ProbeAnswer { is_ok: true, details: String::new() };
        for check in checks {
            let result = self.run(*check).await;
            let labels = [probe.name(), check.name()];
            if result.is_ok() && !check.is_etcds() && checks.len() > 1 {
                // It is told only while it fails; it may never have.
                metrics.server.healthcheck.remove_label_values(&labels).ok();
                continue;
            }
            let (line, status) = match &result {
                Ok(()) => (format!("[+]{} ok\n", check.name()), "success"),
                Err(reason) => (format!("[-]{} failed: {reason}\n", check.name()), "error"),
            };
            answer.details += &line;
            answer.is_ok &= result.is_ok();
            metrics.server.healthcheck.with_label_values(&labels).set(i64::from(result.is_ok()));
            metrics.server.healthchecks.with_label_values(&[labels[0], labels[1], status]).inc();
        }
        answer
    }

    async fn run(&self, check: Check) -> Result<(), String> {
        match check {
            Check::DataCorruption if (self.alarms)().contains(&Alarm::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::NonLearner if (self.is_learner)() => Err("not supported for learner".to_owned()),
            Check::DataCorruption | Check::NonLearner => Ok(()),
            Check::FoundItsPlace => (self.found_its_place)(),
            Check::NotStopping if (self.serves)() => Ok(()),
            Check::NotStopping => Err("this member ends".to_owned()),
            Check::SerializableRead => {
                in_time((self.serializable_read)()).await.map_err(|reason| format!("range error: {reason}"))
            }
            Check::LinearizableRead => {
                in_time((self.linearizable_read)()).await.map_err(|reason| format!("range error: {reason}"))
            }
        }
    }
}

async fn in_time(read: BoxFuture<'static, Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(CHECK_DEADLINE, read).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}

/// gRPC's health service. It knows the whole server (an empty service name) and nothing else, as in etcd.
#[derive(Clone, Debug)]
pub struct GrpcHealth {
    serving: watch::Receiver<bool>,
}

impl GrpcHealth {
    /// Reports what `serving` says; watches end when its sender is dropped.
    pub fn new(serving: watch::Receiver<bool>) -> Self {
        Self { serving }
    }

    fn answer(&self) -> HealthCheckResponse {
        response(*self.serving.borrow())
    }
}

fn response(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for GrpcHealth {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if request.get_ref().service.is_empty() {
            Ok(Response::new(self.answer()))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = WatchStream::new(self.serving.clone());
        let is_known = request.get_ref().service.is_empty();
        let answers = statuses.map(move |serving| {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            Ok(if is_known { response(serving) } else { unknown })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Ok(Response::new(HealthListResponse { statuses: HashMap::from([(String::new(), self.answer())]) }))
    }
}
