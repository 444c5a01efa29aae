//! Buckets `auth`, `authUsers` and `authRoles`. A user's password is a bcrypt hash.

use super::{Record, RecordFault, Settings, read_u64};
use api::authpb::{Role, User};
use bytes::Bytes;
use prost::Message;

/// Whether authentication is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Absent in a store where it never was switched on or off.
    pub enabled: Option<bool>,
    /// Counts the changes of users and roles.
    pub revision: Option<u64>,
}

const ENABLED: &str = "authEnabled";
const REVISION: &str = "authRevision";

impl Settings for Auth {
    const BUCKET: &'static str = "auth";

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordFault> {
        if key == ENABLED.as_bytes() {
            self.enabled = match value {
                [0] => Some(false),
                [1] => Some(true),
                _ => return Err(RecordFault::Value { what: ENABLED, len: value.len() }),
            };
        } else if key == REVISION.as_bytes() {
            self.revision = Some(read_u64(REVISION, value)?);
        }
        Ok(())
    }

    fn entries(&self) -> Vec<(&'static str, Vec<u8>)> {
        let enabled = self.enabled.map(|enabled| (ENABLED, vec![u8::from(enabled)]));
        let revision = self.revision.map(|revision| (REVISION, revision.to_be_bytes().to_vec()));
        enabled.into_iter().chain(revision).collect()
    }
}

impl Record for User {
    const BUCKET: &'static str = "authUsers";

    fn from_entry(key: &Bytes, value: &Bytes) -> Result<Self, RecordFault> {
        // Read from a copy: what is kept must not keep the page.
        let user = Self::decode(Bytes::copy_from_slice(value))?;
        if user.name == key { Ok(user) } else { Err(RecordFault::Mismatch("names")) }
    }

    fn to_entry(&self) -> (Bytes, Bytes) {
        (self.name.clone(), self.encode_to_vec().into())
    }
}

impl Record for Role {
    const BUCKET: &'static str = "authRoles";

    fn from_entry(key: &Bytes, value: &Bytes) -> Result<Self, RecordFault> {
        let role = Self::decode(Bytes::copy_from_slice(value))?;
        if role.name == key { Ok(role) } else { Err(RecordFault::Mismatch("names")) }
    }

    fn to_entry(&self) -> (Bytes, Bytes) {
        (self.name.clone(), self.encode_to_vec().into())
    }
}
