//! Who manages which fields, and server-side apply.
//!
//! A field is the path to a leaf, in the segments that `metadata.managedFields` has: `f:NAME` for a member of an object
//! and `k:{"KEY":VALUE}` for an element of a list that is told apart by a key. Lists without such a key are one leaf.
//! The real server knows the key of every list from its schema; here the elements show it.

use crate::failure::Failure;
use crate::patch::element_key;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

type Path = Vec<String>;

/// Paths to leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fields(BTreeSet<Path>);

/// What the server manages, and every object has.
const OF_THE_SERVER: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "selfLink",
];

impl Fields {
    /// The leaves of an object, without those that nobody manages.
    fn of(object: &Value) -> Self {
        let mut fields = Self::default();
        fields.collect(object, &mut Vec::new());
        fields.0.retain(|path| {
            let second = path.get(1).and_then(|part| part.strip_prefix("f:"));
            match path[0].as_str() {
                "f:apiVersion" | "f:kind" => false,
                "f:metadata" => second.is_some_and(|name| !OF_THE_SERVER.contains(&name)),
                _ => true,
            }
        });
        fields
    }

    fn collect(&mut self, value: &Value, path: &mut Path) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(members) => members.iter().map(|(name, value)| (format!("f:{name}"), value)).collect(),
            Value::Array(elements) => element_key(elements).map_or_else(Vec::new, |key| {
                elements.iter().map(|element| (format!("k:{}", json!({ key: element[key] })), element)).collect()
            }),
            _ => Vec::new(),
        };
        if children.is_empty() && !path.is_empty() {
            self.0.insert(path.clone());
        }
        for (segment, child) in children {
            path.push(segment);
            self.collect(child, path);
            path.pop();
        }
    }

    /// From the nested form of `fieldsV1`.
    fn read(nested: &Value) -> Self {
        fn walk(nested: &Value, path: &mut Path, into: &mut BTreeSet<Path>) {
            match nested.as_object() {
                Some(members) if !members.is_empty() => {
                    for (segment, child) in members {
                        path.push(segment.clone());
                        walk(child, path, into);
                        path.pop();
                    }
                }
                _ if path.is_empty() => {}
                _ => drop(into.insert(path.clone())),
            }
        }
        let mut fields = Self::default();
        walk(nested, &mut Vec::new(), &mut fields.0);
        fields
    }

    fn write(&self) -> Value {
        let mut nested = Value::Object(Map::new());
        for path in &self.0 {
            let mut at = &mut nested;
            for segment in path {
                at = &mut at[segment.as_str()];
            }
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
        }
        nested
    }
}

/// The value that a path leads to.
fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, segment| match segment.split_at_checked(2)? {
        ("f:", name) => value.get(name),
        (_, element) => {
            let (key, wanted) = element_of(element)?;
            value.as_array()?.iter().find(|element| element.get(&key) == Some(&wanted))
        }
    })
}

/// Key and value of a segment that names an element.
fn element_of(segment: &str) -> Option<(String, Value)> {
    let members: Map<String, Value> = serde_json::from_str(segment).ok()?;
    members.into_iter().next()
}

/// Removes what a path leads to, and what is left empty above it.
fn remove(value: &mut Value, path: &[String]) {
    let Some((segment, rest)) = path.split_first() else { return };
    match (segment.split_at_checked(2), value) {
        (Some(("f:", name)), Value::Object(members)) => {
            let Some(child) = members.get_mut(name) else { return };
            remove(child, rest);
            if rest.is_empty() || is_empty(child) {
                members.remove(name);
            }
        }
        (Some((_, element)), Value::Array(elements)) => {
            let Some((key, wanted)) = element_of(element) else { return };
            let Some(found) = elements.iter().position(|element| element.get(&key) == Some(&wanted)) else { return };
            // The key goes last: without it the other fields are not found.
            if rest != [format!("f:{key}")] {
                remove(&mut elements[found], rest);
            }
            // An element of which only its key is left belongs to nobody.
            let only_key = elements[found].as_object().is_some_and(|members| members.len() <= 1);
            if rest.is_empty() || only_key {
                elements.remove(found);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Merges an applied configuration into what is there, lists by element.
fn merge(target: &mut Value, applied: &Value) {
    match (target, applied) {
        (Value::Object(target), Value::Object(applied)) => {
            for (key, value) in applied {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(target), Value::Array(applied)) if element_key(applied).is_some() => {
            let Some(key) = element_key(applied) else { return };
            for element in applied {
                match target.iter_mut().find(|known| known[key] == element[key]) {
                    Some(known) => merge(known, element),
                    None => target.push(element.clone()),
                }
            }
        }
        (target, applied) => *target = applied.clone(),
    }
}

/// One entry of `managedFields`.
struct Manager {
    name: String,
    applies: bool,
    subresource: String,
    fields: Fields,
    time: Value,
}

impl Manager {
    fn is(&self, name: &str, applies: bool, subresource: &str) -> bool {
        self.name == name && self.applies == applies && self.subresource == subresource
    }
}

fn managers(object: &Value) -> Vec<Manager> {
    let entries = object["metadata"]["managedFields"].as_array();
    let read = |entry: &Value| Manager {
        name: entry["manager"].as_str().unwrap_or_default().to_owned(),
        applies: entry["operation"] == "Apply",
        subresource: entry["subresource"].as_str().unwrap_or_default().to_owned(),
        fields: Fields::read(&entry["fieldsV1"]),
        time: entry["time"].clone(),
    };
    entries.into_iter().flatten().map(read).collect()
}

fn write_managers(object: &mut Value, managers: &[Manager]) {
    let api_version = object["apiVersion"].clone();
    let entries: Vec<Value> = managers
        .iter()
        .filter(|manager| !manager.fields.0.is_empty())
        .map(|manager| {
            let mut entry = json!({
                "manager": manager.name, "operation": if manager.applies { "Apply" } else { "Update" },
                "apiVersion": api_version, "time": manager.time, "fieldsType": "FieldsV1",
                "fieldsV1": manager.fields.write(),
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = json!(manager.subresource);
            }
            entry
        })
        .collect();
    if entries.is_empty() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    } else {
        object["metadata"]["managedFields"] = Value::Array(entries);
    }
}

/// Who makes a change, and how.
#[derive(Clone, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) manager: &'a str,
    /// Empty, or `status`.
    pub(crate) subresource: &'a str,
    pub(crate) force: bool,
    pub(crate) now: &'a str,
}

/// Records who wrote what `new` has different from `old`.
pub(crate) fn record_update(old: &Value, new: &mut Value, change: &Change<'_>) {
    let mut all = managers(old);
    let present = Fields::of(new);
    let changed: BTreeSet<Path> = present.0.iter().filter(|path| at(old, path) != at(new, path)).cloned().collect();
    for manager in &mut all {
        manager.fields.0.retain(|path| present.0.contains(path) && !changed.contains(path));
    }
    own(&mut all, change, false, changed);
    write_managers(new, &all);
}

/// Adds to the fields of one manager.
fn own(all: &mut Vec<Manager>, change: &Change<'_>, applies: bool, paths: BTreeSet<Path>) {
    if paths.is_empty() {
        return;
    }
    let time = json!(change.now);
    match all.iter_mut().find(|manager| manager.is(change.manager, applies, change.subresource)) {
        Some(manager) => {
            manager.fields.0.extend(paths);
            manager.time = time;
        }
        None => all.push(Manager {
            name: change.manager.to_owned(),
            applies,
            subresource: change.subresource.to_owned(),
            fields: Fields(paths),
            time,
        }),
    }
}

/// Applies a configuration: what it has is set, what this manager applied before and leaves out now is removed.
///
/// # Errors
/// Another manager owns a field that it would change, and `force` is not given.
pub(crate) fn apply(live: &Value, applied: &Value, change: &Change<'_>) -> Result<Value, Failure> {
    let (wanted, mut all) = (Fields::of(applied), managers(live));
    let differs = |path: &Path| at(live, path).is_some() && at(live, path) != at(applied, path);
    let mut conflicts = Vec::new();
    for manager in &mut all {
        if manager.is(change.manager, true, change.subresource) {
            continue;
        }
        let disputed: Vec<Path> =
            manager.fields.0.iter().filter(|path| wanted.0.contains(*path) && differs(path)).cloned().collect();
        for path in disputed {
            if !change.force {
                conflicts.push(format!("conflict with \"{}\": {}", manager.name, dotted(&path)));
            }
            manager.fields.0.remove(&path);
        }
    }
    if !conflicts.is_empty() {
        let count = conflicts.len();
        return Err(Failure::conflict(format!("Apply failed with {count} conflicts: {}", conflicts.join(", "))));
    }
    let mut result = live.clone();
    let position = all.iter().position(|manager| manager.is(change.manager, true, change.subresource));
    let before = position.map(|at| all.remove(at).fields).unwrap_or_default();
    for path in before.0.difference(&wanted.0) {
        if !all.iter().any(|manager| manager.fields.0.contains(path)) {
            remove(&mut result, path);
        }
    }
    merge(&mut result, applied);
    own(&mut all, change, true, wanted.0);
    write_managers(&mut result, &all);
    Ok(result)
}

/// A path as messages have it: `.metadata.labels.role`.
fn dotted(path: &[String]) -> String {
    path.iter()
        .map(|segment| match segment.split_at_checked(2) {
            Some(("f:", name)) => format!(".{name}"),
            Some((_, element)) => format!("[{element}]"),
            None => String::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(manager: &str) -> Change<'_> {
        Change { manager, subresource: "", force: false, now: "2026-01-01T00:00:00Z" }
    }

    #[test]
    fn fields_survive_being_written() {
        let object = json!({
            "apiVersion": "v1", "metadata": {"name": "x", "labels": {"a/b": "1"}},
            "spec": {"containers": [{"name": "c", "args": ["1", "2"]}], "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        let fields = Fields::of(&object);
        assert_eq!(Fields::read(&fields.write()), fields);
        assert!(fields.0.iter().all(|path| at(&object, path).is_some()));
        assert!(!fields.write().to_string().contains("f:apiVersion"));
        assert_eq!(fields.write()["f:metadata"], json!({"f:labels": {"f:a/b": {}}}));
    }

    #[test]
    fn a_manager_takes_back_what_it_applied() {
        let live = json!({"apiVersion": "v1", "metadata": {"name": "x", "labels": {"app": "db"}}});
        let first = json!({"metadata": {"labels": {"role": "leader", "zone": "a"}}});
        let one = apply(&live, &first, &change("agent")).unwrap();
        assert_eq!(one["metadata"]["labels"], json!({"app": "db", "role": "leader", "zone": "a"}));
        let second = json!({"metadata": {"labels": {"role": "follower"}}});
        let two = apply(&one, &second, &change("agent")).unwrap();
        assert_eq!(two["metadata"]["labels"], json!({"app": "db", "role": "follower"}));
        let none = apply(&two, &json!({"metadata": {}}), &change("agent")).unwrap();
        assert_eq!(none["metadata"]["labels"], json!({"app": "db"}));
        assert_eq!(none["metadata"].get("managedFields"), None);
    }

    #[test]
    fn managers_do_not_overwrite_each_other() {
        let empty = json!({"apiVersion": "v1", "metadata": {"name": "x"}});
        let leader = json!({"metadata": {"labels": {"role": "leader"}}});
        let live = apply(&empty, &leader, &change("a")).unwrap();
        // The same value is shared, another one is a conflict, unless it is forced.
        let shared = apply(&live, &leader, &change("b")).unwrap();
        let follower = json!({"metadata": {"labels": {"role": "follower"}}});
        let refused = apply(&shared, &follower, &change("b")).unwrap_err();
        assert_eq!(refused.code, 409);
        assert!(refused.message.contains("conflict with \"a\": .metadata.labels.role"), "{refused}");
        let forced = apply(&shared, &follower, &Change { force: true, ..change("b") }).unwrap();
        assert_eq!(forced["metadata"]["labels"]["role"], "follower");
        // It is b's alone now.
        let gone = apply(&forced, &json!({"metadata": {}}), &change("b")).unwrap();
        assert_eq!(gone["metadata"].get("labels"), None);
    }

    #[test]
    fn who_updates_owns_what_changed() {
        let old = json!({"apiVersion": "v1", "metadata": {"name": "x"}, "data": {"a": "1"}});
        let mut live = old.clone();
        record_update(&Value::Null, &mut live, &change("kubectl"));
        let refused = apply(&live, &json!({"data": {"a": "2"}}), &change("agent")).unwrap_err();
        assert!(refused.message.contains("conflict with \"kubectl\": .data.a"), "{refused}");
        let mut new = live.clone();
        new["data"]["a"] = json!("3");
        record_update(&live, &mut new, &change("other"));
        let refused = apply(&new, &json!({"data": {"a": "2"}}), &change("agent")).unwrap_err();
        assert!(refused.message.contains("conflict with \"other\""), "{refused}");
    }

    #[test]
    fn elements_of_a_list_have_owners() {
        let live = json!({"apiVersion": "v1", "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let mine = json!({"status": {"conditions": [{"type": "Led", "status": "True"}]}});
        let both = apply(&live, &mine, &change("agent")).unwrap();
        assert_eq!(both["status"]["conditions"].as_array().unwrap().len(), 2);
        let without = apply(&both, &json!({"status": {}}), &change("agent")).unwrap();
        assert_eq!(without["status"]["conditions"], live["status"]["conditions"]);
    }
}
