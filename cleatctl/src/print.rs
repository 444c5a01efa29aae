//! etcdctl's output.

use server::offline::{Begun, Founder};
use std::io::{self, Write as _};
use std::path::Path;

/// Prints a line. A reader that has gone, such as `head`, is no error.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Says what was made of a file or directory, and how to start it.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn begun(from: &Path, founder: &Founder, begun: &Begun) -> anyhow::Result<()> {
    let Begun { cluster_id, member_id, store } = begun;
    let compacted = if founder.bump_revision > 0 { ", with everything before it compacted" } else { "" };
    let (from, name, revision) = (from.display(), &founder.name, store.revision);
    eprintln!(
        "{from} is now member {member_id:x} ({name}) of the new cluster {cluster_id:x}, at revision {revision}{compacted}"
    );
    line(&format!("start it with --name {name} --data-dir {}", founder.data_dir.display()))
}

/// A size in the words of etcdctl: powers of 1,000, and two digits below ten.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    // Rounded half up to the digits that are shown.
    if value < 10.0 {
        format!("{:.1} {}", (value * 10.0 + 0.5).floor() / 10.0, UNITS[unit])
    } else {
        format!("{:.0} {}", (value + 0.5).floor(), UNITS[unit])
    }
}

/// A table with one row, its numbers to the right and its heads in the middle.
pub(crate) fn table(columns: &[(&str, String)]) -> String {
    let width = |(head, cell): &(&str, String)| head.len().max(cell.len());
    let row = |ends: &str, part: &dyn Fn(&(&str, String)) -> String| {
        let parts: Vec<String> = columns.iter().map(part).collect();
        format!("{ends}{}{ends}", parts.join(ends))
    };
    let border = row("+", &|column| "-".repeat(width(column) + 2));
    let heads = row("|", &|column| format!(" {:^width$} ", column.0, width = width(column)));
    let cells = row("|", &|column| format!(" {:>width$} ", column.1, width = width(column)));
    format!("{border}\n{heads}\n{border}\n{cells}\n{border}")
}

#[cfg(test)]
mod tests {
    use super::{bytes, table};

    #[test]
    fn sizes_are_etcdctls() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (24_576, "25 kB"),
            (1_048_576, "1.0 MB"),
            (20_000_000_000, "20 GB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn a_table_looks_like_etcdctls() {
        let columns = [
            ("HASH", "dee068a2".to_owned()),
            ("REVISION", "36".to_owned()),
            ("TOTAL KEYS", "48".to_owned()),
            ("TOTAL SIZE", "25 kB".to_owned()),
        ];
        let expected = "\
+----------+----------+------------+------------+
|   HASH   | REVISION | TOTAL KEYS | TOTAL SIZE |
+----------+----------+------------+------------+
| dee068a2 |       36 |         48 |      25 kB |
+----------+----------+------------+------------+";
        assert_eq!(table(&columns), expected);
    }
}
