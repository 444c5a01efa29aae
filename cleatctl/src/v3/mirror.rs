//! `make-mirror`: copies the keys of a prefix to another cluster, and then every change, as long as it runs.

use crate::cli::{Command, Flag, Group};
use crate::context::{self, Context, half_a_pair};
use crate::failure::Failure;
use crate::print::line;
use crate::progress;
use crate::{globals, password};
use api::etcdserverpb::{PutRequest, RequestOp, TxnRequest};
use api::mvccpb::Event;
use api::mvccpb::event::EventType;
use client::message::{self, op};
use client::{Client, Options, TlsOptions, User, WatchOptions};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const DEST_CACERT: Flag =
    Flag::string("dest-cacert", "", "Verify certificates of TLS enabled secure servers using this CA bundle");
const DEST_CERT: Flag =
    Flag::string("dest-cert", "", "Identify secure client using this TLS certificate file for the destination cluster");
const DEST_INSECURE_TRANSPORT: Flag =
    Flag::switch("dest-insecure-transport", "Disable transport security for client connections").default("true");
const DEST_KEY: Flag = Flag::string("dest-key", "", "Identify secure client using this TLS key file");
const DEST_PASSWORD: Flag = Flag::string(
    "dest-password",
    "",
    "Destination password for authentication (if this option is used, --dest-user option shouldn't include password)",
)
.later();
const DEST_PREFIX: Flag = Flag::string(
    "dest-prefix",
    "",
    "destination prefix to mirror a prefix to a different prefix in the destination cluster",
);
const DEST_USER: Flag = Flag::string(
    "dest-user",
    "",
    "Destination username[:password] for authentication (prompt if password is not supplied)",
)
.later();
const MAX_TXN_OPS: Flag =
    Flag::int("max-txn-ops", "128", "Maximum number of operations permitted in a transaction during syncing updates.")
        .later();
const NO_DEST_PREFIX: Flag = Flag::switch("no-dest-prefix", "mirror key-values to the root of the destination cluster");
const PREFIX: Flag = Flag::string("prefix", "", "Key-value prefix to mirror");
const REV: Flag = Flag::int("rev", "0", "Specify the kv revision to start to mirror").later();

/// How often the number of copied keys is printed, as etcdctl does.
const REPORT: Duration = Duration::from_secs(30);

/// Keys in one answer while the prefix is read.
const PAGE_KEYS: i64 = 1000;

/// One after the other, keys would wait for the destination's disk one by one.
const WRITES: usize = 16;

pub(crate) const COMMAND: Command = Command {
    name: "make-mirror",
    usage: "[options] <destination>",
    short: "Makes a mirror at the destination etcd cluster",
    group: Group::Data,
    flags: &[
        DEST_CACERT,
        DEST_CERT,
        DEST_INSECURE_TRANSPORT,
        DEST_KEY,
        DEST_PASSWORD,
        DEST_PREFIX,
        DEST_USER,
        MAX_TXN_OPS,
        NO_DEST_PREFIX,
        PREFIX,
        REV,
    ],
    run: Some(|context| Box::pin(make_mirror(context))),
    ..Command::NONE
};

/// One mirror and how far it is.
struct Mirror {
    source: Client,
    target: Client,
    prefix: Vec<u8>,
    target_prefix: Vec<u8>,
    max_txn_ops: usize,
    /// Writes of the first copy that are on their way at a time.
    writes: usize,
    copied: AtomicU64,
    bar: ProgressBar,
    /// For a person, from when all that was there is copied.
    following: OnceLock<ProgressBar>,
    is_etcdctl: bool,
}

async fn make_mirror(mut context: Context) -> Result<(), Failure> {
    if context.args.len() != 1 {
        return Err(Failure::bad_args("make-mirror takes one destination argument"));
    }
    // The times of the destination may stand in the environment.
    context.read_environment()?;
    let target = context::client(&target_options(&context).await?)?;
    let (source, _) = context.connect().await?;
    let (prefix, mut target_prefix) = (context.bytes(&PREFIX), context.bytes(&DEST_PREFIX));
    let no_prefix = context.switch(&NO_DEST_PREFIX);
    if no_prefix && !target_prefix.is_empty() {
        return Err(Failure::bad_args(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ));
    }
    if !no_prefix && target_prefix.is_empty() {
        target_prefix.clone_from(&prefix);
    }
    let max_txn_ops = usize::try_from(context.int(&MAX_TXN_OPS).max(1)).unwrap_or(1);
    // The revisions of etcdctl's copy are in the order of the keys.
    let is_etcdctl = context.is_etcdctl();
    let mirror = Mirror {
        source,
        target,
        prefix,
        target_prefix,
        max_txn_ops,
        writes: if is_etcdctl { 1 } else { WRITES },
        copied: AtomicU64::new(0),
        bar: progress::keys(None),
        following: OnceLock::new(),
        is_etcdctl,
    };
    tokio::select! {
        ended = mirror.run(context.int(&REV)) => ended,
        ended = mirror.report() => ended,
    }
}

/// How the destination is reached: the flags of this command, and the times of the others.
async fn target_options(context: &Context) -> Result<Options, Failure> {
    let (ca_file, cert_file, key_file) =
        (context.file(&DEST_CACERT), context.file(&DEST_CERT), context.file(&DEST_KEY));
    if cert_file.is_some() != key_file.is_some() {
        let text = half_a_pair(context.personality(), cert_file.as_deref(), key_file.as_deref());
        return Err(Failure::bad_args(text));
    }
    let wants_tls =
        ca_file.is_some() || cert_file.is_some() || key_file.is_some() || !context.switch(&DEST_INSECURE_TRANSPORT);
    let tls = TlsOptions { ca_file, cert_file, key_file, ..TlsOptions::default() };
    let password = context.given(&DEST_PASSWORD);
    let user = match (context.given(&DEST_USER), password) {
        (None, _) => None,
        (Some(name), Some(password)) => Some(User { name, password }),
        (Some(user), None) => Some(match user.split_once(':') {
            Some((name, password)) => User { name: name.to_owned(), password: password.to_owned() },
            None => User { name: user, password: password::ask("Destination Password: ").await? },
        }),
    };
    let (max_request_bytes, max_answer_bytes) = context.message_bytes()?;
    Ok(Options {
        endpoints: vec![context.text(0)],
        tls: wants_tls.then_some(tls),
        user,
        token: None,
        dial_timeout: context.duration(&globals::DIAL_TIMEOUT),
        request_timeout: context.timeout(),
        keepalive_time: context.duration(&globals::KEEPALIVE_TIME),
        keepalive_timeout: context.duration(&globals::KEEPALIVE_TIMEOUT),
        max_request_bytes,
        max_answer_bytes,
    })
}

impl Mirror {
    /// Prints how many keys were copied, now and then; a bar makes way for it.
    async fn report(&self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(REPORT).await;
            let bar = self.following.get().unwrap_or(&self.bar);
            bar.suspend(|| line(&self.copied.load(Ordering::Relaxed).to_string()))?;
        }
    }

    /// Copies what is there unless the history is to be copied from a revision on, and then every change.
    async fn run(&self, from: i64) -> Result<(), Failure> {
        let start_revision = if from > 0 { from } else { self.copy_all().await? + 1 };
        let (key, range_end) = message::prefix_range(self.prefix.clone());
        let options = WatchOptions { key, range_end, start_revision, ..WatchOptions::default() };
        let mut watch = self.source.watch(options).await?;
        loop {
            self.tell_following();
            self.copy_events(watch.next().await?.events).await?;
        }
    }

    /// Shows a person that this goes on: nothing else would for a long time.
    fn tell_following(&self) {
        if !self.is_etcdctl {
            let copied = self.copied.load(Ordering::Relaxed);
            let text = format!("{copied} copied, and following every change until Ctrl-C");
            self.following.get_or_init(|| progress::running("")).set_message(text);
        }
    }

    /// Returns the revision that was copied.
    async fn copy_all(&self) -> Result<i64, Failure> {
        let mut request = message::get_prefix(self.prefix.clone());
        request.limit = PAGE_KEYS;
        loop {
            let page = self.source.range(request.clone()).await?;
            if request.revision == 0 {
                request.revision = page.header.map_or(0, |header| header.revision);
                self.bar.set_length(page.count.unsigned_abs());
            }
            let puts = page.kvs.iter().map(async |kv| {
                self.target.put(self.put(&kv.key, kv.value.clone())).await?;
                self.copied.fetch_add(1, Ordering::Relaxed);
                self.bar.inc(1);
                Ok::<(), Failure>(())
            });
            stream::iter(puts).buffer_unordered(self.writes).try_collect::<()>().await?;
            match page.kvs.last() {
                Some(last) if page.more => request.key = message::after(&last.key),
                _ => break,
            }
        }
        progress::finish(&self.bar);
        Ok(request.revision)
    }

    /// The changes of a revision go in one transaction, unless they are more than one may have.
    async fn copy_events(&self, events: Vec<Event>) -> Result<(), Failure> {
        let mut ops: Vec<RequestOp> = Vec::new();
        let mut revision = 0;
        for event in events {
            let Some(kv) = &event.kv else { continue };
            if kv.mod_revision > revision && revision != 0 || ops.len() >= self.max_txn_ops {
                self.commit(std::mem::take(&mut ops)).await?;
            }
            revision = kv.mod_revision;
            ops.push(match event.r#type() {
                EventType::Put => op::put(self.put(&kv.key, kv.value.clone())),
                EventType::Delete => op::delete(message::delete(self.key(&kv.key))),
            });
            self.copied.fetch_add(1, Ordering::Relaxed);
        }
        if ops.is_empty() { Ok(()) } else { self.commit(ops).await }
    }

    async fn commit(&self, success: Vec<RequestOp>) -> Result<(), Failure> {
        self.target.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        Ok(())
    }

    fn put(&self, key: &[u8], value: impl Into<Vec<u8>>) -> PutRequest {
        message::put(self.key(key), value.into())
    }

    /// The key with the destination's prefix.
    fn key(&self, key: &[u8]) -> Vec<u8> {
        [&*self.target_prefix, key.strip_prefix(&*self.prefix).unwrap_or(key)].concat()
    }
}
