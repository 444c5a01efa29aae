//! What comes from outside while there is work: signals, systemd's watchdog, and the end of the program that is
//! supervised. They are heard at any time, in a round, too.

use crate::exec::Supervisor;
use std::ffi::OsString;
use std::future::Future;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Longest time that a signal, or the end of the program, waits for a round.
const GRACE: Duration = Duration::from_secs(30);

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is as it should be.
    Success,
    /// With `-noop -diff`: something would change.
    WouldChange,
    /// The program that was supervised has ended, with this exit code.
    Program(u8),
}

/// The end, or why there is no good one.
pub(super) type Ended = Result<End, String>;

/// What asks for the end.
pub(super) enum Stop {
    /// A signal with this name.
    Signal(&'static str),
    /// The program has ended, with this exit code.
    Program(u8),
}

pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of any signal. Cancel safe.
    pub(super) async fn any(&mut self) -> &'static str {
        self.next(true).await.unwrap_or("hangup")
    }

    /// The name of the signal that asks for the end, or None for a hangup, if hangups are heard. Cancel safe.
    async fn next(&mut self, hangups: bool) -> Option<&'static str> {
        tokio::select! {
            _ = self.hangup.recv(), if hangups => None,
            _ = self.interrupt.recv() => Some("interrupt"),
            _ = self.terminate.recv() => Some("terminated"),
        }
    }
}

/// All of it, for a confd that goes on.
pub(super) struct Outside {
    signals: Signals,
    pub(super) systemd: Systemd,
    pub(super) program: Option<Supervisor>,
}

impl Outside {
    pub(super) fn new(signals: Signals, program: Option<Supervisor>) -> Self {
        Self { signals, systemd: Systemd::new(), program }
    }

    /// What asks for the end; None for a hangup, which waits unless hangups are heard. Until then signs of life are given,
    /// and the program gets its signals. Cancel safe.
    async fn heard(&mut self, hangups: bool) -> Option<Stop> {
        loop {
            tokio::select! {
                name = self.signals.next(hangups) => return name.map(Stop::Signal),
                code = Supervisor::watch(self.program.as_mut()) => return Some(Stop::Program(code)),
                () = self.systemd.alive() => {}
            }
        }
    }

    /// The next thing that asks for something: the end, or None for a hangup. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Stop> {
        self.heard(true).await
    }

    /// Does work that is given up for the end.
    pub(super) async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let stop = tokio::select! {
            done = work => return Ok(done),
            Some(stop) = self.heard(false) => stop,
        };
        Err(self.stop(stop).await)
    }

    /// Does work that has some time to come to its end, too, while the program ends.
    pub(super) async fn despite_the_end<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::pin!(work);
        let stop = tokio::select! {
            done = &mut work => return Ok(done),
            Some(stop) = self.heard(false) => stop,
        };
        let (in_time, ended) = tokio::join!(tokio::time::timeout(GRACE, work), self.stop(stop));
        if in_time.is_err() {
            tracing::warn!("a round is still under way after {GRACE:?}");
        }
        Err(ended)
    }

    /// Tells the program that files have changed, unless the end is asked for meanwhile. True if it was started again.
    pub(super) async fn files_changed(&mut self) -> Result<bool, Ended> {
        let Self { signals, systemd, program: Some(program) } = self else { return Ok(false) };
        let mut changed = Box::pin(program.changed());
        let name = loop {
            tokio::select! {
                told = &mut changed => return told.map_err(Err),
                Some(name) = signals.next(false) => break name,
                () = systemd.alive() => {}
            }
        };
        drop(changed);
        Err(self.stop(Stop::Signal(name)).await)
    }

    /// Ends the program, if it has not ended, and says so.
    pub(super) async fn stop(&mut self, stop: Stop) -> Ended {
        self.systemd.tell(notify::State::Stopping);
        match (stop, &mut self.program) {
            (Stop::Program(code), _) => Ok(End::Program(code)),
            (Stop::Signal(name), program) => {
                tracing::info!("Captured {name}. Exiting...");
                match program {
                    Some(program) => Ok(End::Program(program.stop().await)),
                    None => Ok(End::Success),
                }
            }
        }
    }
}

/// Word to systemd, if it asked for it.
pub(super) struct Systemd {
    socket: Option<OsString>,
    /// Between two signs of life.
    watchdog: Option<tokio::time::Interval>,
}

impl Systemd {
    fn new() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let (usec, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        let interval = notify::watchdog_interval(usec.as_deref(), pid.as_deref());
        Self { socket: std::env::var_os(notify::SOCKET), watchdog: interval.map(tokio::time::interval) }
    }

    pub(super) fn tell(&self, state: notify::State) {
        if let Err(error) = notify::send(self.socket.as_deref(), state) {
            tracing::warn!("{}: {error}", notify::SOCKET);
        }
    }

    /// Gives a sign of life when it is time for one; never, if nobody wants any. Cancel safe.
    async fn alive(&mut self) {
        match &mut self.watchdog {
            Some(watchdog) => {
                watchdog.tick().await;
                self.tell(notify::State::Alive);
            }
            None => std::future::pending().await,
        }
    }
}
