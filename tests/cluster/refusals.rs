//! Members that do not let each other in: what both sides say, and that the others do not notice.

use crate::CLUSTERS;
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{PutRequest, StatusRequest};
use bytes::Bytes;
use harness::authority::{Pair, self_signed};
use harness::site::HOSTS;
use harness::{Client, ClientTls, Secure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// For a put, and for the end of a connection.
const LIMIT: Duration = Duration::from_secs(20);
/// Longer than a machine with much to do stops a member: an election would be one of the test's own making.
const ELECTION: &str = "--election-timeout=3000";
const REVOKED: u64 = 0xbad;
/// The one whose certificates are wrong.
const STRANGER: usize = 2;
const OTHERS: [usize; 2] = [0, 1];

/// Two members that serve, and what they have done since.
struct Undisturbed {
    cluster: Secure,
    over: Arc<AtomicBool>,
    puts: JoinHandle<Result<usize>>,
    term: u64,
}

impl Undisturbed {
    /// Starts the first two with a flag more, and a load on both.
    async fn start(flag: &str) -> Result<Self> {
        let mut cluster = Secure::new()?;
        let revoked = cluster.ca.revoke(&[REVOKED])?.pem()?;
        for member in OTHERS {
            cluster.site.replace(&format!("{}-crl.pem", harness::secure::NAMES[member]), &revoked)?;
            cluster.members[member].add_flags([flag.to_owned(), ELECTION.to_owned()]);
            cluster.members[member].spawn()?;
        }
        cluster.ready(&OTHERS).await?;
        let clients = [cluster.members[0].client().await?, cluster.members[1].client().await?];
        let over = Arc::new(AtomicBool::new(false));
        let puts = tokio::spawn(put_all_the_time(clients, Arc::clone(&over)));
        let term = term(&cluster).await?;
        Ok(Self { cluster, over, puts, term })
    }

    /// Starts the third member without data and with this certificate for peers.
    fn start_stranger(&mut self, pair: &Pair) -> Result<()> {
        self.cluster.lose(STRANGER)?;
        self.cluster.site.install("c-peer", pair)?;
        self.cluster.members[STRANGER].spawn()
    }

    /// Waits until one of the others refuses somebody on its peer URL for a reason.
    async fn wait_refused(&self, reason: &str) -> Result<()> {
        let line = ["rejected connection", r#""side":"peer""#, r#""remote_addr":"127.0.0.1:"#, reason];
        self.cluster.wait_for_line_of_any(&OTHERS, &line).await
    }

    /// Waits until a member complains about another one.
    async fn wait_complaint(&self, members: &[usize], reason: &str) -> Result<()> {
        let line = ["cannot reach a member, trying again", "https://127.0.0.1:", reason];
        self.cluster.wait_for_line_of_any(members, &line).await
    }

    /// Ends the load, and makes sure that nothing happened to it.
    async fn end(self) -> Result<Secure> {
        self.over.store(true, Ordering::Relaxed);
        let puts = self.puts.await?.with_context(|| self.cluster.logs())?;
        ensure!(puts > 0, "nothing was put");
        let term = term(&self.cluster).await?;
        ensure!(term == self.term, "term {} became {term}\n{}", self.term, self.cluster.logs());
        Ok(self.cluster)
    }
}

/// Every put has to succeed.
async fn put_all_the_time(mut clients: [Client; 2], over: Arc<AtomicBool>) -> Result<usize> {
    let mut puts = 0;
    while !over.load(Ordering::Relaxed) {
        for (member, client) in clients.iter_mut().enumerate() {
            let request = PutRequest { key: Bytes::from_static(b"load"), ..Default::default() };
            let put = tokio::time::timeout(LIMIT, client.kv.put(request)).await;
            put.ok()
                .context("no answer in time")
                .and_then(|put| Ok(put?))
                .with_context(|| format!("member {member}"))?;
            puts += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(puts)
}

async fn term(cluster: &Secure) -> Result<u64> {
    let mut client = cluster.members[0].client().await?;
    Ok(client.maintenance.status(StatusRequest {}).await?.into_inner().raft_term)
}

/// What the others say about a certificate, and what the member with it.
struct Case {
    pair: Pair,
    refused: &'static str,
    told: &'static str,
}

fn cases(cluster: &Secure) -> Result<Vec<Case>> {
    let ca = &cluster.ca;
    let not_allowed = "remote error: tls: unknown certificate; the member there does not allow the names in this";
    Ok(vec![
        Case {
            pair: ca.issue("x", &HOSTS)?,
            refused: r#"client certificate authentication failed: common name \"x\" not allowed"#,
            told: not_allowed,
        },
        Case {
            pair: ca.issue_numbered("c", &HOSTS, REVOKED)?,
            refused: "certificate serial 0bad revoked",
            told: not_allowed,
        },
        Case {
            pair: ca.issue_expired("c", &HOSTS)?,
            refused: "x509: certificate has expired or is not yet valid",
            told: "remote error: tls: expired certificate; renew the certificate of this member",
        },
        Case {
            pair: self_signed("c", &HOSTS)?,
            refused: "x509: certificate signed by unknown authority",
            told: "remote error: tls: unknown certificate authority; the --peer-trusted-ca-file of the member there",
        },
        Case {
            pair: ca.issue("c", &["10.0.0.1"])?,
            refused: "x509: certificate is valid for 10.0.0.1, not 127.0.0.1",
            told: "the connection was closed without an answer; the member there may not accept the certificate or",
        },
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_members_with_wrong_certificates() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut site = Undisturbed::start("--peer-cert-allowed-cn=a,b,c").await?;
    for Case { pair, refused, told } in cases(&site.cluster)? {
        site.start_stranger(&pair)?;
        site.wait_refused(refused).await?;
        site.wait_complaint(&[STRANGER], told).await?;
    }
    // In the other direction as well: the last certificate is good for another host.
    site.wait_complaint(&OTHERS, "the certificate of the member there must have the host of its peer URL").await?;

    let pair = site.cluster.ca.issue("c", &HOSTS)?;
    site.start_stranger(&pair)?;
    site.cluster.ready(&[STRANGER]).await?;
    site.end().await?.check().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_host_names_ends_with_another_certificate() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut site = Undisturbed::start("--peer-cert-allowed-hostname=localhost").await?;
    let pair = site.cluster.ca.issue("localhost", &["127.0.0.1", "elsewhere.c.test"])?;
    site.start_stranger(&pair)?;
    site.wait_refused(r#"failed: host names [\"elsewhere.c.test\", \"127.0.0.1\"] not allowed"#).await?;
    site.wait_complaint(&[STRANGER], "does not allow the names in this member's certificate").await?;
    site.wait_complaint(&OTHERS, "the flags of this member on allowed names").await?;
    // It need not start again to be let in.
    site.cluster.site.install("c-peer", &site.cluster.ca.issue("c", &HOSTS)?)?;
    site.cluster.ready(&[STRANGER]).await?;
    site.end().await?.check().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_members_without_tls() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut site = Undisturbed::start("--peer-cert-allowed-cn=a,b,c").await?;
    // A caller without a certificate.
    let nobody = ClientTls { own: None, ..site.cluster.site.caller("client") };
    let met = nobody.meet(&site.cluster.members[0].peer_endpoint()).await;
    ensure!(met.is_err(), "a caller without a certificate is let in");
    site.wait_refused("tls: client didn't provide a certificate").await?;

    // A member whose list, and whose own URL, begin with http.
    let list = site.cluster.list();
    let stranger = site.cluster.members[STRANGER].options_mut();
    stranger.secures_peers = false;
    stranger.initial_cluster = list.replace("https:", "http:");
    site.cluster.members[STRANGER].spawn()?;
    site.wait_refused("tls: first record does not look like a TLS handshake").await?;
    let told = ["cannot reach a member, trying again", "http://127.0.0.1:", "its peer URL must begin with https:"];
    site.cluster.wait_for_line(STRANGER, &told).await?;
    // The others call it with TLS.
    let refused = ["rejected connection", r#""side":"peer""#, r#""remote_addr":"127.0.0.1:"#, "the caller speaks TLS"];
    site.cluster.wait_for_line(STRANGER, &refused).await?;
    site.wait_complaint(&OTHERS, "the member there serves plain HTTP").await?;

    flood(&site.cluster.members[0].peer_endpoint()).await?;
    let log = site.cluster.members[0].log();
    let lines = log.lines().filter(|line| line.contains("does not look like a TLS handshake")).count();
    ensure!(lines < FLOOD / 10, "{lines} lines");

    site.cluster.lose(STRANGER)?;
    site.cluster.members[STRANGER].options_mut().secures_peers = true;
    site.cluster.members[STRANGER].options_mut().initial_cluster = list;
    site.cluster.members[STRANGER].restart().await?;
    site.end().await?.check().await
}

/// Connections of one caller; each is refused.
const FLOOD: usize = 200;

async fn flood(address: &str) -> Result<()> {
    for _ in 0..FLOOD {
        let mut plain = TcpStream::connect(address).await?;
        plain.write_all(b"GET /members HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        // A reset is an end as well.
        drop(tokio::time::timeout(LIMIT, plain.read_to_end(&mut Vec::new())).await.context("it is not closed")?);
    }
    Ok(())
}
