//! `confd check`: everything that can be wrong before the store is asked.

use crate::process;
use crate::resource::{Loaded, Resource};
use crate::settings::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many resources there are, and what is wrong with them and the settings. Each problem names its file.
pub fn check(settings: &Settings, environment: &BTreeMap<String, String>) -> (usize, Vec<String>) {
    let loaded = match Loaded::read(settings) {
        Ok(loaded) => loaded,
        Err(error) => return (0, vec![error]),
    };
    let mut problems = loaded.errors;
    problems.extend(loaded.warnings);
    problems.extend(settings.warnings.iter().cloned());
    let environment = Arc::new(environment.clone());
    let context = process::context(settings, &environment);
    for resource in &loaded.resources {
        let template = process::read_template(&resource.src)
            .and_then(|source| process::compile(resource, &context, &source).map(|_| ()));
        let found = [template, check_command(resource), reload_command(resource), process::check_directory(resource)];
        let path = resource.path.display();
        problems.extend(found.into_iter().filter_map(Result::err).map(|problem| format!("{path}: {problem}")));
        if resource.keys.is_empty() {
            problems.push(format!("{path}: there are no keys, so the template sees none"));
        }
    }
    (loaded.resources.len(), problems)
}

fn check_command(resource: &Resource) -> Result<(), String> {
    let Some(check) = &resource.check else { return Ok(()) };
    let src = resource.dest.with_file_name(".checked");
    check.for_check(&src, &resource.dest).map(|_| ()).map_err(|error| format!("check_cmd: {error}"))
}

fn reload_command(resource: &Resource) -> Result<(), String> {
    let Some(reload) = &resource.reload else { return Ok(()) };
    reload.for_reload(&resource.dest).map(|_| ()).map_err(|error| format!("reload_cmd: {error}"))
}
