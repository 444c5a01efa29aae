//! Progress bars, on standard error and for a person only.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

/// Between two pictures of something whose end is not known.
const TICK: Duration = Duration::from_millis(100);

/// Of keys, how many there are if that is known.
pub(crate) fn keys(count: Option<usize>) -> ProgressBar {
    bar(count.map(|count| count as u64), "{wide_bar} {pos}/{len} keys {per_sec} {eta}")
}

/// Of bytes.
pub(crate) fn bytes(length: Option<u64>) -> ProgressBar {
    bar(length, "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Of seconds or anything else that is counted.
pub(crate) fn count(length: u64, unit: &str) -> ProgressBar {
    bar(Some(length), &format!("{{wide_bar}} {{pos}}/{{len}} {unit} {{eta}}"))
}

/// Of something whose end is not known.
pub(crate) fn running(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    length.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style)
}
