//! A file is whatever program of it that it is called.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAMS: &str = env!("CARGO_BIN_EXE_cleat-programs");
const SIDECARS: &str = env!("CARGO_BIN_EXE_cleat-sidecars");
/// Each with its file, a command line that ends, and words that it alone says then.
const NAMES: [(&str, &str, &str, &str); 8] = [
    (PROGRAMS, "cleat", "--version", "etcd Version"),
    (PROGRAMS, "cleatctl", "--help", "cleatctl"),
    (PROGRAMS, "etcdctl", "--help", "A simple command line client for etcd3."),
    (PROGRAMS, "cleat-discovery", "--version", "cleat-discovery "),
    (PROGRAMS, "cleat-jobs", "--version", "cleat-jobs "),
    (SIDECARS, "confd", "-version", "confd "),
    (SIDECARS, "metad", "--version", "Metad Version"),
    (SIDECARS, "cleat-agent", "--version", "cleat-agent "),
];

/// The exit code, and all that is said.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + std::str::from_utf8(&stderr).unwrap())
}

#[test]
fn a_link_is_the_program_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    for (file, name, word, says) in NAMES {
        let link = dir.path().join(name);
        symlink(file, &link).unwrap();
        let by_path = run(Command::new(&link).arg(word));
        assert_eq!(by_path.0, Some(0), "{name}: {}", by_path.1);
        assert!(by_path.1.contains(says), "{name}: {}", by_path.1);
        assert_eq!(run(Command::new(file).arg0(name).arg(word)), by_path);
    }
}

#[test]
fn by_its_own_name_it_takes_that_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    for (file, name, word, says) in NAMES {
        let other = dir.path().join(format!("not-{name}"));
        symlink(file, &other).unwrap();
        for file in [Path::new(file), &other] {
            let (code, said) = run(Command::new(file).args([name, word]));
            assert!(code == Some(0) && said.contains(says), "{name}: {said}");
        }
    }
}

#[test]
fn without_a_name_it_lists_them() {
    for file in [PROGRAMS, SIDECARS] {
        let (code, said) = run(Command::new(file).arg("--help"));
        assert_eq!(code, Some(0), "{said}");
        let own = Path::new(file).file_name().unwrap().to_str().unwrap();
        assert!(said.starts_with(&format!("usage: {own} PROGRAM ")), "{said}");
        let words: Vec<_> = said.split([' ', ',', '.']).collect();
        for (of, name, ..) in NAMES {
            assert_eq!(words.contains(&name), of == file, "{name}: {said}");
        }
        let said = said.trim_end();
        assert_eq!(run(&mut Command::new(file)), (Some(2), format!("{said}\n")));
        let refused = run(Command::new(file).args(["cleat-none", "--help"]));
        assert_eq!(refused, (Some(2), format!("{own}: there is no program \"cleat-none\"\n{said}\n")));
    }
}

/// Those of which log lines have the name: the one by which it was called, whatever it is.
#[test]
fn log_lines_have_the_name_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let confd = ["-onetime", "-backend", "env", "-confdir", dir.path().to_str().unwrap()];
    // An address that nobody has.
    let metad = ["--listen", "192.0.2.1:80"];
    for (name, words) in [("confd", confd.as_slice()), ("metad", &metad)] {
        let (_, said) = run(Command::new(SIDECARS).arg(name).args(words));
        assert!(said.contains(&format!(" {name}[")), "{said}");
        // By a link, whose directory's name is no text.
        let strange = dir.path().join(OsStr::from_bytes(b"\xff"));
        std::fs::create_dir_all(&strange).unwrap();
        let link = strange.join(name);
        symlink(SIDECARS, &link).unwrap();
        let (_, said) = run(Command::new(&link).args(words));
        assert!(said.contains(&format!("\u{fffd}/{name}[")), "{said}");
    }
}
