//! Buckets `members`, `members_removed` and `cluster`, as Go's JSON writes them.

use super::{Record, RecordFault, Settings, read_text, write_json};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "or_null")]
    pub peer_urls: Vec<String>,
    /// True for one that does not vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Empty until it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started.
    #[serde(rename = "clientURLs", default, deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// Go writes a list without memory as `null`.
fn or_null<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

/// A member that was removed, and must not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedMember {
    /// Its id.
    pub id: u64,
}

/// The value in the bucket of removed members.
const REMOVED: &str = "removed";

fn read_id(key: &[u8]) -> Result<u64, RecordFault> {
    let text = std::str::from_utf8(key).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(RecordFault::Key("member's id"))
}

impl Record for Member {
    const BUCKET: &'static str = "members";

    fn from_entry(key: &Bytes, value: &Bytes) -> Result<Self, RecordFault> {
        let member: Self = serde_json::from_slice(value)?;
        if member.id == read_id(key)? { Ok(member) } else { Err(RecordFault::Mismatch("ids")) }
    }

    fn to_entry(&self) -> (Bytes, Bytes) {
        (format!("{:x}", self.id).into(), write_json(self).into())
    }
}

impl Record for RemovedMember {
    const BUCKET: &'static str = "members_removed";

    fn from_entry(key: &Bytes, _value: &Bytes) -> Result<Self, RecordFault> {
        Ok(Self { id: read_id(key)? })
    }

    fn to_entry(&self) -> (Bytes, Bytes) {
        (format!("{:x}", self.id).into(), Bytes::from_static(REMOVED.as_bytes()))
    }
}

/// What the cluster has agreed on about its releases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The oldest release of a member, as `3.4.0`.
    pub version: Option<String>,
    /// A downgrade (from 3.5).
    pub downgrade: Option<Downgrade>,
}

/// A downgrade that is under way, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downgrade {
    /// To which release.
    #[serde(rename = "target-version", default)]
    pub target_version: String,
    /// Whether it is under way.
    #[serde(default)]
    pub enabled: bool,
}

const VERSION: &str = "clusterVersion";
const DOWNGRADE: &str = "downgrade";

impl Settings for Cluster {
    const BUCKET: &'static str = "cluster";

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordFault> {
        if key == VERSION.as_bytes() {
            self.version = Some(read_text(VERSION, value)?);
        } else if key == DOWNGRADE.as_bytes() {
            self.downgrade = serde_json::from_slice(value)?;
        }
        Ok(())
    }

    fn entries(&self) -> Vec<(&'static str, Vec<u8>)> {
        let version = self.version.as_ref().map(|version| (VERSION, version.clone().into_bytes()));
        let downgrade = self.downgrade.as_ref().map(|downgrade| (DOWNGRADE, write_json(downgrade)));
        version.into_iter().chain(downgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_written_as_etcd_writes_them() {
        let texts = [
            r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://localhost:2379"]}"#,
            r#"{"id":10276657743932975437,"peerURLs":["http://a:1","http://b:2"],"isLearner":true}"#,
        ];
        for text in texts {
            let (key, value) = (Bytes::from_static(b"8e9e05c52164694d"), Bytes::from_static(text.as_bytes()));
            let member = Member::from_entry(&key, &value).unwrap();
            assert_eq!(member.to_entry(), (key, value));
        }
        let key = Bytes::from_static(b"1");
        let member = Member::from_entry(&key, &Bytes::from_static(br#"{"id":1,"peerURLs":null,"clientURLs":null}"#));
        assert_eq!(member.unwrap(), Member { id: 1, ..Member::default() });
        assert!(Member::from_entry(&key, &Bytes::from_static(br#"{"id":2,"peerURLs":[]}"#)).is_err());
        assert!(Member::from_entry(&Bytes::from_static(b"+1"), &Bytes::from_static(br#"{"id":1}"#)).is_err());
    }

    #[test]
    fn settings_of_the_cluster_come_back() {
        let mut cluster = Cluster::default();
        let entries = [("clusterVersion", "3.5.0"), ("downgrade", r#"{"target-version":"3.5.0","enabled":true}"#)];
        for (key, value) in entries {
            cluster.set(key.as_bytes(), value.as_bytes()).unwrap();
        }
        assert!(cluster.downgrade.as_ref().unwrap().enabled);
        assert_eq!(cluster.entries(), entries.map(|(key, value)| (key, value.as_bytes().to_vec())));
    }
}
