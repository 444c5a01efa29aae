//! Replaces what no two servers have in common by words of the same form.

/// Replaces the digits, units and dots after each occurrence of a key.
pub(super) fn after(text: &str, key: &str) -> String {
    let mut parts = text.split(key);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || ".µnms-".contains(c));
        // Only values that start like a number: `"version":"3.4.23"`, and not a key's version.
        out.push_str(key);
        out.push_str(if part.starts_with(|c: char| c.is_ascii_digit() || c == '-') { "N" } else { "" });
        out.push_str(if part.starts_with(|c: char| c.is_ascii_digit() || c == '-') { rest } else { part });
    }
    out
}

/// Replaces the rest of the string that begins with each occurrence of a key.
pub(super) fn string(text: &str, key: &str) -> String {
    let mut parts = text.split(key);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find('"').unwrap_or(part.len());
        out = out + key + "S" + &part[end..];
    }
    out
}

/// Replaces ids that only one server knows: numbers of 12 digits and more, decimal or hexadecimal. Most have 16, and no
/// leading zeros.
pub(super) fn long_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            word.push(c);
            continue;
        }
        let is_id = word.len() >= 12 && word.chars().any(|c| c.is_ascii_digit());
        out.push_str(if is_id { "ID" } else { &word });
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// Replaces every number with its unit, and the widths of a table.
pub(super) fn cells(text: &str) -> String {
    let cell = |cell: &str| {
        let word = cell.trim();
        if word.starts_with(|c: char| c.is_ascii_digit()) { "N".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| match line {
        border if border.starts_with('+') => "+".to_owned(),
        row if row.starts_with('|') => row.split('|').map(cell).collect::<Vec<_>>().join(" | "),
        row => row.split(',').map(cell).collect::<Vec<_>>().join(", "),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
