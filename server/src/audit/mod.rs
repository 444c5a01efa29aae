//! The audit log: one line of JSON for every call that changes something, be it answered with success or refused.
//!
//! A line has the time, who called (the name in the certificate, the address), the RPC, what it is about (keys and
//! ranges, ids, names of users and roles), the code of the answer and the revision. Never values, passwords or tokens.
//!
//! `listen` is the one place that every call passes: it keeps the request's bytes, which are read once more here, after
//! the answer. Lines wait in a bounded queue for the thread that writes them ([`crate::outlet`]), so a disk that hangs does
//! not slow down writes: lines are lost then, counted, and the log says so. With `--audit-log-required` calls that would
//! be recorded are refused instead, from when half of the queue is full: the other half is for those under way.

pub(crate) mod describe;

use crate::config::{AuditConfig, LogOutput};
use crate::outlet::{Outlet, RotatedFile, Target};
use api::etcdserverpb::ResponseHeader;
use bytes::{Bytes, BytesMut};
use describe::describe;
use prost::Message as _;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

/// A message of gRPC begins with a flag and its length.
const FRAME_HEAD: usize = 5;

/// The audit log.
pub(crate) struct Audit {
    outlets: Vec<Outlet>,
    is_required: bool,
}

/// Who called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// The user while requests need one, else the name in the certificate.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) remote: Option<SocketAddr>,
}

/// A call that has ended.
pub(crate) struct Record<'a> {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    pub(crate) caller: &'a Caller,
    /// The request as it came.
    pub(crate) request: Vec<Bytes>,
    /// The first part of the answer.
    pub(crate) response: Option<Bytes>,
    pub(crate) code: Code,
}

/// A change by plain HTTP that has ended.
pub(crate) struct HttpRecord<'a> {
    pub(crate) method: &'a str,
    /// Without the query, which may have values.
    pub(crate) path: &'a str,
    /// What may be shown of the query.
    pub(crate) parameters: &'a [(&'static str, String)],
    pub(crate) caller: &'a Caller,
    /// None if the client left before the answer.
    pub(crate) status: Option<u16>,
    /// Of the v2 API's tree, after the change.
    pub(crate) index: Option<u64>,
}

/// What every answer begins with.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// RPCs that change something. What an alarm request only asks for is not recorded.
const RECORDED: [&str; 31] = [
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Cluster/MemberAdd",
    "/etcdserverpb.Cluster/MemberRemove",
    "/etcdserverpb.Cluster/MemberUpdate",
    "/etcdserverpb.Cluster/MemberPromote",
    "/etcdserverpb.Maintenance/Alarm",
    "/etcdserverpb.Maintenance/Defragment",
    "/etcdserverpb.Maintenance/MoveLeader",
    "/etcdserverpb.Maintenance/Downgrade",
    "/etcdserverpb.Auth/AuthEnable",
    "/etcdserverpb.Auth/AuthDisable",
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Auth/UserAdd",
    "/etcdserverpb.Auth/UserDelete",
    "/etcdserverpb.Auth/UserChangePassword",
    "/etcdserverpb.Auth/UserGrantRole",
    "/etcdserverpb.Auth/UserRevokeRole",
    "/etcdserverpb.Auth/RoleAdd",
    "/etcdserverpb.Auth/RoleDelete",
    "/etcdserverpb.Auth/RoleGrantPermission",
    "/etcdserverpb.Auth/RoleRevokePermission",
    "/v3lockpb.Lock/Lock",
    "/v3lockpb.Lock/Unlock",
    "/v3electionpb.Election/Campaign",
    "/v3electionpb.Election/Proclaim",
    "/v3electionpb.Election/Resign",
];

/// True for calls that are recorded.
pub(crate) fn is_recorded(path: &str) -> bool {
    RECORDED.contains(&path)
}

impl Audit {
    /// Opens the outputs.
    ///
    /// # Errors
    /// One cannot be opened, with its name.
    pub(crate) fn open(config: &AuditConfig) -> Result<Self, String> {
        let open = |output: &LogOutput| {
            let (name, target) = match output {
                LogOutput::Stderr => ("stderr".to_owned(), Ok(Target::Stderr)),
                LogOutput::Stdout => ("stdout".to_owned(), Ok(Target::Stdout)),
                LogOutput::File(path) => {
                    let file = RotatedFile::open(path, Some(config.rotation)).map(Target::File);
                    (path.display().to_string(), file)
                }
            };
            let started = target.and_then(|target| Outlet::start(&name, target));
            started.map_err(|error| format!("cannot open audit log {name}: {error}"))
        };
        let outlets = config.outputs.iter().map(open).collect::<Result<_, String>>()?;
        Ok(Self { outlets, is_required: config.is_required })
    }

    /// True if a call that is to be recorded must be refused, because it could not be.
    pub(crate) fn must_refuse(&self) -> bool {
        self.is_required && self.outlets.iter().any(|outlet| outlet.is_failing() || outlet.is_filling())
    }

    /// True if what room is left is for calls that were not refused.
    pub(crate) fn is_filling(&self) -> bool {
        self.outlets.iter().any(Outlet::is_filling)
    }

    /// Lines lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.outlets.iter().map(Outlet::lost).sum()
    }

    /// Waits until all lines are written, but not longer than that.
    pub(crate) fn flush(&self, limit: Duration) {
        for outlet in &self.outlets {
            outlet.flush(limit);
        }
    }

    /// Writes the line of a call.
    pub(crate) fn write(&self, record: Record<'_>) {
        if let Some(line) = line(record) {
            self.queue(&line);
        }
    }

    /// Writes the line of a change by plain HTTP.
    pub(crate) fn write_http(&self, record: &HttpRecord<'_>) {
        self.queue(&http_line(record));
    }

    fn queue(&self, line: &str) {
        for outlet in &self.outlets {
            // What finds no room is counted there.
            outlet.write(line.as_bytes());
        }
    }
}

/// The line of a call, with its end; None for one that changes nothing.
fn line(record: Record<'_>) -> Option<String> {
    // A call that was refused before it was read is recorded without what it is about.
    let request = match message(record.request) {
        Some(message) => describe(record.path, message)?,
        None => Value::Null,
    };
    let answer = record.response.map(|frame| frame.slice(FRAME_HEAD.min(frame.len())..));
    let header = answer.and_then(|answer| Answer::decode(answer).ok()?.header);
    // Answers about members have a header without one.
    let revision = header.map(|header| header.revision).filter(|revision| *revision != 0);
    let code = format!("{:?}", record.code);
    let rest =
        [("method", record.path.into()), ("request", request), ("code", code.into()), ("revision", revision.into())];
    Some(with_caller(record.caller, rest))
}

/// The line of a change by plain HTTP, with its end.
fn http_line(record: &HttpRecord<'_>) -> String {
    let mut request = serde_json::Map::from_iter([("path".to_owned(), Value::from(record.path))]);
    request.extend(record.parameters.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))));
    let code = record.status.map_or_else(|| "Cancelled".into(), Value::from);
    let rest =
        [("method", record.method.into()), ("request", request.into()), ("code", code), ("index", record.index.into())];
    with_caller(record.caller, rest)
}

/// A line with the time, and who called.
fn with_caller(caller: &Caller, rest: [(&str, Value); 4]) -> String {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time)).ok();
    let remote = caller.remote.map(|remote| remote.to_string());
    let common = [("ts", time.into()), ("user", caller.name.as_deref().into()), ("remote", remote.into())];
    let members = common.into_iter().chain(rest).map(|(name, value)| (name.to_owned(), value));
    format!("{}\n", Value::from(members.collect::<serde_json::Map<_, _>>()))
}

/// The one message of a request, if all of it is there.
fn message(parts: Vec<Bytes>) -> Option<Bytes> {
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        whole.extend_from_slice(&part);
    }
    let length = whole.get(1..FRAME_HEAD)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    let mut whole = whole.freeze();
    let message = whole.split_off(FRAME_HEAD);
    (message.len() >= length).then(|| message.slice(..length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{CallType, METHODS};
    use api::etcdserverpb::{
        AlarmRequest, AuthUserAddRequest, DeleteRangeRequest, PutRequest, PutResponse, RequestOp, TxnRequest,
        request_op,
    };
    use prost::Message;
    use serde_json::json;

    fn framed(message: &impl Message) -> Bytes {
        let body = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend((body.len() as u32).to_be_bytes());
        frame.extend(body);
        frame.into()
    }

    fn recorded(path: &'static str, request: &impl Message) -> Option<Value> {
        let request = framed(request);
        let caller = Caller { name: Some("bob".into()), remote: Some("10.0.0.1:7".parse().unwrap()) };
        let header = ResponseHeader { revision: 8, ..Default::default() };
        let response = framed(&PutResponse { header: Some(header), ..Default::default() });
        let record = Record {
            path,
            caller: &caller,
            // In pieces, as a connection may hand it over.
            request: vec![request.slice(..3), request.slice(3..)],
            response: Some(response),
            code: Code::Ok,
        };
        Some(serde_json::from_str(&line(record)?).unwrap())
    }

    #[test]
    fn a_line_says_who_did_what_and_never_what_is_secret() {
        let put = PutRequest { key: "a".into(), value: "secret".into(), lease: 0xff, ..Default::default() };
        let mut found = recorded("/etcdserverpb.KV/Put", &put).unwrap();
        assert!(found["ts"].take().as_str().unwrap().ends_with('Z'));
        let expected = json!({
            "ts": null,
            "user": "bob",
            "remote": "10.0.0.1:7",
            "method": "/etcdserverpb.KV/Put",
            "request": {"key": "a", "lease": "ff"},
            "code": "Ok",
            "revision": 8,
        });
        assert_eq!(found, expected);
        let user = AuthUserAddRequest { name: "eve".into(), password: "secret".into(), ..Default::default() };
        let found = recorded("/etcdserverpb.Auth/UserAdd", &user).unwrap();
        assert_eq!(found["request"], json!({"name": "eve"}));
        assert!(!found.to_string().contains("secret"));
    }

    #[test]
    fn transactions_name_all_their_keys() {
        let op = |request| RequestOp { request: Some(request) };
        let delete = DeleteRangeRequest { key: "b".into(), range_end: vec![0xff, 0].into(), ..Default::default() };
        let inner =
            TxnRequest { success: vec![op(request_op::Request::RequestDeleteRange(delete))], ..Default::default() };
        let put = PutRequest { key: "a".into(), value: "secret".into(), ..Default::default() };
        let txn = TxnRequest {
            success: vec![op(request_op::Request::RequestPut(put))],
            failure: vec![op(request_op::Request::RequestTxn(inner))],
            ..Default::default()
        };
        let found = recorded("/etcdserverpb.KV/Txn", &txn).unwrap();
        let expected = json!({
            "success": [{"op": "put", "key": "a"}],
            "failure": [{"op": "txn", "success": [{"op": "delete", "key": "b", "range_end_hex": "ff00"}]}],
        });
        assert_eq!(found["request"], expected);
    }

    #[test]
    fn a_large_transaction_makes_a_line_that_is_bounded() {
        let put = PutRequest { key: vec![b'k'; 1 << 20].into(), ..Default::default() };
        let op = RequestOp { request: Some(request_op::Request::RequestPut(put)) };
        let found = recorded("/etcdserverpb.KV/Txn", &TxnRequest { success: vec![op; 200], ..Default::default() });
        let found = found.unwrap();
        assert!(found.to_string().len() < 1 << 20);
        assert_eq!(found["request"]["omitted_ops"], 200 - found["request"]["success"].as_array().unwrap().len());
    }

    #[test]
    fn alarms_are_recorded_when_they_change() {
        let asked = AlarmRequest::default();
        assert_eq!(recorded("/etcdserverpb.Maintenance/Alarm", &asked), None);
        let cleared = AlarmRequest { action: 2, alarm: 1, member_id: 0xab };
        let found = recorded("/etcdserverpb.Maintenance/Alarm", &cleared).unwrap();
        assert_eq!(found["request"], json!({"action": "DEACTIVATE", "alarm": "NOSPACE", "member": "ab"}));
    }

    /// Whoever adds an RPC decides here whether it changes anything.
    #[test]
    fn every_rpc_that_changes_something_is_recorded_and_described() {
        const READS: [&str; 15] = [
            "/etcdserverpb.KV/Range",
            "/etcdserverpb.Lease/LeaseTimeToLive",
            "/etcdserverpb.Lease/LeaseLeases",
            "/etcdserverpb.Cluster/MemberList",
            "/etcdserverpb.Maintenance/Status",
            "/etcdserverpb.Maintenance/Hash",
            "/etcdserverpb.Maintenance/HashKV",
            "/etcdserverpb.Auth/AuthStatus",
            "/etcdserverpb.Auth/UserGet",
            "/etcdserverpb.Auth/UserList",
            "/etcdserverpb.Auth/RoleGet",
            "/etcdserverpb.Auth/RoleList",
            "/v3electionpb.Election/Leader",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/List",
        ];
        for method in METHODS.iter().filter(|method| method.call_type == CallType::Unary) {
            assert_ne!(is_recorded(method.path), READS.contains(&method.path), "{}", method.path);
        }
        for path in RECORDED {
            assert!(METHODS.iter().any(|method| method.path == path), "{path}");
            let is_described = describe(path, Bytes::new()).is_some();
            assert_eq!(is_described, path != "/etcdserverpb.Maintenance/Alarm", "{path}");
        }
    }
}
