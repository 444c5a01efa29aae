//! Several programs in one file, which is the one whose name it is called by. Most of each is what the others have too, so
//! an image with such files and links is far smaller than one with a file for each.
//!
//! There are two: `cleat-programs`, and `cleat-sidecars` with those that run beside others and are to be small in memory.
//! What is resident of a program that does nothing is the part of its file that it once needed, and in one file with the
//! server's that lies further apart: half as much again.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use terminal::{complain, print};

/// What a program does with its command line, its own name first.
pub type Main = fn(Vec<OsString>) -> ExitCode;

/// For a command line that names no program.
const USAGE: u8 = 2;

/// Runs the program whose name is the first of `words`, or a path to it. After any other name, as the file's own, `own`,
/// the next word names it.
pub fn run(own: &str, programs: &[(&str, Main)], words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let program = |name: &OsStr| {
        let name = Path::new(name).file_name()?;
        programs.iter().find(|(program, _)| name == *program).map(|(_, main)| *main)
    };
    if let Some(main) = words.first().and_then(|name| program(name)) {
        return main(words);
    }
    if !words.is_empty() {
        words.remove(0);
    }
    match words.first() {
        None => {
            complain(&usage(own, programs));
            ExitCode::from(USAGE)
        }
        Some(word) if word == "-h" || word == "--help" => print(&format!("{}\n", usage(own, programs))),
        Some(name) => {
            if let Some(main) = program(name) {
                return main(words);
            }
            complain(&format!("{own}: there is no program \"{}\"\n{}", name.display(), usage(own, programs)));
            ExitCode::from(USAGE)
        }
    }
}

fn usage(own: &str, programs: &[(&str, Main)]) -> String {
    let names: Vec<_> = programs.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    format!(
        "usage: {own} PROGRAM [ARGUMENT...]\n\nPROGRAM is one of {names}. A link to this file by such a name is that program."
    )
}
