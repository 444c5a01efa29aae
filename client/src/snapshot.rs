//! Snapshots, and going on with one after its connection broke.

use crate::call::Effect;
use crate::client::{Client, Line, service};
use crate::error::Error;
use api::etcdserverpb::maintenance_client::MaintenanceClient;
use api::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use std::fmt;
use std::str::FromStr;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Response, Status, Streaming};

/// How a member of Cleat and its clients agree on a place, as metadata of the call. etcd does not know it.
const METADATA: &str = "cleat-snapshot";

/// Longest id of a snapshot that is believed.
const ID_BYTES_MAX: usize = 64;

/// A place in a snapshot that a member keeps for a while. Shown, and read again, as `ID:OFFSET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPlace {
    /// The member's name of the snapshot.
    pub id: String,
    /// Bytes of its stream, with the hash.
    pub offset: u64,
}

impl fmt::Display for SnapshotPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.offset)
    }
}

impl FromStr for SnapshotPlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, offset) = text.split_once(':').ok_or(())?;
        let is_id = !id.is_empty() && id.len() <= ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let offset = offset.parse().map_err(|_| ())?;
        if is_id { Ok(Self { id: id.to_owned(), offset }) } else { Err(()) }
    }
}

/// A snapshot that is on its way.
#[derive(Debug)]
pub struct Download {
    /// Where the pieces begin: at the place that was asked for, or at the beginning of another snapshot. None if the
    /// member cannot go on with it later.
    pub place: Option<SnapshotPlace>,
    endpoint: String,
    pieces: Streaming<SnapshotResponse>,
}

impl Download {
    /// The next piece, None at the end. The last one is the SHA-256 of all that are before it. It has no deadline: whoever
    /// reads decides how long a piece may take.
    ///
    /// # Errors
    /// As [`Client::range`]. If [`Error::may_pass`], what came so far is good, and [`Client::snapshot`] goes on with it.
    pub async fn next(&mut self) -> Result<Option<SnapshotResponse>, Error> {
        self.pieces.message().await.map_err(|status| Error::of_call(Effect::Read, &self.endpoint, &status))
    }
}

impl Client {
    /// A snapshot of the whole store of the member behind the endpoint in use; or the rest of one, if the member still has
    /// the snapshot that `rest` is a place in.
    ///
    /// # Errors
    /// As [`Client::range`].
    pub async fn snapshot(&self, rest: Option<&SnapshotPlace>) -> Result<Download, Error> {
        let connection = self.current();
        let asked = rest.map_or_else(|| "new".to_owned(), ToString::to_string);
        let response = self.call_one(connection, |line| begin(line, asked.clone())).await?;
        let place = place(response.metadata());
        Ok(Download { place, endpoint: connection.endpoint.clone(), pieces: response.into_inner() })
    }
}

async fn begin(line: Line, asked: String) -> Result<Response<Streaming<SnapshotResponse>>, Status> {
    let mut request = Request::new(SnapshotRequest {});
    // A place has nothing that metadata could not have.
    if let Ok(value) = AsciiMetadataValue::try_from(asked) {
        request.metadata_mut().insert(METADATA, value);
    }
    service!(MaintenanceClient, line).snapshot(request).await
}

fn place(metadata: &MetadataMap) -> Option<SnapshotPlace> {
    metadata.get(METADATA)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_they_are_read() {
        let place = SnapshotPlace { id: "0af3".to_owned(), offset: 77 };
        assert_eq!(place.to_string(), "0af3:77");
        assert_eq!("0af3:77".parse(), Ok(place));
        for text in ["", "new", ":1", "x:1", "a:", "a:-1", "a/b:1", "a:1:2"] {
            assert_eq!(text.parse::<SnapshotPlace>(), Err(()), "{text}");
        }
        assert!(format!("{}:1", "a".repeat(65)).parse::<SnapshotPlace>().is_err());
    }
}
