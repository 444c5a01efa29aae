//! `migrate`: etcd's data becomes the store of a new cluster, and a snapshot becomes a file that etcd restores.

use crate::cli::{Command as CliCommand, Flag, Group, Origin};
use crate::context::Context;
use crate::failure::Failure;
use crate::founder::{
    DATA_DIR, INITIAL_ADVERTISE_PEER_URLS, INITIAL_CLUSTER, INITIAL_CLUSTER_TOKEN, NAME, WAL_DIR, founder,
};
use crate::scratch::Scratch;
use crate::snapshot::{REST, open, say_begun, unpack};
use crate::{migrate_v2, people, print, progress};
use anyhow::{Context as _, Result, bail, ensure};
use api::authpb::{Role, User};
use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::{AlarmMember, AlarmType};
use bolt::etcd::{Auth, Change, Lease, Meta};
use bolt::wal::{InternalRaftRequest, Payload};
use bolt::{Database, Member, OpenOptions, WriteOptions, Writer};
use std::path::{Path, PathBuf};
use store::{Entry, Options, Position, Rebuild, Revision};

const SOURCE_WAL_DIR: Flag =
    Flag::string("source-wal-dir", "", "Where the log of the source is, if not in its data directory").cleat();
const BUMP_REVISION: Flag = Flag::int(
    "bump-revision",
    "0",
    "Go on with a revision so much higher; not needed when etcd was stopped before its data was taken",
)
.cleat();

pub(crate) const COMMAND: CliCommand = CliCommand {
    name: "migrate",
    usage: "<subcommand>",
    short: "Takes data from etcd, or gives it back",
    origin: Origin::Cleat,
    group: Group::Data,
    commands: &[&FROM_ETCD, &TO_ETCD, &migrate_v2::COMMAND],
    ..CliCommand::NONE
};

/// etcdctl's command of this name, which turns keys of an old member's v2 store into keys of its v3 store.
pub(crate) const ETCDCTLS: CliCommand = CliCommand {
    name: "migrate",
    short: "Migrates keys in a v2 store to a mvcc store",
    origin: Origin::EtcdctlAlone,
    flags: &[
        Flag::string("data-dir", "", "Path to the data directory"),
        Flag::switch("no-ttl", "Do not convert TTL keys"),
        Flag::string("transformer", "", "Path to the user-provided transformer program"),
        Flag::string("wal-dir", "", "Path to the WAL directory"),
    ],
    run: Some(|_| {
        Box::pin(async {
            let remedy = "copy the keys of a running etcd with `cleatctl migrate v2-to-v3`";
            Err(anyhow::anyhow!("migrate rewrites the directory of an etcd, which this program does not: {remedy}")
                .into())
        })
    }),
    ..CliCommand::NONE
};

const FROM_ETCD: CliCommand = CliCommand {
    name: "from-etcd",
    usage: "<snapshot or data directory> [options]",
    short: "Makes the data directory of a member of a new cluster from etcd's data",
    long:
        "Keys with their history, leases, users and roles. Every member of the new cluster is made from the same source
with the same flags, but for its own --name, --initial-advertise-peer-urls and --data-dir.",
    flags: &[
        BUMP_REVISION,
        DATA_DIR,
        INITIAL_ADVERTISE_PEER_URLS,
        INITIAL_CLUSTER,
        INITIAL_CLUSTER_TOKEN,
        NAME,
        SOURCE_WAL_DIR,
        WAL_DIR,
    ],
    origin: Origin::Cleat,
    run: Some(|context| Box::pin(from_etcd(context))),
    ..CliCommand::NONE
};

const TO_ETCD: CliCommand = CliCommand {
    name: "to-etcd",
    usage: "<snapshot> <filename>",
    short: "Makes a file from a snapshot that `etcdctl snapshot restore` takes",
    origin: Origin::Cleat,
    run: Some(|context| {
        Box::pin(async move {
            let [snapshot, file] = &*context.args else {
                return Err(Failure::bad_args("migrate to-etcd takes a snapshot and the file to make"));
            };
            to_etcd(&PathBuf::from(snapshot), &PathBuf::from(file))
        })
    }),
    ..CliCommand::NONE
};

/// Changes of a log that are applied between two flushes.
const CHANGES_PER_FLUSH: u64 = 10_000;

/// Where etcd's data is.
enum Source {
    File(Database),
    Member(Box<Member>),
}

impl Source {
    fn open(path: &Path, wal_dir: Option<&Path>) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Member(Box::new(Member::open(path, wal_dir, OpenOptions::default())?)));
        }
        ensure!(wal_dir.is_none(), "--source-wal-dir goes with a data directory, and {} is a file", path.display());
        Ok(Self::File(Database::open(path, OpenOptions::default())?))
    }

    fn database(&self) -> &Database {
        match self {
            Self::File(database) => database,
            Self::Member(member) => member.database(),
        }
    }
}

/// Makes the data directory of a member of a new cluster.
async fn from_etcd(context: Context) -> Result<(), Failure> {
    let [path] = &*context.args else {
        return Err(Failure::bad_args("migrate from-etcd takes one snapshot or data directory of etcd"));
    };
    let path = PathBuf::from(path);
    let checking = progress::running("checking");
    let source = Source::open(&path, context.file(&SOURCE_WAL_DIR).as_deref())?;
    drop(checking);
    warn_of_unknown(&source)?;
    warn_of_alarms(source.database())?;
    let founder = founder(&context, u64::try_from(context.int(&BUMP_REVISION)).unwrap_or_default());
    let mut rest = None;
    let begun = server::offline::begin(&founder, |database| {
        fill(&source, database)?;
        rest = Some(progress::running(REST));
        Ok::<_, anyhow::Error>(())
    });
    let begun = begun.await;
    drop(rest);
    say_begun(&path, &founder, &begun?)
}

fn warn_of_unknown(source: &Source) -> Result<()> {
    let Source::Member(member) = source else { return Ok(()) };
    let unknown = member.pending()?.unknown;
    if unknown > 0 {
        people::say(&format!(
            "warning: the log has {unknown} entries of which this member did not know whether they were committed; \
             they are left out. A snapshot of a running member has everything that was acknowledged"
        ));
    }
    Ok(())
}

/// Alarms are those of members, which are not taken along. What one says of the data is true all the same.
fn warn_of_alarms(database: &Database) -> Result<()> {
    for alarm in database.records::<AlarmMember>()? {
        let AlarmMember { member_id, alarm } = alarm?;
        let (name, remedy) = match AlarmType::try_from(alarm) {
            Ok(AlarmType::Corrupt) => (
                "CORRUPT".to_owned(),
                "its data may not be that of the others: compare `endpoint hashkv` of all members",
            ),
            Ok(AlarmType::Nospace) => {
                ("NOSPACE".to_owned(), "see that the new cluster has a larger --quota-backend-bytes")
            }
            _ => (alarm.to_string(), "it is not known to this release"),
        };
        people::say(&format!("warning: the alarm {name} of member {member_id:x} is not taken along; {remedy}"));
    }
    Ok(())
}

/// Makes a database of a snapshot of etcd.
///
/// # Errors
/// Damage, and what cannot be taken.
pub(crate) fn fill_from(snapshot: Database, path: &Path) -> Result<()> {
    warn_of_alarms(&snapshot)?;
    fill(&Source::File(snapshot), path)
}

fn fill(source: &Source, path: &Path) -> Result<()> {
    let database = source.database();
    let meta: Meta = database.settings()?;
    let mut rebuild = Rebuild::create(path, meta.compacted().unwrap_or(-1), &Options::default())?;
    for lease in database.records::<Lease>()? {
        let Lease { id, ttl, remaining_ttl } = lease?;
        rebuild.lease(id, &store::Lease { ttl, remaining_ttl })?;
    }
    for user in database.records::<User>()? {
        rebuild.user(&user?)?;
    }
    for role in database.records::<Role>()? {
        rebuild.role(&role?)?;
    }
    let auth: Auth = database.settings()?;
    rebuild.auth(auth.enabled == Some(true), auth.revision.unwrap_or(1))?;
    let page_bytes = u64::from(database.page_size());
    let bar = progress::file("reading", database.pages() * page_bytes);
    let (mut revision, mut changes) = (1, database.records::<Change>()?);
    while let Some(change) = changes.next() {
        let change = change?;
        bar.set_position(changes.pages_read() * page_bytes);
        revision = change.revision.main;
        // What `etcdutl snapshot restore --bump-revision` leaves is no change.
        if !change.is_bump() {
            let sub = u32::try_from(change.revision.sub).context("more changes in a transaction than there can be")?;
            rebuild.change(Revision { main: revision, sub }, change.stored())?;
        }
    }
    rebuild.finish(revision)?;
    progress::finish(&bar);
    match source {
        Source::File(_) => Ok(()),
        Source::Member(member) => apply_log(member, path),
    }
}

/// Applies what the member's log has and its database has not. The first entries may be in it: etcd up to 3.4 counts only
/// changes of keys. To apply those again changes nothing.
fn apply_log(member: &Member, path: &Path) -> Result<()> {
    let bar = match member.committed().saturating_sub(member.applied()) {
        0 => progress::running("looking for more in its log"),
        entries => progress::count(entries, "entries of its log"),
    };
    bar.tick();
    let (mut writer, mut flusher, _reader) = store::open(path, Options::default())?;
    let mut index = 0;
    for entry in member.entries() {
        let entry = entry?;
        bar.inc(1);
        let Payload::Request(request) = entry.payload else { continue };
        let Some(op) = op(*request)? else { continue };
        index += 1;
        let commands = [Command { header: None, op: Some(op) }];
        let position = Position { term: 1, index };
        // Etcd has answered these, errors included: the outcome is the same here.
        writer.apply([Entry { position, commands: &commands, membership: None }])?;
        if index % CHANGES_PER_FLUSH == 0 {
            flusher.flush()?;
        }
    }
    flusher.flush()?;
    progress::finish(&bar);
    Ok(())
}

/// What an entry of etcd's log changes in the store.
fn op(request: InternalRaftRequest) -> Result<Option<Op>> {
    if request.changes_users() {
        bail!(
            "the log may have changes of users and roles that the database lacks; take a snapshot of a running member \
             instead, or put a key before the member is stopped"
        );
    }
    let InternalRaftRequest { put, delete_range, txn, compaction, lease_grant, lease_revoke, lease_checkpoint, .. } =
        request;
    Ok(put
        .map(Op::Put)
        .or(delete_range.map(Op::DeleteRange))
        .or(txn.map(Op::Txn))
        .or(compaction.map(Op::Compaction))
        .or(lease_grant.map(Op::LeaseGrant))
        .or(lease_revoke.map(Op::LeaseRevoke))
        .or(lease_checkpoint.map(Op::LeaseCheckpoint)))
}

/// Makes a file that etcd restores.
fn to_etcd(snapshot: &Path, file: &Path) -> Result<(), Failure> {
    let (keys, revision) = write_for_etcd(snapshot, file)?;
    let file = file.display();
    print::line(&format!("{keys} keys at revision {revision}; restore {file} with `etcdctl snapshot restore`"))
}

/// Returns how many keys there are, and the revision.
fn write_for_etcd(snapshot: &Path, file: &Path) -> Result<(usize, i64)> {
    let scratch = Scratch::new()?;
    let reader = unpack(&open(snapshot, false)?, &scratch)?;
    let status = reader.status();
    let mut writer = Writer::create(file, &WriteOptions::default())?;
    for empty in ["alarm", "cluster", "members", "members_removed"] {
        writer.bucket(empty)?;
    }
    let (users, roles) = reader.users_and_roles();
    writer.records(users.into_iter().map(Ok))?;
    writer.records(roles.into_iter().map(Ok))?;
    let (is_enabled, auth_revision) = reader.auth_status();
    writer.settings(&Auth { enabled: Some(is_enabled), revision: Some(auth_revision) })?;
    writer.bucket("key")?;
    let (mut last, bar) = (1, progress::written());
    reader.history(|change| {
        last = change.revision.main;
        let (key, len) = change.revision.etcd_key(change.is_tombstone);
        writer.put(&key[..len], change.stored.as_bytes())?;
        bar.inc((len + change.stored.as_bytes().len()) as u64);
        Ok::<_, anyhow::Error>(())
    })?;
    if last < status.revision {
        // Etcd takes the revision of the last change for the store's. This is what its own restore leaves.
        let (key, len) = Revision { main: status.revision, sub: 0 }.etcd_key(false);
        writer.put(&key[..len], &[])?;
    }
    let mut leases = reader.leases();
    leases.sort_unstable_by_key(|(id, _)| id.cast_unsigned());
    let leases = leases.into_iter().map(|(id, lease)| {
        let store::Lease { ttl, remaining_ttl } = lease;
        Ok(Lease { id, ttl, remaining_ttl })
    });
    writer.records(leases)?;
    let compacted = Some(status.compacted).filter(|compacted| *compacted >= 0);
    let finished = Some(status.compaction_finished).filter(|finished| *finished >= 0);
    writer.settings(&Meta {
        consistent_index: Some(1),
        scheduled_compaction: compacted,
        finished_compaction: finished,
        ..Meta::default()
    })?;
    writer.finish()?;
    drop(bar);
    Ok((status.keys, status.revision))
}
