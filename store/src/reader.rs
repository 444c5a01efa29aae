//! The handle for everything that only reads.

use crate::auth::Password;
use crate::auth::permit::{Asked, permit};
use crate::command::Position;
use crate::error::{Fault, ReadError, Rejection};
use crate::lease::Lease;
use crate::mvcc::events::Past;
use crate::mvcc::hash::HashKv;
use crate::mvcc::large::LargeRange;
use crate::mvcc::state::Shared;
use crate::mvcc::txn;
use crate::mvcc::write::ReadView;
use api::authpb::{Permission, Role, User};
use api::cleatpb::{CommandHeader, MemberAttributes};
use api::encoded::{KeyValue, RangeResponse, TxnResponse};
use api::etcdserverpb::{AlarmMember, RangeRequest, TxnRequest};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Reads this member's state. Cheap to clone. Whether the state is recent enough is the caller's concern.
#[derive(Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

/// The store in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// The store revision.
    pub revision: i64,
    /// The last compaction, -1 for none.
    pub compacted: i64,
    /// History is removed up to here.
    pub compaction_finished: i64,
    /// The last applied log entry.
    pub applied: Position,
    /// The last applied log entry that is durable in the database.
    pub durable: Position,
    /// Bytes that keys, values and their overhead take: what the quota limits.
    pub stored_bytes: u64,
    /// Bytes applied but not yet in the database.
    pub tail_bytes: usize,
    /// Changes applied but not yet in the database.
    pub tail_changes: usize,
    /// Key-values in memory, bytes.
    pub cached_bytes: usize,
    /// Keys that exist.
    pub keys: usize,
    /// Granted leases.
    pub leases: usize,
    /// Size of the database file.
    pub file_bytes: u64,
}

impl Reader {
    /// Answers a range and returns the store revision it was read at. The response's header is left out.
    ///
    /// # Errors
    /// A compacted or future revision; a fault.
    pub fn range(&self, request: &RangeRequest) -> Result<(RangeResponse, i64), ReadError> {
        self.shared.range(request, true)
    }

    /// Answers a range as [`Reader::range`] does, if its key-values take at most `bytes`. Otherwise none: see
    /// [`Reader::large_range`].
    ///
    /// # Errors
    /// A compacted or future revision; a fault.
    pub fn range_up_to(&self, request: &RangeRequest, bytes: usize) -> Result<Option<(RangeResponse, i64)>, ReadError> {
        self.shared.range_within(request, true, bytes)
    }

    /// Prepares the answer to a range that would take too much memory; none for one that is to be sorted by value.
    /// Blocking: reads all of it once.
    ///
    /// # Errors
    /// A compacted or future revision; a fault.
    pub fn large_range(&self, request: &RangeRequest) -> Result<Option<LargeRange>, ReadError> {
        self.shared.large_range(request)
    }

    /// Answers a range as [`Reader::range`] does, but leaves the count out and ends at the limit: the time it takes
    /// depends on the limit and not on the size of the range. For ranges that are read page by page.
    ///
    /// # Errors
    /// A compacted or future revision; a fault.
    pub fn range_page(&self, request: &RangeRequest) -> Result<(RangeResponse, i64), ReadError> {
        self.shared.range(request, false)
    }

    /// Answers a transaction that only reads, see [`crate::is_read_only`].
    ///
    /// # Errors
    /// A compacted or future revision; a fault.
    pub fn txn(&self, request: &TxnRequest) -> Result<(TxnResponse, i64), ReadError> {
        debug_assert!(txn::is_read_only(request));
        let state = self.shared.state.read();
        let mut response = txn::read(&ReadView { shared: &self.shared, state: &state, changed: false }, request)?;
        response.header = None;
        Ok((response, state.revision))
    }

    /// Reads events from revision `from` on, in whole revisions, until about `max_bytes` were read, but at least one
    /// revision when there is one.
    ///
    /// # Errors
    /// [`crate::Rejection::Compacted`] when `from` lies below the compacted revision; a fault.
    pub fn past(&self, from: i64, max_bytes: usize) -> Result<Past, ReadError> {
        self.shared.past(from, max_bytes)
    }

    /// The key-value of `key` just before `revision`; none when it did not exist or was compacted away.
    ///
    /// # Errors
    /// A fault.
    pub fn previous(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, Fault> {
        self.shared.previous(key, revision)
    }

    /// etcd's hash of the history up to `revision`, 0 for the latest. Reads everything.
    ///
    /// # Errors
    /// A compacted or future revision; a fault.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, ReadError> {
        self.shared.hash_kv(revision)
    }

    /// The store revision.
    pub fn revision(&self) -> i64 {
        self.shared.state.read().revision
    }

    /// True if a snapshot took the place of what was there when the store was opened.
    pub fn is_replaced(&self) -> bool {
        self.shared.state.read().generation > 0
    }

    /// The compacted revision and the store revision, read together.
    pub fn compacted_and_revision(&self) -> (i64, i64) {
        let state = self.shared.state.read();
        (state.compacted, state.revision)
    }

    /// A lease, and the store revision.
    pub fn lease(&self, id: i64) -> (Option<Lease>, i64) {
        let state = self.shared.state.read();
        (state.leases.get(id).cloned(), state.revision)
    }

    /// The keys attached to a lease, in key order.
    pub fn lease_keys(&self, id: i64) -> Vec<Box<[u8]>> {
        self.shared.state.read().leases.keys(id).map(Into::into).collect()
    }

    /// Every granted lease by id.
    pub fn leases(&self) -> Vec<(i64, Lease)> {
        self.shared.state.read().leases.iter().map(|(id, lease)| (id, lease.clone())).collect()
    }

    /// The raised alarms of a type (`AlarmType`), or of all types for 0.
    pub fn alarms(&self, alarm: i32) -> Vec<AlarmMember> {
        self.shared.state.read().alarms.list(alarm)
    }

    /// What a member published of itself.
    pub fn member(&self, member_id: u64) -> Option<MemberAttributes> {
        self.shared.state.read().members.get(member_id).cloned()
    }

    /// Whether a member was removed from the cluster: its id is never used again.
    pub fn is_removed(&self, member_id: u64) -> bool {
        self.shared.state.read().members.is_removed(member_id)
    }

    /// The ids of all members that were ever removed, ascending.
    pub fn removed_members(&self) -> Vec<u64> {
        self.shared.state.read().members.removed().collect()
    }

    /// The auth revision while requests need a user, 0 while they need none. Without the lock.
    pub fn auth_revision_if_enabled(&self) -> u64 {
        self.shared.gauges.auth_revision.load(Ordering::Acquire)
    }

    /// All users and roles as etcd stores them, by name. With the hashes of passwords: for whoever moves the store.
    pub fn users_and_roles(&self) -> (Vec<User>, Vec<Role>) {
        self.shared.state.read().auth.records()
    }

    /// Whether requests need a user, and the auth revision.
    pub fn auth_status(&self) -> (bool, u64) {
        let state = self.shared.state.read();
        (state.auth.is_enabled(), state.auth.revision())
    }

    /// Refuses what is not permitted to who asks.
    ///
    /// # Errors
    /// etcd's: no user, an old auth revision, permission denied.
    pub fn permit(&self, header: Option<&CommandHeader>, asked: Asked<'_>) -> Result<(), Rejection> {
        let state = self.shared.state.read();
        permit(&state.auth, &state.leases, header, asked)
    }

    /// How a user can log in; none for a name that nobody has.
    pub fn password(&self, user: &str) -> Option<Password> {
        self.shared.state.read().auth.password(user)
    }

    /// The names of all users, ascending, and the store revision.
    pub fn users(&self) -> (Vec<String>, i64) {
        let state = self.shared.state.read();
        (state.auth.users().map(str::to_owned).collect(), state.revision)
    }

    /// The names of all roles, ascending, and the store revision.
    pub fn roles(&self) -> (Vec<String>, i64) {
        let state = self.shared.state.read();
        (state.auth.roles().map(str::to_owned).collect(), state.revision)
    }

    /// The names of a user's roles, and the store revision.
    pub fn roles_of(&self, user: &str) -> (Option<Vec<String>>, i64) {
        let state = self.shared.state.read();
        (state.auth.roles_of(user), state.revision)
    }

    /// The permissions of a role, and the store revision.
    pub fn permissions_of(&self, role: &str) -> (Option<Vec<Permission>>, i64) {
        let state = self.shared.state.read();
        (state.auth.permissions_of(role), state.revision)
    }

    /// The last applied position and the raft layer's membership.
    pub fn applied(&self) -> (Position, Vec<u8>) {
        let state = self.shared.state.read();
        (state.applied, state.membership.clone())
    }

    /// The position and membership that are durable in the database: the log below may be purged.
    pub fn durable(&self) -> (Position, Vec<u8>) {
        self.shared.durable.lock().clone()
    }

    /// Bytes applied but not yet in the database.
    pub fn unflushed_bytes(&self) -> usize {
        self.shared.gauges.unflushed_bytes.load(Ordering::Relaxed)
    }

    /// Those of them that are changes of keys.
    pub fn tail_bytes(&self) -> usize {
        self.shared.gauges.tail_bytes.load(Ordering::Relaxed)
    }

    /// Those that are nodes of the v2 API's tree, without what a flush is writing.
    pub fn v2_waiting_bytes(&self) -> usize {
        self.shared.gauges.v2_waiting_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that keys, values and their overhead take: what the quota limits.
    pub fn stored_bytes(&self) -> u64 {
        self.shared.gauges.stored_bytes.load(Ordering::Relaxed)
    }

    /// The store in numbers.
    pub fn status(&self) -> Status {
        let durable = self.shared.durable.lock().0;
        let file_bytes = std::fs::metadata(&self.shared.path).map_or(0, |file| file.len());
        let state = self.shared.state.read();
        Status {
            revision: state.revision,
            compacted: state.compacted,
            compaction_finished: state.compaction_finished,
            applied: state.applied,
            durable,
            stored_bytes: state.counted_bytes(),
            tail_bytes: state.unflushed_bytes(),
            tail_changes: state.tail.len(),
            cached_bytes: state.index.cached_bytes(),
            keys: state.index.live(),
            leases: state.leases.len(),
            file_bytes,
        }
    }
}
