//! Which processes are children that somebody waits for, and the end of those that nobody does.
//!
//! The first process of a container inherits every process whose parent has ended, and has to take note of their ends:
//! otherwise they stay in the process table. It must not do so with a child that [`tokio::process`] waits for, which would
//! never hear of its end then. So every child is spawned through [`spawn`], which notes it.

use rustix::process::{Pid, WaitOptions, waitpid};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Children that are waited for. Of the whole process, as its children are.
static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<u32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child is one's own as long as this is there. It is dropped after the child was waited for, or together with it: then
/// tokio takes note of its end, or [`reap`] does.
#[derive(Debug)]
pub(crate) struct Own(Option<u32>);

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            own().remove(&id);
        }
    }
}

/// Starts a child that will be waited for.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Own)> {
    // Held meanwhile: a child that ends at once is not taken for somebody else's.
    let mut own = own();
    let child = command.spawn()?;
    let id = child.id();
    own.extend(id);
    Ok((child, Own(id)))
}

/// Takes note of the ends of processes that were inherited, for ever, if this is the first process of its container.
pub(crate) async fn reap() {
    if std::process::id() != 1 {
        return;
    }
    let mut ends = match signal(SignalKind::child()) {
        Ok(ends) => ends,
        Err(error) => return tracing::warn!("processes that ended will stay in the process table: {error}"),
    };
    loop {
        // Each process has a file to read.
        if let Ok(ended) = tokio::task::spawn_blocking(ended_children).await {
            reap_others(&ended);
        }
        if ends.recv().await.is_none() {
            return;
        }
    }
}

/// Takes note of the ends of those that nobody else waits for.
fn reap_others(ended: &[u32]) {
    // A child that was being spawned meanwhile is noted by now.
    let own = own();
    for pid in ended.iter().filter(|pid| !own.contains(pid)) {
        // Another look finds it if that did not work.
        let _reaped = waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::NOHANG);
    }
}

/// Children of this process that have ended and were not waited for.
fn ended_children() -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let parent = std::process::id();
    let ended = |entry: io::Result<std::fs::DirEntry>| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        is_ended_child(&stat, parent).then_some(pid)
    };
    processes.filter_map(ended).collect()
}

/// Reads `PID (NAME) STATE PARENT ...`, whose name may hold anything.
fn is_ended_child(stat: &str, parent: u32) -> bool {
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|id| id.parse().ok()) == Some(parent)
}

#[test]
fn children_that_have_ended_are_found_whatever_their_names() {
    assert!(is_ended_child("12 (a) Z 7 1 1 0", 7));
    assert!(is_ended_child("12 (a) Z 9) Z 7 1 1 0", 7));
    for stat in ["12 (a) S 7 1", "12 (a) Z 8 1", "", "12 (a", "12 (a) Z"] {
        assert!(!is_ended_child(stat, 7), "{stat}");
    }
}
