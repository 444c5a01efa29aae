//! The client and its calls about keys, members and endpoints.

use crate::auth::{Authorized, Login};
use crate::call::Effect;
use crate::connector::Connector;
use crate::endpoint::Address;
use crate::error::Error;
use crate::message;
use crate::options::{Options, TlsOptions};
use crate::tls;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::request_op::Request as Op;
use api::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest,
    MemberListRequest, MemberListResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
    StatusRequest, StatusResponse, TxnRequest, TxnResponse,
};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::Response;
use tonic::transport::{Channel, Endpoint};

/// Keys in one answer while a prefix is listed.
const PAGE_KEYS: i64 = 1000;

/// A client of one cluster. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    request_timeout: Duration,
}

#[derive(Debug)]
struct Inner {
    /// Never empty.
    connections: Vec<Connection>,
    /// The one to use next.
    current: AtomicUsize,
    login: Login,
    max_request_bytes: usize,
    max_answer_bytes: usize,
}

/// One endpoint and the connection to it, which is made when it is first used and again after it broke.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) index: usize,
    pub(crate) endpoint: String,
    pub(crate) channel: Channel,
}

/// All keys of a prefix, as they were at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The revision that was read. A watch that misses nothing starts at the next.
    pub revision: i64,
    /// In ascending order of keys.
    pub kvs: Vec<KeyValue>,
}

/// A connection whose requests carry the token, and how large messages on it may be.
pub(crate) struct Line {
    pub(crate) service: Authorized,
    pub(crate) max_request_bytes: usize,
    pub(crate) max_answer_bytes: usize,
}

/// One of the API's services on a [`Line`].
macro_rules! service {
    ($client:ident, $line:expr) => {{
        let $crate::client::Line { service, max_request_bytes, max_answer_bytes } = $line;
        $client::new(service).max_encoding_message_size(max_request_bytes).max_decoding_message_size(max_answer_bytes)
    }};
}

pub(crate) use service;

impl Client {
    /// Checks the options and reads the certificates. Nothing is connected before the first call. Must be called in
    /// a tokio runtime.
    ///
    /// # Errors
    /// [`Error::NoEndpoints`], [`Error::BadEndpoint`], [`Error::TlsFile`], [`Error::Tls`], [`Error::BadToken`].
    pub fn new(options: &Options) -> Result<Self, Error> {
        let mut connections = Vec::new();
        let mut needs_tls = options.tls.is_some();
        for (index, endpoint) in options.endpoints.iter().enumerate() {
            let address = Address::parse(endpoint, options.tls.is_some())?;
            needs_tls |= address.is_tls;
            let tls = address.is_tls.then(|| options.tls.clone().unwrap_or_default());
            let channel = channel(address, tls, options).map_err(|reason| Error::bad_endpoint(endpoint, reason))?;
            connections.push(Connection { index, endpoint: endpoint.clone(), channel });
        }
        if connections.is_empty() {
            return Err(Error::NoEndpoints);
        }
        if needs_tls {
            // Every connection reads them again; a mistake must not wait for the first.
            tls::load(&options.tls.clone().unwrap_or_default(), &[b"h2"])?;
        }
        let login = match &options.token {
            Some(token) if options.user.is_none() => Login::with_token(token).ok_or(Error::BadToken)?,
            _ => Login::new(options.user.clone()),
        };
        let Options { max_request_bytes, max_answer_bytes, .. } = *options;
        let current = AtomicUsize::new(0);
        let inner = Arc::new(Inner { connections, current, login, max_request_bytes, max_answer_bytes });
        Ok(Self { inner, request_timeout: options.request_timeout })
    }

    /// The same client for calls that end within a time that may be shorter than [`Options::request_timeout`], with the
    /// reason why they had no answer.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { request_timeout: self.request_timeout.min(limit), ..self.clone() }
    }

    /// The endpoints as they were given.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.inner.connections.iter().map(|connection| connection.endpoint.as_str())
    }

    pub(crate) fn connections(&self) -> &[Connection] {
        &self.inner.connections
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn login(&self) -> &Login {
        &self.inner.login
    }

    pub(crate) fn max_request_bytes(&self) -> usize {
        self.inner.max_request_bytes
    }

    /// A line to a server for requests of the client's user.
    pub(crate) fn line(&self, connection: &Connection) -> Line {
        let Inner { login, max_request_bytes, max_answer_bytes, .. } = &*self.inner;
        Line {
            service: login.authorized(&connection.channel),
            max_request_bytes: *max_request_bytes,
            max_answer_bytes: *max_answer_bytes,
        }
    }

    /// The connection to use.
    pub(crate) fn current(&self) -> &Connection {
        &self.inner.connections[self.inner.current.load(Ordering::Relaxed) % self.inner.connections.len()]
    }

    /// Lets the next call use the endpoint after this one, unless another call has moved on already.
    pub(crate) fn leave(&self, index: usize) {
        let next = (index + 1) % self.inner.connections.len();
        // One that lost the race has nothing to do.
        let _moved = self.inner.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Fetches the token of [`Options::user`] now, from the first endpoint that answers. Calls do so by themselves: this is
    /// for who wants to know before.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn sign_in(&self) -> Result<(), Error> {
        self.call(Effect::Read, (), |_, ()| async { Ok(()) }).await
    }

    /// Reads keys.
    ///
    /// # Errors
    /// As every call: [`Error::Answered`] and the failures of connections.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let send =
            |line, request| async move { service!(KvClient, line).range(request).await.map(Response::into_inner) };
        self.call(Effect::Read, request, send).await
    }

    /// Reads keys as [`Client::range`] does, from a stream of answers, which etcd has since 3.7: no message of it is large.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn range_stream(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let send = |line, request| async move {
            let mut parts = service!(KvClient, line).range_stream(request).await?.into_inner();
            let mut whole = RangeResponse::default();
            while let Some(part) = parts.message().await? {
                let Some(RangeResponse { header, kvs, more, count }) = part.range_response else { continue };
                whole.header = header.or(whole.header);
                whole.kvs.extend(kvs);
                whole.more |= more;
                whole.count = if count == 0 { whole.count } else { count };
            }
            Ok(whole)
        };
        self.call(Effect::Read, request, send).await
    }

    /// Reads one key.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn get(&self, key: impl Into<Bytes> + Send) -> Result<Option<KeyValue>, Error> {
        Ok(self.range(message::get(key)).await?.kvs.pop())
    }

    /// Reads all keys with a prefix, in pages that all show the same revision.
    ///
    /// # Errors
    /// As [`Client::range`]; etcd's error for a compacted revision if that happened between two pages.
    pub async fn list(&self, prefix: impl Into<Bytes> + Send) -> Result<Listing, Error> {
        let mut request = message::get_prefix(prefix);
        request.limit = PAGE_KEYS;
        let mut kvs: Vec<KeyValue> = Vec::new();
        loop {
            let page = self.range(request.clone()).await?;
            if request.revision == 0 {
                request.revision = self.revision_of(page.header.as_ref())?;
            }
            let is_last = !page.more || page.kvs.is_empty();
            kvs.extend(page.kvs);
            match kvs.last() {
                Some(last) if !is_last => request.key = message::after(&last.key),
                _ => return Ok(Listing { revision: request.revision, kvs }),
            }
        }
    }

    /// Writes one key.
    ///
    /// # Errors
    /// As every call. [`Error::may_be_done`] tells whether the key may have been written.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Error> {
        let send = |line, request| async move { service!(KvClient, line).put(request).await.map(Response::into_inner) };
        self.call(Effect::Write, request, send).await
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        let send = |line, request| async move {
            service!(KvClient, line).delete_range(request).await.map(Response::into_inner)
        };
        self.call(Effect::Write, request, send).await
    }

    /// Compares, and does one or the other list of operations, all at once.
    ///
    /// # Errors
    /// As [`Client::put`]; one that only reads is a read.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let effect = if only_reads(&request) { Effect::Read } else { Effect::Write };
        let send = |line, request| async move { service!(KvClient, line).txn(request).await.map(Response::into_inner) };
        self.call(effect, request, send).await
    }

    /// Removes the history before a revision.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Error> {
        let send =
            |line, request| async move { service!(KvClient, line).compact(request).await.map(Response::into_inner) };
        self.call(Effect::Write, request, send).await
    }

    /// Grants a lease of so many seconds, and returns the id that the server chose.
    ///
    /// # Errors
    /// As [`Client::put`]. A lease that may have been granted all the same expires by itself.
    pub async fn grant(&self, ttl_seconds: i64) -> Result<i64, Error> {
        let request = LeaseGrantRequest { ttl: ttl_seconds, id: 0 };
        let send = |line, request| async move {
            service!(LeaseClient, line).lease_grant(request).await.map(Response::into_inner)
        };
        Ok(self.call(Effect::Write, request, send).await?.id)
    }

    /// The members of the cluster.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn member_list(&self) -> Result<MemberListResponse, Error> {
        let send = |line, request| async move {
            service!(ClusterClient, line).member_list(request).await.map(Response::into_inner)
        };
        self.call(Effect::Read, MemberListRequest { linearizable: true }, send).await
    }

    /// What the member behind one of the endpoints says about itself. Only that endpoint is asked, and once.
    ///
    /// # Errors
    /// As [`Client::range`]; [`Error::BadEndpoint`] for one that this client was not made with.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse, Error> {
        let Some(connection) = self.inner.connections.iter().find(|connection| connection.endpoint == endpoint) else {
            return Err(Error::bad_endpoint(endpoint, "it is not one of this client's"));
        };
        let send = |line| async move {
            service!(MaintenanceClient, line).status(StatusRequest {}).await.map(Response::into_inner)
        };
        self.call_one(connection, send).await
    }

    fn revision_of(&self, header: Option<&ResponseHeader>) -> Result<i64, Error> {
        let unexpected = || Error::Unexpected { endpoint: self.current().endpoint.clone(), what: "no header" };
        header.map(|header| header.revision).ok_or_else(unexpected)
    }
}

/// The connection to an endpoint, not made yet.
fn channel(address: Address, tls: Option<TlsOptions>, options: &Options) -> Result<Channel, String> {
    // Where it goes is the connector's business; the URI is what requests show as `:authority`. The scheme is `http`
    // with TLS, too, because tonic would want to do that itself.
    let uri = format!("http://{}", address.authority);
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|error| error.to_string())?
        .http2_keep_alive_interval(options.keepalive_time.max(Duration::from_secs(10)))
        .keep_alive_timeout(options.keepalive_timeout);
    let connector = Connector { address, tls, dial_timeout: options.dial_timeout };
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// True if no branch of a transaction can change anything.
fn only_reads(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Op::RequestRange(_)) | None => true,
        Some(Op::RequestTxn(inner)) => only_reads(inner),
        Some(Op::RequestPut(_) | Op::RequestDeleteRange(_)) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::op;

    #[test]
    fn a_transaction_is_a_read_if_nothing_in_it_writes() {
        let nested = |inner: TxnRequest| TxnRequest { failure: vec![op::txn(inner)], ..TxnRequest::default() };
        let reads = TxnRequest { success: vec![op::range(message::get("a"))], ..TxnRequest::default() };
        let writes = TxnRequest { failure: vec![op::put(message::put("a", "b"))], ..TxnRequest::default() };
        for (txn, expected) in [
            (TxnRequest::default(), true),
            (reads.clone(), true),
            (nested(reads), true),
            (writes.clone(), false),
            (nested(writes), false),
            (TxnRequest { success: vec![op::delete(message::delete("a"))], ..TxnRequest::default() }, false),
        ] {
            assert_eq!(only_reads(&txn), expected, "{txn:?}");
        }
    }

    #[tokio::test]
    async fn options_are_checked_at_once() {
        let with = |endpoints: &[&str], tls: Option<TlsOptions>| {
            let endpoints = endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect();
            Client::new(&Options { endpoints, tls, ..Options::default() }).map(|_| ()).map_err(|e| e.to_string())
        };
        let debug = format!("{:?}", Options { endpoints: vec!["u:secret@a:1".to_owned()], ..Options::default() });
        assert!(debug.contains("[\"a:1\"]") && !debug.contains("secret"), "{debug}");
        assert_eq!(with(&[], None), Err("no endpoints are given".to_owned()));
        assert_eq!(with(&["a:1", "b"], None), Err("bad endpoint \"b\": it must have the form host:port".to_owned()));
        assert_eq!(with(&["a:1", "unix:///s"], None), Ok(()));
        let cases = [
            (TlsOptions { ca_file: Some("/no/ca".into()), ..TlsOptions::default() }, "/no/ca: No such file"),
            (
                TlsOptions { cert_file: Some("c".into()), insecure_skip_verify: true, ..TlsOptions::default() },
                "TLS: a client certificate and its key are given together",
            ),
        ];
        for (tls, expected) in cases {
            let error = with(&["https://a:1"], Some(tls)).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
