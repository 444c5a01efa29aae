//! The process as its supervisor sees it: exit codes, first lines, signals.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};

fn cleat(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cleat"));
    command.args(args).env_clear();
    command
}

fn output(args: &[&str]) -> (Output, String, String) {
    let output = cleat(args).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    (output, stdout, stderr)
}

/// Ends the process if a test fails before it does.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.0.kill().expect("own child");
            self.0.wait().expect("own child");
        }
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let (output, stdout, _) = output(&["--version"]);
    assert!(output.status.success());
    assert!(stdout.starts_with("etcd Version: 3.5."), "{stdout}");
    let (output, stdout, _) = self::output(&["-h"]);
    assert!(output.status.success());
    assert!(stdout.contains("--listen-client-urls http://localhost:2379"));
}

#[test]
fn exit_codes_tell_usage_from_settings() {
    let (unknown, _, stderr) = output(&["--nam=x"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert_eq!(stderr, "unknown flag --nam; did you mean --name?\nSee 'cleat --help'.\n");
    let (invalid, _, stderr) = output(&["--heartbeat-interval=0"]);
    assert_eq!(invalid.status.code(), Some(1));
    let expected = "error verifying flags, --heartbeat-interval must be >0 (set to 0ms). See 'cleat --help'.\n";
    assert_eq!(stderr, expected);
}

#[test]
fn a_signal_stops_a_member_and_is_its_cause_of_death() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = cleat(&["--listen-client-urls=http://127.0.0.1:0", "--listen-peer-urls=http://127.0.0.1:0"]);
        command.args(["--advertise-client-urls=http://127.0.0.1:1", "--data-dir"]).arg(&data_dir);
        let mut member = Member(command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
        let mut lines = BufReader::new(member.0.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("\"msg\":\"ready to serve client requests\"")));
        kill_process(Pid::from_child(&member.0), signal).unwrap();
        // The pipe must stay open until the last line.
        assert!(lines.any(|line| line.contains("\"msg\":\"stopping; a second signal ends at once\"")));
        lines.for_each(drop);
        assert_eq!(member.0.wait().unwrap().signal(), Some(signal.as_raw()));
    }
}
