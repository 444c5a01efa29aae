//! Loopback ports that no other test process uses.
//!
//! A port is held by an exclusive lock on a file named after it, so parallel test processes never agree on
//! one, and a server that was killed finds its port free when it starts again. Ports are drawn from below the
//! range that the kernel gives to outgoing connections, which could otherwise take the port in between.

use anyhow::{Context, Result, bail};
use rand::Rng;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

/// Outside of Linux's default `ip_local_port_range`, and above the well-known services.
const RANGE: std::ops::Range<u16> = 12_000..30_000;
/// Far more than the ports a test run holds; reached only when the machine has no free port.
const TRIES: u32 = 500;

/// Claims a name among all test processes, for as long as the file is open; `None` when it is taken.
pub(crate) fn claim(name: &str) -> Result<Option<File>> {
    let dir = std::env::temp_dir().join("cleat-test-ports");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let file = File::create(dir.join(name))?;
    Ok(file.try_lock().is_ok().then_some(file))
}

/// A reserved port, free again on drop.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port that nothing listens on.
    pub fn reserve() -> Result<Self> {
        for _ in 0..TRIES {
            let number = rand::rng().random_range(RANGE);
            if let Some(lock) = claim(&number.to_string())?
                && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("no free port after {TRIES} tries")
    }

    /// The port number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
