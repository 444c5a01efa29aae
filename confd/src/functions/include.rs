//! `include`: another file of the template directory, rendered in place.

use super::registry::functions_within;
use super::{Context, Dialect, string};
use crate::template::{Function, Functions, Param, Template, Value};
use std::path::{Path, PathBuf};

/// Files within each other.
const MAX_DEPTH: usize = 10;

/// Adds the function. What is included counts for the limits of who includes it. `including` are the files that are being rendered, the outermost first.
pub(super) fn add(functions: &mut Functions, dialect: Dialect, context: &Context, including: Vec<PathBuf>) {
    let context = context.clone();
    functions.add(Function::rendering("include", &[Param::Text], Param::Any, move |args, limits| {
        let name = string(&args[0]);
        let path = resolve(context.template_dir.as_deref(), &name)?;
        if including.len() >= MAX_DEPTH {
            return Err(format!("maximum include depth ({MAX_DEPTH}) exceeded"));
        }
        if including.contains(&path) {
            let shown: Vec<String> = including.iter().chain([&path]).map(|path| path.display().to_string()).collect();
            return Err(format!("include cycle detected: {}", shown.join(" -> ")));
        }
        let source = std::fs::read(&path).map_err(|error| format!("failed to read include {name:?}: {error}"))?;
        let mut including = including.clone();
        including.push(path);
        let functions = functions_within(dialect, &context, including);
        let template = Template::parse(&name, &source, &functions)?;
        let data = args.get(1).cloned().unwrap_or(Value::Absent);
        template.render(&data, limits).map(Value::from).map_err(|error| error.text)
    }));
}

/// The file of a name, which must be in the directory, links followed.
fn resolve(directory: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    let outside = || format!("include path {name:?} is outside template directory");
    let Some(directory) = directory else {
        return Err(format!("there is no template directory to include {name:?} from"));
    };
    if Path::new(name).is_absolute() {
        return Err(outside());
    }
    let failed = |error: std::io::Error| format!("failed to read include {name:?}: {error}");
    let directory = directory.canonicalize().map_err(failed)?;
    // What leads outside is told so, whether it exists or not.
    let cleaned = super::clean_path(name.as_bytes());
    if cleaned.starts_with(b"..") {
        return Err(outside());
    }
    let path = directory.join(name).canonicalize().map_err(failed)?;
    if path.starts_with(&directory) { Ok(path) } else { Err(outside()) }
}
