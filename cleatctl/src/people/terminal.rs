//! Whom the output is for: colours, width and questions for a person at a terminal, none of it for a pipe or a file.

use anyhow::{Context as _, Result, bail};
use rustix::termios::tcgetwinsize;
use std::borrow::Cow;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

/// Longest answer to a question.
const ANSWER_BYTES_MAX: u64 = 64;

/// Where the output goes, and whether somebody is there to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// Output has colours.
    pub(crate) has_colours: bool,
    /// Columns of the terminal; None for output that is no terminal, whose lines are never cut.
    pub(crate) width: Option<usize>,
    /// Lines and marks may be drawn with characters beyond ASCII.
    pub(crate) has_unicode: bool,
    /// Somebody answers questions: standard input and standard error are a terminal.
    pub(crate) is_attended: bool,
}

/// What a part of the output means, of which its colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// In order, or added.
    Good,
    /// To be looked after, or changed.
    Warning,
    /// Broken, or removed.
    Bad,
    /// A head.
    Strong,
    /// Of less importance.
    Quiet,
}

impl Tone {
    /// The escape sequence: colours of the terminal's own palette, which fit light and dark backgrounds alike. Yellow does
    /// not: it can hardly be read on white.
    fn code(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Warning => "\x1b[35m",
            Self::Bad => "\x1b[31m",
            Self::Strong => "\x1b[1m",
            Self::Quiet => "\x1b[2m",
        }
    }
}

/// A variable of the environment that is not empty.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// True if the locale has characters beyond ASCII.
pub(crate) fn has_unicode() -> bool {
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

impl Terminal {
    /// What this process writes to. `NO_COLOR` and a `TERM` of `dumb` turn colours off.
    pub(crate) fn detect() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let width = tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        Self {
            has_colours: is_terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
            width: width.filter(|_| is_terminal),
            has_unicode: has_unicode(),
            is_attended: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// Lines of the terminal that is written to.
    pub(crate) fn height() -> Option<usize> {
        tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_row)).filter(|height| *height > 0)
    }

    /// Columns of the terminal that errors go to; None if that is none.
    pub(crate) fn width_of_errors() -> Option<usize> {
        let width = || tcgetwinsize(io::stderr()).ok().map(|size| usize::from(size.ws_col));
        Some(io::stderr()).filter(io::Stderr::is_terminal).and_then(|_| width()).filter(|width| *width > 0)
    }

    /// The text in the colour of its meaning, where there are colours.
    pub(crate) fn paint<'a>(&self, tone: Tone, text: &'a str) -> Cow<'a, str> {
        if self.has_colours && !text.is_empty() {
            Cow::Owned(format!("{}{text}\x1b[0m", tone.code()))
        } else {
            Cow::Borrowed(text)
        }
    }
}

/// Asks before something that cannot be taken back. Without anybody to ask, and after `--yes`, nothing is asked.
///
/// # Errors
/// The answer was not yes.
pub(crate) async fn confirm(terminal: &Terminal, is_sure: bool, question: &str) -> Result<()> {
    if is_sure || !terminal.is_attended {
        return Ok(());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    // Not on the thread of the runtime, which hears of an interrupt after the prompt of a password.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer).map(|_| answer)
    });
    if !is_yes(&answer.await?.context("cannot read the answer")?) {
        bail!("nothing was changed: the answer was not yes; --yes does it without a question");
    }
    Ok(())
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pipe.
    pub(crate) const PIPED: Terminal =
        Terminal { has_colours: false, width: None, has_unicode: true, is_attended: false };

    /// A terminal of this width.
    pub(crate) fn of_width(width: usize) -> Terminal {
        Terminal { has_colours: true, width: Some(width), has_unicode: true, is_attended: true }
    }

    #[test]
    fn only_terminals_have_colours() {
        assert_eq!(PIPED.paint(Tone::Good, "PASS"), "PASS");
        assert_eq!(of_width(80).paint(Tone::Good, "PASS"), "\x1b[32mPASS\x1b[0m");
        assert_eq!(of_width(80).paint(Tone::Good, ""), "");
    }

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in
            [("y\n", true), ("YES\n", true), (" y ", true), ("\n", false), ("yep\n", false), ("", false)]
        {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_asked_who_is_not_there_or_sure() {
        assert!(confirm(&PIPED, false, "delete?").await.is_ok());
        assert!(confirm(&of_width(80), true, "delete?").await.is_ok());
    }
}
