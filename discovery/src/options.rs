//! What to discover with, and for how long.

use crate::static_cluster::InitialCluster;
use crate::v3::V3;
use client::without_user;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// This member, as it describes itself to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// `--name`.
    pub name: String,
    /// `--initial-advertise-peer-urls`.
    pub peer_urls: Vec<String>,
}

/// Where the members of the first cluster are written.
#[derive(Clone)]
pub enum Source {
    /// In a flag: `--initial-cluster` and `--initial-cluster-token`.
    Static(InitialCluster),
    /// At a discovery URL, the v2 protocol: `--discovery` and `--discovery-proxy`. The URL is the cluster's token.
    Url {
        /// The token's URL; every member must be given the same text.
        url: String,
        /// An HTTP proxy on the way there.
        proxy: Option<String>,
    },
    /// In another cluster, the v3 protocol: `--discovery-endpoints` and `--discovery-token`, which is the cluster's
    /// token.
    V3(V3),
    /// In DNS: `--discovery-srv`, `--discovery-srv-name` and `--initial-cluster-token`.
    Srv(Srv),
}

/// Without passwords.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(cluster) => f.debug_tuple("Static").field(cluster).finish(),
            Self::Url { url, proxy } => {
                let proxy = proxy.as_deref().map(without_user);
                f.debug_struct("Url").field("url", &without_user(url)).field("proxy", &proxy).finish()
            }
            Self::V3(v3) => f.debug_tuple("V3").field(v3).finish(),
            Self::Srv(srv) => f.debug_tuple("Srv").field(srv).finish(),
        }
    }
}

/// SRV records of a domain. Whatever is in DNS at the time is the cluster, as in etcd: members that see different
/// records make different clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Srv {
    /// The records are `_etcd-server-ssl._tcp.DOMAIN` and `_etcd-server._tcp.DOMAIN`.
    pub domain: String,
    /// With a name N they are `_etcd-server-ssl-N._tcp.DOMAIN` and `_etcd-server-N._tcp.DOMAIN`. Empty means none.
    pub service_name: String,
    /// The cluster's token.
    pub token: String,
}

/// How long to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A name server to ask instead of the system's.
    pub name_server: Option<SocketAddr>,
    /// How long this member's own host names may be unknown.
    pub name_patience: Duration,
    /// How long SRV records may be missing. In Kubernetes they appear after the process has started.
    pub srv_patience: Duration,
    /// How long the other members may take to register. A registration stays, so that a member which gave up goes on
    /// when it is started again.
    pub member_patience: Duration,
    /// Failures in a row after which a discovery service is given up.
    pub tries: u32,
    /// Pause after the first failure, doubled after each.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name_server: None,
            // As in etcd.
            name_patience: Duration::from_secs(30),
            srv_patience: Duration::from_mins(5),
            member_patience: Duration::from_hours(1),
            // etcd goes on for ever, and up to four minutes apart. This is about a quarter of an hour; who starts
            // processes again starts this one, too.
            tries: 32,
            first_pause: Duration::from_secs(2),
            longest_pause: Duration::from_secs(32),
        }
    }
}
