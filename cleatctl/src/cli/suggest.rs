//! What may have been meant.

use super::Path;

/// Further than this from a name, nothing is meant by it. The distance that etcdctl's library takes.
const DISTANCE_MAX: usize = 2;

/// Names of commands near an unknown one, as etcdctl prints them; empty if there are none.
pub(crate) fn of_command(path: &Path, typed: &str) -> String {
    let near: Vec<_> = path.children().map(|child| child.name).filter(|name| is_near(typed, name)).collect();
    if near.is_empty() {
        return String::new();
    }
    format!("\n\nDid you mean this?\n\t{}\n", near.join("\n\t"))
}

/// The flag that is nearest to an unknown one. etcdctl has nothing like it.
pub(crate) fn of_flag(path: &Path, typed: &str) -> Option<String> {
    let flags = path.local().into_iter().chain(path.inherited());
    let near = flags.map(|flag| (distance(typed, flag.name), flag.name)).min()?;
    let is_near = near.0 <= DISTANCE_MAX || typed.len() > 2 && near.1.starts_with(typed);
    is_near.then(|| format!("did you mean --{}?", near.1))
}

fn is_near(typed: &str, name: &str) -> bool {
    let typed = typed.to_lowercase();
    distance(&typed, &name.to_lowercase()) <= DISTANCE_MAX || name.to_lowercase().starts_with(&typed)
}

/// How many letters have to be put in, left out or replaced.
fn distance(from: &str, to: &str) -> usize {
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
    use super::distance;

    #[test]
    fn distances() {
        for (from, to, expected) in
            [("", "", 0), ("get", "get", 0), ("gett", "get", 1), ("", "abc", 3), ("lsit", "list", 2)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }
}
