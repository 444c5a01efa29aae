//! Single questions to a member, each on a connection of its own: does it serve reads, and what is its status?
//!
//! They are asked before and after measured phases, and again and again while a member starts; nothing here retries.

use std::time::Duration;

use api::etcdserverpb::{RangeRequest, RangeResponse, StatusRequest, StatusResponse};
use bytes::Bytes;
use prost::Message;

use crate::connection::{CallError, Connection, Endpoint, Method, frame};

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// One linearizable read, which finds `key` if one is given.
pub(super) async fn read(endpoint: &Endpoint, key: Option<&Bytes>) -> Result<(), CallError> {
    let asked = key.cloned().unwrap_or_else(|| Bytes::from_static(b"cleat-bench-ready"));
    let request = RangeRequest { key: asked, ..Default::default() };
    let response: RangeResponse = ask(endpoint, "/etcdserverpb.KV/Range", &request).await?;
    if key.is_some() && response.kvs.is_empty() {
        return Err(CallError::Unexpected("the server lost a key over its restart".to_owned()));
    }
    Ok(())
}

/// What the member says of itself and of its leader.
pub(super) async fn status(endpoint: &Endpoint) -> Result<StatusResponse, CallError> {
    ask(endpoint, "/etcdserverpb.Maintenance/Status", &StatusRequest::default()).await
}

async fn ask<T: Message + Default>(
    endpoint: &Endpoint,
    path: &'static str,
    request: &impl Message,
) -> Result<T, CallError> {
    let call = async {
        let connection = Connection::open(endpoint).await?;
        connection.call(&Method::new(endpoint, path), frame(request)).await
    };
    let reply = tokio::time::timeout(DEADLINE, call).await.map_err(|_| CallError::Deadline(DEADLINE))??;
    T::decode(reply).map_err(|error| CallError::Unexpected(error.to_string()))
}
