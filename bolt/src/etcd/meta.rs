//! Bucket `meta`: what was applied, and what was compacted.

use super::change::Revision;
use super::{RecordFault, Settings, read_text, read_u64, write_json};
use serde::{Deserialize, Serialize};

/// What the file says of itself. What an older etcd did not write is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Raft index of the last entry that the file has.
    pub consistent_index: Option<u64>,
    /// Its term (from 3.5).
    pub term: Option<u64>,
    /// Who votes (from 3.5).
    pub conf_state: Option<ConfState>,
    /// A compaction that was begun.
    pub scheduled_compaction: Option<i64>,
    /// The last compaction that has removed all it had to.
    pub finished_compaction: Option<i64>,
    /// As `3.6.0` (from 3.6).
    pub storage_version: Option<String>,
}

/// Who votes: `raftpb.ConfState` as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "raft's own names")]
pub struct ConfState {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters_outgoing: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners_next: Vec<u64>,
    #[serde(default)]
    pub auto_leave: bool,
}

const CONF_STATE: &str = "confState";
const CONSISTENT_INDEX: &str = "consistent_index";
const FINISHED: &str = "finishedCompactRev";
const SCHEDULED: &str = "scheduledCompactRev";
const STORAGE_VERSION: &str = "storageVersion";
const TERM: &str = "term";

impl Meta {
    /// The revision up to which history is gone, or going: a start goes on with a compaction that was begun.
    pub fn compacted(&self) -> Option<i64> {
        self.scheduled_compaction.max(self.finished_compaction)
    }
}

fn read_revision(what: &'static str, value: &[u8]) -> Result<i64, RecordFault> {
    let revision = Revision::decode(value).ok_or(RecordFault::Value { what, len: value.len() })?;
    Ok(revision.main)
}

impl Settings for Meta {
    const BUCKET: &'static str = "meta";

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordFault> {
        match std::str::from_utf8(key).unwrap_or_default() {
            CONF_STATE => self.conf_state = Some(serde_json::from_slice(value)?),
            CONSISTENT_INDEX => self.consistent_index = Some(read_u64(CONSISTENT_INDEX, value)?),
            FINISHED => self.finished_compaction = Some(read_revision(FINISHED, value)?),
            SCHEDULED => self.scheduled_compaction = Some(read_revision(SCHEDULED, value)?),
            STORAGE_VERSION => self.storage_version = Some(read_text(STORAGE_VERSION, value)?),
            TERM => self.term = Some(read_u64(TERM, value)?),
            _ => {}
        }
        Ok(())
    }

    fn entries(&self) -> Vec<(&'static str, Vec<u8>)> {
        let int = |value: u64| value.to_be_bytes().to_vec();
        let revision = |main: i64| Revision { main, sub: 0 }.encode().to_vec();
        [
            (CONF_STATE, self.conf_state.as_ref().map(write_json)),
            (CONSISTENT_INDEX, self.consistent_index.map(int)),
            (FINISHED, self.finished_compaction.map(revision)),
            (SCHEDULED, self.scheduled_compaction.map(revision)),
            (STORAGE_VERSION, self.storage_version.clone().map(String::into_bytes)),
            (TERM, self.term.map(int)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_as_etcd_writes_them() {
        let conf_state = br#"{"voters":[10276657743932975437],"auto_leave":false}"#;
        let entries: Vec<(&str, Vec<u8>)> = vec![
            ("confState", conf_state.to_vec()),
            ("consistent_index", 77_u64.to_be_bytes().to_vec()),
            ("finishedCompactRev", b"\0\0\0\0\0\0\0\x05_\0\0\0\0\0\0\0\0".to_vec()),
            ("scheduledCompactRev", b"\0\0\0\0\0\0\0\x06_\0\0\0\0\0\0\0\0".to_vec()),
            ("storageVersion", b"3.6.0".to_vec()),
            ("term", 3_u64.to_be_bytes().to_vec()),
        ];
        let mut meta = Meta::default();
        for (key, value) in &entries {
            meta.set(key.as_bytes(), value).unwrap();
        }
        assert_eq!((meta.consistent_index, meta.term, meta.compacted()), (Some(77), Some(3), Some(6)));
        assert_eq!(meta.conf_state.as_ref().unwrap().voters, [10_276_657_743_932_975_437]);
        assert_eq!(meta.entries(), entries);

        let before = meta.clone();
        meta.set(b"of a later release", b"anything").unwrap();
        assert_eq!(meta, before);
        for (key, value) in [("term", &b"1234567"[..]), ("finishedCompactRev", b"5"), ("confState", b"{")] {
            assert!(meta.set(key.as_bytes(), value).is_err(), "{key}");
        }
    }
}
