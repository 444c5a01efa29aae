//! Scripts of `etcdctl` commands, run against etcd and Cleat side by side: what the user sees is the same.
//!
//! A script has one command a line; the lines below it that start with `|` are its standard input. Before the first
//! command, `members N` and `flags ...` say what servers it needs, and `api 2` that etcdctl speaks the v2 API. Standard output, exit code and the text of the error
//! are compared after [`Session::normalise`].
//!
//! ```text
//! @url COMMAND        with the endpoint as a URL
//! @all COMMAND        with the endpoints of all members; @leader, @follower with one's
//! @mirror COMMAND     with the endpoint of another server, which is empty
//! @soon COMMAND       again and again until it prints something
//! N> COMMAND          goes on beside the next ones, and will print N lines
//! N! COMMAND          goes on beside the next ones, once it has printed N lines
//! more N              the next lines of the oldest command that goes on
//! interrupt           asks the oldest command that goes on to end; all it has still to say
//! stop                ends the oldest command that goes on, once it has printed its N lines
//! fill                puts values until the server takes no more
//! $endpoint           of the first server
//! $dir $next $lease1 $mirror $leader $follower    a directory, the next revision, the first lease, endpoint and ids
//! ```

mod mask;
mod session;

use crate::Kind;
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use session::Session;

/// Who runs a script, and on what.
#[derive(Clone, Copy, Debug)]
struct Side {
    kind: Kind,
    tool: Tool,
}

/// Runs a script on fresh servers and returns the differences. The first side is the reference.
async fn differences(script: &str, [reference, other]: [Side; 2]) -> Result<Vec<String>> {
    let script = Script::parse(script)?;
    let (mut first, mut second) =
        tokio::try_join!(Session::start(reference, true, &script), Session::start(other, false, &script))?;
    let mut found = Vec::new();
    for step in &script.steps {
        let (theirs, ours) =
            tokio::try_join!(first.run(step), second.run(step)).with_context(|| format!("`{}`", step.line))?;
        if theirs != ours {
            let line = &step.line;
            found.push(format!("$ etcdctl {line}\n{reference:?}:\n{theirs}\n{other:?}:\n{ours}\n"));
        }
    }
    Ok(found)
}

/// What etcdctl speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    V2,
    V3,
}

/// What is run, and on what.
#[derive(Debug)]
struct Script {
    api: Api,
    members: usize,
    flags: Vec<String>,
    steps: Vec<Step>,
}

/// A line of a script with what belongs to it.
#[derive(Debug)]
struct Step {
    line: String,
    words: Vec<String>,
    stdin: String,
    /// Of a command that goes on.
    background: Option<Background>,
}

#[derive(Clone, Copy, Debug)]
struct Background {
    /// Lines that it prints.
    lines: usize,
    /// They are waited for at once.
    at_once: bool,
}

impl Script {
    fn parse(script: &str) -> Result<Self> {
        let mut parsed = Self { api: Api::V3, members: 1, flags: Vec::new(), steps: Vec::new() };
        for line in script.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if let Some(input) = line.strip_prefix(['|', '<']) {
                let step = parsed.steps.last_mut().context("input before the first command")?;
                step.stdin += input.strip_prefix(' ').unwrap_or(input);
                step.stdin.push('\n');
            } else if let Some(members) = line.strip_prefix("members ") {
                parsed.members = members.parse()?;
            } else if line == "api 2" {
                parsed.api = Api::V2;
                parsed.flags.push("--enable-v2=true".to_owned());
            } else if let Some(flags) = line.strip_prefix("flags ") {
                parsed.flags.extend(split(flags));
            } else {
                parsed.steps.push(Step::parse(line));
            }
        }
        Ok(parsed)
    }
}

impl Step {
    fn parse(line: &str) -> Self {
        let background = |mark: &str, at_once| {
            let (lines, command) = line.split_once(mark)?;
            Some((Background { lines: lines.parse().ok()?, at_once }, command))
        };
        let found = background("> ", false).or_else(|| background("! ", true));
        let command = found.map_or(line, |(_, command)| command);
        let background = found.map(|(background, _)| background);
        Self { line: command.to_owned(), words: split(command), stdin: String::new(), background }
    }
}

/// Splits at spaces; single quotes hold words together.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Runs a script.
///
/// # Errors
/// All its differences; a server that does not start, a command that does not end.
pub async fn check(script: &str) -> Result<()> {
    let tool = Tool::Etcdctl;
    same(script, [Side { kind: Kind::Etcd, tool }, Side { kind: Kind::Cleat, tool }]).await
}

/// Runs a script with etcd's etcdctl and with `cleatctl` under that name, each on fresh servers of the same kind.
///
/// # Errors
/// As [`check`].
pub async fn check_tools(kind: Kind, script: &str) -> Result<()> {
    same(script, [Side { kind, tool: Tool::Etcdctl }, Side { kind, tool: Tool::Cleatctl }]).await
}

async fn same(script: &str, sides: [Side; 2]) -> Result<()> {
    let found = differences(script, sides).await?;
    ensure!(found.is_empty(), "{} commands print something else:\n{}", found.len(), found.join("\n"));
    Ok(())
}

/// A test for each script: its name, and that of a file in `scripts/` beside the caller's.
#[macro_export]
macro_rules! same_transcripts {
    ($($name:ident: $file:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> ::anyhow::Result<()> {
                $crate::transcript::check(include_str!(concat!("scripts/", $file, ".txt"))).await
            }
        )*
    };
}
