//! Everything at once that a member must stand: a crowd that logs in, a range as large as the store, connections that say
//! nothing, handshakes that never end, a watch that nobody reads. Meanwhile a few others want to work.
//!
//! `CLEAT_OVERLOAD=full` makes it as large as it is meant, and takes minutes; the figures it prints only mean something
//! with a release build (`CLEAT_BIN`).

use super::{PASSWORD, add_users};
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{PutRequest, RangeRequest, StatusRequest, WatchCreateRequest, WatchRequest};
use bytes::{BufMut as _, Bytes, BytesMut};
use harness::ports::Port;
use harness::{Client, Kind, Options, Server, http, with_token};
use prost::Message;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_mins(1);
const VALUE_BYTES: usize = 1 << 20;
const LOGINS_ON_A_CONNECTION: usize = 100;
/// Clients that go on as before.
const OTHERS: usize = 4;
const OTHERS_VALUE_BYTES: usize = 1 << 10;
/// Between the bytes of a slow handshake, and between looks at the member's health.
const PAUSE: Duration = Duration::from_millis(500);

/// What is asked of the member, and what it may take.
struct Size {
    logins: usize,
    range_mib: usize,
    idle: usize,
    slow: usize,
    /// Memory beyond what the member has before, MiB: for requests and answers, whatever their number and size.
    growth_mib: u64,
    /// Memory for each connection, KiB.
    connection_kib: u64,
    /// How long the others are measured alone, and at least beside the rest.
    measured: Duration,
}

const SMALL: Size = Size {
    logins: 150,
    // More than the growth: a range that is built whole shows.
    range_mib: 192,
    idle: 300,
    slow: 50,
    growth_mib: 96,
    connection_kib: 64,
    measured: Duration::from_secs(3),
};

const FULL: Size = Size {
    logins: 1000,
    range_mib: 2048,
    idle: 10_000,
    slow: 1000,
    growth_mib: 96,
    connection_kib: 64,
    measured: Duration::from_secs(20),
};

impl Size {
    fn of_environment() -> Result<&'static Self> {
        match std::env::var("CLEAT_OVERLOAD").as_deref() {
            Err(_) => Ok(&SMALL),
            Ok("full") => Ok(&FULL),
            Ok(other) => bail!("CLEAT_OVERLOAD is full or not set, not {other}"),
        }
    }

    fn growth_kib(&self) -> u64 {
        (self.growth_mib << 10) + self.connection_kib * (self.idle + self.slow) as u64
    }
}

/// A field of the process's status, KiB.
fn memory_kib(server: &Server, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()?.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?)
}

/// From here on `VmHWM` is the peak.
fn forget_peak(server: &Server) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{}/clear_refs", server.pid()?.as_raw_nonzero()), "5")?)
}

/// A member with a URL without TLS and one with it, users, and data.
struct Subject {
    server: Server,
    secure: String,
    client: Client,
    token: String,
    _port: Port,
}

impl Subject {
    async fn start(size: &Size) -> Result<Self> {
        let flags = ["--auto-tls", "--quota-backend-bytes=8589934592", "--bcrypt-cost=10"].map(str::to_owned);
        let mut server = Server::prepare(Kind::Cleat, Options { flags: flags.to_vec(), ..Options::default() })?;
        let port = Port::reserve()?;
        let secure = format!("127.0.0.1:{}", port.number());
        let (plain, both) = (server.client_url(), format!("{},https://{secure}", server.client_url()));
        server.add_flags([format!("--listen-client-urls={both}"), format!("--advertise-client-urls={plain}")]);
        server.restart().await?;
        let client = server.client().await?;
        add_users(&client, &["ann"]).await?;
        let token = client.login("root", PASSWORD).await?;
        let subject = Self { server, secure, client, token, _port: port };
        for n in 0..size.range_mib {
            subject.fill(n).await.with_context(|| format!("value {n}"))?;
        }
        tokio::time::timeout(DEADLINE, subject.settled()).await.context("the disk has never done")??;
        Ok(subject)
    }

    /// Puts one value, however long it takes until the disk has taken the ones before.
    async fn fill(&self, n: usize) -> Result<()> {
        let (key, value) = (Bytes::from(format!("large/{n:05}")), Bytes::from(vec![n as u8; VALUE_BYTES]));
        let mut kv = self.client.kv.clone();
        let put = async {
            loop {
                let put = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
                match kv.put(with_token(put, Some(&self.token))).await {
                    Err(error) if error.message() == "etcdserver: too many requests" => tokio::time::sleep(PAUSE).await,
                    other => return other.map(drop),
                }
            }
        };
        Ok(tokio::time::timeout(DEADLINE, put).await.context("the disk takes no more")??)
    }

    /// Waits until the database grows no more.
    async fn settled(&self) -> Result<()> {
        let (mut before, mut maintenance) = (0, self.client.maintenance.clone());
        loop {
            let status = maintenance.status(with_token(StatusRequest {}, Some(&self.token))).await?.into_inner();
            if status.db_size == before {
                return Ok(());
            }
            before = status.db_size;
            tokio::time::sleep(4 * PAUSE).await;
        }
    }
}

/// What the others' requests took.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or_default()
    }

    /// Puts and reads, one after the other, on a connection for each of the others.
    async fn measure(subject: &Subject, stop: CancellationToken) -> Result<Self> {
        let mut clients = JoinSet::new();
        for n in 0..OTHERS {
            let (client, token, stop) = (subject.server.client().await?, subject.token.clone(), stop.clone());
            clients.spawn(async move {
                let (mut took, mut kv) = (Vec::new(), client.kv.clone());
                let key = Bytes::from(format!("others/{n}"));
                while !stop.is_cancelled() {
                    let value = Bytes::from(vec![b'v'; OTHERS_VALUE_BYTES]);
                    let began = Instant::now();
                    let put = PutRequest { key: key.clone(), value, ..Default::default() };
                    kv.put(with_token(put, Some(&token))).await.context("a put of the others")?;
                    took.push(began.elapsed());
                    let began = Instant::now();
                    let range = RangeRequest { key: key.clone(), ..Default::default() };
                    let found = kv.range(with_token(range, Some(&token))).await.context("a read of the others")?;
                    ensure!(found.into_inner().kvs.len() == 1);
                    took.push(began.elapsed());
                }
                anyhow::Ok(took)
            });
        }
        let mut all = Vec::new();
        while let Some(took) = clients.join_next().await {
            all.extend(took??);
        }
        all.sort_unstable();
        Ok(Self(all))
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99, last) = (self.percentile(50), self.percentile(99), self.percentile(100));
        write!(f, "{} requests, p50 {p50:.1?}, p99 {p99:.1?}, max {last:.1?}", self.0.len())
    }
}

/// A crowd, each with another wrong password; every tenth has the right one.
async fn log_in(subject: &Subject, logins: usize) -> Result<String> {
    let mut crowd = JoinSet::new();
    let mut client = subject.server.client().await?;
    for n in 0..logins {
        if n % LOGINS_ON_A_CONNECTION == 0 {
            client = subject.server.client().await?;
        }
        let client = client.clone();
        crowd.spawn(async move {
            let password = if n % 10 == 0 { PASSWORD.to_owned() } else { format!("wrong{n}") };
            (n % 10 == 0, client.login("ann", &password).await)
        });
    }
    let (mut right, mut wrong, mut busy) = (0, 0, 0);
    while let Some(login) = crowd.join_next().await {
        match login? {
            (true, Ok(_)) => right += 1,
            (false, Err(error)) if error.message().contains("authentication failed") => wrong += 1,
            (_, Err(error)) if error.message() == "etcdserver: too many requests" => busy += 1,
            other => bail!("a login: {other:?}"),
        }
    }
    ensure!(wrong > 0, "nobody was told");
    Ok(format!("{right} logged in, {wrong} were refused, {busy} turned away"))
}

/// Begins a call on a connection of its own. Bytes of the answer's body, as far as the caller lets them come.
async fn call(subject: &Subject, path: &str, request: &impl Message, ends: bool) -> Result<Call> {
    let endpoint = subject.server.endpoint();
    let (client, connection) = h2::client::handshake(TcpStream::connect(&endpoint).await?).await?;
    let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let head = ::http::Request::post(format!("http://{endpoint}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("token", &subject.token)
        .body(())?;
    let (response, mut sending) = client.ready().await?.send_request(head, false)?;
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(request.encoded_len() as u32);
    request.encode(&mut message)?;
    sending.send_data(message.freeze(), ends)?;
    let body = response.await?.into_body();
    Ok(Call { body, _sending: sending, _driver: driver })
}

/// A call that goes on, and its connection.
struct Call {
    body: h2::RecvStream,
    _sending: h2::SendStream<Bytes>,
    _driver: tokio_util::task::AbortOnDropHandle<()>,
}

/// Everything, read as fast as it comes, and kept by nobody.
async fn read_all(subject: &Subject, size: &Size) -> Result<()> {
    let range = RangeRequest { key: "large/".into(), range_end: "large0".into(), ..Default::default() };
    let mut call = call(subject, "/etcdserverpb.KV/Range", &range, true).await?;
    let mut bytes = 0;
    while let Some(data) = call.body.data().await {
        let data = data?;
        bytes += data.len();
        call.body.flow_control().release_capacity(data.len())?;
    }
    let status = call.body.trailers().await?.context("an answer without an end")?;
    ensure!(status.get("grpc-status").is_some_and(|status| status == "0"), "{status:?}");
    ensure!(bytes > size.range_mib * VALUE_BYTES, "{bytes} bytes");
    Ok(())
}

/// Connections that say hello, and nothing more.
async fn idle(subject: &Subject, count: usize) -> Result<Vec<TcpStream>> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(subject.server.endpoint()).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        all.push(stream);
    }
    Ok(all)
}

/// Says a handshake byte by byte, and begins anew when the member has had enough of it.
async fn dawdle((address, says): (String, &'static [u8]), stop: CancellationToken) {
    while !stop.is_cancelled() {
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        for byte in says.chunks(1).cycle() {
            let said = tokio::select! {
                said = stream.write_all(byte) => said,
                () = stop.cancelled() => return,
            };
            let mut nothing = [0; 64];
            // Closed, or what a TLS server says before it closes.
            let is_over = tokio::time::timeout(PAUSE, stream.read(&mut nothing)).await.is_ok();
            if said.is_err() || is_over {
                break;
            }
        }
    }
}

/// Asks all the time whether the member is well.
async fn stay_healthy(subject: &Subject, stop: CancellationToken) -> Result<usize> {
    let mut looks = 0;
    while !stop.is_cancelled() {
        let (status, _, body) = http::get(&subject.server.client_url(), "/health").await?;
        ensure!(status == 200 && body.contains(r#""health":"true""#), "{body}");
        looks += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(looks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_stands_everything_at_once() -> Result<()> {
    let size = Size::of_environment()?;
    let subject = Subject::start(size).await?;
    let alone = {
        let stop = CancellationToken::new();
        let (measured, ()) = tokio::join!(Latencies::measure(&subject, stop.clone()), async {
            tokio::time::sleep(size.measured).await;
            stop.cancel();
        });
        measured?
    };
    forget_peak(&subject.server)?;
    let before = memory_kib(&subject.server, "VmRSS:")?;

    let watch = WatchCreateRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let watch = WatchRequest { request_union: Some(RequestUnion::CreateRequest(watch)) };
    // Its capacity is never given back.
    let unread = call(&subject, "/etcdserverpb.Watch/Watch", &watch, false).await?;
    let idle = idle(&subject, size.idle).await?;
    let stop = CancellationToken::new();
    let mut dawdlers = JoinSet::new();
    for n in 0..size.slow {
        let slow: (String, &'static [u8]) = match n % 3 {
            0 => (subject.server.endpoint(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            1 => (subject.server.endpoint(), b"GET / HTTP/1.1\r\nX: y\r\nX: y\r\n"),
            _ => (subject.secure.clone(), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
        };
        dawdlers.spawn(dawdle(slow, stop.clone()));
    }
    let storm = async {
        let least = tokio::time::sleep(size.measured);
        let (told, read, ()) = tokio::join!(log_in(&subject, size.logins), read_all(&subject, size), least);
        stop.cancel();
        read.context("the large range")?;
        told
    };
    let others = Latencies::measure(&subject, stop.clone());
    let (logins, beside, looks) = tokio::join!(storm, others, stay_healthy(&subject, stop.clone()));
    let (logins, beside, looks) = (logins?, beside?, looks?);
    while dawdlers.join_next().await.is_some() {}

    let peak = memory_kib(&subject.server, "VmHWM:")?;
    println!("logins: {logins}");
    println!("others alone: {alone}");
    println!("others beside the rest: {beside}");
    println!("{looks} looks at its health; memory {} MiB before, {} MiB at most", before >> 10, peak >> 10);
    let (grown, may_grow) = (peak.saturating_sub(before), size.growth_kib());
    ensure!(grown < may_grow, "{grown} KiB more, where {may_grow} are for it");
    drop((unread, idle));
    let put = PutRequest { key: "after".into(), ..Default::default() };
    let mut kv = subject.client.kv.clone();
    tokio::time::timeout(DEADLINE, kv.put(with_token(put, Some(&subject.token))))
        .await
        .context("the member does not answer")??;
    ensure!(!subject.server.log().contains(r#""level":"error""#), "{}", subject.server.log_tail());
    Ok(())
}
