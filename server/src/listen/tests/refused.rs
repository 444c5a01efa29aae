//! Calls that are answered before their request was read, on a connection that goes on.

use super::*;
use bytes::{BufMut, BytesMut};

const CALLS: u32 = 3000;
const AT_ONCE: u32 = 100;
/// Long enough that the refusals are written before the rest of the requests comes.
const PAUSE: Duration = Duration::from_millis(20);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(to: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    to.put_uint(payload.len() as u64, 3);
    to.put_u8(kind);
    to.put_u8(flags);
    to.put_u32(stream);
    to.put_slice(payload);
}

/// Fields without any compression.
fn fields(path: &str) -> Vec<u8> {
    let all = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut block = Vec::new();
    for (name, value) in all {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Makes calls whose messages come behind the answers, and reads nothing before: what a client does that has sent them
/// already. The answers' heads, and why the server gave the connection up, if it did.
async fn late_calls(address: SocketAddr, path: &str, message: &'static [u8]) -> (u32, Option<String>) {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let path = path.to_owned();
    let writing = tokio::spawn(async move {
        let mut out = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
        frame(&mut out, SETTINGS, 0, 0, &[]);
        let block = fields(&path);
        let mut stream = 1;
        for _ in 0..CALLS / AT_ONCE {
            let streams: Vec<u32> = (0..AT_ONCE).map(|n| stream + 2 * n).collect();
            for stream in &streams {
                frame(&mut out, HEADERS, END_HEADERS, *stream, &block);
            }
            if writer.write_all(&out.split()).await.is_err() {
                return None;
            }
            tokio::time::sleep(PAUSE).await;
            for stream in &streams {
                frame(&mut out, DATA, END_STREAM, *stream, message);
            }
            stream += 2 * AT_ONCE;
        }
        // Whoever closes its side has no more answers.
        writer.write_all(&out).await.ok().map(|()| writer)
    });
    let read = async {
        let mut answers = 0;
        while answers < CALLS {
            let mut head = [0; 9];
            if reader.read_exact(&mut head).await.is_err() {
                return (answers, Some("closed".to_owned()));
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            reader.read_exact(&mut payload).await.unwrap();
            match head[3] {
                HEADERS => answers += 1,
                GOAWAY => return (answers, Some(String::from_utf8_lossy(&payload[8..]).into_owned())),
                _ => {}
            }
        }
        (answers, None)
    };
    let read = tokio::time::timeout(6 * DEADLINE, read).await.expect("the server answers or closes");
    drop(writing.await.unwrap());
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_do_not_use_up_a_connection() {
    let config = config("http://127.0.0.1:0");
    let metrics = Metrics::new(false).unwrap();
    let listeners = Listeners::new(&ListenSettings::new(&config), Some(Traffic::of_clients(&metrics)));
    let bound = Bound::new(&config.listen_client_urls[0], false, None).await.unwrap();
    let address = bound.addresses()[0];
    let (_serving, receiver) = watch::channel(true);
    let routes = GrpcRoutes::new(Arc::clone(&metrics), 1000, Duration::MAX, LeaderGate::new(|| true))
        .refusing_as_learner(|| true)
        .with(HealthServer::new(GrpcHealth::new(receiver)));
    listeners.serve(bound, &Front::grpc_only(Arc::new(routes)));
    let (unknown, refused) = ("/x.Y/Z", "/grpc.health.v1.Health/Check");
    let both = tokio::join!(late_calls(address, unknown, &[0; 5]), late_calls(address, refused, &[0; 5]));
    assert_eq!(both, ((CALLS, None), (CALLS, None)));
    listeners.shutdown(DEADLINE).await;
}
