//! Word to systemd, for units with `Type=notify` as etcd's have, and with `Type=notify-reload` and `WatchdogSec=`.
//!
//! A program sends a [`State`] when it changes. Without systemd, which names its socket in the environment, nothing
//! happens. Nothing here reads the environment but what is handed in.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The variable that names the socket.
pub const SOCKET: &str = "NOTIFY_SOCKET";

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has started, or read its configuration again.
    Ready,
    /// It reads its configuration again; [`State::Ready`] follows.
    Reloading,
    /// It ends.
    Stopping,
    /// It still works; see [`watchdog_interval`].
    Alive,
}

impl State {
    fn message(self) -> String {
        match self {
            Self::Ready => "READY=1\n".to_owned(),
            Self::Reloading => {
                // systemd tells by the time whether the answer is to its own signal.
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
                format!("RELOADING=1\nMONOTONIC_USEC={micros}\n")
            }
            Self::Stopping => "STOPPING=1\n".to_owned(),
            Self::Alive => "WATCHDOG=1\n".to_owned(),
        }
    }
}

/// Tells the supervisor whose socket is in `NOTIFY_SOCKET`, if there is one.
///
/// # Errors
/// If the socket is named but cannot be written.
pub fn send(socket: Option<&OsStr>, state: State) -> io::Result<()> {
    let Some(name) = socket.map(OsStr::as_bytes).filter(|name| !name.is_empty()) else { return Ok(()) };
    // systemd writes @ for the zero byte of an abstract name.
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.message().as_bytes(), &address).map(drop)
}

/// How often to tell that the process is alive, by `WATCHDOG_USEC` and `WATCHDOG_PID`: half the time after which systemd
/// gives it up. None if nobody wants to know.
pub fn watchdog_interval(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    if pid.is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    let usec: u64 = usec?.parse().ok()?;
    (usec > 1).then(|| Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> Vec<u8> {
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes).unwrap();
        bytes[..len].to_vec()
    }

    #[test]
    fn readiness_is_sent_to_paths_and_abstract_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(Some(path.as_os_str()), State::Ready).unwrap();
        assert_eq!(received(&socket), b"READY=1\n");

        let name = format!("cleat-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let name = format!("@{name}");
        send(Some(OsStr::new(&name)), State::Ready).unwrap();
        assert_eq!(received(&socket), b"READY=1\n");
        send(Some(OsStr::new(&name)), State::Reloading).unwrap();
        let reloading = String::from_utf8(received(&socket)).unwrap();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
    }

    #[test]
    fn without_a_supervisor_nothing_happens() {
        send(None, State::Ready).unwrap();
        send(Some(OsStr::new("")), State::Ready).unwrap();
        assert!(send(Some(OsStr::new("/nonexistent/socket")), State::Ready).is_err());
    }

    #[test]
    fn the_watchdog_is_asked_for_by_time_and_process() {
        let own = std::process::id().to_string();
        let half = Some(Duration::from_secs(1));
        assert_eq!(watchdog_interval(Some("2000000"), None), half);
        assert_eq!(watchdog_interval(Some("2000000"), Some(&own)), half);
        for (usec, pid) in [(None, None), (Some("2000000"), Some("1")), (Some("x"), None), (Some("0"), None)] {
            assert_eq!(watchdog_interval(usec, pid), None, "{usec:?} {pid:?}");
        }
    }
}
