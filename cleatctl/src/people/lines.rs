//! The lines in which two values differ.

/// Lines around a difference that are shown, too.
const CONTEXT_LINES: usize = 3;

/// Largest table of a comparison, in cells of four bytes. Values with more lines that differ are shown one below the other.
const CELLS_MAX: usize = 1 << 20;

/// A line of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// In both.
    Same(&'a str),
    Removed(&'a str),
    Added(&'a str),
    /// So many lines that both have are left out.
    Skipped(usize),
}

/// Compares two texts line by line; of what is the same only what stands near a difference is kept.
pub(crate) fn compare<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let (before, after): (Vec<_>, Vec<_>) = (before.split('\n').collect(), after.split('\n').collect());
    let front = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    let (old, new) = (&before[front..], &after[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let mut lines: Vec<Line<'a>> = before[..front].iter().map(|line| Line::Same(line)).collect();
    middle(&old[..old.len() - back], &new[..new.len() - back], &mut lines);
    lines.extend(old[old.len() - back..].iter().map(|line| Line::Same(line)));
    shorten(&lines)
}

/// The longest common subsequence, if its table is not too large.
fn middle<'a>(old: &[&'a str], new: &[&'a str], lines: &mut Vec<Line<'a>>) {
    if old.len().saturating_mul(new.len()) > CELLS_MAX {
        lines.extend(old.iter().map(|line| Line::Removed(line)));
        lines.extend(new.iter().map(|line| Line::Added(line)));
        return;
    }
    let columns = new.len() + 1;
    // The cell of (i, j) has the common length of what is left from line i and line j on.
    let mut lengths = vec![0_u32; (old.len() + 1) * columns];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * columns + j] = if old[i] == new[j] {
                lengths[(i + 1) * columns + j + 1] + 1
            } else {
                lengths[(i + 1) * columns + j].max(lengths[i * columns + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && lengths[(i + 1) * columns + j] >= lengths[i * columns + j + 1]) {
            lines.push(Line::Removed(old[i]));
            i += 1;
        } else {
            lines.push(Line::Added(new[j]));
            j += 1;
        }
    }
}

fn shorten<'a>(lines: &[Line<'a>]) -> Vec<Line<'a>> {
    let mut is_near = vec![false; lines.len()];
    for (at, line) in lines.iter().enumerate() {
        if !matches!(line, Line::Same(_)) {
            let end = (at + CONTEXT_LINES + 1).min(lines.len());
            is_near[at.saturating_sub(CONTEXT_LINES)..end].fill(true);
        }
    }
    let mut kept = Vec::new();
    let mut skipped = 0;
    for (line, is_near) in lines.iter().zip(is_near) {
        if !is_near {
            skipped += 1;
            continue;
        }
        if skipped > 0 {
            kept.push(Line::Skipped(std::mem::take(&mut skipped)));
        }
        kept.push(*line);
    }
    if skipped > 0 {
        kept.push(Line::Skipped(skipped));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{CELLS_MAX, Line, compare};

    fn written(before: &str, after: &str) -> Vec<String> {
        let lines = compare(before, after);
        lines
            .iter()
            .map(|line| match line {
                Line::Same(text) => format!(" {text}"),
                Line::Removed(text) => format!("-{text}"),
                Line::Added(text) => format!("+{text}"),
                Line::Skipped(count) => format!("@{count}"),
            })
            .collect()
    }

    #[test]
    fn texts_differ_in_as_few_lines_as_possible() {
        assert_eq!(written("red", "green"), ["-red", "+green"]);
        assert_eq!(written("a\nb\nc", "a\nc"), [" a", "-b", " c"]);
        assert_eq!(written("a\nb\nc\nd", "a\nx\nc\ny\nd"), [" a", "-b", "+x", " c", "+y", " d"]);
        assert_eq!(written("a", "a\n"), [" a", "+"]);
        assert_eq!(written("", "a"), ["-", "+a"]);
    }

    #[test]
    fn what_is_far_from_a_difference_is_counted() {
        let before: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let mut after = before.clone();
        after[10] = "x".to_owned();
        let expected = ["@7", " 7", " 8", " 9", "-10", "+x", " 11", " 12", " 13", "@6"];
        assert_eq!(written(&before.join("\n"), &after.join("\n")), expected);
    }

    #[test]
    fn a_comparison_that_would_be_too_large_is_not_made() {
        const LINES: usize = 1100;
        const { assert!(LINES * LINES > CELLS_MAX) };
        let lines = |from: usize| (from..from + LINES).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let compared = compare(&lines(0), &lines(5000)).len();
        assert_eq!(compared, 2 * LINES);
    }
}
