//! Looking at a log without opening it: what tools and people need to judge a damaged member.

use std::path::{Path, PathBuf};

use super::WalError;
use super::disk::Disk;
use super::walk::walk;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordInfo<'a> {
    /// File of the segment.
    pub segment: &'a Path,
    /// Where the record begins in the file.
    pub offset: u64,
    /// `blank`, `commands`, `membership`, `vote`, `committed`, `truncate`, `clear` or `purge`.
    pub kind: &'static str,
    /// Term of the entry, position or vote.
    pub term: u64,
    /// Index of the entry or position; for a vote, the member voted for.
    pub index: u64,
    /// Bytes of the payload.
    pub payload_len: usize,
}

/// How a log without damage ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of records.
    pub records: u64,
    /// Last segment, and the offset in it that the next record gets.
    pub end: Option<(PathBuf, u64)>,
    /// A write that was cut off stands after the end; opening the log removes it.
    pub is_torn: bool,
}

/// Calls `visit` for every record in order, up to the first damaged one. Changes nothing and takes no
/// lock; the log of a running member may appear to end in a torn write, and a purge may take segments away
/// meanwhile.
///
/// # Errors
/// [`WalError::Damaged`] names the first damaged record, when there is one.
pub fn inspect(dir: &Path, mut visit: impl FnMut(RecordInfo<'_>)) -> Result<Summary, WalError> {
    let mut records = 0;
    let tail = walk(&Disk::default(), dir, false, |found| {
        records += 1;
        visit(RecordInfo {
            segment: &found.segment.path,
            offset: found.offset.into(),
            kind: found.header.kind.name(),
            term: found.header.term,
            index: found.header.index,
            payload_len: found.header.payload_len,
        });
        Ok(())
    })?;
    let is_torn = tail.as_ref().is_some_and(|tail| tail.is_torn);
    Ok(Summary { records, end: tail.map(|tail| (tail.segment.path.clone(), tail.offset.into())), is_torn })
}
