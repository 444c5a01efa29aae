//! What a peer URL does with calls of nobody, of strangers and of members, and with messages that are too large.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::StatusRequest;
use bytes::Bytes;
use harness::{Kind, Server};
use http::{HeaderMap, Request};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tonic::Code;

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// What a member with the default flags takes: 10 MiB, and 512 KiB around it.
const LIMIT: usize = (10 << 20) + (512 << 10);
/// Does not belong to the cluster, and was never removed from it.
const CALLER: u64 = 7;

/// Begins a call and sends this much of its body. Returns what the answer says without there being more of it.
async fn call(server: &Server, path: &str, ids: &[(&str, u64)], body: Vec<u8>) -> Result<(Code, String)> {
    let address = server.peer_url().replace("http://", "");
    let (client, connection) = h2::client::handshake(TcpStream::connect(address).await?).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::post(format!("http://peer/cleatpb.Peer/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, id) in ids {
        request = request.header(*name, format!("{id:x}"));
    }
    let answered = async {
        let (response, mut send) = client.ready().await?.send_request(request.body(())?, false)?;
        send.send_data(Bytes::from(body), false)?;
        let (head, mut body) = response.await?.into_parts();
        if head.headers.contains_key("grpc-status") {
            return Ok(head.headers);
        }
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data?.len())?;
        }
        body.trailers().await?.context("an answer without a status")
    };
    let status = tokio::time::timeout(DEADLINE, answered).await.context("the call waits for more")?;
    connection.abort();
    code_and_text(&status?)
}

fn code_and_text(headers: &HeaderMap) -> Result<(Code, String)> {
    let status = tonic::Status::from_header_map(headers).context("no status")?;
    Ok((status.code(), status.message().to_owned()))
}

/// The prefix of a message of so many bytes.
fn announced(bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes).expect("the test knows lengths of messages");
    [&[0][..], &length.to_be_bytes()].concat()
}

struct Ids {
    cluster: u64,
    member: u64,
}

impl Ids {
    async fn of(server: &Server) -> Result<Self> {
        let status = server.client().await?.maintenance.status(StatusRequest {}).await?.into_inner();
        let header = status.header.context("a header")?;
        Ok(Self { cluster: header.cluster_id, member: header.member_id })
    }

    fn metadata(&self) -> [(&'static str, u64); 3] {
        [("cleat-cluster-id", self.cluster), ("cleat-from", CALLER), ("cleat-to", self.member)]
    }
}

#[tokio::test]
async fn who_does_not_belong_is_refused_before_the_message_is_read() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let ids = Ids::of(&server).await?;
    let member = ids.metadata();
    let cases: [(&str, Vec<(&str, u64)>, Code, &str); 4] = [
        ("nobody", vec![], Code::InvalidArgument, "no cleat-cluster-id in the call's metadata"),
        (
            "one that does not say who it is",
            vec![member[0]],
            Code::InvalidArgument,
            "no cleat-from in the call's metadata",
        ),
        (
            "a member of another cluster",
            vec![("cleat-cluster-id", ids.cluster ^ 1), member[1], member[2]],
            Code::FailedPrecondition,
            "cluster ID mismatch",
        ),
        (
            "one that means another member",
            vec![member[0], member[1], ("cleat-to", ids.member ^ 1)],
            Code::FailedPrecondition,
            "cluster ID mismatch",
        ),
    ];
    for (who, metadata, code, text) in cases {
        for path in ["Append", "Vote", "InstallSnapshot", "Propose", "ChangeMembership"] {
            // Nothing, a legal length, and one that no member takes; what was announced never comes.
            for body in [vec![], announced(100), announced(3 << 30)] {
                let answer = call(&server, path, &metadata, body).await.with_context(|| format!("{who}: {path}"))?;
                ensure!(answer.0 == code && answer.1.starts_with(text), "{who}: {path}: {answer:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn messages_of_members_are_bounded() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let metadata = Ids::of(&server).await?.metadata();
    for path in ["Append", "Vote", "InstallSnapshot", "Propose"] {
        for bytes in [LIMIT + 1, 3 << 30] {
            let answer = call(&server, path, &metadata, announced(bytes)).await.with_context(|| path.to_owned())?;
            ensure!(answer.0 == Code::OutOfRange && answer.1.contains("too large"), "{path}: {answer:?}");
        }
    }
    // The largest is read: what is in it is refused, not its size.
    let mut body = announced(LIMIT);
    body.resize(body.len() + LIMIT, 0xff);
    let (code, text) = call(&server, "Propose", &metadata, body).await?;
    ensure!(code == Code::Internal && text.contains("decode"), "{code:?} {text}");
    // Lines are written behind the answers.
    let deadline = Instant::now() + DEADLINE;
    while !server.log().contains("--max-request-bytes must be as large here") {
        ensure!(Instant::now() < deadline, "the log does not say what to do");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
