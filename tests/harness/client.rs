//! gRPC clients of one server, sharing a connection.

use crate::tls::ClientTls;
use anyhow::{Context, Result};
use api::etcdserverpb::AuthenticateRequest;
use api::etcdserverpb::auth_client::AuthClient;
use api::etcdserverpb::cluster_client::ClusterClient;
use api::etcdserverpb::kv_client::KvClient;
use api::etcdserverpb::lease_client::LeaseClient;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::watch_client::WatchClient;
use api::v3electionpb::election_client::ElectionClient;
use api::v3lockpb::lock_client::LockClient;
use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT_DEADLINE: Duration = Duration::from_secs(20);

/// The services of one server, without limits on message sizes.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named by the services")]
pub struct Client {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub auth: AuthClient<Channel>,
    pub lock: LockClient<Channel>,
    pub election: ElectionClient<Channel>,
    channel: Channel,
}

macro_rules! unlimited {
    ($client:ident, $channel:expr) => {
        $client::new($channel.clone()).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
    };
}

impl Client {
    /// Connects to a URL.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, None).await
    }

    /// Connects to a URL, with TLS if there is any.
    pub async fn connect_with(url: &str, tls: Option<&ClientTls>) -> Result<Self> {
        // The connector below does what the scheme asks for.
        let plain = url.replacen("https://", "http://", 1);
        let endpoint = Endpoint::from_shared(plain)?.connect_timeout(CONNECT_DEADLINE);
        let connected = match tls {
            None => endpoint.connect().await,
            Some(tls) => {
                let tls = tls.clone();
                let connector = tower::service_fn(move |uri: Uri| {
                    let (tls, address) = (tls.clone(), uri.authority().map(ToString::to_string).unwrap_or_default());
                    async move { tls.dial(&address).await.map(TokioIo::new).map_err(io::Error::other) }
                });
                endpoint.connect_with_connector(connector).await
            }
        };
        Ok(Self::over(connected.with_context(|| format!("connect to {url}"))?))
    }

    fn over(channel: Channel) -> Self {
        Self {
            kv: unlimited!(KvClient, channel),
            watch: unlimited!(WatchClient, channel),
            lease: unlimited!(LeaseClient, channel),
            cluster: unlimited!(ClusterClient, channel),
            maintenance: unlimited!(MaintenanceClient, channel),
            auth: unlimited!(AuthClient, channel),
            lock: unlimited!(LockClient, channel),
            election: unlimited!(ElectionClient, channel),
            channel,
        }
    }

    /// Calls any path with any bytes, well-formed or not, and returns the bytes of the answer.
    pub async fn raw(&self, path: &str, payload: Bytes) -> Result<Bytes, Status> {
        self.raw_as(None, path, payload).await
    }

    /// As [`Self::raw`], with a token.
    pub async fn raw_as(&self, token: Option<&str>, path: &str, payload: Bytes) -> Result<Bytes, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(format!("transport error: {error}")))?;
        let path = path.parse().map_err(|error| Status::invalid_argument(format!("bad path: {error}")))?;
        Ok(grpc.unary(with_token(payload, token), path, Bare).await?.into_inner())
    }

    /// Logs in.
    pub async fn login(&self, name: &str, password: &str) -> Result<String, Status> {
        let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        Ok(self.auth.clone().authenticate(request).await?.into_inner().token)
    }
}

/// A request with a token.
pub fn with_token<T>(message: T, token: Option<&str>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(token) = token.and_then(|token| token.parse().ok()) {
        request.metadata_mut().insert("token", token);
    }
    request
}

/// Messages that are bytes already.
#[derive(Clone, Copy, Debug)]
struct Bare;

impl Codec for Bare {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}
