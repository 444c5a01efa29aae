//! The log of a busy member stays small, and what was purged from it is in the database.

use anyhow::{Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest};
use harness::{Kind, Server};
use std::path::Path;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
const VALUE_BYTES: usize = 1 << 20;
/// Eight segments of the log.
const PUTS: u8 = 64;
/// What may be written until a purge is due, the segment that is written, and one on its way out.
const MAX_SEGMENTS: usize = 4;

fn segments(data_dir: &Path) -> Result<usize> {
    let files = std::fs::read_dir(data_dir.join("member/wal"))?.collect::<Result<Vec<_>, _>>()?;
    Ok(files.iter().filter(|file| file.path().extension().is_some_and(|extension| extension == "wal")).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_while_it_is_written() -> Result<()> {
    let mut server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for n in 0..PUTS {
        let request = PutRequest { key: vec![n].into(), value: vec![n; VALUE_BYTES].into(), ..Default::default() };
        client.kv.put(request).await?;
    }
    let deadline = Instant::now() + DEADLINE;
    while segments(&server.data_dir())? > MAX_SEGMENTS {
        ensure!(Instant::now() < deadline, "{} segments are left", segments(&server.data_dir())?);
        tokio::time::sleep(POLL).await;
    }
    server.kill()?;
    server.restart().await?;
    let mut client = server.client().await?;
    for n in 0..PUTS {
        let range = client.kv.range(RangeRequest { key: vec![n].into(), ..Default::default() }).await?.into_inner();
        ensure!(range.kvs.len() == 1 && range.kvs[0].value == vec![n; VALUE_BYTES], "key {n} after the restart");
    }
    Ok(())
}
