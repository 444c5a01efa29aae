//! Check and reload commands: run with a deadline, in a process group of their own that is ended as a whole.

use crate::children;
use crate::settings::PASSWORD;
use crate::template::{Functions, Limits, Template, Value};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// If the resource does not say.
pub(crate) const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// If the resource does not say.
pub(crate) const RELOAD_TIMEOUT: Duration = Duration::from_mins(1);
/// Output that is kept for the log; the rest is read and dropped.
const MAX_OUTPUT_BYTES: usize = 64 << 10;
/// Time for processes to end after they were asked to.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// A command as a resource gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandLine {
    words: Words,
    /// Longest time that it may run.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Words {
    /// For `/bin/sh -c`.
    Shell(String),
    /// Program and arguments, which no shell sees.
    List(Vec<String>),
}

/// A command that did not succeed. The Debug output has nothing of what it printed.
#[derive(PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CommandError {
    /// As Go says it: `exit status 3`.
    pub reason: String,
    /// What the command printed, the beginning of it.
    pub output: Vec<u8>,
}

impl std::fmt::Debug for CommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reason, output } = self;
        f.debug_struct("CommandError").field("reason", reason).field("output", &output.len()).finish()
    }
}

impl CommandError {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), output: Vec::new() }
    }
}

impl CommandLine {
    pub(crate) fn shell(text: String) -> Self {
        Self { words: Words::Shell(text), timeout: Duration::ZERO }
    }

    pub(crate) fn list(words: Vec<String>) -> Self {
        Self { words: Words::List(words), timeout: Duration::ZERO }
    }

    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(crate) fn is_shell(&self) -> bool {
        matches!(self.words, Words::Shell(_))
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.words {
            Words::Shell(text) => text.is_empty(),
            Words::List(words) => words.is_empty(),
        }
    }

    /// Fills in a check command: it is a template with the staged file as `.src` and the destination as `.dest`.
    ///
    /// # Errors
    /// The template's; and a path with characters that a shell would interpret, in a command for the shell.
    pub(crate) fn for_check(&self, src: &Path, dest: &Path) -> Result<Self, String> {
        let fill = |text: &str| {
            let template = Template::parse("checkcmd", text.as_bytes(), &Functions::default())?;
            let path = |path: &Path| Value::text(path.as_os_str().as_encoded_bytes());
            let entry = |name: &str, value| (Arc::from(name.as_bytes()), value);
            let data = Value::map(BTreeMap::from([entry("src", path(src)), entry("dest", path(dest))]));
            let filled = template.render(&data, &Limits::default()).map_err(|error| error.text)?;
            Ok::<_, String>(String::from_utf8_lossy(&filled).into_owned())
        };
        self.filled(&fill, &[src, dest])
    }

    /// Fills in a reload command: `{{.dest}}` is replaced, and `{{.src}}`, which is the same file by then. Everything else is
    /// as it stands, because confd's reload commands are no templates.
    ///
    /// # Errors
    /// As [`CommandLine::for_check`].
    pub(crate) fn for_reload(&self, dest: &Path) -> Result<Self, String> {
        let fill = |text: &str| {
            let mut text = text.to_owned();
            for form in ["{{.src}}", "{{ .src }}", "{{.dest}}", "{{ .dest }}"] {
                text = text.replace(form, &dest.to_string_lossy());
            }
            Ok(text)
        };
        self.filled(&fill, &[dest])
    }

    fn filled(&self, fill: &dyn Fn(&str) -> Result<String, String>, paths: &[&Path]) -> Result<Self, String> {
        let words = match &self.words {
            Words::List(words) => Words::List(words.iter().map(|word| fill(word)).collect::<Result<_, _>>()?),
            Words::Shell(text) => {
                let filled = fill(text)?;
                // A template may do anything to a path before the shell sees it, so what it makes is not searched for one.
                let unsafe_path = paths.iter().find(|path| !is_plain(path));
                if let Some(path) = unsafe_path.filter(|_| filled != *text) {
                    return Err(format!(
                        "the path {:?} has characters that a shell interprets: give the command as a list of words",
                        path.display()
                    ));
                }
                Words::Shell(filled)
            }
        };
        Ok(Self { words, ..self.clone() })
    }

    /// The program with its arguments, in a process group of its own. It has this process's environment but for the
    /// password of the store.
    ///
    /// # Errors
    /// There is no program.
    pub(crate) fn command(&self) -> Result<Command, CommandError> {
        let mut command = match &self.words {
            Words::Shell(text) => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(text);
                command
            }
            Words::List(words) => {
                let (program, arguments) = words.split_first().ok_or_else(|| CommandError::new("empty command"))?;
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        command.env_remove(PASSWORD).process_group(0).kill_on_drop(true);
        Ok(command)
    }

    /// Runs the command to its end. What it printed is returned.
    ///
    /// # Errors
    /// [`CommandError`] with the exit status, or that it took too long.
    pub async fn run(&self) -> Result<Vec<u8>, CommandError> {
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (mut child, _own) = children::spawn(&mut command).map_err(|error| CommandError::new(error.to_string()))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut unfinished = Unfinished(group);
        let outputs = (child.stdout.take(), child.stderr.take());
        let both = async {
            let printed = tokio::join!(read_some(outputs.0), read_some(outputs.1));
            [printed.0, printed.1].concat()
        };
        tokio::pin!(both);
        // What a command leaves running in the background may hold its output open, so its end counts.
        let mut printed = None;
        let ended = tokio::time::timeout(self.timeout, async {
            loop {
                tokio::select! {
                    output = &mut both, if printed.is_none() => printed = Some(output),
                    status = child.wait() => return status,
                }
            }
        });
        let ended = ended.await;
        let Ok(status) = ended else {
            end_group(group, &mut child).await;
            unfinished.0 = None;
            return Err(CommandError::new(format!("command timed out after {:?}", self.timeout)));
        };
        unfinished.0 = None;
        let output = match printed {
            Some(output) => output,
            None => tokio::time::timeout(Duration::from_millis(200), both).await.unwrap_or_default(),
        };
        let status = status.map_err(|error| CommandError::new(error.to_string()))?;
        match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
            (Some(0), _) => Ok(output),
            (Some(code), _) => Err(CommandError { reason: format!("exit status {code}"), output }),
            (None, signal) => Err(CommandError { reason: format!("signal: {}", signal.unwrap_or_default()), output }),
        }
    }
}

/// The group of a command that nobody waits for any more if this is dropped: it is ended.
struct Unfinished(Option<Pid>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Its first process was not waited for, so the number is still the group's.
            let _may_be_gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Asks the group to end, and then makes it.
async fn end_group(group: Option<Pid>, child: &mut tokio::process::Child) {
    let signal = |signal| {
        if let Some(group) = group {
            // It may have ended meanwhile.
            let _may_be_gone = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    let _in_time = tokio::time::timeout(KILL_GRACE, child.wait()).await;
    signal(Signal::KILL);
    let _reaped = child.wait().await;
}

/// Reads to the end, and keeps the beginning.
async fn read_some(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut source) = source else { return kept };
    let mut buffer = vec![0; 8 << 10];
    while let Ok(count @ 1..) = source.read(&mut buffer).await {
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}

/// True if no shell finds anything in a path but a word.
fn is_plain(path: &Path) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./+@%,:=".contains(byte);
    path.as_os_str().as_encoded_bytes().iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str) -> CommandLine {
        CommandLine { timeout: Duration::from_secs(20), ..CommandLine::shell(text.to_owned()) }
    }

    #[test]
    fn paths_are_words() {
        let (src, dest) = (Path::new("/d/.a1"), Path::new("/d/a"));
        assert_eq!(shell("x {{.src}} {{ .dest }}").for_check(src, dest), Ok(shell("x /d/.a1 /d/a")));
        assert_eq!(shell("x {{.src}} {{.Names}}").for_reload(dest), Ok(shell("x /d/a {{.Names}}")));
        let evil = Path::new("/d/$(touch x)");
        let error = shell("cat '{{.src}}'").for_check(evil, dest).unwrap_err();
        assert!(error.contains("characters that a shell interprets"), "{error}");
        assert_eq!(shell("true").for_check(evil, evil), Ok(shell("true")));
        for part in ["x {{slice .src 3}}", "x {{printf \"%.6s\" .src}}", "x {{.src | len}}{{printf \"%v\" .}}"] {
            let error = shell(part).for_check(evil, dest).unwrap_err();
            assert!(error.contains("characters that a shell interprets"), "{part}: {error}");
        }
        let list = |word: &str| CommandLine::list(vec!["cat".to_owned(), word.to_owned()]);
        assert_eq!(list("{{.src}}").for_check(evil, dest), Ok(list("/d/$(touch x)")));
        assert_eq!(shell("x {{").for_check(src, dest), Err("template: checkcmd:1: unclosed action".to_owned()));
    }

    #[tokio::test]
    async fn the_end_of_a_command_is_told_as_go_tells_it() {
        assert_eq!(shell("printf a; printf b >&2").run().await, Ok(b"ab".to_vec()));
        let failed = shell("echo no; exit 3").run().await.unwrap_err();
        assert_eq!((failed.reason.as_str(), failed.output.as_slice()), ("exit status 3", &b"no\n"[..]));
        assert_eq!(format!("{failed:?}"), "CommandError { reason: \"exit status 3\", output: 3 }");
        let line = CommandLine { timeout: Duration::from_millis(300), ..shell("sleep 1000 & sleep 1000") };
        assert_eq!(line.run().await.unwrap_err().reason, "command timed out after 300ms");
        let missing = CommandLine::list(vec!["/no/such/program".to_owned()]);
        assert!(missing.run().await.unwrap_err().reason.starts_with("No such file"));
    }
}
