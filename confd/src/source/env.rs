//! The environment of this process as keys: `/my/app` is `MY_APP` and all variables that begin so.

use super::Entries;
use crate::template::Text;
use std::collections::BTreeMap;

/// Variables in the order of their names. The Debug output has no values.
pub(crate) struct Env {
    variables: BTreeMap<String, String>,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("variables", &self.variables.len()).finish()
    }
}

impl Env {
    pub(super) fn new(environment: &BTreeMap<String, String>) -> Self {
        Self { variables: environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect() }
    }

    /// Variables whose names begin with that of a key, also in the middle of a word, as in confd.
    pub(super) fn entries(&self, keys: &[String]) -> Entries {
        let mut entries = Entries::new();
        for key in keys {
            let name = key.trim_start_matches('/').to_uppercase().replace('/', "_");
            for (variable, value) in self.variables.iter().filter(|(variable, _)| variable.starts_with(&name)) {
                let key = format!("/{}", variable.to_lowercase().replace('_', "/"));
                entries.insert(Text::from(key.as_bytes()), Text::from(value.as_bytes()));
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_keys() {
        let environment = [("MY_APP_NAME", "x"), ("MY_APPLE", "y"), ("OTHER", "z")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let found = Env::new(&environment).entries(&["/my/app".to_owned()]);
        let found: Vec<(&[u8], &[u8])> = found.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(found, [(&b"/my/app/name"[..], &b"x"[..]), (b"/my/apple", b"y")]);
    }
}
