//! Rows of the stream: what they are called, in which order they come, and how they are read from a frame.
//!
//! The order of [`Key`] is the order of the stream. A stream that goes on after a broken connection goes on behind a key.

use crate::error::Fault;
use crate::mvcc::revision::Revision;

const META: u8 = 0;
const LEASES: u8 = 1;
const ALARMS: u8 = 2;
const MEMBERS: u8 = 3;
const REVISIONS: u8 = 4;
const REMOVED_MEMBERS: u8 = 5;
const AUTH_USERS: u8 = 6;
const AUTH_ROLES: u8 = 7;
const V2_NODES: u8 = 8;
const V2_EVENTS: u8 = 9;

/// What a row is about. The order of the variants is the order of the tables in the stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Meta(Box<str>),
    Lease(i64),
    Alarm(u64, i32),
    Member(u64),
    RemovedMember(u64),
    AuthUser(Box<str>),
    AuthRole(Box<str>),
    V2Node(Box<[u8]>),
    V2Event(u64),
    Revision(Revision),
}

impl Key {
    /// The number of the table, and the bytes of the key.
    pub(crate) fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Meta(name) => (META, name.as_bytes().to_vec()),
            Self::Lease(id) => (LEASES, id.to_be_bytes().to_vec()),
            Self::Alarm(member_id, alarm) => (ALARMS, [&member_id.to_be_bytes()[..], &alarm.to_be_bytes()].concat()),
            Self::Member(id) => (MEMBERS, id.to_be_bytes().to_vec()),
            Self::RemovedMember(id) => (REMOVED_MEMBERS, id.to_be_bytes().to_vec()),
            Self::AuthUser(name) => (AUTH_USERS, name.as_bytes().to_vec()),
            Self::AuthRole(name) => (AUTH_ROLES, name.as_bytes().to_vec()),
            Self::V2Node(path) => (V2_NODES, path.to_vec()),
            Self::V2Event(index) => (V2_EVENTS, index.to_be_bytes().to_vec()),
            Self::Revision(revision) => (REVISIONS, revision.to_key().to_vec()),
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(table: u8, key: &[u8]) -> Result<Self, Fault> {
        Ok(match table {
            META => Self::Meta(name(key)?),
            LEASES => Self::Lease(i64::from_be_bytes(array(key)?)),
            ALARMS => {
                let (member_id, alarm) = key.split_at_checked(8).ok_or_else(short)?;
                Self::Alarm(u64::from_be_bytes(array(member_id)?), i32::from_be_bytes(array(alarm)?))
            }
            MEMBERS => Self::Member(u64::from_be_bytes(array(key)?)),
            REMOVED_MEMBERS => Self::RemovedMember(u64::from_be_bytes(array(key)?)),
            AUTH_USERS => Self::AuthUser(name(key)?),
            AUTH_ROLES => Self::AuthRole(name(key)?),
            V2_NODES => Self::V2Node(key.into()),
            V2_EVENTS => Self::V2Event(u64::from_be_bytes(array(key)?)),
            REVISIONS => Self::Revision(Revision::from_key(&array(key)?)),
            other => return Err(Fault::Snapshot(format!("table {other} is not known to this release"))),
        })
    }
}

/// Appends a row.
pub(crate) fn push(rows: &mut Vec<u8>, key: &Key, value: &[u8]) {
    let (table, mut key) = key.encode();
    // In the stream an alarm's type is the value of its row.
    let alarm = if table == ALARMS { key.split_off(8) } else { Vec::new() };
    rows.push(table);
    for bytes in [&*key, if table == ALARMS { &alarm } else { value }] {
        rows.extend((bytes.len() as u32).to_be_bytes());
        rows.extend(bytes);
    }
}

/// Takes the first row off a frame's rows.
pub(crate) fn take<'a>(rows: &mut &'a [u8]) -> Result<(Key, &'a [u8]), Fault> {
    let [table] = *take_bytes(rows, 1)? else { return Err(short()) };
    let key_len = u32::from_be_bytes(array(take_bytes(rows, 4)?)?) as usize;
    let key = take_bytes(rows, key_len)?;
    let value_len = u32::from_be_bytes(array(take_bytes(rows, 4)?)?) as usize;
    let value = take_bytes(rows, value_len)?;
    if table == ALARMS {
        return Ok((Key::decode(table, &[key, value].concat())?, &[]));
    }
    Ok((Key::decode(table, key)?, value))
}

fn name(key: &[u8]) -> Result<Box<str>, Fault> {
    str::from_utf8(key).map(Into::into).map_err(|error| Fault::Snapshot(error.to_string()))
}

fn short() -> Fault {
    Fault::Snapshot("a row has a wrong length".into())
}

fn take_bytes<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Fault> {
    let (taken, tail) = rest.split_at_checked(len).ok_or_else(short)?;
    *rest = tail;
    Ok(taken)
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| short())
}

#[cfg(test)]
mod tests {
    use super::{Key, push, take};
    use crate::mvcc::revision::Revision;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let keys = [
            Key::Meta("name".into()),
            Key::Lease(-5),
            Key::Lease(7),
            Key::Alarm(1, 2),
            Key::Alarm(u64::MAX, 1),
            Key::Member(3),
            Key::RemovedMember(4),
            Key::AuthUser("user".into()),
            Key::AuthRole("role".into()),
            Key::V2Node(b"/1/a".as_slice().into()),
            Key::V2Event(5),
            Key::Revision(Revision { main: 9, sub: 1 }),
        ];
        assert!(keys.is_sorted());
        let mut rows = Vec::new();
        for key in &keys {
            push(&mut rows, key, b"value");
        }
        let mut rest = &*rows;
        for key in &keys {
            let (table, bytes) = key.encode();
            assert_eq!(&Key::decode(table, &bytes).unwrap(), key);
            let value: &[u8] = if matches!(key, Key::Alarm(..)) { b"" } else { b"value" };
            assert_eq!(take(&mut rest).unwrap(), (key.clone(), value));
        }
        assert!(rest.is_empty());
        for len in 1..rows.len().min(40) {
            let mut cut = &rows[..len];
            while !cut.is_empty() {
                if take(&mut cut).is_err() {
                    break;
                }
            }
        }
    }
}
