//! Recorded output: what a command prints is a file, and a change of it shows in review.

use crate::people::terminal::Terminal;
use crate::people::terminal::tests::{PIPED, of_width};
use std::path::PathBuf;

/// The outputs that every command is looked at in: a pipe, and terminals of 80 and 200 columns.
pub(crate) fn outputs() -> [(&'static str, Terminal); 3] {
    [("piped", PIPED), ("80", of_width(80)), ("200", of_width(200))]
}

/// Compares output with `snapshots/NAME.txt`; `CLEATCTL_SNAPSHOTS=write` writes the file instead. Escape characters are
/// written as `^[`.
pub(crate) fn assert_recorded(name: &str, output: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/people/snapshots").join(format!("{name}.txt"));
    let output = output.replace('\x1b', "^[");
    if std::env::var("CLEATCTL_SNAPSHOTS").is_ok_and(|wanted| wanted == "write") {
        std::fs::write(&path, &output).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(output, recorded, "{} has another output; CLEATCTL_SNAPSHOTS=write records it", path.display());
}
