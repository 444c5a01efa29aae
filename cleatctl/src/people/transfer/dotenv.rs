//! dotenv files: `NAME=value` lines that shells and the libraries of most languages read.

use super::{Entries, Entry};
use crate::people::text;
use anyhow::{Result, bail, ensure};
use std::collections::BTreeMap;

/// The text of a dotenv file. Names are keys with `/`, `-` and `.` as `_`, in capitals, unless a key is a name already.
///
/// # Errors
/// A key makes no name, two make the same, or a value is nothing that such a file can have.
pub(super) fn write(entries: &[Entry]) -> Result<String> {
    let mut names: BTreeMap<String, &[u8]> = BTreeMap::new();
    let mut lines = String::new();
    for (key, value) in entries {
        let Some(name) = name_of(key) else {
            bail!("the key {} makes no name of a variable; name a longer prefix, or another --format", text::show(key));
        };
        if let Some(other) = names.insert(name.clone(), key) {
            bail!(
                "the keys {} and {} both make the name {name}; name another --format",
                text::show(other),
                text::show(key)
            );
        }
        let Some(value) = std::str::from_utf8(value).ok().and_then(quoted) else {
            bail!("the value of {} has control characters or is no text; name another --format", text::show(key));
        };
        text::push(&mut lines, format_args!("{name}={value}\n"));
    }
    Ok(lines)
}

fn name_of(key: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    if is_name(key) {
        return Some(key.to_owned());
    }
    let name: String = key
        .trim_matches('/')
        .chars()
        .map(|c| if matches!(c, '/' | '-' | '.') { '_' } else { c.to_ascii_uppercase() })
        .collect();
    is_name(&name).then_some(name)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A value as shells read it. Nothing in it is ever carried out: what a shell would do stands in single quotes, or behind a
/// backslash.
fn quoted(value: &str) -> Option<String> {
    if value.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return None;
    }
    if value
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '%' | '+' | ','))
    {
        return Some(value.to_owned());
    }
    if !value.contains('\'') {
        return Some(format!("'{value}'"));
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Some(quoted)
}

/// Reads a dotenv file. Variables in values are not replaced.
///
/// # Errors
/// A line is no variable; the error names it, and shows nothing of its value.
pub(super) fn read(text: &str) -> Result<Entries> {
    let mut entries = Entries::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(entries);
        }
        // Only counted where it is told.
        let line = || 1 + text[..text.len() - rest.len()].matches('\n').count();
        if rest.starts_with('#') {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        let this_line = rest.split('\n').next().unwrap_or_default();
        let Some((name, _)) = this_line.split_once('=') else { bail!("line {} has no =; write NAME=value", line()) };
        let behind = &rest[name.len() + 1..];
        let name = name.trim();
        let name = name.strip_prefix("export ").map_or(name, str::trim);
        ensure!(is_name(name), "line {} has no name in front of =; names have letters, digits and _", line());
        let Some((value, behind)) = value_of(behind) else {
            bail!("line {}: the quotes of {name} are not closed", line())
        };
        let (end, next) = behind.split_once('\n').unwrap_or((behind, ""));
        let end = end.trim();
        ensure!(end.is_empty() || end.starts_with('#'), "line {}: there is more behind the quotes of {name}", line());
        entries.add(name.as_bytes().to_vec(), value.into_bytes())?;
        rest = next;
    }
}

/// The value that a text begins with, and what is behind it; None if its quotes are not closed.
fn value_of(text: &str) -> Option<(String, &str)> {
    let begin = text.trim_start_matches([' ', '\t']);
    if let Some(inner) = begin.strip_prefix('\'') {
        let (value, rest) = inner.split_once('\'')?;
        return Some((value.to_owned(), rest));
    }
    let Some(inner) = begin.strip_prefix('"') else {
        let line = begin.split('\n').next().unwrap_or_default();
        // A comment begins behind a space, or at once.
        let comment = line.char_indices().zip(std::iter::once(' ').chain(line.chars()));
        let end = comment.filter(|((_, c), before)| *c == '#' && before.is_whitespace()).map(|((at, _), _)| at).next();
        let (value, _) = line.split_at(end.unwrap_or(line.len()));
        return Some((value.trim().to_owned(), &begin[line.len()..]));
    };
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &inner[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$' | '`') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::assert_recorded;

    fn entries(of: &[(&str, &str)]) -> Vec<Entry> {
        of.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn what_is_written_is_read_again_and_shells_agree() {
        let written = entries(&[
            ("EMPTY", ""),
            ("LINES", "one\ntwo\n"),
            ("PLAIN", "http://a.example:80/x?y"),
            ("QUOTES", "it's \"$HOME\" `id` \\n"),
            ("SHELL", "$(touch /nowhere/x); #x"),
            ("SPACES", "  a\tb "),
            ("größe", "not a name"),
        ]);
        let names = &written[..6];
        let text = write(names).unwrap();
        assert_recorded("export-dotenv", &text);
        assert_eq!(read(&text).unwrap().sorted().unwrap(), names);
        // The shell's own reading of the same file.
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file.env");
        std::fs::write(&file, &text).unwrap();
        for (key, value) in names {
            let script = format!(". {} && printf %s \"${}\"", file.display(), String::from_utf8_lossy(key));
            let output = std::process::Command::new("/bin/sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(output.stdout, *value, "{output:?}");
        }
        let error = write(&written).unwrap_err().to_string();
        assert_eq!(error, "the key größe makes no name of a variable; name a longer prefix, or another --format");
    }

    #[test]
    fn keys_become_names() {
        for (key, expected) in [
            ("db/host", Some("DB_HOST")),
            ("/app/db-main.port", Some("APP_DB_MAIN_PORT")),
            ("asIs_1", Some("asIs_1")),
            ("1a", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(name_of(key.as_bytes()).as_deref(), expected, "{key}");
        }
        let error = write(&entries(&[("a/b", "1"), ("a-b", "2")])).unwrap_err().to_string();
        assert_eq!(error, "the keys a/b and a-b both make the name A_B; name another --format");
        let error = write(&entries(&[("a", "bell\x07")])).unwrap_err().to_string();
        assert!(error.starts_with("the value of a has control characters"), "{error}");
    }

    #[test]
    fn a_long_file_is_read_in_one_pass() {
        let names = (0..200_000).map(|n| format!("N{n}=v\n")).collect::<Vec<_>>().concat();
        // Counting lines for each of them would take minutes.
        assert_eq!(read(&names).unwrap().sorted().unwrap().len(), 200_000);
        assert_eq!(read(&(names + "x\n")).unwrap_err().to_string(), "line 200001 has no =; write NAME=value");
    }

    #[test]
    fn files_of_others_are_read() {
        let text = "\u{feff}# comment\n\nexport A=1\r\nB = two words  # comment\nC=a#b\nD='x # y' # comment\nE=\"a\\nb\\\n\\q\"\nF=\nG=#x";
        let expected =
            [("A", "1"), ("B", "two words"), ("C", "a#b"), ("D", "x # y"), ("E", "a\nb\\\n\\q"), ("F", ""), ("G", "")];
        assert_eq!(read(text).unwrap().sorted().unwrap(), entries(&expected));
        for (text, expected) in [
            ("A=1\n\nhunter2\n", "line 3 has no =; write NAME=value"),
            ("A=1\nB-C=hunter2\n", "line 2 has no name in front of =; names have letters, digits and _"),
            ("A=\"hunter2\nB=1\n", "line 1: the quotes of A are not closed"),
            ("A='x'hunter2\n", "line 1: there is more behind the quotes of A"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), expected);
        }
    }
}
