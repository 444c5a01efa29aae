//! Bounds of listeners, and that simple requests are answered as hyper answers them.

use super::*;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::{StatusCode, header};
use std::convert::Infallible;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;

#[tokio::test]
async fn a_source_has_only_so_many_connections() {
    let limits = Limits { connections: 10, of_source: 2 };
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None, limits, true).await.unwrap();
    let addr = listener.socket.local_addr().unwrap();
    let answer = |_, _| async { Response::new(Body::from("hello")) };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(listener.serve(
        |address| Source::new(address, false),
        answer,
        stop.clone(),
        Duration::from_secs(1),
    ));
    let ask = async || {
        let mut client = TcpStream::connect(addr).await.unwrap();
        let written = client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut answer = [0; 12];
        let read = client.read_exact(&mut answer).await;
        (client, written.is_ok() && read.is_ok() && &answer == b"HTTP/1.1 200")
    };
    let (first, second) = (ask().await, ask().await);
    assert!(first.1 && second.1);
    assert!(!ask().await.1);
    drop(first);
    // The end of a connection is noticed a moment later.
    let mut is_served = false;
    for _ in 0..500 {
        is_served = ask().await.1;
        if is_served {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_served);
    stop.cancel();
    drop(second);
    serving.await.unwrap();
}

#[test]
fn both_listeners_share_the_descriptors() {
    for (wanted, descriptors, expected) in [
        (1000, 1_000_000, (1000, 1000)),
        (1000, 2064, (1000, 1000)),
        (1000, 1264, (1000, 150)),
        (25_000, 1024, (840, 120)),
        (25_000, 10, (1, 1)),
        (1, 100, (1, 1)),
    ] {
        assert_eq!(shares(wanted, descriptors, true), expected, "{wanted} of {descriptors}");
    }
    assert_eq!(shares(25_000, 1024, false), (960, 0));
}

#[tokio::test]
async fn hops_are_limited() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    limit_hops(&client, 1).unwrap();
    assert_eq!(client.ttl().unwrap(), 1);
}

/// A connection that was accepted, and its client.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, client)
}

/// Answers in many ways, by the path.
async fn answer(request: Request<Body>, _: Peer) -> Response<Body> {
    let pieces =
        |pieces: Vec<Result<Bytes, io::Error>>| Body::from_stream(futures::stream::iter(pieces)).into_response();
    let piece = |text: &'static str| Ok(Bytes::from_static(text.as_bytes()));
    match request.uri().path() {
        "/empty" => StatusCode::OK.into_response(),
        "/none" => StatusCode::NO_CONTENT.into_response(),
        "/same" => (StatusCode::NOT_MODIFIED, [(header::ETAG, "\"a\"")]).into_response(),
        "/last" => (StatusCode::OK, [(header::CONNECTION, "close")], "the last").into_response(),
        "/missing" => (StatusCode::NOT_FOUND, "nothing there").into_response(),
        "/pieces" => pieces(vec![piece("one"), piece(""), piece("two, and three")]),
        "/many" => pieces((0..100).map(|_| piece("0123456789")).collect()),
        "/large" => Bytes::from(vec![b'x'; 100_000]).into_response(),
        "/headers" => {
            let headers = request.headers().iter();
            let shown = headers.map(|(name, value)| format!("{name}={:?}", value.as_bytes())).collect::<Vec<_>>();
            format!("{} {} {shown:?}", request.method(), request.uri()).into_response()
        }
        other => other.to_owned().into_response(),
    }
}

/// All that a client is told that sends this and then nothing more, but for the date. `is_plain` is false for what hyper
/// says.
async fn told(sent: &[&str], is_plain: bool) -> String {
    let (stream, mut client) = pair().await;
    let stop = CancellationToken::new();
    let connection = Connection { addr: stream.peer_addr().unwrap(), answer, stop: stop.clone(), shares_stream: false };
    let serving = tokio::spawn(async move {
        if is_plain { connection.serve(stream, None).await } else { connection.requests(stream, false, None).await }
    });
    for part in sent {
        client.write_all(part.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    serving.await.unwrap();
    let mut lines: Vec<String> = Vec::new();
    let mut head: Vec<String> = Vec::new();
    for line in String::from_utf8(all).unwrap().split("\r\n") {
        // The order of headers says nothing.
        match line {
            "" => {
                head.sort();
                lines.append(&mut head);
                lines.push(String::new());
            }
            line if line.starts_with("Date: ") => head.push(format!("Date: {}", line.len())),
            line => head.push(line.to_owned()),
        }
    }
    lines.append(&mut head);
    lines.join("\n")
}

/// Whatever the request, and however it arrives. Long because it lists them.
#[tokio::test]
async fn simple_requests_are_answered_as_hyper_answers_them() {
    let get = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let last = |path: &str| get(path, "Connection: close\r\n");
    let mut all: Vec<String> = [
        "/",
        "/empty",
        "/none",
        "/same",
        "/missing",
        "/last",
        "/pieces",
        "/many",
        "/large",
        "/headers?a=b&c",
        "/%2e%2e/a",
    ]
    .iter()
    .flat_map(|path| [last(path), last(path).replacen("GET", "HEAD", 1), get(path, "") + &last("/last")])
    .collect();
    let many_lines = (0..40).map(|at| format!("X-{at}: {at}\r\n")).collect::<Vec<_>>().concat();
    for lines in [
        "connection: KEEP-ALIVE\r\n",
        "X: a\r\nx: b\r\nX:\r\n",
        "X: \u{e9}\r\n",
        "Content-Length: 0\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\n",
        &many_lines,
        &format!("X: {}\r\n", "y".repeat(6000)),
        &format!("X: {}\r\n", "y".repeat(20_000)),
    ] {
        all.push(get("/headers", lines) + &last("/last"));
    }
    all.extend(
        [
            "POST /headers HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "POST /headers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "GET http://a/headers HTTP/1.1\r\nHost: b\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n",
        ]
        .map(|first| first.to_owned() + &last("/last")),
    );
    all.extend(
        [
            "GET /headers HTTP/1.0\r\n\r\n",
            "GET /pieces HTTP/1.0\r\n\r\n",
            "GET /headers\r\n\r\n",
            "GET /head ers HTTP/1.1\r\n\r\n",
            "GET /headers HTTP/1.1\nHost: a\nConnection: close\n\n",
            "GET /headers HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET /headers HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
            "GET /headers HTTP/1.1\r\nX: a\u{0}\r\n\r\n",
            "GET /headers HTTP/2.0\r\n\r\n",
            "\u{16}\u{3}\u{1}\u{2}",
            "no request\r\n\r\n",
            "\r\n\r\nGET /headers HTTP/1.1\r\nConnection: close\r\n\r\n",
        ]
        .map(str::to_owned),
    );
    let mut others = Vec::new();
    for sent in &all {
        let expected = told(&[sent], false).await;
        let middle = (1..=sent.len() / 2).rev().find(|at| sent.is_char_boundary(*at)).unwrap_or_default();
        let (one, other) = sent.split_at(middle);
        for parts in [&[sent.as_str()] as &[&str], &[one, other]] {
            let told = told(parts, true).await;
            if told != expected {
                others.push(format!("{parts:?}\n--- hyper ---\n{expected}\n--- here ---\n{told}\n"));
            }
        }
    }
    assert!(others.is_empty(), "{}", others.concat());
}

/// What a wait holds is free as soon as its client has gone, though it may have sent more before.
#[tokio::test]
async fn an_answer_that_is_waited_for_ends_with_its_client() {
    for more in ["", "GET /b HTTP/1.1\r\n\r\n"] {
        let (stream, mut client) = pair().await;
        let (held, free) = oneshot::channel::<Infallible>();
        let held = Arc::new(held);
        let answer = move |_| {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
                Response::new(Body::empty())
            }
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(async move { plain::serve(stream, answer, &stop).await.is_none() });
        client.write_all(format!("GET /a HTTP/1.1\r\n\r\n{more}").as_bytes()).await.unwrap();
        drop(client);
        assert!(free.await.is_err() && serving.await.unwrap());
    }
}

/// The client must be able to tell.
#[tokio::test]
async fn a_body_that_breaks_off_has_no_end() {
    let (stream, mut client) = pair().await;
    let answer = |_| async {
        let pieces = [Ok(Bytes::from_static(b"one")), Err(io::Error::other("broken"))];
        Body::from_stream(futures::stream::iter(pieces)).into_response()
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(async move { plain::serve(stream, answer, &stop).await.is_none() });
    client.write_all(b"GET /a HTTP/1.1\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert!(!String::from_utf8(all).unwrap().contains("0\r\n\r\n") && serving.await.unwrap());
}

/// Idle, in the middle of a head, and while a client takes nothing.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_nothing_is_given_up() {
    for sent in ["", "GET /a HT", "GET /large HTTP/1.1\r\n\r\n"] {
        let (stream, mut client) = pair().await;
        let begin = tokio::time::Instant::now();
        let answer = |_| async { Bytes::from(vec![b'x'; 100_000_000]).into_response() };
        client.write_all(sent.as_bytes()).await.unwrap();
        let ended = plain::serve(stream, answer, &CancellationToken::new()).await.is_none();
        assert!(ended && begin.elapsed() >= HEAD_DEADLINE.min(WRITE_DEADLINE), "{sent:?}");
    }
}

#[tokio::test]
async fn a_stop_ends_who_is_idle_and_lets_answers_be_the_last() {
    let stop = CancellationToken::new();
    let (stream, mut client) = pair().await;
    let stopping = stop.clone();
    let answer = move |_| {
        let stop = stopping.clone();
        async move {
            stop.cancelled().await;
            Response::new(Body::from("done"))
        }
    };
    let (idle, _quiet) = pair().await;
    let serving = tokio::spawn({
        let (stop, answer) = (stop.clone(), answer.clone());
        async move {
            (
                plain::serve(idle, answer.clone(), &stop).await.is_none(),
                plain::serve(stream, answer, &stop).await.is_none(),
            )
        }
    });
    client.write_all(b"GET /a HTTP/1.1\r\n\r\n").await.unwrap();
    stop.cancel();
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert_eq!(serving.await.unwrap(), (true, true));
    assert!(all.is_empty() || (all.contains("Connection: close\r\n") && all.ends_with("done")), "{all}");
}

/// Many thousand are idle, or wait, at once.
#[tokio::test]
async fn a_plain_connection_is_small() {
    let (stream, _client) = pair().await;
    let stop = CancellationToken::new();
    let addr = stream.peer_addr().unwrap();
    let answer = |_, _| std::future::ready(Response::new(Body::empty()));
    let size = size_of_val(&Connection { addr, answer, stop, shares_stream: true }.serve(stream, None));
    assert!(size <= 2048, "{size}");
}
