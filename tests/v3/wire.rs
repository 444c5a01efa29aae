//! Bad input on the client port: after each of them the server runs and answers.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};
use bytes::Bytes;
use harness::{Kind, Options, Server};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A SETTINGS frame without settings.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn still_answers(server: &mut Server, after: &str) -> Result<()> {
    ensure!(server.is_running(), "the server ended after {after}:\n{}", server.log_tail());
    let mut client = server.client().await?;
    let asked = client.maintenance.status(StatusRequest {});
    tokio::time::timeout(DEADLINE, asked).await.with_context(|| format!("no answer after {after}"))??;
    Ok(())
}

/// Sends bytes and reads what comes back first, until the server closes or `patience` ends.
async fn send_bytes(server: &Server, bytes: &[u8], patience: Duration) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server.endpoint()).await?;
    // The server may close before it has read everything.
    if stream.write_all(bytes).await.is_err() {
        return Ok(Vec::new());
    }
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(patience, stream.read(&mut answer)).await;
    answer.truncate(read.map_or(0, Result::unwrap_or_default));
    Ok(answer)
}

#[tokio::test]
async fn garbage_on_the_port() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let frame = |head: [u8; 9], body: &[u8]| [PREFACE, SETTINGS, &head, body].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("zeros", vec![0; 4096]),
        ("every byte", (0..=255).cycle().take(70_000).collect()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a TLS hello", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("a preface and garbage", [PREFACE, &[0xff; 100]].concat()),
        ("a frame of 16 MiB", frame([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &[1; 64])),
        ("data on a stream that is not open", frame([0, 0, 4, 0, 1, 0, 0, 0, 1], &[1, 2, 3, 4])),
        ("headers that are not compressed", frame([0, 0, 4, 1, 5, 0, 0, 0, 1], &[0xff; 4])),
        ("a window update of 0", frame([0, 0, 4, 8, 0, 0, 0, 0, 0], &[0; 4])),
        ("a long request line", [b"GET /".as_slice(), &vec![b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat()),
        ("a header without an end", b"GET / HTTP/1.1\r\nHost: x\r\nA".to_vec()),
        (
            "two content lengths",
            b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\n{}".to_vec(),
        ),
    ];
    for (what, bytes) in &cases {
        // Some of it is only the begin of a request, to which nothing is said.
        send_bytes(&server, bytes, Duration::from_millis(500)).await?;
        still_answers(&mut server, what).await?;
    }
    Ok(())
}

#[tokio::test]
async fn http1_requests() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let cases: [(&str, &str, &str); 5] = [
        ("an unknown path", "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 404"),
        ("the version", "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"),
        ("the health", "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"),
        (
            "a gRPC path",
            "POST /etcdserverpb.KV/Range HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 404",
        ),
        ("not HTTP", "HELO example.org\r\n\r\n", "HTTP/1.1 400"),
    ];
    for (what, request, expected) in cases {
        let answer = send_bytes(&server, request.as_bytes(), DEADLINE).await?;
        let answer = String::from_utf8_lossy(&answer);
        // What is no protocol at all may also be answered by closing.
        let closed = what == "not HTTP" && answer.is_empty();
        ensure!(closed || answer.starts_with(expected), "{what}: expected {expected}, got {answer}");
        still_answers(&mut server, what).await?;
    }
    Ok(())
}

/// Sends one gRPC request body over HTTP/2 as it is; returns the gRPC status, if there was one.
async fn send_grpc(server: &Server, path: &str, content_type: &str, body: Bytes) -> Result<Option<String>> {
    let stream = TcpStream::connect(server.endpoint()).await?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let driver = tokio::spawn(connection);
    let uri = format!("http://{}{path}", server.endpoint());
    let request = http::Request::post(uri).header("content-type", content_type).header("te", "trailers").body(())?;
    let call = async {
        let mut client = client.ready().await?;
        let (response, mut send) = client.send_request(request, false)?;
        // The server may answer and reset the stream before it has read the body.
        let sent = send.send_data(body, true);
        let response = response.await?;
        let status = |headers: &http::HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
        if let Some(found) = status(response.headers()) {
            return Ok(Some(found));
        }
        sent?;
        let mut answer = response.into_body();
        while let Some(data) = answer.data().await {
            let taken = data?.len();
            answer.flow_control().release_capacity(taken)?;
        }
        Ok::<_, h2::Error>(answer.trailers().await?.as_ref().and_then(status))
    };
    let outcome = tokio::time::timeout(DEADLINE, call).await.context("no answer")?;
    driver.abort();
    Ok(outcome.ok().flatten())
}

#[tokio::test]
async fn malformed_grpc_frames() -> Result<()> {
    const RANGE: &str = "/etcdserverpb.KV/Range";
    const GRPC: &str = "application/grpc";
    let mut server = Server::start(Kind::Cleat).await?;
    let good = Bytes::from_static(&[0, 0, 0, 0, 3, 0x0a, 1, b'a']);
    ensure!(send_grpc(&server, RANGE, GRPC, good.clone()).await?.as_deref() == Some("0"), "a good frame is refused");
    let cases: [(&str, &str, &'static [u8]); 6] = [
        ("no message", GRPC, &[]),
        ("half a header", GRPC, &[0, 0, 0]),
        ("a length beyond the body", GRPC, &[0, 0, 0, 0, 200, 1, 2, 3]),
        ("a length of 4 GiB", GRPC, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        ("an unknown compression", GRPC, &[1, 0, 0, 0, 3, 1, 2, 3]),
        ("a bad flag", GRPC, &[7, 0, 0, 0, 3, 0x0a, 1, b'a']),
    ];
    for (what, content_type, body) in cases {
        let status = send_grpc(&server, RANGE, content_type, Bytes::from_static(body)).await?;
        ensure!(status.as_deref() != Some("0"), "{what}: answered as a good request");
        still_answers(&mut server, what).await?;
    }
    let status = send_grpc(&server, RANGE, "text/plain", good).await?;
    ensure!(status.as_deref() != Some("0"), "a request of another content type was answered");
    still_answers(&mut server, "another content type").await
}

#[tokio::test]
async fn messages_beyond_the_limit() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for size in [2_000_000, 3_000_000, 20_000_000] {
        let request = PutRequest { key: "big".into(), value: vec![0; size].into(), ..Default::default() };
        let answer = tokio::time::timeout(DEADLINE, client.kv.put(request)).await.context("no answer")?;
        ensure!(answer.is_err(), "{size} bytes were stored");
        still_answers(&mut server, "a large message").await?;
    }
    let found = client.kv.range(RangeRequest { key: "big".into(), ..Default::default() }).await?.into_inner();
    ensure!(found.count == 0, "a refused value was stored");
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let other = Server::prepare(Kind::Cleat, Options::default())?;
    let mut args = other.args();
    let data_dir = args.iter().position(|arg| arg == "--data-dir").context("the flags name a data directory")?;
    args[data_dir + 1] = server.data_dir().display().to_string();
    let log = other.create_file("second")?;
    let mut child = other.command().args(args).stdout(log.try_clone()?).stderr(log).spawn()?;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let outcome = loop {
        let printed = std::fs::read_to_string(other.scratch().join("second"))?;
        if let Some(status) = child.try_wait()? {
            ensure!(!status.success(), "the second process ended as if all were well");
            ensure!(!printed.is_empty(), "the second process ended without a word");
            break Ok(());
        }
        // etcd does not give up, it says so and waits for the other process.
        if printed.contains("waiting for it to exit before starting") {
            break Ok(());
        }
        if std::time::Instant::now() > deadline {
            break Err(anyhow::anyhow!("the second process runs on:\n{printed}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let asked = async { other.client().await?.maintenance.status(StatusRequest {}).await.map_err(anyhow::Error::from) };
    let serves = matches!(tokio::time::timeout(Duration::from_secs(1), asked).await, Ok(Ok(_)));
    if child.try_wait()?.is_none() {
        child.kill()?;
        child.wait()?;
    }
    outcome?;
    ensure!(!serves, "the second process serves clients");
    still_answers(&mut server, "a second process").await
}
