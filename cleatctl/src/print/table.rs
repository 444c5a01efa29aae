//! Tables: heads in the middle, cells to the right.

/// A table as etcdctl draws it.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let heads: Vec<String> = heads.iter().map(|head| head.to_uppercase()).collect();
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(column, head)| rows.iter().map(|row| width(&row[column])).max().unwrap_or_default().max(width(head)))
        .collect();
    let line = |ends: char, part: &dyn Fn(usize) -> String| {
        let parts: Vec<String> = (0..widths.len()).map(part).collect();
        format!("{ends}{}{ends}\n", parts.join(&ends.to_string()))
    };
    let border = line('+', &|column| "-".repeat(widths[column] + 2));
    let mut text = border.clone();
    text += &line('|', &|column| format!(" {:^width$} ", heads[column], width = widths[column]));
    text += &border;
    for row in rows {
        text += &line('|', &|column| format!(" {:>width$} ", row[column], width = widths[column]));
    }
    text + &border
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn heads_that_are_not_quite_in_the_middle_stand_to_the_left() {
        let text = table(&["status"], &[vec!["started".to_owned()]]);
        assert_eq!(text.lines().nth(1), Some("| STATUS  |"));
    }

    #[test]
    fn a_table_of_nothing_ends_as_well() {
        assert_eq!(table(&["hash"], &[]), "+------+\n| HASH |\n+------+\n+------+\n");
    }

    #[test]
    fn a_table_looks_like_etcdctls() {
        let row = ["dee068a2", "36", "48", "25 kB"].map(str::to_owned).to_vec();
        let expected = "\
+----------+----------+------------+------------+
|   HASH   | REVISION | TOTAL KEYS | TOTAL SIZE |
+----------+----------+------------+------------+
| dee068a2 |       36 |         48 |      25 kB |
+----------+----------+------------+------------+
";
        assert_eq!(table(&["hash", "revision", "total keys", "total size"], &[row]), expected);
    }
}
