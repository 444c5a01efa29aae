//! What the standard streams lead to: whether a person looks at them, and how wide and colourful it may be.

use rustix::termios::{isatty, tcgetwinsize};
use std::io;

/// Of a terminal that does not say it, and of files.
const WIDTH: u16 = 80;

/// The standard streams of this process.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "for the commands of `people`")]
pub(crate) struct Terminal {
    /// Somebody can answer.
    pub(crate) has_input: bool,
    /// Standard output goes to a person.
    pub(crate) has_output: bool,
    /// Standard error goes to a person.
    pub(crate) has_errors: bool,
    /// Colours are welcome on standard output.
    pub(crate) has_colours: bool,
    /// Columns of standard output.
    pub(crate) width: u16,
}

impl Terminal {
    pub(crate) fn of_process() -> Self {
        let has_output = isatty(io::stdout());
        // https://no-color.org: whatever it says, unless it is empty.
        let refuses = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            has_input: isatty(io::stdin()),
            has_output,
            has_errors: isatty(io::stderr()),
            has_colours: has_output && !refuses && !is_dumb,
            width: tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|col| *col > 0).unwrap_or(WIDTH),
        }
    }
}
