//! Counters of every RPC, with the names and labels of go-grpc-prometheus, which etcd's dashboards query.
//!
//! All series exist from the start with 0, and a call holds its counters, so that counting is an atomic addition
//! and never a lookup by label. `listen` counts; nothing else does.

use super::{counter_vec, histogram_vec};
use parking_lot::RwLock;
use prometheus::{Histogram, IntCounter, IntCounterVec, Registry};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tonic::Code;

/// How requests and responses of a method are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallType {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStream,
    /// Many of both.
    BidiStream,
}

impl CallType {
    fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// One method of the API.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// `/package.Service/Method`, as in the request.
    pub path: &'static str,
    /// How it is counted.
    pub call_type: CallType,
}

impl Method {
    /// `package.Service`.
    pub fn service(&self) -> &'static str {
        self.split().0
    }

    /// The method's name.
    pub fn name(&self) -> &'static str {
        self.split().1
    }

    fn split(&self) -> (&'static str, &'static str) {
        self.path[1..].split_once('/').expect("invariant: paths of the table have two segments")
    }
}

const fn unary(path: &'static str) -> Method {
    Method { path, call_type: CallType::Unary }
}

const fn server_stream(path: &'static str) -> Method {
    Method { path, call_type: CallType::ServerStream }
}

const fn bidi_stream(path: &'static str) -> Method {
    Method { path, call_type: CallType::BidiStream }
}

/// Every method that a member can serve.
pub const METHODS: [Method; 52] = [
    unary("/etcdserverpb.KV/Range"),
    server_stream("/etcdserverpb.KV/RangeStream"),
    unary("/etcdserverpb.KV/Put"),
    unary("/etcdserverpb.KV/DeleteRange"),
    unary("/etcdserverpb.KV/Txn"),
    unary("/etcdserverpb.KV/Compact"),
    bidi_stream("/etcdserverpb.Watch/Watch"),
    unary("/etcdserverpb.Lease/LeaseGrant"),
    unary("/etcdserverpb.Lease/LeaseRevoke"),
    bidi_stream("/etcdserverpb.Lease/LeaseKeepAlive"),
    unary("/etcdserverpb.Lease/LeaseTimeToLive"),
    unary("/etcdserverpb.Lease/LeaseLeases"),
    unary("/etcdserverpb.Cluster/MemberAdd"),
    unary("/etcdserverpb.Cluster/MemberRemove"),
    unary("/etcdserverpb.Cluster/MemberUpdate"),
    unary("/etcdserverpb.Cluster/MemberList"),
    unary("/etcdserverpb.Cluster/MemberPromote"),
    unary("/etcdserverpb.Maintenance/Alarm"),
    unary("/etcdserverpb.Maintenance/Status"),
    unary("/etcdserverpb.Maintenance/Defragment"),
    unary("/etcdserverpb.Maintenance/Hash"),
    unary("/etcdserverpb.Maintenance/HashKV"),
    server_stream("/etcdserverpb.Maintenance/Snapshot"),
    unary("/etcdserverpb.Maintenance/MoveLeader"),
    unary("/etcdserverpb.Maintenance/Downgrade"),
    unary("/etcdserverpb.Auth/AuthEnable"),
    unary("/etcdserverpb.Auth/AuthDisable"),
    unary("/etcdserverpb.Auth/AuthStatus"),
    unary("/etcdserverpb.Auth/Authenticate"),
    unary("/etcdserverpb.Auth/UserAdd"),
    unary("/etcdserverpb.Auth/UserGet"),
    unary("/etcdserverpb.Auth/UserList"),
    unary("/etcdserverpb.Auth/UserDelete"),
    unary("/etcdserverpb.Auth/UserChangePassword"),
    unary("/etcdserverpb.Auth/UserGrantRole"),
    unary("/etcdserverpb.Auth/UserRevokeRole"),
    unary("/etcdserverpb.Auth/RoleAdd"),
    unary("/etcdserverpb.Auth/RoleGet"),
    unary("/etcdserverpb.Auth/RoleList"),
    unary("/etcdserverpb.Auth/RoleDelete"),
    unary("/etcdserverpb.Auth/RoleGrantPermission"),
    unary("/etcdserverpb.Auth/RoleRevokePermission"),
    unary("/v3lockpb.Lock/Lock"),
    unary("/v3lockpb.Lock/Unlock"),
    unary("/v3electionpb.Election/Campaign"),
    unary("/v3electionpb.Election/Proclaim"),
    unary("/v3electionpb.Election/Leader"),
    server_stream("/v3electionpb.Election/Observe"),
    unary("/v3electionpb.Election/Resign"),
    unary("/grpc.health.v1.Health/Check"),
    server_stream("/grpc.health.v1.Health/Watch"),
    unary("/grpc.health.v1.Health/List"),
];

/// The names of the gRPC codes in label values, by number.
const CODE_NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The counters of one method.
#[derive(Debug)]
pub struct MethodMetrics {
    call_type: CallType,
    started: IntCounter,
    handled: [IntCounter; CODE_NAMES.len()],
    seconds: Option<Histogram>,
    /// Request messages received.
    pub received: IntCounter,
    /// Response messages sent.
    pub sent: IntCounter,
}

/// The counters of all methods.
#[derive(Debug)]
pub struct GrpcMetrics {
    methods: HashMap<&'static str, Arc<MethodMetrics>>,
    client_requests: ClientRequests,
}

impl GrpcMetrics {
    /// Registers all series. With `extensive`, latency histograms as well.
    ///
    /// # Errors
    /// If a name is registered already.
    pub(super) fn register(registry: &Registry, extensive: bool) -> prometheus::Result<Self> {
        let by_method = ["grpc_type", "grpc_service", "grpc_method"];
        let started = counter_vec(
            registry,
            "grpc_server_started_total",
            "Total number of RPCs started on the server.",
            &by_method,
        )?;
        let handled = counter_vec(
            registry,
            "grpc_server_handled_total",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        )?;
        let received = counter_vec(
            registry,
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            &by_method,
        )?;
        let sent = counter_vec(
            registry,
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            &by_method,
        )?;
        let seconds = if extensive {
            let name = "grpc_server_handling_seconds";
            let help = "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.";
            Some(histogram_vec(registry, name, help, &by_method, prometheus::DEFAULT_BUCKETS.to_vec())?)
        } else {
            None
        };
        let methods = METHODS.iter().map(|method| {
            let labels = [method.call_type.label(), method.service(), method.name()];
            let metrics = MethodMetrics {
                call_type: method.call_type,
                started: started.with_label_values(&labels),
                handled: CODE_NAMES.map(|code| handled.with_label_values(&[labels[0], labels[1], labels[2], code])),
                seconds: seconds.as_ref().map(|seconds| seconds.with_label_values(&labels)),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
            };
            (method.path, Arc::new(metrics))
        });
        Ok(Self { methods: methods.collect(), client_requests: ClientRequests::register(registry)? })
    }

    /// The counters of the method with this path.
    pub fn method(&self, path: &str) -> Option<&Arc<MethodMetrics>> {
        self.methods.get(path)
    }

    /// Counts a request by the API version that the client says it speaks.
    pub fn count_client(&self, method: &MethodMetrics, version: Option<&str>) {
        self.client_requests.count(method.call_type, version.unwrap_or("unknown"));
    }
}

/// `etcd_server_client_requests_total`. The version comes from the client, so only the first few that look like
/// versions become labels of their own.
#[derive(Debug)]
struct ClientRequests {
    family: IntCounterVec,
    known: RwLock<HashMap<String, [IntCounter; 2]>>,
}

impl ClientRequests {
    /// More client versions than this in one cluster are somebody filling our memory.
    const MAX_VERSIONS: usize = 32;

    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let family = counter_vec(
            registry,
            "etcd_server_client_requests_total",
            "The total number of client requests per client version.",
            &["type", "client_api_version"],
        )?;
        Ok(Self { family, known: RwLock::default() })
    }

    fn count(&self, call_type: CallType, version: &str) {
        let index = usize::from(call_type != CallType::Unary);
        if let Some(counters) = self.known.read().get(version) {
            counters[index].inc();
            return;
        }
        let mut known = self.known.write();
        let looks_right =
            version.len() <= 16 && version.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b));
        let label = if looks_right && known.len() < Self::MAX_VERSIONS { version } else { "unknown" };
        let counters = known
            .entry(label.to_owned())
            .or_insert_with(|| ["unary", "stream"].map(|kind| self.family.with_label_values(&[kind, label])));
        counters[index].inc();
    }
}

/// A call that is running. Dropping it without [`Call::finish`] counts it as canceled by the client.
#[derive(Debug)]
pub struct Call {
    method: Arc<MethodMetrics>,
    started: Option<Instant>,
    is_finished: bool,
}

impl Call {
    /// Counts the start of a call.
    pub fn start(method: &Arc<MethodMetrics>) -> Self {
        method.started.inc();
        // The clock is read only when something is made of it.
        let started = method.seconds.is_some().then(Instant::now);
        Self { method: Arc::clone(method), started, is_finished: false }
    }

    /// Counts messages of the response.
    pub fn sent(&self, messages: u64) {
        self.method.sent.inc_by(messages);
    }

    /// Counts the end of the call; later ends are not counted.
    pub fn finish(&mut self, code: Code) {
        if self.is_finished {
            return;
        }
        self.is_finished = true;
        self.method.handled[code as usize].inc();
        if let (Some(seconds), Some(started)) = (&self.method.seconds, self.started) {
            seconds.observe(started.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The paths in a .proto file.
    fn paths(proto: &str) -> BTreeSet<String> {
        let mut package = "";
        let mut service = "";
        let mut paths = BTreeSet::new();
        for line in proto.lines() {
            let mut words = line.trim().split([' ', ';', '(', '{']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (Some("package"), Some(name)) => package = name,
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(name)) => {
                    paths.insert(format!("/{package}.{service}/{name}"));
                }
                _ => {}
            }
        }
        paths
    }

    #[test]
    fn the_table_has_every_method_of_the_api() {
        let protos = [
            include_str!("../../../api/proto/rpc.proto"),
            include_str!("../../../api/proto/v3lock.proto"),
            include_str!("../../../api/proto/v3election.proto"),
            include_str!("../../../api/proto/health.proto"),
        ];
        let expected: BTreeSet<String> = protos.into_iter().flat_map(paths).collect();
        let found: BTreeSet<String> = METHODS.iter().map(|method| method.path.to_owned()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_dropped_call_is_canceled_and_an_end_counts_once() {
        let registry = Registry::new();
        let metrics = GrpcMetrics::register(&registry, true).unwrap();
        let put = metrics.method("/etcdserverpb.KV/Put").unwrap();
        drop(Call::start(put));
        let mut call = Call::start(put);
        call.finish(Code::Ok);
        drop(call);
        assert_eq!(put.started.get(), 2);
        assert_eq!(put.handled[Code::Ok as usize].get(), 1);
        assert_eq!(put.handled[Code::Cancelled as usize].get(), 1);
        assert_eq!(put.seconds.as_ref().unwrap().get_sample_count(), 2);
    }

    #[test]
    fn client_versions_are_bounded() {
        let registry = Registry::new();
        let metrics = GrpcMetrics::register(&registry, false).unwrap();
        let put = metrics.method("/etcdserverpb.KV/Put").unwrap();
        for n in 0..1000 {
            metrics.count_client(put, Some(&format!("3.{n}")));
        }
        metrics.count_client(put, Some("not a version"));
        let families = registry.gather();
        let family = families.iter().find(|f| f.name() == "etcd_server_client_requests_total").unwrap();
        assert!(family.get_metric().len() <= 2 * (ClientRequests::MAX_VERSIONS + 1));
    }
}
