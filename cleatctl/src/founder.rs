//! The flags of the first member of a new cluster, which `snapshot restore` and `migrate` make.

use crate::cli::Flag;
use crate::context::Context;
use server::offline::Founder;
use std::path::PathBuf;

pub(crate) const DATA_DIR: Flag = Flag::string("data-dir", "", "Path to the data directory");
pub(crate) const WAL_DIR: Flag =
    Flag::string("wal-dir", "", "Path to the WAL directory (use --data-dir if none given)");
pub(crate) const NAME: Flag = Flag::string("name", "default", "Human-readable name for this member");
pub(crate) const INITIAL_CLUSTER: Flag = Flag::string(
    "initial-cluster",
    "default=http://localhost:2380",
    "Initial cluster configuration for restore bootstrap",
);
pub(crate) const INITIAL_CLUSTER_TOKEN: Flag = Flag::string(
    "initial-cluster-token",
    "etcd-cluster",
    "Initial cluster token for the etcd cluster during restore bootstrap",
);
pub(crate) const INITIAL_ADVERTISE_PEER_URLS: Flag = Flag::string(
    "initial-advertise-peer-urls",
    "http://localhost:2380",
    "List of this member's peer URLs to advertise to the rest of the cluster",
);

/// The member to make, with a revision that is moved up.
pub(crate) fn founder(context: &Context, bump_revision: u64) -> Founder {
    let name = context.string(&NAME);
    let urls: Vec<String> = context.string(&INITIAL_ADVERTISE_PEER_URLS).split(',').map(str::to_owned).collect();
    let own = || urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",");
    // etcdctl has the default of the flag whatever the name is, and then refuses it.
    let has_default = context.is_set(&INITIAL_CLUSTER) || context.is_etcdctl();
    let initial_cluster = if has_default { context.string(&INITIAL_CLUSTER) } else { own() };
    Founder {
        initial_cluster,
        data_dir: context.file(&DATA_DIR).unwrap_or_else(|| PathBuf::from(format!("{name}.etcd"))),
        wal_dir: context.file(&WAL_DIR),
        initial_cluster_token: context.string(&INITIAL_CLUSTER_TOKEN),
        initial_advertise_peer_urls: urls,
        name,
        bump_revision,
    }
}
