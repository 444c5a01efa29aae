//! What members count of their traffic with each other, beside etcd: the same names, types, labels and buckets, and
//! values that mean the same.

use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::PutRequest;
use harness::{Cluster, Kind, Place, Subject, http};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);
const VALUE_BYTES: usize = 1 << 20;
const TRIES: usize = 10;

/// Of etcd's, what a cluster shows in which members were lost, and came back. A failure to receive is rare in etcd.
const FAMILIES: [(&str, &str); 8] = [
    ("etcd_network_active_peers", "gauge"),
    ("etcd_network_disconnected_peers_total", "counter"),
    ("etcd_network_peer_received_bytes_total", "counter"),
    ("etcd_network_peer_round_trip_time_seconds", "histogram"),
    ("etcd_network_peer_sent_bytes_total", "counter"),
    ("etcd_network_peer_sent_failures_total", "counter"),
    ("etcd_network_peer_received_failures_total", "counter"),
    // Since 3.6.
    ("etcd_network_known_peers", "gauge"),
];
const COMPARED: usize = 6;

type Labels = BTreeMap<String, String>;

/// One scrape of a member.
struct Scrape {
    types: BTreeMap<String, String>,
    series: Vec<(String, Labels, f64)>,
}

impl Scrape {
    async fn of(cluster: &Cluster, member: usize) -> Result<Self> {
        let (status, _, text) = http::get(&cluster.url(member), "/metrics").await?;
        ensure!(status == 200, "/metrics answers {status}");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let types = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        let series = text.lines().filter(|line| line.starts_with("etcd_network_")).filter_map(series).collect();
        Ok(Self { types, series })
    }

    /// The value of a series, 0 where it is not there.
    fn value(&self, name: &str, labels: &[(&str, u64)]) -> f64 {
        let wanted: Labels = labels.iter().map(|(label, id)| ((*label).to_owned(), format!("{id:x}"))).collect();
        self.series
            .iter()
            .find(|(found, labels, _)| found == name && *labels == wanted)
            .map_or(0.0, |(.., value)| *value)
    }

    /// Names of labels and the buckets of a family. etcd counts who asks for `/members` as a member without an id.
    fn shape(&self, family: &str) -> BTreeSet<Vec<String>> {
        let of_family = self.series.iter().filter(|(name, labels, _)| {
            let rest = name.strip_prefix(family);
            matches!(rest, Some("" | "_bucket" | "_sum" | "_count")) && labels.get("From").is_none_or(|id| id != "0")
        });
        let shape = of_family.map(|(name, labels, _)| {
            let labels = labels.iter().map(|(label, value)| if label == "le" { value.clone() } else { label.clone() });
            [name.clone()].into_iter().chain(labels).collect()
        });
        shape.collect()
    }

    fn ids(&self, label: &str) -> BTreeSet<String> {
        self.series.iter().filter_map(|(_, labels, _)| labels.get(label).cloned()).collect()
    }
}

fn series(line: &str) -> Option<(String, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
    let labels = pairs.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()));
    Some((name.to_owned(), labels.collect(), value.parse().ok()?))
}

/// Waits until a member's metrics are as they should be.
async fn until(cluster: &Cluster, member: usize, what: &str, is_so: impl Fn(&Scrape) -> bool) -> Result<Scrape> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let scrape = Scrape::of(cluster, member).await?;
        if is_so(&scrape) {
            return Ok(scrape);
        }
        ensure!(Instant::now() < deadline, "member {member}: {what}: {:#?}", scrape.series);
        tokio::time::sleep(POLL).await;
    }
}

async fn id(cluster: &Cluster, member: usize) -> Result<u64> {
    Ok(cluster.status(member).await?.header.context("a header")?.member_id)
}

async fn put(cluster: &Cluster, member: usize) -> Result<()> {
    let put = PutRequest { key: "a".into(), value: vec![7; VALUE_BYTES].into(), ..Default::default() };
    cluster.client(member).await?.kv.put(put).await?;
    Ok(())
}

/// A megabyte is seen where it leaves and where it arrives, and a member that is lost where it is missed. Returns what the
/// leader says at the end.
async fn observed(cluster: &mut Cluster) -> Result<Scrape> {
    let leader = cluster.leader().await?;
    let follower = cluster.follower().await?;
    let (leading, following) = (id(cluster, leader).await?, id(cluster, follower).await?);
    let least = VALUE_BYTES as f64;
    let sent = "etcd_network_peer_sent_bytes_total";
    let received = "etcd_network_peer_received_bytes_total";

    put(cluster, leader).await?;
    until(cluster, leader, "sends", |it| it.value(sent, &[("To", following)]) >= least).await?;
    let quiet = until(cluster, follower, "receives", |it| it.value(received, &[("From", leading)]) >= least).await?;
    let answers = quiet.value(sent, &[("To", leading)]);
    ensure!(answers > 0.0 && answers < least, "a follower sent {answers} bytes");

    put(cluster, follower).await?;
    until(cluster, follower, "forwards", |it| it.value(sent, &[("To", leading)]) >= least).await?;
    until(cluster, leader, "is forwarded to", |it| it.value(received, &[("From", following)]) >= least).await?;

    let times = "etcd_network_peer_round_trip_time_seconds_count";
    let link = [("Local", leading), ("Remote", following)];
    until(cluster, leader, "measures", |it| it.value(times, &[("To", following)]) >= 1.0).await?;
    until(cluster, leader, "is connected", |it| it.value("etcd_network_active_peers", &link) >= 1.0).await?;
    cluster.kill(follower)?;
    until(cluster, leader, "misses a member", |it| {
        it.value("etcd_network_active_peers", &link) == 0.0
            && it.value("etcd_network_disconnected_peers_total", &link) >= 1.0
            && it.value("etcd_network_peer_sent_failures_total", &[("To", following)]) >= 1.0
    })
    .await?;
    cluster.restart(follower).await?;
    until(cluster, leader, "has it back", |it| it.value("etcd_network_active_peers", &link) >= 1.0).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_between_members_is_counted_as_in_etcd() -> Result<()> {
    let mut scrapes = Vec::new();
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::start(&Subject::of(kind)?, Place::Loopback, 3).await?;
        let scrape = observed(&mut cluster).await.with_context(|| format!("{kind}\n{}", cluster.logs()))?;
        let leader = cluster.leader().await?;
        let mut others = BTreeSet::new();
        for member in cluster.members() {
            if member != leader {
                others.insert(format!("{:x}", id(&cluster, member).await?));
            }
        }
        let local = BTreeSet::from([format!("{:x}", id(&cluster, leader).await?)]);
        ensure!(scrape.ids("Local") == local, "{kind}: {:?} instead of {local:?}", scrape.ids("Local"));
        for label in ["To", "Remote"] {
            ensure!(scrape.ids(label) == others, "{kind}: {label} is {:?}, not {others:?}", scrape.ids(label));
        }
        scrapes.push(scrape);
    }
    let (etcd, cleat) = (&scrapes[0], &scrapes[1]);
    for (name, kind) in &FAMILIES[..COMPARED] {
        let types = (etcd.types.get(*name).map(String::as_str), cleat.types.get(*name).map(String::as_str));
        ensure!(types == (Some(kind), Some(kind)), "{name}: etcd and cleat have {types:?}");
        let shapes = (etcd.shape(name), cleat.shape(name));
        ensure!(shapes.0 == shapes.1, "{name}: etcd and cleat have {shapes:#?}");
    }
    let known: BTreeSet<&str> =
        FAMILIES.iter().map(|(name, _)| *name).chain(etcd.types.keys().map(String::as_str)).collect();
    let unknown: Vec<_> =
        cleat.types.keys().filter(|name| name.contains("_peer") && !known.contains(name.as_str())).collect();
    ensure!(unknown.is_empty(), "etcd does not have {unknown:?}");
    Ok(())
}

/// The oldest segment of a log: names are in the order of the log.
fn first_segment(log: &Path) -> Result<Option<OsString>> {
    let names = std::fs::read_dir(log)?.map(|item| Ok(item?.file_name())).collect::<Result<Vec<_>>>()?;
    Ok(names.into_iter().filter(|name| Path::new(name).extension().is_some_and(|it| it == "wal")).min())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_counted() -> Result<()> {
    let flags = ["--snapshot-count=10", "--snapshot-catchup-entries=5"];
    let mut cluster = Cluster::start_with(&Subject::of(Kind::Cleat)?, Place::Loopback, 1, &flags).await?;
    let leader = cluster.leader().await?;
    // Until the beginning of the log is gone.
    let log = cluster.data_dir(leader).join("member/wal");
    let first = first_segment(&log)?;
    let deadline = Instant::now() + DEADLINE;
    while first_segment(&log)? == first {
        ensure!(Instant::now() < deadline, "the log still begins with {first:?}");
        put(&cluster, leader).await?;
    }
    let added = cluster.add().await?;
    let (from, to) = (id(&cluster, leader).await?, id(&cluster, added).await?);
    for (member, way, label, peer) in [(leader, "send", "To", to), (added, "receive", "From", from)] {
        let name = |what: &str| format!("etcd_network_snapshot_{way}_{what}");
        let is_there = |it: &Scrape| it.value(&name("success"), &[(label, peer)]) >= 1.0;
        let scrape = until(&cluster, member, "a snapshot was counted", is_there).await?;
        for (what, kind) in
            [("success", "counter"), ("inflights_total", "gauge"), ("total_duration_seconds", "histogram")]
        {
            let found = scrape.types.get(&name(what)).map(String::as_str);
            ensure!(found == Some(kind), "{}: {found:?}", name(what));
        }
        ensure!(scrape.value(&name("inflights_total"), &[(label, peer)]) == 0.0, "{way}: it is still on its way");
        ensure!(scrape.value(&name("failures"), &[(label, peer)]) == 0.0, "{way}: one failed");
        ensure!(scrape.value(&name("total_duration_seconds_count"), &[(label, peer)]) >= 1.0, "{way}: no duration");
    }
    Ok(())
}

/// Waits until so many proposals are pending on a member.
async fn until_pending(cluster: &Cluster, member: usize, count: &str) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (_, _, text) = http::get(&cluster.url(member), "/metrics").await?;
        let pending = text.lines().find_map(|line| line.strip_prefix("etcd_server_proposals_pending "));
        if pending == Some(count) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{pending:?} are pending and not {count}");
        tokio::time::sleep(POLL).await;
    }
}

/// While there is no majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_whose_client_gave_up_is_not_pending() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::start_with(&Subject::of(kind)?, Place::Loopback, 3, &[]).await?;
        let given_up = async {
            for _ in 0..TRIES {
                if give_up(&mut cluster).await? {
                    return Ok(());
                }
            }
            bail!("no proposal was pending in {TRIES} tries")
        };
        given_up.await.with_context(|| format!("{kind}"))?;
    }
    Ok(())
}

/// Gives up a put that no majority acknowledges. False if it came so late that the leader led no more, and refused it.
async fn give_up(cluster: &mut Cluster) -> Result<bool> {
    let leader = cluster.leader().await?;
    let mut client = cluster.client(leader).await?;
    let others: Vec<usize> = cluster.running().into_iter().filter(|member| *member != leader).collect();
    for member in &others {
        cluster.pause(*member)?;
    }
    let put = PutRequest { key: "a".into(), ..Default::default() };
    let mut put = tokio::spawn(async move { client.kv.put(put).await });
    let is_pending = tokio::select! {
        pending = until_pending(cluster, leader, "1") => pending.map(|()| true),
        _ = &mut put => Ok(false),
    };
    if is_pending? {
        put.abort();
        until_pending(cluster, leader, "0").await?;
        return Ok(true);
    }
    for member in others {
        cluster.resume(member)?;
    }
    cluster.wait_healthy().await?;
    Ok(false)
}
