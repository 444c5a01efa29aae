//! Plain text tables, and the way numbers, times and sizes are written in them.

use std::time::Duration;

use crate::measure::ProcessUse;
use crate::workload::run::Outcome;

/// A table: the first column is left-aligned, the others right-aligned unless told otherwise.
pub(crate) struct Table {
    left: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table with its header.
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { left: vec![0], rows: vec![header.iter().map(ToString::to_string).collect()] }
    }

    /// Aligns more columns to the left.
    pub(crate) fn left(mut self, columns: &[usize]) -> Self {
        self.left.extend_from_slice(columns);
        self
    }

    /// Adds a row; it may be shorter than the header.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes the table with a rule under the header.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, &width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let padding = " ".repeat(width - cell.chars().count());
                let separator = if column == 0 { "" } else { "  " };
                line.push_str(separator);
                let (first, second) = if self.left.contains(&column) { (cell, &*padding) } else { (&*padding, cell) };
                line.push_str(first);
                line.push_str(second);
            }
            text.push_str(line.trim_end());
            text.push('\n');
            if number == 0 {
                let total = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
                text.push_str(&"-".repeat(total));
                text.push('\n');
            }
        }
        text
    }
}

/// A count with three significant figures or more: `1,234`, `12.3`, `0.123`.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => {
            let digits = format!("{value:.0}");
            let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |digits| ("-", digits));
            let mut grouped = String::new();
            for (position, digit) in digits.chars().enumerate() {
                if position > 0 && (digits.len() - position) % 3 == 0 {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            format!("{sign}{grouped}")
        }
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

/// A time given in microseconds, in the unit that reads best.
pub(crate) fn micros(value: f64) -> String {
    match value {
        1_000_000.0.. => format!("{} s", number(value / 1e6)),
        1_000.0.. => format!("{} ms", number(value / 1e3)),
        _ => format!("{} us", number(value)),
    }
}

/// A size in bytes.
pub(crate) fn bytes(value: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if value < 1024.0 {
        return format!("{} B", number(value));
    }
    let mut scaled = value / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", number(scaled), UNITS[unit])
}

/// The table of one run, with a line on the server and the generator below.
pub(crate) fn outcome(outcome: &Outcome) -> String {
    let mut table = Table::new(&["workload", "clients", "ops/s", "p50", "p90", "p99", "p99.9", "max", "errors"]);
    for group in &outcome.groups {
        let summary = &group.summary;
        let mut row =
            vec![group.name.clone(), format!("{}x{}", group.clients, group.connections), number(summary.per_second)];
        if summary.operations == 0 {
            row.extend(["-", "-", "-", "-", "-"].map(str::to_owned));
        } else {
            row.extend([summary.p50_us, summary.p90_us, summary.p99_us, summary.p999_us, summary.max_us].map(micros));
        }
        row.push(summary.errors.to_string());
        table.row(row);
    }
    let mut lines = Vec::new();
    for group in &outcome.groups {
        lines.extend(
            group.summary.first_error.as_ref().map(|error| format!("first error of {}: {error}\n", group.name)),
        );
    }
    lines.extend(outcome.server.as_ref().map(|server| server_line(outcome, server)));
    let generator = &outcome.generator;
    lines.push(format!(
        "generator: {} CPU/op ({} cores), {} operations in {:.3?}\n",
        per_operation(outcome, generator.cpu_us),
        cores(outcome, generator.cpu_us),
        outcome.counted_operations(),
        Duration::from_secs_f64(outcome.seconds),
    ));
    table.render() + &lines.concat()
}

/// The line on what the server used.
fn server_line(outcome: &Outcome, server: &ProcessUse) -> String {
    let written = server.written_bytes.and_then(|written| outcome.per_operation(written as f64));
    format!(
        "server:    {} CPU/op ({} cores), RSS {} (peak {}), {} written/op\n",
        per_operation(outcome, server.cpu_us),
        cores(outcome, server.cpu_us),
        bytes(server.rss_bytes as f64),
        bytes(server.peak_rss_bytes as f64),
        written.map_or_else(|| "unknown".to_owned(), bytes),
    )
}

fn per_operation(outcome: &Outcome, used_us: f64) -> String {
    outcome.per_operation(used_us).map_or_else(|| "-".to_owned(), micros)
}

fn cores(outcome: &Outcome, used_us: f64) -> String {
    number(used_us / 1e6 / outcome.seconds.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "ops/s"]);
        table.row(vec!["put".to_owned(), "1,234".to_owned()]);
        table.row(vec!["longer name".to_owned(), "5".to_owned()]);
        let expected = "name         ops/s\n------------------\nput          1,234\nlonger name      5\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn figures_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.1234, "0.123"),
            (1.234, "1.23"),
            (45.67, "45.7"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), expected);
        }
        assert_eq!(number(-1234.0), "-1,234");
        assert_eq!(
            (micros(540.0), micros(1_234.0), micros(2.5e6)),
            ("540 us".into(), "1.23 ms".into(), "2.50 s".into())
        );
        assert_eq!((bytes(300.0), bytes(2048.0), bytes(1.5e9)), ("300 B".into(), "2.00 KiB".into(), "1.40 GiB".into()));
    }
}
