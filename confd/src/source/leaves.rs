//! Documents of JSON's shape as keys: each leaf has the names of what it is in as its key.

use super::{Entries, text};
use go::strconv;
use serde_json::Value;

/// What differs between the sources.
pub(super) struct Rules {
    /// What null is; None if it is no key.
    pub(super) null: Option<&'static str>,
    /// True if an element of a list is called by its `name` if it has one, and not by its number.
    pub(super) names_elements: bool,
    /// Objects and lists within each other.
    pub(super) max_depth: usize,
}

impl Rules {
    /// Adds the leaves of a value as keys below `key`.
    ///
    /// # Errors
    /// Too many objects or lists within each other. Nothing of what is there is told.
    pub(super) fn add(&self, value: &Value, key: &str, entries: &mut Entries) -> Result<(), String> {
        self.add_at(value, key, 0, entries)
    }

    fn add_at(&self, value: &Value, key: &str, depth: usize, entries: &mut Entries) -> Result<(), String> {
        if depth > self.max_depth {
            return Err(format!("more than {} levels within each other", self.max_depth));
        }
        let mut add = |name: &str, value: &Value| self.add_at(value, &format!("{key}/{name}"), depth + 1, entries);
        let leaf = match value {
            Value::Object(object) => return object.iter().try_for_each(|(name, value)| add(name, value)),
            Value::Array(items) => {
                let mut numbered = items.iter().enumerate();
                return numbered.try_for_each(|(number, item)| match item.get("name").and_then(Value::as_str) {
                    Some(name) if self.names_elements => add(name, item),
                    _ => add(&number.to_string(), item),
                });
            }
            Value::Null => match self.null {
                Some(null) => null.to_owned(),
                None => return Ok(()),
            },
            Value::Bool(truth) => truth.to_string(),
            Value::String(text) => text.clone(),
            Value::Number(number) => match number.as_f64() {
                Some(float) if number.is_f64() => strconv::format_float(float, 'f', None),
                _ => number.to_string(),
            },
        };
        entries.insert(text(key.as_bytes()), text(leaf.as_bytes()));
        Ok(())
    }
}
