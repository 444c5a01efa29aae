//! Rust source, read just well enough for the rules: comments and literals blanked, functions found by braces.

/// A source file.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments, strings and characters blanked, line for line.
    pub(crate) code: String,
    /// Compiled into tests only.
    pub(crate) is_test: bool,
}

impl Source {
    pub(crate) fn new(text: String, path: String) -> Self {
        let code = blank(&text);
        let is_test = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("tests.rs");
        Self { path, text, code, is_test }
    }

    /// Lines that end up in a program, with their numbers from 0.
    pub(crate) fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.code.lines().collect();
        // By convention the tests of a module are its last part.
        let tests = lines.windows(2).position(|pair| {
            pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ") && pair[1].contains('{')
        });
        let end = if self.is_test { 0 } else { tests.unwrap_or(lines.len()) };
        lines.into_iter().enumerate().take(end)
    }

    /// Paths of the modules that this file declares for tests only.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let (dir, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let stem = file.trim_end_matches(".rs");
        let dir = if ["lib", "main", "mod"].contains(&stem) { dir.to_owned() } else { format!("{dir}/{stem}") };
        let lines: Vec<&str> = self.code.lines().map(str::trim).collect();
        let declared =
            lines.windows(2).filter(|pair| ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]"].contains(&pair[0]));
        let names = declared.filter_map(|pair| pair[1].split_once("mod ")?.1.strip_suffix(';'));
        names.map(|name| format!("{dir}/{name}")).collect()
    }

    /// The comments and attributes directly above a line.
    pub(crate) fn comment_above(&self, line: usize) -> String {
        let lines: Vec<&str> = self.text.lines().take(line).collect();
        let above = lines.iter().rev().take_while(|line| {
            let line = line.trim();
            line.starts_with("//") || line.starts_with("#[")
        });
        above.copied().collect::<Vec<_>>().join("\n")
    }
}

/// A function and its lines, from 0.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// Every function with a body.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let mut depth = 0;
        let mut opened = false;
        'body: for (last, line) in lines.iter().enumerate().skip(first) {
            for c in line.chars() {
                match c {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth -= 1,
                    // A declaration in a trait has no body.
                    ';' if !opened => break 'body,
                    _ => {}
                }
            }
            if opened && depth == 0 {
                found.push(Function { name: name.to_owned(), first, last });
                break;
            }
        }
    }
    found
}

/// The name of the function that a line starts to define.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        if let Some(name) = rest.strip_prefix("fn ") {
            return name.split(['(', '<']).next();
        }
        let (word, after) = rest.split_once(' ')?;
        if !(word.starts_with("pub") || ["async", "const", "extern"].contains(&word)) {
            return None;
        }
        rest = after;
    }
}

/// Replaces comments, strings and character literals by spaces, and keeps line breaks.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '"' => quoted(rest),
            'r' if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_string(rest).unwrap_or(0),
            '\'' => character(rest),
            _ => 0,
        };
        if length == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// Length of the string literal at the start.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of the raw string at the start, if there is one.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end)?;
    Some(1 + hashes + 1 + length + end.len())
}

/// Length of the character literal at the start; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[2..].find('\'').map_or(0, |at| if at == 0 { 4 } else { at + 3 }),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{blank, functions};

    #[test]
    fn literals_and_comments_are_blank() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b\n */ c", "a     \n    c"),
            (r#"x("{\"}")"#, "x(      )"),
            ("r#\"{\"#;", "      ;"),
            ("'{' 'a '\\'' '\\n'", "    'a          "),
        ];
        for (text, expected) in cases {
            assert_eq!(blank(text), expected, "{text}");
        }
    }

    #[test]
    fn functions_have_their_lines() {
        let code = "impl X {\n    pub(crate) async fn one<T>(\n        a: T,\n    ) {\n        b {}\n    }\n    fn two();\n}\n";
        let found: Vec<_> = functions(code).into_iter().map(|f| (f.name, f.first, f.last)).collect();
        assert_eq!(found, [("one".to_owned(), 1, 5)]);
    }
}
