//! Unified diffs of two files, for `-noop -diff`.

use std::fmt::Write as _;

/// Largest table for comparing lines; beyond it everything between the common ends counts as changed.
const MAX_CELLS: usize = 16 << 20;

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// A diff of a file with so many lines around a change, and with colours if it is for a terminal.
pub(crate) fn unified(name: &str, old: &[u8], new: &[u8], context: usize, coloured: bool) -> String {
    let lines = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text).into_owned();
        text.split_inclusive('\n').map(str::to_owned).collect()
    };
    let (old, new) = (lines(old), lines(new));
    let edits = edits(&old, &new);
    let mut out = String::new();
    let mut line = |colour: &str, text: &str| {
        let (ends, text) = (text.ends_with('\n'), text.trim_end_matches('\n'));
        let (before, after) = if coloured { (colour, "\u{1b}[0m") } else { ("", "") };
        // Cannot fail: it writes to a string.
        let _infallible = writeln!(out, "{before}{text}{after}");
        if !ends {
            let _infallible = writeln!(out, "\\ No newline at end of file");
        }
    };
    line("\u{1b}[1m", &format!("--- {name}\n"));
    line("\u{1b}[1m", &format!("+++ {name}\n"));
    for hunk in hunks(&edits, context) {
        let count =
            |range: &[(Edit, usize, usize)], other: Edit| range.iter().filter(|(edit, ..)| *edit != other).count();
        let (first_old, first_new) = (hunk[0].1, hunk[0].2);
        let (old_lines, new_lines) = (count(hunk, Edit::Add), count(hunk, Edit::Remove));
        let begin = |first: usize, lines: usize| if lines == 0 { first } else { first + 1 };
        let place = |first, lines| match lines {
            1 => format!("{}", begin(first, lines)),
            _ => format!("{},{lines}", begin(first, lines)),
        };
        line("\u{1b}[36m", &format!("@@ -{} +{} @@\n", place(first_old, old_lines), place(first_new, new_lines)));
        for &(edit, at_old, at_new) in hunk {
            match edit {
                Edit::Keep => line("", &format!(" {}", old[at_old])),
                Edit::Remove => line("\u{1b}[31m", &format!("-{}", old[at_old])),
                Edit::Add => line("\u{1b}[32m", &format!("+{}", new[at_new])),
            }
        }
    }
    out
}

/// Every line with its place in the old and the new file.
fn edits(old: &[String], new: &[String]) -> Vec<(Edit, usize, usize)> {
    let begin = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - begin;
    let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let mut edits: Vec<(Edit, usize, usize)> = (0..begin).map(|at| (Edit::Keep, at, at)).collect();
    let (inner_old, inner_new) = (&old[begin..old.len() - end], &new[begin..new.len() - end]);
    let columns = inner_new.len() + 1;
    let longest =
        if (inner_old.len() + 1) * columns <= MAX_CELLS { longest_common(inner_old, inner_new) } else { Vec::new() };
    let common = |at_old: usize, at_new: usize| longest.get(at_old * columns + at_new).copied().unwrap_or_default();
    let (mut at_old, mut at_new) = (0, 0);
    while at_old < inner_old.len() || at_new < inner_new.len() {
        let is_same = at_old < inner_old.len() && at_new < inner_new.len() && inner_old[at_old] == inner_new[at_new];
        let place = (begin + at_old, begin + at_new);
        if is_same && !longest.is_empty() {
            edits.push((Edit::Keep, place.0, place.1));
            (at_old, at_new) = (at_old + 1, at_new + 1);
        } else if at_old < inner_old.len()
            && (at_new == inner_new.len() || common(at_old + 1, at_new) >= common(at_old, at_new + 1))
        {
            edits.push((Edit::Remove, place.0, place.1));
            at_old += 1;
        } else {
            edits.push((Edit::Add, place.0, place.1));
            at_new += 1;
        }
    }
    edits.extend((0..end).map(|at| (Edit::Keep, old.len() - end + at, new.len() - end + at)));
    edits
}

/// For each pair of places, how many lines both files have in common from there on.
fn longest_common(old: &[String], new: &[String]) -> Vec<u32> {
    let columns = new.len() + 1;
    let mut table = vec![0_u32; (old.len() + 1) * columns];
    for at_old in (0..old.len()).rev() {
        for at_new in (0..new.len()).rev() {
            table[at_old * columns + at_new] = if old[at_old] == new[at_new] {
                table[(at_old + 1) * columns + at_new + 1] + 1
            } else {
                table[(at_old + 1) * columns + at_new].max(table[at_old * columns + at_new + 1])
            };
        }
    }
    table
}

/// Changes with the lines around them.
fn hunks(edits: &[(Edit, usize, usize)], context: usize) -> Vec<&[(Edit, usize, usize)]> {
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for (at, _) in edits.iter().enumerate().filter(|(_, (edit, ..))| *edit != Edit::Keep) {
        let range = at.saturating_sub(context)..at.saturating_add(context).saturating_add(1).min(edits.len());
        match ranges.last_mut() {
            Some(last) if last.end >= range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    ranges.into_iter().map(|range| &edits[range]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_shows_changes_and_what_is_around() {
        let old = (1..=12).map(|number| number.to_string() + "\n").collect::<Vec<_>>().concat();
        let new = old.replace("\n2\n", "\ntwo\n").replace("12\n", "12\n13");
        let expected = "--- f\n+++ f\n@@ -1,5 +1,5 @@\n 1\n-2\n+two\n 3\n 4\n 5\n@@ -10,3 +10,4 @@\n 10\n 11\n 12\n+13\n\\ No newline at end of file\n";
        assert_eq!(unified("f", old.as_bytes(), new.as_bytes(), 3, false), expected);
        assert_eq!(unified("f", b"", b"a\n", 3, false), "--- f\n+++ f\n@@ -0,0 +1 @@\n+a\n");
        assert!(unified("f", b"a\n", b"b\n", 3, true).contains("\u{1b}[31m-a\u{1b}[0m\n"));
    }
}
