//! A program that uses the files: started when they are there for the first time, told when they have changed, and ended
//! with confd. When it ends by itself, so does confd, and with its exit code.

use crate::children::{self, Own};
use crate::command::CommandLine;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::str::FromStr;
use std::time::Duration;
use tokio::process::Child;
use tokio::signal::unix::{self, SignalKind};

/// Time to end after it was asked to, if nothing else is said.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// Of shells and of programs like this one: a program that a signal ended.
const SIGNAL_EXIT_CODE: i32 = 128;

/// How to supervise a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What to start.
    pub(crate) line: CommandLine,
    /// What to do when files have changed that have no reload command of their own.
    pub(crate) on_change: OnChange,
    /// How to ask it to end.
    pub(crate) kill_signal: SignalName,
    /// Time to end after that.
    pub(crate) kill_timeout: Duration,
}

/// What to do with a program whose files have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnChange {
    Restart,
    Signal(SignalName),
    Nothing,
}

impl FromStr for OnChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" | "restart" => Self::Restart,
            "none" => Self::Nothing,
            name => Self::Signal(name.parse().map_err(|error| format!("{error}; it can be restart or none, too"))?),
        })
    }
}

/// A signal that can be named in a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalName(Signal);

const NAMES: [(&str, Signal); 9] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("WINCH", Signal::WINCH),
];

impl SignalName {
    pub(crate) const TERM: Self = Self(Signal::TERM);
}

impl FromStr for SignalName {
    type Err = String;

    /// `HUP` or `SIGHUP`, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| Self(*signal)).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is no signal that can be sent: use one of {}", known.join(", "))
        })
    }
}

impl std::fmt::Display for SignalName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = NAMES.iter().find(|(_, signal)| *signal == self.0).map_or("?", |(name, _)| name);
        write!(f, "SIG{name}")
    }
}

/// The program, and its process once it has been started.
#[derive(Debug)]
pub(crate) struct Supervisor {
    program: Program,
    running: Option<Running>,
    /// Signals that are for the program.
    forwarded: Vec<(unix::Signal, Signal)>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Of the child, and of the process group that begins with it.
    pid: Option<Pid>,
    /// A shell does not hand on what it is sent.
    is_shell: bool,
    _own: Own,
}

impl Running {
    /// Sends a signal to the program alone: what it does with its own processes is its matter.
    fn send(&self, signal: Signal) {
        // It may have ended meanwhile.
        let _may_be_gone = match self.pid {
            Some(pid) if self.is_shell => kill_process_group(pid, signal),
            Some(pid) => kill_process(pid, signal),
            None => Ok(()),
        };
    }

    /// Ends what is left of its process group.
    fn kill_group(&self) {
        if let Some(pid) = self.pid {
            let _may_be_gone = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Supervisor {
    /// From now on, signals that are the program's do not end this process.
    pub(crate) fn new(program: Program) -> std::io::Result<Self> {
        let kinds = [
            (SignalKind::quit(), Signal::QUIT),
            (SignalKind::user_defined1(), Signal::USR1),
            (SignalKind::user_defined2(), Signal::USR2),
            (SignalKind::alarm(), Signal::ALARM),
            (SignalKind::window_change(), Signal::WINCH),
        ];
        let forwarded = kinds
            .into_iter()
            .map(|(kind, signal)| Ok((unix::signal(kind)?, signal)))
            .collect::<std::io::Result<_>>()?;
        Ok(Self { program, running: None, forwarded })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts the program. It has this process's input, outputs and environment.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let failed = |error: String| format!("the program cannot be started: {error}");
        let mut command = self.program.line.command().map_err(|error| failed(error.to_string()))?;
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let (child, own) = children::spawn(&mut command).map_err(|error| failed(error.to_string()))?;
        let id = child.id();
        tracing::info!("the program has been started as process {}", id.unwrap_or_default());
        let pid = id.and_then(|id| Pid::from_raw(id.cast_signed()));
        self.running = Some(Running { child, pid, is_shell: self.program.line.is_shell(), _own: own });
        Ok(())
    }

    /// Tells the program that files have changed. True if it was started again. Cancel safe, but for a program that is not
    /// running then.
    pub(crate) async fn changed(&mut self) -> Result<bool, String> {
        let Some(running) = &mut self.running else { return Ok(false) };
        // One that has ended by itself is not started again: [`Supervisor::watch`] tells of its end.
        if !matches!(running.child.try_wait(), Ok(None)) {
            return Ok(false);
        }
        match self.program.on_change {
            OnChange::Nothing => Ok(false),
            OnChange::Signal(signal) => {
                tracing::info!("files have changed: sending {signal} to the program");
                running.send(signal.0);
                Ok(false)
            }
            OnChange::Restart => {
                tracing::info!("files have changed: starting the program again");
                self.stop().await;
                self.start().map(|()| true)
            }
        }
    }

    /// Ends the program, and waits for its end. The exit code for this process: that of the program, or success if the
    /// signal for it has ended it.
    pub(crate) async fn stop(&mut self) -> u8 {
        let Program { kill_signal, kill_timeout, .. } = self.program;
        let Some(running) = &mut self.running else { return 0 };
        running.send(kill_signal.0);
        let ended = tokio::time::timeout(kill_timeout, running.child.wait()).await;
        if ended.is_err() {
            tracing::warn!("the program has not ended within {kill_timeout:?} after {kill_signal}: killing it");
        }
        // What is left of its group goes in any case.
        running.kill_group();
        let status = match ended {
            Ok(status) => status,
            Err(_) => running.child.wait().await,
        };
        self.running = None;
        match status {
            Ok(status) if status.signal() == Some(kill_signal.0.as_raw()) => 0,
            Ok(status) => exit_code(status),
            Err(_) => 1,
        }
    }

    /// Sends signals that are the program's to it, until it ends by itself: the exit code for this process. Never without
    /// a program. Cancel safe.
    pub(crate) async fn watch(supervisor: Option<&mut Self>) -> u8 {
        let Some(Self { running, forwarded, .. }) = supervisor else { return std::future::pending().await };
        let status = loop {
            let Some(running) = running.as_mut() else {
                // Not started yet: there is nobody to tell.
                next_signal(forwarded).await;
                continue;
            };
            tokio::select! {
                status = running.child.wait() => {
                    running.kill_group();
                    break status;
                }
                signal = next_signal(forwarded) => running.send(signal),
            }
        };
        *running = None;
        match status {
            Ok(status) => {
                tracing::error!("the program has ended: {status}");
                exit_code(status)
            }
            Err(error) => {
                tracing::error!("the program is lost: {error}");
                1
            }
        }
    }
}

/// The next of several signals. Cancel safe.
async fn next_signal(signals: &mut [(unix::Signal, Signal)]) -> Signal {
    let next = signals.iter_mut().map(|(stream, signal)| {
        Box::pin(async {
            match stream.recv().await {
                Some(()) => *signal,
                None => std::future::pending().await,
            }
        })
    });
    futures::future::select_all(next).await.0
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(SIGNAL_EXIT_CODE + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
