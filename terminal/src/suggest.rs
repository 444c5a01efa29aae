//! What may have been meant by a name that is none.

/// The known name that is nearest to one, unless it is far from it.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let best = known.map(|known| (distance(name, known), known)).min()?;
    (best.0 <= 1 + name.len() / 4).then_some(best.1)
}

/// How many characters have to be put in, left out or replaced.
pub fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distances() {
        for (from, to, expected) in
            [("", "", 0), ("get", "get", 0), ("gett", "get", 1), ("", "abc", 3), ("lsit", "list", 2), ("ä", "a", 1)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn what_is_near_is_offered() {
        let known = || ["backend", "node", "interval"].into_iter();
        assert_eq!(nearest("nodes", known()), Some("node"));
        assert_eq!(nearest("intervall", known()), Some("interval"));
        assert_eq!(nearest("prefix", known()), None);
    }
}
