//! Aligns text at tab stops as Go's `text/tabwriter` does with tabs of eight columns: a column is as wide as the widest cell
//! of the lines, one after another, that have it.

const TAB: usize = 8;
/// Columns that stay free behind a cell at least.
const PADDING: usize = 1;

/// Aligns the cells of a text; a tab ends a cell.
pub(super) fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut out = String::with_capacity(text.len() * 2);
    format(&lines, &mut Vec::new(), &mut out);
    // The text's last line has no end of its own.
    out.pop();
    out
}

/// Writes lines that have the columns of `widths`, after the next column of each block was measured.
fn format(lines: &[Vec<&str>], widths: &mut Vec<usize>, out: &mut String) {
    let column = widths.len();
    let has = |line: &Vec<&str>| column + 1 < line.len();
    let (mut written, mut at) = (0, 0);
    while at < lines.len() {
        if !has(&lines[at]) {
            at += 1;
            continue;
        }
        write(&lines[written..at], widths, out);
        let end = lines[at..].iter().position(|line| !has(line)).map_or(lines.len(), |length| at + length);
        let width = lines[at..end].iter().map(|line| line[column].chars().count() + PADDING).max().unwrap_or_default();
        widths.push(width);
        format(&lines[at..end], widths, out);
        widths.pop();
        (written, at) = (end, end);
    }
    write(&lines[written..], widths, out);
}

fn write(lines: &[Vec<&str>], widths: &[usize], out: &mut String) {
    for line in lines {
        for (index, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(index).filter(|_| index + 1 < line.len()) {
                let free = width.next_multiple_of(TAB) - cell.chars().count();
                out.extend(std::iter::repeat_n('\t', free.div_ceil(TAB)));
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_are_those_of_the_lines_that_have_them() {
        assert_eq!(align("a\tb\nlonger-than\tc\n"), "a\t\tb\nlonger-than\tc\n");
        assert_eq!(align("NAME:\n\tx - y\n\n\tab\tz\n"), "NAME:\n\tx - y\n\n\tab\tz\n");
        assert_eq!(align("1234567\tb\n12345678\tc\n\nx\ty\n"), "1234567\t\tb\n12345678\tc\n\nx\ty\n");
    }
}
