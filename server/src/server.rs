//! The whole member: the only place that wires its parts and spawns its tasks.
//!
//! Start order: data directory, metrics URLs, identity, log, store, raft, peer listeners, what others know of a member
//! without a log, leadership, services, listeners. Shutdown is the reverse: stop accepting, end streams and calls, stop the tasks, stop
//! raft, flush and close the store. A part that breaks reports once through [`Server::end`], and the process ends without
//! answering anything more.

use crate::assembly::JoinToken;
use crate::audit::Audit;
use crate::auth::feed::Feed;
use crate::auth::jwt::Jwt;
use crate::auth::password::Passwords;
use crate::auth::{Auth, Tokens};
use crate::background::{EndSender, Kept, follow_peers, lead_leases, publish, purge_log, watch_raft, watch_removal};
use crate::bootstrap::{self, Beginning, BootstrapError, FILE as IDENTITY_FILE};
use crate::cluster::{Cluster, Rules};
use crate::compactor;
use crate::config::{Config, ListenUrl, MetricsLevel, V2Mode};
use crate::corruption::{self, Mismatch};
use crate::data_dir::{DataDir, DataDirError};
use crate::health::GrpcHealth;
use crate::http::{self, HttpState};
use crate::lessor::Lessor;
use crate::listen::{
    AccessRules, Bound, Front, GrpcRoutes, LeaderGate, ListenError, ListenSettings, Listeners, Traffic,
};
use crate::metrics::Metrics;
use crate::newcomer::{self, Known};
use crate::node::{Identity, Limits, Node, Parts};
use crate::open::{self, Core, open_core};
use crate::otlp::Tracer;
use crate::peer::describe;
use crate::peer::door::Door;
use crate::peer::grpc::PeerGrpc;
use crate::peer::join::{self, Gate};
use crate::peer::limit::message_bytes_max;
use crate::peer::link::Links;
use crate::peer::service::PeerService;
use crate::peer::traffic::PeersTraffic;
use crate::probes::Probed;
use crate::quota::Quota;
use crate::raft::catch_up::CatchUps;
use crate::raft::log_store::LogExtent;
use crate::raft::snapshot::Receiver;
use crate::raft::wal::WalError;
use crate::storage::{DatabaseFailure, Storage};
use crate::tls::{Tls, TlsAcceptor, TlsError};
use crate::v2::hub::Hub as V2Hub;
use crate::v2::{self, V2};
use crate::v3;
use crate::v3::auth::AuthService;
use crate::v3::cluster::ClusterService;
use crate::v3::concurrency::Concurrency;
use crate::v3::election::ElectionService;
use crate::v3::kv::KvService;
use crate::v3::large_range::LargeRanges;
use crate::v3::lease::{LeaseService, proposer};
use crate::v3::lock::LockService;
use crate::v3::maintenance::MaintenanceService;
use crate::v3::snapshot::Snapshots;
use crate::v3::watch::WatchService;
use crate::watch::hub::Hub;
use api::etcdserverpb::AlarmType;
use api::server::auth_server::AuthServer;
use api::server::cluster_server::ClusterServer;
use api::server::election_server::ElectionServer;
use api::server::health_server::HealthServer;
use api::server::kv_server::KvServer;
use api::server::lease_server::LeaseServer;
use api::server::lock_server::LockServer;
use api::server::maintenance_server::MaintenanceServer;
use api::server::peer_server::PeerServer;
use api::server::watch_server::WatchServer;
use prometheus::IntCounter;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a request may take beside its payload: the gRPC frame limit is that much higher. etcd's figure.
const REQUEST_OVERHEAD_BYTES: usize = 512 << 10;

/// How long calls under way may take when the member stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Streams between members end when the connection does, so there is little to wait for.
const PEER_SHUTDOWN_GRACE: Duration = Duration::from_millis(100);

/// What waits of the audit log when the member stops may take this long to be written.
const AUDIT_FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// How often a member that waits for its cluster says what it waits for.
const WAITING_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The member's ids are not known.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] DatabaseFailure),
    /// The ids in the data directory are not those that its log was written with.
    #[error(
        "data directory {}: its log has no member {member_id:x}, which its {IDENTITY_FILE} file names: put back the file \
         that belongs to it, or the whole directory from a copy",
        dir.display()
    )]
    OtherMember {
        /// The data directory.
        dir: PathBuf,
        /// The id that the file names.
        member_id: u64,
    },
    /// The only founder of a cluster has lost its log and its database.
    #[error(
        "data directory {}: the data of member {member_id:x} is gone, and it may not found its cluster a second time: \
         put the directory `member` back from a copy; or, if the cluster has other members, remove this one there, add \
         it again and start it with --initial-cluster-state=existing and an empty data directory; or delete the whole \
         data directory to begin without the data",
        dir.display()
    )]
    LostData {
        /// The data directory.
        dir: PathBuf,
        /// The member.
        member_id: u64,
    },
    /// The data is not that of the other members.
    #[error("data directory {}: {mismatch}", dir.display())]
    Corrupt {
        /// The data directory.
        dir: PathBuf,
        /// What differs.
        mismatch: Mismatch,
    },
    /// A certificate or another file of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A key of signed tokens cannot be used.
    #[error("{0}")]
    AuthToken(String),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Consensus did not start.
    #[error("raft did not start: {0}")]
    Raft(String),
    /// The metrics could not be registered, or a thread not be started.
    #[error("cannot start: {0}")]
    Internal(String),
    /// A cluster has let the member in, which is written down: it begins again as another one.
    #[error("this member has joined its cluster and begins again")]
    Joined,
    /// The member ended while it was waiting for its cluster.
    #[error("{0}")]
    Ended(End),
}

/// Why a member ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A part of it is broken.
    Fault(String),
    /// It was removed from its cluster.
    Removed,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(reason) => f.write_str(reason),
            Self::Removed => {
                f.write_str("this member has been removed from the cluster; its data directory is of no more use")
            }
        }
    }
}

/// A running member.
pub struct Server {
    node: Node,
    log: LogExtent,
    catch_ups: CatchUps,
    storage: Storage,
    storage_thread: std::thread::JoinHandle<()>,
    hub: Arc<Hub>,
    v2_hub: Arc<V2Hub>,
    lessor: Arc<Lessor>,
    auth_feed: Arc<Feed>,
    listeners: Arc<Listeners>,
    peer_listeners: Listeners,
    cluster: Arc<Cluster>,
    snapshots: Option<Receiver>,
    links: Arc<Links>,
    traffic: Arc<PeersTraffic>,
    tracer: Option<Arc<Tracer>>,
    audit: Option<Arc<Audit>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    probed: Arc<Probed>,
    ends: mpsc::Receiver<End>,
    /// Holds the lock on the data directory until the end.
    data_dir: DataDir,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("identity", &self.node.identity()).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a member and returns once it serves clients.
    ///
    /// # Errors
    /// [`StartError`], with what to do about it. Nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        loop {
            match Box::pin(Self::start_once(config.clone())).await {
                // Every round needs a cluster that has let this member in anew.
                Err(StartError::Joined) => {}
                started => return started,
            }
        }
    }

    /// Long because every part is handed on by name.
    async fn start_once(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new(config.metrics == MetricsLevel::Extensive)
            .map_err(|error| StartError::Internal(error.to_string()))?;
        let audit = config.audit.as_ref().map(Audit::open).transpose().map_err(StartError::Internal)?.map(Arc::new);
        let data_dir = DataDir::open(&config.data_dir)?;
        let tls = Tls::open(&config, &data_dir.fixtures())?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let tracer = start_tracing(&config, &metrics, &tasks, &stop)?;
        let settings = ListenSettings::new(&config);
        let listeners = Arc::new(Listeners::new(&settings, Some(Traffic::of_clients(&metrics))));
        let probed = Probed::new();
        let state = HttpState { metrics: Arc::clone(&metrics), checks: Arc::new(probed.checks()) };
        let (end_sender, ends) = mpsc::channel(1);
        let begun = async {
            // Probes are answered from here on: what follows may take long.
            let front = Front::http_only(http::metrics_router(state.clone()));
            listen(&listeners, &config, tls.client.as_ref(), &config.listen_metrics_urls, &front).await?;
            let beginning = bootstrap::begin(data_dir.path(), &config, &tls.connector, &probed.place).await?;
            let ends = (end_sender.clone(), tls.connector.clone());
            let core = open_core(&config, &data_dir, &beginning, &metrics, ends).await?;
            Ok((beginning, core))
        };
        let (beginning, core) = match Box::pin(begun).await {
            Ok(begun) => begun,
            Err(error) => {
                stop.cancel();
                listeners.shutdown(PEER_SHUTDOWN_GRACE).await;
                return Err(error);
            }
        };
        let identity = beginning.identity;
        let limits = Limits {
            request_bytes: config.max_request_bytes,
            // etcd's: long enough for a change of leader.
            request_timeout: Duration::from_secs(5) + 2 * config.election_timeout,
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
        };
        let Core { raft, reader, log, forwards, majority, is_newcomer, .. } = core;
        let transport = Arc::clone(&core.links) as _;
        let parts = Parts { raft, reader, log, transport, forwards, majority, identity, limits };
        let node = Node::start(parts, &tasks, &stop);
        if is_newcomer {
            node.hold_back();
        } else {
            probed.place.is_found();
        }
        probed.node.set(node.clone()).ok();
        let rules = Rules { strict: config.strict_reconfig_check, max_learners: config.max_learners };
        let mut server = Self {
            cluster: Arc::new(Cluster::new(node.clone(), rules)),
            node,
            log: core.log_extent,
            catch_ups: core.catch_ups,
            storage: core.storage,
            storage_thread: core.storage_thread,
            hub: core.hub,
            v2_hub: core.v2_hub,
            lessor: core.lessor,
            auth_feed: core.auth_feed,
            snapshots: Some(core.snapshots),
            traffic: core.traffic,
            links: core.links,
            tracer,
            audit,
            listeners,
            peer_listeners: Listeners::new(&settings, None),
            tasks,
            stop,
            probed,
            ends,
            data_dir,
        };
        if let Err(error) = server.serve(&config, &beginning, &tls, state, &end_sender).await {
            server.stop_parts(PEER_SHUTDOWN_GRACE).await;
            return Err(error);
        }
        Ok(server)
    }

    /// Everything that needs the node: peers, leadership, tasks, services, listeners.
    async fn serve(
        &mut self,
        config: &Config,
        beginning: &Beginning,
        tls: &Tls,
        state: HttpState,
        ends: &EndSender,
    ) -> Result<(), StartError> {
        let metrics = &Arc::clone(&state.metrics);
        let node = self.node.clone();
        let auth = open_auth(config, &node, &self.auth_feed)?;
        let quota = Arc::new(Quota::new(config.quota_bytes, &node));
        let failures = &metrics.network.stream_failures;
        let leases = LeaseService::new(
            (node.clone(), auth.clone()),
            Arc::clone(&self.lessor),
            Arc::clone(&quota),
            failures.with_label_values(&["receive", "lease-keepalive"]),
            self.stop.clone(),
        );
        self.spawn_tasks(config, &quota, ends);
        let told = (Arc::clone(&self.hub), Arc::clone(&self.lessor), Arc::clone(&self.cluster));
        export_metrics(metrics, &node, &quota, told);
        tell_features(config, metrics);
        let audit = self.audit.clone();
        metrics.on_scrape(move |metrics| {
            show(&metrics.telling.log_lines_lost, crate::logging::lost());
            show(&metrics.telling.audit_lines_lost, audit.as_ref().map_or(0, |audit| audit.lost()));
        });
        let expiry = metrics.telling.certificate_expiry.clone();
        self.tasks.spawn(tls.clone().tell_expiry(expiry, self.stop.clone()));
        self.serve_peers(config, tls, leases.clone()).await?;
        if node.is_held_back() {
            self.wait_until_known(config, beginning, tls).await?;
        }
        self.wait_ready().await?;
        if config.corruption_checks.at_start {
            let checked = corruption::check_at_start(&node).await;
            let dir = || self.data_dir.path().to_owned();
            checked.map_err(|mismatch| StartError::Corrupt { dir: dir(), mismatch })?;
        }
        self.tasks.spawn(publish(node.clone(), config.clone(), self.stop.clone()));
        let routes = self.routes(config, metrics, &quota, leases, &auth);
        let rules = AccessRules { cors: config.cors.clone(), host_whitelist: config.host_whitelist.clone() };
        let mut http = http::router(state);
        if config.enable_grpc_gateway {
            http = http.merge(v3::json::router(Arc::clone(&routes)));
        }
        if config.v2 != V2Mode::Off {
            let (revision, is_wanted) = (auth.watch_revision(), config.v2 == V2Mode::Wanted);
            self.tasks.spawn(v2::auth::tell(node.clone(), is_wanted, revision, self.stop.clone()));
        }
        let v2 = self.v2(config, &quota, &auth, metrics);
        http = http.merge(if v2.is_some() { v2::router() } else { http::nothing_else() });
        let (rules, shortcut) = (Arc::new(rules), v2.map(v2::shortcut));
        let clients = if config.listen_client_http_urls.is_empty() {
            Front::both(routes, http.clone()).with_shortcut(shortcut.clone()).ruled_by(Arc::clone(&rules))
        } else {
            Front::grpc_only(routes)
        };
        let http_front = Front::http_only(http).with_shortcut(shortcut).ruled_by(rules);
        let tls = tls.client.as_ref();
        listen(&self.listeners, config, tls, &config.listen_client_urls, &clients).await?;
        listen(&self.listeners, config, tls, &config.listen_client_http_urls, &http_front).await
    }

    fn spawn_tasks(&self, config: &Config, quota: &Arc<Quota>, ends: &EndSender) {
        let (node, stop) = (&self.node, &self.stop);
        self.tasks.spawn(lead_leases(node.clone(), Arc::clone(&self.lessor), stop.clone()));
        let lessor = Arc::clone(&self.lessor);
        let (propose, stopped) = (proposer(node.clone()), stop.clone());
        self.tasks.spawn(async move { lessor.run(propose, stopped).await });
        self.tasks.spawn(Arc::clone(&self.links).probe(stop.clone()));
        self.tasks.spawn(watch_raft(node.clone(), ends.clone(), stop.clone()));
        self.tasks.spawn(follow_peers(node.clone(), self.log.clone(), stop.clone()));
        self.tasks.spawn(watch_removal(node.clone(), ends.clone(), stop.clone()));
        self.tasks.spawn(Arc::clone(&self.cluster).promote(stop.clone()));
        let purged = (self.log.clone(), self.catch_ups.clone());
        self.tasks.spawn(purge_log(node.clone(), purged, Kept::of(config), stop.clone()));
        self.tasks.spawn(Arc::clone(quota).watch_space(node.clone(), stop.clone()));
        self.tasks.spawn(v2::expire::run(node.clone(), stop.clone()));
        self.tasks.spawn(corruption::watch(node.clone(), config.corruption_checks, stop.clone()));
        if let Some(mode) = config.auto_compaction {
            self.tasks.spawn(compactor::run(node.clone(), mode, stop.clone()));
        }
    }

    /// Opens the peer URLs.
    async fn serve_peers(&mut self, config: &Config, tls: &Tls, leases: LeaseService) -> Result<(), StartError> {
        let Some(snapshots) = self.snapshots.take() else { return Ok(()) };
        let node = self.node.clone();
        let (cluster, traffic) = (Arc::clone(&self.cluster), Arc::clone(&self.traffic));
        let service = Arc::new(PeerService::new(node.clone(), leases, cluster, snapshots, traffic));
        let grpc = PeerServer::new(PeerGrpc::new(service))
            .max_decoding_message_size(message_bytes_max(config.max_request_bytes));
        let grpc = Door::new(grpc, node.clone(), Arc::clone(&self.traffic));
        // Every request reads it anew; what cannot be used from the start is an error.
        JoinToken::read(config.join_token_file.as_deref())?;
        let gate = Gate::new(config.join_token_file.clone());
        let router = describe::router(node.clone())
            .merge(join::router(node, Arc::clone(&self.cluster), gate))
            .route_service("/cleatpb.Peer/{method}", grpc);
        let front = Front::http_only(router).showing_certificates();
        for url in &config.listen_peer_urls {
            let bound = Bound::new(url, config.socket_reuse_port, tls.peer.as_ref()).await?;
            self.peer_listeners.serve(bound, &front);
        }
        Ok(())
    }

    /// Waits until others have told that this member, which has no log, never ran before. Then it takes part.
    async fn wait_until_known(&mut self, config: &Config, beginning: &Beginning, tls: &Tls) -> Result<(), StartError> {
        let node = self.node.clone();
        tokio::select! {
            known = newcomer::wait_until_known(&node, config, beginning, &tls.connector, &self.probed.place) => match known? {
                Known::TakesPart => {}
                Known::Joined(identity) => {
                    bootstrap::write_settled(self.data_dir.path(), &Beginning::joined(identity))?;
                    return Err(StartError::Joined);
                }
            },
            end = self.ends.recv() => return Err(ended(end)),
        }
        if beginning.is_assumed {
            bootstrap::write_settled(self.data_dir.path(), beginning)?;
        }
        open::found(node.raft(), beginning, &self.data_dir).await?;
        node.take_part();
        self.probed.place.is_found();
        Ok(())
    }

    /// Waits until there is a leader and this member has caught up with it, for as long as that takes.
    async fn wait_ready(&mut self) -> Result<(), StartError> {
        let node = self.node.clone();
        let mut ready = pin!(async { while node.ready().await.is_err() {} });
        loop {
            tokio::select! {
                () = &mut ready => return Ok(()),
                end = self.ends.recv() => return Err(ended(end)),
                () = tokio::time::sleep(WAITING_LOG_INTERVAL) => {
                    let others: Vec<String> = self.node.membership().membership().nodes()
                        .filter(|(id, _)| **id != self.node.identity().member_id)
                        .map(|(id, peer)| format!("{id:x}={peer}"))
                        .collect();
                    tracing::warn!(
                        leader = format_args!("{:x}", self.node.leader()),
                        ?others,
                        "waiting for a majority of the members: start them, and check that they reach each other at their peer URLs"
                    );
                }
            }
        }
    }

    fn routes(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
        quota: &Arc<Quota>,
        lease: LeaseService,
        auth: &Auth,
    ) -> Arc<GrpcRoutes> {
        let node = self.node.clone();
        let max_message = config.max_request_bytes + REQUEST_OVERHEAD_BYTES;
        // The routes refuse larger messages in etcd's words; the generated services must not be stricter.
        let decode = 2 * max_message;
        let kv = Arc::new(KvService {
            node: node.clone(),
            auth: auth.clone(),
            storage: self.storage.clone(),
            quota: Arc::clone(quota),
            max_txn_ops: config.max_txn_ops,
            metrics: metrics.mvcc.clone(),
            large_ranges: LargeRanges::default(),
        });
        let concurrency = Concurrency::new(
            Arc::clone(&kv),
            lease.clone(),
            Arc::clone(&self.hub),
            self.tasks.clone(),
            self.stop.clone(),
        );
        let maintenance = MaintenanceService {
            node: node.clone(),
            auth: auth.clone(),
            storage: self.storage.clone(),
            quota: Arc::clone(quota),
            metrics: Arc::clone(metrics),
            cluster: Arc::clone(&self.cluster),
            snapshots: Snapshots::start(&self.tasks, self.stop.clone()),
            v2: config.v2,
        };
        let watch = WatchService {
            node: node.clone(),
            auth: auth.clone(),
            hub: Arc::clone(&self.hub),
            progress_interval: config.watch_progress_notify_interval,
            stop: self.stop.clone(),
            failures: metrics.network.stream_failures.with_label_values(&["receive", "watch"]),
            sending: metrics.watch_send.clone(),
        };
        let users = AuthService { node: node.clone(), auth: auth.clone() };
        let (asked, learner) = (node.clone(), node.clone());
        let leader = LeaderGate::new(move || asked.leader() != 0);
        self.tasks.spawn(Arc::clone(&leader).watch(config.election_timeout, self.stop.clone()));
        let routes = GrpcRoutes::new(Arc::clone(metrics), max_message, config.warning_unary_request_duration, leader)
            .refusing_as_learner(move || learner.is_learner())
            .guarded_by(auth.clone())
            .limited_to(config.user_rate_limit)
            .with(KvServer::from_arc(kv).max_decoding_message_size(decode).max_encoding_message_size(usize::MAX))
            .with(MaintenanceServer::new(maintenance).max_decoding_message_size(decode))
            .with(WatchServer::new(watch).max_decoding_message_size(decode).max_encoding_message_size(usize::MAX))
            .with(LeaseServer::new(lease).max_decoding_message_size(decode))
            .with(LockServer::new(LockService(concurrency.clone())).max_decoding_message_size(decode))
            .with(ElectionServer::new(ElectionService(concurrency)).max_decoding_message_size(decode))
            .with(AuthServer::new(users).max_decoding_message_size(decode))
            .with(HealthServer::new(GrpcHealth::new(self.probed.serving.subscribe())))
            .with(
                ClusterServer::new(ClusterService { node, cluster: Arc::clone(&self.cluster) })
                    .max_decoding_message_size(decode),
            );
        Arc::new(routes.observed_by(self.tracer.clone(), self.audit.clone()))
    }

    /// The v2 API, if it is served.
    fn v2(&self, config: &Config, quota: &Arc<Quota>, auth: &Auth, metrics: &Arc<Metrics>) -> Option<Arc<V2>> {
        if config.v2 == V2Mode::Off {
            return None;
        }
        let parts = v2::Parts {
            node: self.node.clone(),
            cluster: Arc::clone(&self.cluster),
            quota: Arc::clone(quota),
            hub: Arc::clone(&self.v2_hub),
            traffic: Arc::clone(&self.traffic),
            passwords: auth.passwords(),
            takes_common_names: config.auth.names_are_users,
            is_wanted: config.v2 == V2Mode::Wanted,
            name: config.name.clone(),
            metrics: Arc::clone(metrics),
            audit: self.audit.clone(),
            slow: config.warning_unary_request_duration,
        };
        Some(V2::new(parts))
    }

    /// Who this member is, for the log: member id and cluster id.
    pub fn ids(&self) -> (u64, u64) {
        let Identity { cluster_id, member_id } = self.node.identity();
        (member_id, cluster_id)
    }

    /// Returns when the member ends by itself. The process must end then.
    pub async fn end(&mut self) -> End {
        self.ends.recv().await.unwrap_or_else(|| End::Fault("the member's parts are gone".to_owned()))
    }

    /// Stops the member: hands leadership over, ends calls and streams, then flushes and closes the store.
    pub async fn shutdown(self) {
        self.probed.serving.send_replace(false);
        if self.node.is_leader() && !self.node.is_alone() {
            self.cluster.hand_over().await;
        }
        self.stop_parts(SHUTDOWN_GRACE).await;
    }

    /// Stops everything; what clients asked for may take this long.
    async fn stop_parts(self, grace: Duration) {
        self.stop.cancel();
        self.v2_hub.close();
        self.listeners.shutdown(grace).await;
        self.peer_listeners.shutdown(PEER_SHUTDOWN_GRACE).await;
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.node.raft().shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        self.storage.stop();
        let joined = tokio::task::spawn_blocking(move || self.storage_thread.join().is_ok()).await;
        if !matches!(joined, Ok(true)) {
            tracing::error!("the storage thread did not end in order");
        }
        if let Some(audit) = self.audit {
            audit.flush(AUDIT_FLUSH_DEADLINE);
        }
    }
}

/// Serves clients at these URLs. As in etcd, one address may be that of a URL with TLS and of one without.
async fn listen(
    listeners: &Listeners,
    config: &Config,
    tls: Option<&TlsAcceptor>,
    urls: &[ListenUrl],
    front: &Front,
) -> Result<(), StartError> {
    for (index, url) in urls.iter().enumerate() {
        let twin = urls.iter().find(|other| other.is_tls() != url.is_tls() && other.is_at(url));
        let is_repeated = urls[..index].iter().any(|other| other.is_tls() == url.is_tls() && other.is_at(url));
        // The one with TLS opens what both are served at.
        if is_repeated || (twin.is_some() && !url.is_tls()) {
            continue;
        }
        let bound = Bound::new(url, config.socket_reuse_port, tls).await?;
        let bound = match twin {
            Some(plain) => bound.with_plain(plain),
            None => bound,
        };
        listeners.serve(bound, front);
    }
    Ok(())
}

/// What knows users: reads the keys of signed tokens.
fn open_auth(config: &Config, node: &Node, feed: &Arc<Feed>) -> Result<Auth, StartError> {
    let tokens = match &config.auth.jwt {
        Some(options) => Tokens::Jwt(Box::new(Jwt::open(options).map_err(StartError::AuthToken)?)),
        None => Tokens::Simple,
    };
    let passwords = Arc::new(Passwords::new(config.auth.bcrypt_cost));
    Ok(Auth::new(node.clone(), Arc::clone(feed), tokens, passwords, config.auth.names_are_users))
}

/// Starts to send traces, if they are asked for.
fn start_tracing(
    config: &Config,
    metrics: &Metrics,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Option<Arc<Tracer>>, StartError> {
    let Some(traces) = &config.traces else { return Ok(None) };
    let dropped = metrics.telling.trace_spans_dropped.clone();
    let (tracer, sending) = Tracer::new(traces, dropped).map_err(StartError::Internal)?;
    tasks.spawn(sending.run(stop.clone()));
    Ok(Some(tracer))
}

/// The member ended while it was starting.
fn ended(end: Option<End>) -> StartError {
    StartError::Ended(end.unwrap_or_else(|| End::Fault("a part of the member ended".to_owned())))
}

/// Shows a count that is kept elsewhere.
fn show(counter: &IntCounter, count: u64) {
    counter.reset();
    counter.inc_by(count);
}

/// Alarms that are raised, and the other members. Series of a member that was removed are dropped with its others.
fn show_alarms_and_peers(metrics: &Metrics, node: &Node, server_id: &str) {
    let alarms = &metrics.server.alarms;
    alarms.reset();
    for raised in node.reader().alarms(AlarmType::None as i32) {
        let kind = AlarmType::try_from(raised.alarm).map_or("UNKNOWN", |alarm| alarm.as_str_name());
        alarms.with_label_values(&[&format!("{:x}", raised.member_id), kind]).set(1);
    }
    let own = node.identity().member_id;
    for (id, _) in node.membership().membership().nodes().filter(|(id, _)| **id != own) {
        metrics.peer.known.with_label_values(&[server_id, &format!("{id:x}")]).set(1);
    }
}

/// What dashboards for etcd up to 3.4 ask for under other names.
fn show_old_names(metrics: &Metrics) {
    let mvcc = &metrics.mvcc;
    show(&mvcc.old_puts, mvcc.puts.get());
    show(&mvcc.old_deletes, mvcc.deletes.get());
    show(&mvcc.old_ranges, mvcc.ranges.get());
    show(&mvcc.old_txns, mvcc.txns.get());
    mvcc.old_db_size_bytes.set(mvcc.db_size_bytes.get());
}

/// The gates of etcd that do something here.
fn tell_features(config: &Config, metrics: &Metrics) {
    for (feature, is_enabled) in [
        ("InitialCorruptCheck", config.corruption_checks.at_start),
        ("CompactHashCheck", config.corruption_checks.after_compaction.is_some()),
    ] {
        metrics.server.feature_enabled.with_label_values(&[feature, "ALPHA"]).set(i64::from(is_enabled));
    }
}

/// Sets the gauges that are read from state when somebody asks.
fn export_metrics(
    metrics: &Arc<Metrics>,
    node: &Node,
    quota: &Quota,
    (hub, lessor, cluster): (Arc<Hub>, Arc<Lessor>, Arc<Cluster>),
) {
    let server_id = format!("{:x}", node.identity().member_id);
    metrics.server.id.with_label_values(&[&server_id]).set(1);
    node.stats().count_times(metrics.server.request_seconds.clone());
    metrics.server.quota_bytes.set(quota.limit_bytes() as i64);
    let node = node.clone();
    metrics.on_scrape(move |metrics| {
        let store = node.reader().status();
        let server = &metrics.server;
        server.has_leader.set(i64::from(node.leader() != 0));
        server.is_leader.set(i64::from(node.is_leader()));
        server.auth_revision.set(node.reader().auth_status().1 as i64);
        server.is_learner.set(i64::from(node.is_learner()));
        show(&server.learner_promote_successes, cluster.promotions());
        for (reason, count) in cluster.refused_promotions() {
            show(&server.learner_promote_failures.with_label_values(&[reason]), count);
        }
        server.proposals_committed.set(node.committed() as i64);
        server.proposals_applied.set(store.applied.index as i64);
        show(&server.proposals_failed, node.stats().failed());
        show(&metrics.overload.proposals_refused, node.stats().refused());
        show(&server.read_indexes_failed, node.stats().reads_failed());
        show(&server.slow_read_indexes, node.stats().reads_timed_out());
        show(&server.leader_changes, node.leader_changes());
        show(&server.lease_expired, lessor.stats().expired());
        show(&metrics.lease.renewed, lessor.stats().renewed());
        server.proposals_pending.set(node.stats().pending() as i64);
        metrics.disk.wal_write_bytes.set(node.log_bytes() as i64);
        metrics.mvcc.db_size_bytes.set(store.file_bytes as i64);
        metrics.mvcc.db_size_in_use_bytes.set(store.stored_bytes as i64);
        metrics.mvcc.keys.set(store.keys as i64);
        let watch = hub.stats();
        metrics.mvcc.watch_streams.set(watch.streams.get() as i64);
        metrics.mvcc.watchers.set(watch.watchers.get() as i64);
        metrics.mvcc.slow_watchers.set(watch.unsynced.get() as i64);
        show(&metrics.mvcc.events, watch.events.get());
        metrics.mvcc.pending_events.set(watch.pending.get() as i64);
        show_old_names(metrics);
        show_alarms_and_peers(metrics, &node, &server_id);
        metrics.mvcc.current_revision.set(store.revision);
        metrics.mvcc.compact_revision.set(store.compacted);
    });
}
