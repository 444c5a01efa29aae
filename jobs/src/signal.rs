//! A signal to another process of the pod: what `kill` does, for reload commands in an image without it.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// HUP, USR1, USR2, INT or TERM
    #[arg(value_name = "SIGNAL", value_parser = signal)]
    signal: Signal,
    /// Name of the program, without its directory. In a pod, that needs shareProcessNamespace
    #[arg(value_name = "PROGRAM")]
    program: String,
    /// The program's first argument, to tell processes of one program apart
    #[arg(long, value_name = "TEXT")]
    argument: Option<String>,
}

fn signal(text: &str) -> Result<Signal, String> {
    match text.strip_prefix("SIG").unwrap_or(text) {
        "HUP" => Ok(Signal::HUP),
        "USR1" => Ok(Signal::USR1),
        "USR2" => Ok(Signal::USR2),
        "INT" => Ok(Signal::INT),
        "TERM" => Ok(Signal::TERM),
        _ => Err("write HUP, USR1, USR2, INT or TERM".to_owned()),
    }
}

/// Sends the signal to every process of the program, but to this one.
///
/// # Errors
/// There is none, or some must not be signalled; the others were.
pub(crate) fn send(args: &Args) -> Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot list processes")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that has ended meanwhile is no process of the program.
        let Ok(line) = std::fs::read(format!("/proc/{number}/cmdline")) else { continue };
        let Some(pid) = Pid::from_raw(number).filter(|_| args.means(&line)) else { continue };
        if pid != rustix::process::getpid() {
            found.push(pid);
        }
    }
    let sent = signal_all(&found, |pid| kill_process(pid, args.signal))?;
    if sent == 0 {
        bail!("there is no process of {:?} here; other containers are seen with shareProcessNamespace", args.program);
    }
    Ok(())
}

/// Signals all processes, and gives how many there were.
///
/// # Errors
/// Some must not be signalled.
fn signal_all(found: &[Pid], mut signal: impl FnMut(Pid) -> Result<(), Errno>) -> Result<usize> {
    let (mut sent, mut refused) = (0, Vec::new());
    for pid in found {
        match signal(*pid) {
            Ok(()) => sent += 1,
            // It has ended since it was found.
            Err(Errno::SRCH) => {}
            Err(error) => refused.push(format!("process {}: {error}", pid.as_raw_nonzero())),
        }
    }
    ensure!(refused.is_empty(), "cannot signal {}; {sent} others were signalled", refused.join(", "));
    Ok(sent)
}

impl Args {
    /// True for the command line of such a process: its words, each with a zero behind it.
    fn means(&self, line: &[u8]) -> bool {
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().and_then(|word| word.rsplit(|byte| *byte == b'/').next());
        program == Some(self.program.as_bytes())
            && self.argument.as_ref().is_none_or(|argument| words.next() == Some(argument.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_by_their_program_and_first_argument() {
        let args = |argument: Option<&str>| Args {
            signal: Signal::HUP,
            program: "nginx".to_owned(),
            argument: argument.map(str::to_owned),
        };
        assert!(args(None).means(b"/usr/sbin/nginx\0-g\0"));
        assert!(args(None).means(b"nginx\0"));
        assert!(args(Some("-g")).means(b"/usr/sbin/nginx\0-g\0x\0"));
        assert!(!args(Some("x")).means(b"/usr/sbin/nginx\0-g\0x\0"));
        assert!(!args(None).means(b"/usr/sbin/nginx-debug\0"));
        assert!(!args(None).means(b""));
    }

    #[test]
    fn one_that_cannot_be_told_keeps_none_from_being_told() {
        let pids: Vec<Pid> = (2..=4).filter_map(Pid::from_raw).collect();
        let mut asked = Vec::new();
        let mut outcomes = [Err(Errno::PERM), Err(Errno::SRCH), Ok(())].into_iter();
        let error = signal_all(&pids, |pid| {
            asked.push(pid);
            outcomes.next().unwrap()
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("process 2: ") && error.contains("1 others"), "{error}");
        assert_eq!(asked, pids);
        assert_eq!(signal_all(&pids, |_| Err(Errno::SRCH)).unwrap(), 0);
    }

    #[test]
    fn who_is_not_there_is_named() {
        let args = Args { signal: Signal::HUP, program: "no-such-program".to_owned(), argument: None };
        assert!(send(&args).unwrap_err().to_string().contains("no-such-program"));
    }
}
