//! A signal to another process of the pod: what `kill` does, for reload commands in an image without it.

use anyhow::{Context as _, Result, bail};
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
/// There is none, or it must not be signalled.
pub(crate) fn send(args: &Args) -> Result<()> {
    let mut sent = 0;
    for entry in std::fs::read_dir("/proc").context("cannot list processes")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process that has ended meanwhile is no process of the program.
        let Ok(line) = std::fs::read(format!("/proc/{number}/cmdline")) else { continue };
        let Some(pid) = Pid::from_raw(number).filter(|_| args.means(&line)) else { continue };
        if pid == rustix::process::getpid() {
            continue;
        }
        kill_process(pid, args.signal).with_context(|| format!("cannot signal process {number}"))?;
        sent += 1;
    }
    if sent == 0 {
        bail!("there is no process of {:?} here; other containers are seen with shareProcessNamespace", args.program);
    }
    Ok(())
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
    fn who_is_not_there_is_named() {
        let args = Args { signal: Signal::HUP, program: "no-such-program".to_owned(), argument: None };
        assert!(send(&args).unwrap_err().to_string().contains("no-such-program"));
    }
}
