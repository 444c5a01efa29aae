//! The format for people and shell scripts: one thing a line.

use super::Printer;
use api::mvccpb::KeyValue;

/// Lines.
pub(crate) struct Simple {
    pub(crate) bytes: Vec<u8>,
    printer: Printer,
}

impl Simple {
    pub(super) fn new(printer: Printer) -> Self {
        Self { bytes: Vec::new(), printer }
    }

    pub(crate) fn line(&mut self, text: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(text.as_ref());
        self.bytes.push(b'\n');
    }

    /// Key and value, or what was asked for of both.
    pub(crate) fn kv(&mut self, kv: &KeyValue) {
        if !self.printer.value_only {
            self.text(&kv.key);
        }
        self.text(&kv.value);
    }

    fn text(&mut self, bytes: &[u8]) {
        if self.printer.hex { self.line(hex(bytes)) } else { self.line(bytes) }
    }
}

/// `\x66\x6f`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 4);
    bytes.iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    out
}

/// A size in the words of etcdctl: powers of 1,000, and two digits below ten.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
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
    let rounded = (value * 10.0 + 0.5).floor() / 10.0;
    if rounded < 10.0 { format!("{rounded:.1} {}", UNITS[unit]) } else { format!("{rounded:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_etcdctls() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_960, "10 kB"),
            (24_576, "25 kB"),
            (1_048_576, "1.0 MB"),
            (20_000_000_000, "20 GB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
