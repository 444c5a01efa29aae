//! A store made of what another one has, change by change: how data comes from etcd, and how it goes there.

use crate::Options;
use crate::blocks;
use crate::error::Fault;
use crate::filling::Filling;
use crate::lease::Lease;
use crate::mvcc::revision::Revision;
use crate::mvcc::state::{fields, is_tombstone, stored_size};
use crate::open::{Unnamed, create_database, create_tables, unfinished};
use crate::reader::Reader;
use crate::schema::{self, meta};
use api::authpb::{Role, User};
use api::encoded::KeyValue;
use prost::Message as _;
use std::path::{Path, PathBuf};

/// A new store that is being filled. Dropped before it is finished, it leaves nothing behind. Blocking.
pub struct Rebuild {
    path: PathBuf,
    options: Options,
    check: schema::Rows,
    compacted: i64,
    block: blocks::Builder,
    row: Vec<u8>,
    /// What the changes so far amount to.
    stored_bytes: u64,
    last: i64,
    filling: Filling,
}

impl Rebuild {
    /// Begins a new store at `path`, whose history is complete above the revision `compacted` (-1: from the beginning).
    ///
    /// # Errors
    /// The file exists, or cannot be created.
    pub fn create(path: &Path, compacted: i64, options: &Options) -> Result<Self, Fault> {
        if options.disk.exists(path) {
            return Err(Fault::Snapshot(format!("{} exists already", path.display())));
        }
        options.disk.remove_left(&unfinished(path))?;
        let file = Unnamed::new(&options.disk, unfinished(path));
        let database = create_database(file.path(), options)?;
        create_tables(&database)?;
        Ok(Self {
            path: path.to_owned(),
            options: options.clone(),
            check: schema::Rows::new(0, compacted),
            compacted,
            block: blocks::Builder::default(),
            row: Vec::new(),
            stored_bytes: 0,
            last: 1,
            filling: Filling::begin(database, file, options)?,
        })
    }

    /// Adds a lease.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn lease(&mut self, id: i64, lease: &Lease) -> Result<(), Fault> {
        let pair = schema::encode_pair(lease.ttl, lease.remaining_ttl);
        self.filling.txn()?.open_table(schema::LEASES)?.insert(id, &pair)?;
        Ok(())
    }

    /// Adds a user, with the hash of the password.
    ///
    /// # Errors
    /// A name that is no text; the file cannot be written.
    pub fn user(&mut self, user: &User) -> Result<(), Fault> {
        let name = name_of(&user.name)?;
        self.filling.txn()?.open_table(schema::AUTH_USERS)?.insert(name, user.encode_to_vec().as_slice())?;
        Ok(())
    }

    /// Adds a role.
    ///
    /// # Errors
    /// As [`Self::user`].
    pub fn role(&mut self, role: &Role) -> Result<(), Fault> {
        let name = name_of(&role.name)?;
        self.filling.txn()?.open_table(schema::AUTH_ROLES)?.insert(name, role.encode_to_vec().as_slice())?;
        Ok(())
    }

    /// Says whether requests need a user, and how often users and roles have changed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn auth(&mut self, is_enabled: bool, revision: u64) -> Result<(), Fault> {
        let mut table = self.filling.txn()?.open_table(schema::META)?;
        table.insert(meta::AUTH_ENABLED, i64::from(is_enabled).to_be_bytes().as_slice())?;
        table.insert(meta::AUTH_REVISION, revision.to_be_bytes().as_slice())?;
        Ok(())
    }

    /// Adds the next change, as it is stored: a put with all its fields, or a tombstone, which has only its key.
    ///
    /// # Errors
    /// It does not follow the one before, or is none that a store can have; the file cannot be written.
    pub fn change(&mut self, revision: Revision, stored: &[u8]) -> Result<(), Fault> {
        let fields = fields(stored)?;
        let is_other = fields.mod_revision != 0 && fields.mod_revision != revision.main;
        if fields.key.is_empty() || is_other || revision.main < 2 {
            return Err(schema::damaged(revision, "is not plausible"));
        }
        self.check.follows(revision)?;
        self.last = revision.main;
        self.stored_bytes += stored_size(stored);
        let key = revision.to_key();
        let row = schema::encode_row(&key, stored, &mut self.row);
        self.block.push(&mut self.filling.txn()?.open_table(schema::REVISIONS)?, &key, row)?;
        self.filling.step(self.stored_bytes)
    }

    /// Makes the store durable and gives it its name. `revision` is the store revision, if it is higher than the last
    /// change's; what a compaction left to remove is removed by the member that opens it.
    ///
    /// # Errors
    /// The history is not complete; the file cannot be written.
    pub fn finish(mut self, revision: i64) -> Result<(), Fault> {
        let revision = revision.max(self.last);
        self.check.reach(revision)?;
        {
            let txn = self.filling.txn()?;
            self.block.write(&mut txn.open_table(schema::REVISIONS)?)?;
            let mut table = txn.open_table(schema::META)?;
            for (name, value) in [
                (meta::REVISION, revision),
                (meta::COMPACTED, self.compacted),
                (meta::STORED_BYTES, self.stored_bytes as i64),
            ] {
                table.insert(name, value.to_be_bytes().as_slice())?;
            }
        }
        let (database, file) = self.filling.commit()?;
        drop(database);
        file.place(&self.path)?;
        self.options.disk.sync_directory(&self.path)
    }
}

fn name_of(name: &[u8]) -> Result<&str, Fault> {
    let not_text = |_| Fault::Snapshot("the name of a user or role is not UTF-8".into());
    str::from_utf8(name).map_err(not_text)
}

/// One change of the history.
#[derive(Clone, Debug)]
pub struct StoredChange {
    /// When.
    pub revision: Revision,
    /// True for a delete.
    pub is_tombstone: bool,
    /// The key-value as it is stored.
    pub stored: KeyValue,
}

impl Reader {
    /// Hands out every change that is in the database, in order. Blocking.
    ///
    /// # Errors
    /// A fault, or the first error of `each`.
    pub fn history<E: From<Fault>>(&self, mut each: impl FnMut(StoredChange) -> Result<(), E>) -> Result<(), E> {
        let (on_disk, last, compacted) = {
            let state = self.shared.state.read();
            // Invariant: the tail holds whole revisions.
            let last = state.tail.first().map_or(state.revision, |first| first.main - 1);
            (self.shared.revisions(), last, state.compacted)
        };
        for change in on_disk.scan(0, last, compacted)? {
            let (revision, stored) = change?;
            each(StoredChange { revision, is_tombstone: is_tombstone(&stored)?, stored })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Rebuild, StoredChange};
    use crate::command::{Entry, Position};
    use crate::error::Fault;
    use crate::mvcc::revision::Revision;
    use crate::{Options, Reader, Writer, open};
    use api::cleatpb::Command;
    use api::cleatpb::command::Op;
    use api::encoded::KeyValueFields;
    use api::etcdserverpb::{CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest};

    fn apply(writer: &mut Writer, index: u64, op: Op) {
        let (position, commands) = (Position { term: 1, index }, [Command { header: None, op: Some(op) }]);
        writer.apply([Entry { position, commands: &commands, membership: None }]).unwrap();
    }

    fn changes(reader: &Reader) -> Vec<StoredChange> {
        let mut all = Vec::new();
        let gather = |change| {
            all.push(change);
            Ok::<_, Fault>(())
        };
        reader.history(gather).unwrap();
        all
    }

    #[test]
    fn a_store_of_the_same_changes_is_the_same_store() {
        for compact in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let (mut writer, mut flusher, reader) = open(&directory.path().join("from"), Options::default()).unwrap();
            apply(&mut writer, 1, Op::LeaseGrant(LeaseGrantRequest { id: 5, ttl: 60 }));
            for n in 2..2000 {
                let key = format!("{}", n % 300);
                let lease = if n % 7 == 0 { 5 } else { 0 };
                let value = vec![b'v'; n as usize % 100];
                apply(
                    &mut writer,
                    n,
                    Op::Put(PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() }),
                );
            }
            let range = DeleteRangeRequest { key: "1".into(), range_end: "2".into(), prev_kv: false };
            apply(&mut writer, 2000, Op::DeleteRange(range));
            if compact {
                apply(&mut writer, 2001, Op::Compaction(CompactionRequest { revision: 1500, physical: false }));
            }
            flusher.flush().unwrap();
            let path = directory.path().join("to");
            // Many transactions.
            let options = Options { database_cache_bytes: 64 << 10, ..Options::default() };
            let mut rebuild = Rebuild::create(&path, reader.status().compacted, &options).unwrap();
            for (id, lease) in reader.leases() {
                rebuild.lease(id, &lease).unwrap();
            }
            for change in changes(&reader) {
                rebuild.change(change.revision, change.stored.as_bytes()).unwrap();
            }
            rebuild.finish(reader.revision()).unwrap();
            let (_writer, _flusher, rebuilt) = open(&path, Options::default()).unwrap();
            assert_eq!(rebuilt.hash_kv(0).unwrap(), reader.hash_kv(0).unwrap());
            assert_eq!((rebuilt.lease(5), rebuilt.lease_keys(5)), (reader.lease(5), reader.lease_keys(5)));
            assert_eq!(rebuilt.status().stored_bytes, reader.status().stored_bytes);
            assert_eq!(changes(&rebuilt).len(), changes(&reader).len());
            assert!(Rebuild::create(&path, -1, &options).is_err(), "the file is there");
        }
    }

    #[test]
    fn changes_that_make_no_history_are_refused() {
        let put = |key: &'static str, mod_revision| {
            KeyValueFields { key: key.as_bytes(), mod_revision, ..Default::default() }.encode()
        };
        for (what, changes) in [
            ("a revision left out", &[(2, 0, put("a", 2)), (4, 0, put("a", 4))][..]),
            ("a sub revision left out", &[(2, 0, put("a", 2)), (2, 2, put("a", 2))]),
            ("a revision twice", &[(2, 0, put("a", 2)), (2, 0, put("a", 2))]),
            ("another revision inside", &[(2, 0, put("a", 3))]),
            ("no key", &[(2, 0, put("", 2))]),
            ("revision 1", &[(1, 0, put("a", 1))]),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let mut rebuild = Rebuild::create(&directory.path().join("db"), -1, &Options::default()).unwrap();
            let mut done = Ok(());
            for (main, sub, stored) in changes {
                done = done.and_then(|()| rebuild.change(Revision { main: *main, sub: *sub }, stored.as_bytes()));
            }
            assert!(done.is_err(), "{what}");
            drop(rebuild);
            assert_eq!(directory.path().read_dir().unwrap().count(), 0, "{what}");
        }
        let directory = tempfile::tempdir().unwrap();
        let rebuild = Rebuild::create(&directory.path().join("db"), -1, &Options::default()).unwrap();
        assert!(rebuild.finish(7).is_err(), "nothing up to the store revision");
    }
}
