//! TOML with the lines that errors name.

use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// One key of a table.
pub(crate) struct Entry<'t> {
    pub(crate) key: String,
    /// From 1.
    pub(crate) line: usize,
    value: &'t DeValue<'t>,
}

/// A parsed document.
pub(crate) struct Table<'t> {
    text: &'t str,
    table: toml::Spanned<DeTable<'t>>,
}

/// The line of a place, from 1.
fn line(text: &str, span: Range<usize>) -> usize {
    1 + text.get(..span.start).unwrap_or(text).matches('\n').count()
}

impl<'t> Table<'t> {
    /// Parses a document. The error begins with the line.
    pub(crate) fn parse(text: &'t str) -> Result<Self, String> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line(text, span));
            let message = error.message().replace('\n', "; ");
            // Nobody guesses from the parser's words that it is about a mode.
            let hint = if message.contains("leading zero") { "; a mode is a text, as \"0644\"" } else { "" };
            format!("{line}: {message}{hint}")
        })?;
        Ok(Self { text, table })
    }

    /// The keys of the document.
    pub(crate) fn entries(&self) -> Vec<Entry<'_>> {
        self.entries_of(self.table.get_ref())
    }

    /// The keys of a table in the document, with its line; None if there is none of that name, in letters of any case.
    pub(crate) fn table(&self, name: &str) -> Result<Option<Vec<Entry<'_>>>, String> {
        let Some(entry) = self.entries().into_iter().find(|entry| entry.key.eq_ignore_ascii_case(name)) else {
            return Ok(None);
        };
        match entry.value {
            DeValue::Table(table) => Ok(Some(self.entries_of(table))),
            _ => Err(entry.wrong("a table")),
        }
    }

    fn entries_of<'s>(&'s self, table: &'s DeTable<'t>) -> Vec<Entry<'s>> {
        let entry = |(key, value): (&'s toml::Spanned<_>, &'s toml::Spanned<DeValue<'t>>)| {
            let key: &toml::Spanned<std::borrow::Cow<'t, str>> = key;
            Entry { key: key.get_ref().to_string(), line: line(self.text, key.span()), value: value.get_ref() }
        };
        table.iter().map(entry).collect()
    }
}

impl Entry<'_> {
    /// The key in small letters: Go's decoder, and so confd, knows a key in letters of any case.
    pub(crate) fn name(&self) -> String {
        self.key.to_ascii_lowercase()
    }

    fn wrong(&self, wanted: &str) -> String {
        self.wrong_value(wanted, self.value)
    }

    /// A text is not shown: it may be a password.
    fn wrong_value(&self, wanted: &str, value: &DeValue<'_>) -> String {
        let shown = match value {
            DeValue::Integer(number) => format!("the integer {number}"),
            DeValue::Float(number) => format!("the float {number}"),
            DeValue::Boolean(truth) => truth.to_string(),
            value => format!("a value of the type {}", value.type_str()),
        };
        format!("{}: {} must be {wanted}, not {shown}", self.line, self.key)
    }

    /// A string.
    pub(crate) fn text(&self) -> Result<String, String> {
        match self.value {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.wrong("a string")),
        }
    }

    /// A string, or a number as its digits.
    pub(crate) fn text_or_number(&self) -> Result<String, String> {
        match self.value {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            _ => Err(self.wrong("a string or a number")),
        }
    }

    /// A list of strings, or one string.
    pub(crate) fn texts(&self) -> Result<Vec<String>, String> {
        match self.value {
            DeValue::String(text) => Ok(vec![text.to_string()]),
            DeValue::Array(items) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    other => Err(self.wrong_value("a list of strings", other).replace(", not ", ", and has ")),
                })
                .collect(),
            _ => Err(self.wrong("a list of strings")),
        }
    }

    /// True if it is a list.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// A truth.
    pub(crate) fn bool(&self) -> Result<bool, String> {
        match self.value {
            DeValue::Boolean(truth) => Ok(*truth),
            _ => Err(self.wrong("true or false")),
        }
    }

    /// A whole number that is not negative.
    pub(crate) fn number(&self) -> Result<u32, String> {
        let number = match self.value {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.wrong("a whole number that is not negative"))
    }
}
