//! Progress bars, on standard error and for a person only. A bar of something that failed is gone when it is dropped.
//! `etcdctl` has none: what reads its words from a terminal must not find others among them.

use crate::people::has_unicode;
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two pictures of something whose end is not known.
const TICK: Duration = Duration::from_millis(100);

/// Who has waited so long sees what it took; a bar that was full at once is gone.
const STAYS_FROM: Duration = Duration::from_secs(1);

const FILE: &str = "{msg} {wide_bar} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {time}";

/// Whether this process shows none at all.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Shows none from now on.
pub(crate) fn show_none() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

fn is_shown() -> bool {
    !IS_QUIET.load(Ordering::Relaxed) && std::io::stderr().is_terminal()
}

/// Of keys, how many there are if that is known.
pub(crate) fn keys(count: Option<usize>) -> ProgressBar {
    bar(count.map(|count| count as u64), "{wide_bar} {percent:>3}% {pos}/{len} keys {rate} {time}")
}

/// Of bytes.
pub(crate) fn bytes(length: Option<u64>) -> ProgressBar {
    bar(length, "{wide_bar} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {time}")
}

/// Of a file that is read: what is done with it, and how many bytes it has.
pub(crate) fn file(what: &'static str, length: u64) -> ProgressBar {
    bar(Some(length), FILE).with_message(what)
}

/// Of a file that is written, whose end is not known.
pub(crate) fn written() -> ProgressBar {
    bar(None, "writing {bytes} {bytes_per_sec}")
}

/// Of so many seconds, at whose end it ends however much was done: that is its message.
pub(crate) fn seconds(length: u64) -> ProgressBar {
    bar(Some(length), "{wide_bar} {percent:>3}% {msg} {time}")
}

/// Of anything else that is counted.
pub(crate) fn count(length: u64, unit: &str) -> ProgressBar {
    bar(Some(length), &format!("{{wide_bar}} {{percent:>3}}% {{pos}}/{{len}} {unit} {{rate}} {{time}}"))
}

/// Of something whose end is not known.
pub(crate) fn running(what: &str) -> ProgressBar {
    if !is_shown() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::default_spinner();
    let style = if has_unicode() { style } else { style.tick_chars("|/-\\ ") };
    let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// What the bar is about is done: it stands at 100 %. Of a file less may be read than it has, as pages that are free.
pub(crate) fn finish(bar: &ProgressBar) {
    if bar.elapsed() < STAYS_FROM {
        bar.finish_and_clear();
    } else {
        bar.finish();
    }
}

fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    if !is_shown() {
        return ProgressBar::hidden();
    }
    length.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style(template))
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = if has_unicode() { style } else { style.progress_chars("##-") };
    // Whole ones: nobody counts parts of a key. Writing to the line does not fail.
    let style = style.with_key("rate", |state: &ProgressState, line: &mut dyn Write| {
        write!(line, "{:.0}/s", state.per_sec()).ok();
    });
    style.with_key("time", |state: &ProgressState, line: &mut dyn Write| {
        if state.is_finished() {
            write!(line, "in {:#}", HumanDuration(state.elapsed())).ok();
        } else {
            write!(line, "{:#} left", HumanDuration(state.eta())).ok();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::{Arc, Mutex};

    /// The last line that was drawn on a terminal of 60 columns.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            60
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_done_stands_at_its_end() {
        let screen = Screen::default();
        let shown = || screen.0.lock().unwrap().clone();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let bar = ProgressBar::with_draw_target(Some(4 << 20), target).with_style(style(FILE)).with_message("reading");
        let bar = bar.with_elapsed(Duration::from_secs(2));
        bar.set_position(3 << 20);
        bar.force_draw();
        assert!(shown().starts_with("reading ") && shown().contains("  75% 3.00 MiB/4.00 MiB "), "{}", shown());
        finish(&bar);
        assert!(shown().contains(" 100% 4.00 MiB/4.00 MiB ") && shown().trim_end().ends_with(" in 2s"), "{}", shown());
    }
}
