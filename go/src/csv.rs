//! Go's `encoding/csv`, for the lists that flags take.

/// A line of values with commas between them, where quotes hold a value together.
///
/// # Errors
/// Go's text about quotes that do not fit.
pub fn read_csv(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let mut values = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut tail = quoted;
            loop {
                let end = tail.find('"').ok_or_else(|| {
                    let column = line.len() + 1;
                    format!("parse error on line 1, column {column}: extraneous or missing \" in quoted-field")
                })?;
                value.push_str(&tail[..end]);
                tail = &tail[end + 1..];
                let Some(more) = tail.strip_prefix('"') else { break };
                value.push('"');
                tail = more;
            }
            values.push(value);
            match tail.strip_prefix(',') {
                Some(next) => rest = next,
                None if tail.is_empty() => return Ok(values),
                None => return Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned()),
            }
            continue;
        }
        let (value, next) = rest.split_once(',').map_or((rest, None), |(value, next)| (value, Some(next)));
        if let Some(at) = value.find('"') {
            let column = line.len() - rest.len() + at + 1;
            return Err(format!("parse error on line 1, column {column}: bare \" in non-quoted-field"));
        }
        values.push(value.to_owned());
        match next {
            Some(next) => rest = next,
            None => return Ok(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_their_quotes() {
        assert_eq!(read_csv("a,b"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(read_csv("\"a,b\",c"), Ok(vec!["a,b".to_owned(), "c".to_owned()]));
        assert_eq!(read_csv(""), Ok(vec![]));
        assert!(read_csv("a\"b").is_err() && read_csv("\"a").is_err());
    }
}
