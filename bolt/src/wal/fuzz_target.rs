//! Segments for the fuzz target, whose checksums are put right if asked, and some that are valid.

use super::message::{ConfChange, HardState, Metadata, RawEntry, Record, RequestHeader, SnapshotRecord};
use super::record::{CRC, ENTRY, METADATA, SNAPSHOT, STATE};
use super::{InternalRaftRequest, V2Request};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use bytes::{Buf, Bytes};
use prost::Message;

const SEALED: u8 = 1;
const TWO: u8 = 2;

/// Before the bytes of the segments: what is to be done, the index behind which the log is read, the length of the first
/// segment and the index that the second one begins with.
const HEAD: usize = 5;

/// The index, and the files that the input stands for.
pub(crate) fn segments(input: &[u8]) -> Option<(u64, Vec<(String, Vec<u8>)>)> {
    let (head, bytes) = input.split_at_checked(HEAD)?;
    let (mut crc, how) = (0, head[0]);
    let first = match how & TWO {
        0 => bytes.len(),
        _ => bytes.len().min(usize::from(u16::from_le_bytes([head[2], head[3]]))),
    };
    let (first, second) = bytes.split_at(first);
    let mut file = |bytes: &[u8]| if how & SEALED == 0 { bytes.to_vec() } else { seal(bytes, &mut crc) };
    let mut files = vec![(format!("{:016x}-{:016x}.wal", 0, 0), file(first))];
    if how & TWO != 0 {
        files.push((format!("{:016x}-{:016x}.wal", 1, head[4]), file(second)));
    }
    Some((head[1].into(), files))
}

/// Writes every record that can be read with the checksum that it must have.
fn seal(mut bytes: &[u8], crc: &mut u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    while let Some(word) = bytes.first_chunk().map(|word| u64::from_le_bytes(*word)).filter(|word| *word != 0) {
        let len = (word & ((1 << 56) - 1)) as usize;
        let padding = if word >> 63 == 1 { (word >> 56 & 0b111) as usize } else { 0 };
        let Some(record) = bytes[8..].get(..len) else { break };
        let Ok(mut record) = Record::decode(record) else { break };
        if record.kind != CRC {
            *crc = crc32c::crc32c_append(*crc, &record.data);
        }
        record.crc = *crc;
        frame(&mut out, &record);
        bytes.advance((8 + len + padding).min(bytes.len()));
    }
    out.extend(bytes);
    out
}

fn frame(out: &mut Vec<u8>, record: &Record) {
    let bytes = record.encode_to_vec();
    let padding = (8 - bytes.len() % 8) % 8;
    let mark = if padding == 0 { 0 } else { (0x80 | padding as u64) << 56 };
    out.extend((bytes.len() as u64 | mark).to_le_bytes());
    out.extend(bytes);
    out.resize(out.len() + padding, 0);
}

fn record(out: &mut Vec<u8>, kind: i64, message: &impl Message) {
    frame(out, &Record { kind, crc: 0, data: message.encode_to_vec().into() });
}

fn entry(out: &mut Vec<u8>, index: u64, kind: i32, message: &impl Message) {
    let data: Bytes = message.encode_to_vec().into();
    record(out, ENTRY, &RawEntry { kind, term: 2, index, data });
}

fn head(out: &mut Vec<u8>) {
    frame(out, &Record { kind: CRC, crc: 0, data: Bytes::new() });
    record(out, METADATA, &Metadata { member_id: 7, cluster_id: 9 });
}

/// A log of one segment and one of two, with every kind of record and entry.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let put = PutRequest { key: "key".into(), value: "value".into(), lease: 7, ..PutRequest::default() };
    let header = Some(RequestHeader { id: 1, username: "ann".into(), auth_revision: 3 });
    let nested = RequestOp { request: Some(Request::RequestPut(put.clone())) };
    let txn = TxnRequest { success: vec![nested], ..TxnRequest::default() };
    let put = InternalRaftRequest { header: header.clone(), put: Some(put), ..InternalRaftRequest::default() };
    let txn = InternalRaftRequest { header, txn: Some(txn), ..InternalRaftRequest::default() };
    let v2 = V2Request { id: 3, method: "PUT".into(), path: "/0/version".into(), ..V2Request::default() };
    let change = ConfChange { id: 1, r#type: 0, node_id: 7, context: "{}".into() };

    let mut first = Vec::new();
    head(&mut first);
    record(&mut first, SNAPSHOT, &SnapshotRecord { index: 0, term: 0 });
    entry(&mut first, 1, 1, &change);
    entry(&mut first, 2, 0, &put);
    entry(&mut first, 3, 0, &v2);
    record(&mut first, STATE, &HardState { term: 2, vote: 7, commit: 3 });
    // Another leader replaces an entry.
    entry(&mut first, 3, 0, &txn);
    let mut second = Vec::new();
    head(&mut second);
    entry(&mut second, 4, 0, &put);
    record(&mut second, SNAPSHOT, &SnapshotRecord { index: 3, term: 2 });
    record(&mut second, STATE, &HardState { term: 2, vote: 7, commit: 4 });
    second.resize(second.len() + 64, 0);
    let len = (first.len() as u16).to_le_bytes();
    vec![
        [&[SEALED, 0, 0, 0, 0], &*first].concat(),
        [&[SEALED, 1, 0, 0, 0], &*first, &[0; 40]].concat(),
        [&[SEALED | TWO, 0, len[0], len[1], 4], &*first, &*second].concat(),
    ]
}
