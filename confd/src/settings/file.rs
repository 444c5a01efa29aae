//! `confd.toml`.

use super::Layer;
use super::names::{EXEC_WORDS, FLAGS, Kind};
use crate::table::Table;
use std::path::Path;
use terminal::suggest::nearest;

/// The settings of a file; none if there is no file. What is none of them is told in `warnings`, and has no effect, as in
/// confd. The error names the line.
pub(super) fn read(path: &Path, warnings: &mut Vec<String>) -> Result<Layer, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Layer::new()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let mut unknown = Vec::new();
    let layer = parse(&text, &mut unknown).map_err(|error| format!("{}:{error}", path.display()))?;
    warnings.extend(unknown.into_iter().map(|warning| format!("{}:{warning}", path.display())));
    Ok(layer)
}

fn parse(text: &str, warnings: &mut Vec<String>) -> Result<Layer, String> {
    let table = Table::parse(text)?;
    let mut layer = Layer::new();
    for entry in table.entries() {
        // confd takes some names with a dash, some with an underscore, and nobody remembers which.
        let same = |key: &str| key.replace('-', "_") == entry.name().replace('-', "_");
        let Some(flag) = FLAGS.iter().find(|flag| !flag.key.is_empty() && same(flag.key)) else {
            let known = FLAGS.iter().map(|flag| flag.key).filter(|key| !key.is_empty());
            let hint = nearest(&entry.key, known);
            let hint = hint.map_or_else(String::new, |hint| format!("; did you mean {hint:?}?"));
            warnings.push(format!("{}: {:?} is no setting{hint}", entry.line, entry.key));
            continue;
        };
        let values = match flag.kind {
            Kind::List => entry.texts()?,
            Kind::Bool => vec![entry.bool()?.to_string()],
            Kind::Text => vec![entry.text_or_number()?],
            Kind::Command if entry.is_list() => {
                layer.insert(EXEC_WORDS, entry.texts()?);
                Vec::new()
            }
            Kind::Command => vec![entry.text()?],
        };
        layer.insert(flag.name, values);
    }
    Ok(layer)
}
