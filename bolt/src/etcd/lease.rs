//! Buckets `lease` and `alarm`.

use super::{Record, RecordFault, read_u64};
use api::etcdserverpb::AlarmMember;
use bytes::Bytes;
use prost::Message;

/// A granted lease: `leasepb.Lease`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Lease {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// The granted time to live, seconds.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// Seconds that were left at the last checkpoint, 0 when there was none.
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

impl Record for Lease {
    const BUCKET: &'static str = "lease";

    fn from_entry(key: &Bytes, value: &Bytes) -> Result<Self, RecordFault> {
        let id = read_u64("lease", key)? as i64;
        let lease = Self::decode(&value[..])?;
        if lease.id != id {
            return Err(RecordFault::Mismatch("ids"));
        }
        Ok(lease)
    }

    fn to_entry(&self) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(&self.id.to_be_bytes()), self.encode_to_vec().into())
    }
}

/// The alarm is the key; there is no value.
impl Record for AlarmMember {
    const BUCKET: &'static str = "alarm";

    fn from_entry(key: &Bytes, value: &Bytes) -> Result<Self, RecordFault> {
        if !value.is_empty() {
            return Err(RecordFault::Value { what: "alarm", len: value.len() });
        }
        Ok(Self::decode(&key[..])?)
    }

    fn to_entry(&self) -> (Bytes, Bytes) {
        (self.encode_to_vec().into(), Bytes::new())
    }
}
