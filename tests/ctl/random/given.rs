//! A line, and what a program makes of it.

use anyhow::{Context as _, Result, bail};
use harness::Server;
use harness::tool::{Output, run};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_mins(1);

/// Times that no call comes near, by the variable that says the same: etcdctl's own are over when two tools and two servers wait
/// for a disk that others use, and what is compared then is who was slower. A line may have others.
const TIMES: [(&str, &str); 2] =
    [("ETCDCTL_COMMAND_TIMEOUT", "--command-timeout=20s"), ("ETCDCTL_DIAL_TIMEOUT", "--dial-timeout=20s")];

/// The word that stands for the id of the twins' only member.
pub(super) const MEMBER: &[u8] = b"MEMBER";

/// A command line, and what the program finds besides.
#[derive(Default)]
pub(super) struct Line {
    pub(super) words: Vec<Vec<u8>>,
    pub(super) input: Vec<u8>,
    pub(super) environment: Vec<(&'static str, &'static str)>,
    /// It may go on for good, and is ended when it has nothing more to say.
    pub(super) goes_on: bool,
}

impl Line {
    /// Words between spaces.
    pub(super) fn of(text: &str) -> Self {
        Self { words: super::words(text), ..Self::default() }
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|found| found == word.as_bytes())
    }

    pub(super) fn shown(&self) -> String {
        let words: Vec<_> = self.words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        format!("{words:?} with {:?} and {:?}", String::from_utf8_lossy(&self.input), self.environment)
    }
}

/// A server, and what its member's id is.
pub(super) struct Twin {
    pub(super) server: Server,
    pub(super) member: u64,
}

/// Runs a program with a line. One that goes on is ended when it has been quiet for that long.
pub(super) async fn give(version: &str, program: &OsStr, twin: &Twin, line: &Line, quiet: Duration) -> Result<Output> {
    let word = |word: &Vec<u8>| match &word[..] {
        MEMBER => format!("{:x}", twin.member).into(),
        other => OsString::from_vec(other.to_vec()),
    };
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", version).envs(line.environment.iter().copied());
    command.args(["--endpoints", &twin.server.client_url()]);
    if version == "3" {
        // A variable and a flag for the same are refused.
        let is_free = |variable| line.environment.iter().all(|(name, _)| *name != variable);
        command.args(TIMES.iter().filter(|(variable, _)| is_free(*variable)).map(|(_, flag)| flag));
    }
    command.args(line.words.iter().map(word));
    // A line may write a file.
    command.current_dir(twin.server.scratch());
    if !line.goes_on {
        return run(command, &line.input, LIMIT).await;
    }
    let work = until_quiet(command, &line.input, quiet);
    let Ok(output) = tokio::time::timeout(LIMIT, work).await else { bail!("{} does not end", line.shown()) };
    output
}

async fn until_quiet(mut command: Command, input: &[u8], quiet: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    // Open until the end: a program that reads lines would end with them.
    let mut pipe = child.stdin.take().context("standard input is piped")?;
    // It may end without reading it.
    if let Err(error) = pipe.write_all(input).await
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    let mut stdout = child.stdout.take().context("standard output is piped")?;
    let mut stderr = child.stderr.take().context("standard error is piped")?;
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("its id")?;
    let errors = async {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).await.map(|_| bytes)
    };
    let (printed, errors) = tokio::try_join!(ended_when_quiet(&mut stdout, id, quiet), async { Ok(errors.await?) })?;
    let code = child.wait().await?.code();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Output { stdout: text(printed), stderr: text(errors), code })
}

/// All that it prints, also after it was told to end.
async fn ended_when_quiet(from: &mut (impl AsyncRead + Unpin), id: Pid, quiet: Duration) -> Result<Vec<u8>> {
    let mut printed = Vec::new();
    loop {
        match tokio::time::timeout(quiet, from.read_buf(&mut printed)).await {
            Ok(Ok(0)) => return Ok(printed),
            Ok(read) => drop(read?),
            Err(_) => {
                kill_process(id, Signal::TERM)?;
                from.read_to_end(&mut printed).await?;
                return Ok(printed);
            }
        }
    }
}
