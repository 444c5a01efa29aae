//! Runs `scripts/*.txt`: commands, `---`, the expected output, an empty line. The commands are described in
//! `support/script.rs`. `UPDATE=1` writes what the store answered into the files.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[allow(dead_code, reason = "every test binary uses a part")]
mod support;

use std::path::{Path, PathBuf};
use store::Options;
use support::{Member, script};

#[test]
fn scripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<PathBuf> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 40, "scripts are missing: {}", paths.len());
    let update = std::env::var_os("UPDATE").is_some();
    let mut failed = Vec::new();
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let actual = run(&expected);
        if actual != expected {
            if update {
                std::fs::write(&path, actual).unwrap();
            } else {
                println!("{}\nexpected:\n{expected}\nfound:\n{actual}", path.display());
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}; see above, or run with UPDATE=1");
}

/// Runs the sections of a script on one store and returns the script with the real output.
fn run(script: &str) -> String {
    let mut member = Member::new(Options::default());
    let mut out = String::new();
    let mut expected = false;
    let mut answers = Vec::new();
    for line in script.lines().chain([""]) {
        if line.is_empty() && (expected || !answers.is_empty()) {
            out.push_str("---\n");
            out.extend(answers.drain(..).map(|answer: String| answer + "\n"));
            out.push('\n');
            expected = false;
        } else if line == "---" {
            expected = true;
        } else if line.starts_with('#') && !expected {
            out.push_str(line);
            out.push('\n');
        } else if !line.is_empty() && !expected {
            out.push_str(line);
            out.push('\n');
            answers.push(script::run(&mut member, line));
        }
    }
    out.pop();
    out
}
