//! Certificates of a whole cluster that are replaced under load: leaves, the CA, revocation lists.

use crate::{CLUSTERS, TOLD_VIOLATIONS};
use anyhow::{Context, Result, ensure};
use harness::authority::{Authority, Pair};
use harness::checker;
use harness::history::{History, Nanos, Outcome};
use harness::load::{Load, LoadOptions};
use harness::site::HOSTS;
use harness::{Cluster, Site, Subject};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: usize = 3;
/// Members look at their files once in a second while connections come in.
const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);
const REVOKED: u64 = 0xbad;

fn name(member: usize) -> String {
    format!("m{member}")
}

/// A cluster whose certificates are replaced.
struct Rotation {
    cluster: Cluster,
    site: Arc<Site>,
    load: Load,
    /// Since when no member was stopped.
    calm_since: Nanos,
    calm: Vec<RangeInclusive<Nanos>>,
}

impl Rotation {
    /// The addresses where members show certificates: of clients, and of peers.
    fn addresses(&self, member: usize) -> [String; 2] {
        let server = self.cluster.server(member);
        [server.endpoint(), server.peer_endpoint()]
    }

    /// Gives a member other certificates and waits until it shows them.
    async fn replace_leaves(&self, member: usize, ca: &Authority, caller: &str) -> Result<()> {
        let pairs = [ca.issue(&name(member), &HOSTS)?, ca.issue(&name(member), &HOSTS)?];
        self.site.install(&format!("{}-server", name(member)), &pairs[0])?;
        self.site.install(&format!("{}-peer", name(member)), &pairs[1])?;
        for (address, Pair { der, .. }) in self.addresses(member).iter().zip(&pairs) {
            let shown = async || self.site.caller(caller).meet(address).await.is_ok_and(|shown| shown == *der);
            becomes(&format!("member {member} shows another certificate on {address}"), shown).await?;
        }
        Ok(())
    }

    /// Gives all members another file and waits until they accept a caller, or refuse it.
    async fn replace_everywhere(&self, file: &str, text: &str, caller: &str, is_let_in: bool) -> Result<()> {
        for member in 0..SIZE {
            self.site.replace(&format!("{}-{file}", name(member)), text)?;
        }
        for member in 0..SIZE {
            for address in self.addresses(member) {
                let met = async || self.site.caller(caller).meet(&address).await.is_ok() == is_let_in;
                becomes(&format!("member {member} lets {caller} in on {address}: {is_let_in}"), met).await?;
            }
        }
        Ok(())
    }

    /// Cuts all connections of a member and waits until the others and it have connected anew.
    async fn reconnect(&mut self, member: usize) -> Result<()> {
        self.calm.push(self.calm_since..=self.load.now());
        self.cluster.terminate(member).await?;
        self.cluster.restart(member).await?;
        self.cluster.wait_healthy().await?;
        self.calm_since = self.load.now();
        Ok(())
    }

    /// Another leaf, then another CA in three steps, then a revocation. Restarts only cut connections: each is of
    /// another member than the one before, so that those who have read their files anew by themselves connect.
    async fn rotate(&mut self, old: &Authority, new: &Authority) -> Result<()> {
        for member in 0..SIZE {
            self.replace_leaves(member, old, "old").await.context("other leaves")?;
        }
        self.reconnect(0).await.context("with other leaves")?;

        let both = old.pem() + &new.pem();
        self.site.replace("trusted.pem", &both)?;
        self.replace_everywhere("ca.pem", &both, "new", true).await.context("both CAs")?;
        self.reconnect(1).await.context("with both CAs")?;

        for member in 0..SIZE {
            self.replace_leaves(member, new, "old").await.context("leaves of the new CA")?;
        }
        self.site.install("client", &new.issue("client", &HOSTS)?)?;
        self.reconnect(2).await.context("with leaves of the new CA")?;

        self.site.replace("trusted.pem", &new.pem())?;
        self.replace_everywhere("ca.pem", &new.pem(), "old", false).await.context("the new CA alone")?;
        self.reconnect(0).await.context("with the new CA alone")?;

        let list = new.revoke(&[REVOKED])?.pem()?;
        self.replace_everywhere("crl.pem", &list, "new", false).await.context("another revocation list")?;
        self.reconnect(1).await.context("with another revocation list")?;
        self.calm.push(self.calm_since..=self.load.now());
        Ok(())
    }

    /// A member with a leaf of the old CA is refused, and let in without another start when it has one of the new.
    async fn refuse_the_old(&mut self, old: &Authority, new: &Authority) -> Result<()> {
        const LATE: usize = 2;
        self.cluster.terminate(LATE).await?;
        let before: Vec<usize> = (0..SIZE).map(|member| self.cluster.server(member).log().len()).collect();
        let has_line = |cluster: &Cluster, member: usize, texts: &[&str]| {
            let log = cluster.server(member).log();
            let since = log.get(before[member]..).unwrap_or_default();
            since.lines().any(|line| texts.iter().all(|text| line.contains(text)))
        };
        self.site.install(&format!("{}-peer", name(LATE)), &old.issue(&name(LATE), &HOSTS)?)?;
        self.cluster.spawn(LATE)?;
        let refused = ["rejected connection", r#""side":"peer""#, "127.0.0.1:", "signed by unknown authority"];
        let told = ["cannot reach a member", "unknown certificate authority; the --peer-trusted-ca-file of the member"];
        becomes("the member with an old leaf is refused", async || {
            (0..LATE).any(|member| has_line(&self.cluster, member, &refused)) && has_line(&self.cluster, LATE, &told)
        })
        .await?;
        self.site.install(&format!("{}-peer", name(LATE)), &new.issue(&name(LATE), &HOSTS)?)?;
        self.cluster.wait_healthy().await
    }

    /// Ends the load and checks what it saw.
    async fn end(self) -> Result<(Cluster, History)> {
        let Self { cluster, mut load, calm, .. } = self;
        load.settled();
        let history = load.finish().await.with_context(|| cluster.logs())?;
        cluster.agree().await.with_context(|| cluster.logs())?;
        for op in &history.ops {
            let is_calm = calm.iter().any(|time| time.contains(&op.call) && time.contains(&op.ret));
            let is_lost = matches!(op.outcome, Outcome::Unknown(_));
            ensure!(!is_calm || !is_lost, "a call failed while no member was stopped: {op:?}\n{}", cluster.logs());
        }
        Ok((cluster, history))
    }
}

/// Waits until something is so.
async fn becomes(what: &str, mut is: impl AsyncFnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !is().await {
        ensure!(Instant::now() < deadline, "not in {LIMIT:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_of_all_certificates_fails_no_request() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let subject = Subject::under_test()?;
    if !subject.is_cleat {
        // etcd reads its CA once.
        return Ok(());
    }
    let (old, new) = (Authority::new("old ca")?, Authority::new("new ca")?);
    let site = Arc::new(Site::new(&old)?);
    for member in 0..SIZE {
        site.admit(&old, &name(member))?;
    }
    site.install("old", &old.issue("caller", &HOSTS)?)?;
    site.install("new", &new.issue_numbered("caller", &HOSTS, REVOKED)?)?;
    let cluster = Cluster::start_secure(&subject, SIZE, &[], Arc::clone(&site)).await?;
    // A busy machine is no reason for which a call may fail in calm times.
    let options = LoadOptions { patience: Duration::from_secs(5), ..LoadOptions::default() };
    let load = Load::start(cluster.endpoints(), &options);
    let mut rotation = Rotation { cluster, site, calm_since: load.now(), load, calm: Vec::new() };
    let rotated = async {
        rotation.rotate(&old, &new).await?;
        rotation.refuse_the_old(&old, &new).await
    };
    if let Err(error) = rotated.await {
        return Err(error.context(rotation.cluster.logs()));
    }
    let (cluster, history) = rotation.end().await?;
    let report = checker::check(&history);
    eprintln!("rotation of all certificates ({}): {report}", subject.label);
    ensure!(report.violations.is_empty(), "{}\n{}", report.told(TOLD_VIOLATIONS), cluster.logs());
    ensure!(report.acknowledged_writes > 0 && report.linearizable_reads > 0, "nothing was done");
    ensure!(report.failed_requests == 0, "retries did not absorb {} requests", report.failed_requests);
    Ok(())
}
