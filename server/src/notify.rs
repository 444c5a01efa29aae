//! Tells systemd that the member serves, for units with `Type=notify` as etcd's have.
//!
//! `main` calls [`ready`] once; without systemd nothing happens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1` to the supervisor whose socket is in `NOTIFY_SOCKET`, if there is one.
///
/// # Errors
/// If the socket is named but cannot be written.
pub fn ready(notify_socket: Option<&OsStr>) -> io::Result<()> {
    let Some(name) = notify_socket.map(OsStr::as_bytes).filter(|name| !name.is_empty()) else { return Ok(()) };
    // systemd writes @ for the zero byte of an abstract name.
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address).map(drop)
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
        ready(Some(path.as_os_str())).unwrap();
        assert_eq!(received(&socket), b"READY=1\n");

        let name = format!("cleat-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        ready(Some(OsStr::new(&format!("@{name}")))).unwrap();
        assert_eq!(received(&socket), b"READY=1\n");
    }

    #[test]
    fn without_a_supervisor_nothing_happens() {
        ready(None).unwrap();
        ready(Some(OsStr::new(""))).unwrap();
        assert!(ready(Some(OsStr::new("/nonexistent/socket"))).is_err());
    }
}
