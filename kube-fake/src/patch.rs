//! Patches of three kinds: merge (RFC 7396), JSON (RFC 6902), and the strategic merge of the built-in kinds, light.

use crate::failure::Failure;
use serde_json::{Map, Value};

/// The fields that tell the elements of a list apart, where a list is merged by element. Kubernetes keeps a key for
/// every list of its schemas; these are the keys that all of them use.
const ELEMENT_KEYS: &[&str] = &["name", "type", "uid", "ip", "mountPath", "containerPort", "port"];

/// Applies a merge patch: null removes, objects are merged, everything else is replaced.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    merge_with(target, patch, false);
}

/// As [`merge`], but lists whose elements have a key are merged by element, and `$patch: delete` removes one.
pub(crate) fn strategic(target: &mut Value, patch: &Value) {
    merge_with(target, patch, true);
}

fn merge_with(target: &mut Value, patch: &Value, by_element: bool) {
    match patch {
        Value::Object(patch) => {
            let target = object(target);
            for (key, value) in patch {
                // What a strategic patch says about order and kept keys is not data.
                if by_element && key.starts_with('$') {
                    continue;
                }
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge_with(target.entry(key.clone()).or_insert(Value::Null), value, by_element);
                }
            }
        }
        Value::Array(patch) if by_element => merge_list(target, patch),
        other => *target = other.clone(),
    }
}

fn merge_list(target: &mut Value, patch: &[Value]) {
    let Some(key) = element_key(patch) else {
        *target = Value::Array(patch.to_vec());
        return;
    };
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(elements) = target else { return };
    for change in patch {
        let at = elements.iter().position(|element| element[key] == change[key]);
        match (at, change["$patch"] == "delete") {
            (Some(at), true) => drop(elements.remove(at)),
            (None, true) => {}
            (Some(at), false) => merge_with(&mut elements[at], change, true),
            (None, false) => {
                let mut new = Value::Null;
                merge_with(&mut new, change, true);
                elements.push(new);
            }
        }
    }
}

/// The field by which all elements of a list can be told apart.
pub(crate) fn element_key(elements: &[Value]) -> Option<&'static str> {
    if elements.is_empty() {
        return None;
    }
    ELEMENT_KEYS.iter().copied().find(|key| {
        let mut seen = Vec::new();
        elements.iter().all(|element| {
            let value = element.get(*key);
            let is_new = value.is_some_and(|value| !seen.contains(&value));
            seen.extend(value);
            is_new
        })
    })
}

/// The object at a place, made if something else is there.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("invariant: it is an object now")
}

/// Applies a JSON patch.
///
/// # Errors
/// An operation is malformed, leads nowhere, or a test fails.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), Failure> {
    let operations = patch.as_array().ok_or_else(|| Failure::bad_request("a JSON patch is a list of operations"))?;
    for operation in operations {
        let text = |name: &str| operation[name].as_str().unwrap_or_default();
        let refused = || Failure::invalid(format!("the server rejected our request: {operation}"));
        let value = || operation["value"].clone();
        match text("op") {
            "test" if target.pointer(text("path")) == Some(&operation["value"]) => {}
            "add" => put(target, text("path"), value(), true).ok_or_else(refused)?,
            "replace" => put(target, text("path"), value(), false).ok_or_else(refused)?,
            "remove" => drop(take(target, text("path")).ok_or_else(refused)?),
            "copy" => {
                let from = target.pointer(text("from")).cloned().ok_or_else(refused)?;
                put(target, text("path"), from, true).ok_or_else(refused)?;
            }
            "move" => {
                let from = take(target, text("from")).ok_or_else(refused)?;
                put(target, text("path"), from, true).ok_or_else(refused)?;
            }
            _ => return Err(refused()),
        }
    }
    Ok(())
}

/// The place that a pointer's last part names, and that part.
fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((target.pointer_mut(parent)?, last.replace("~1", "/").replace("~0", "~")))
}

fn put(target: &mut Value, path: &str, value: Value, add: bool) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    match parent(target, path)? {
        (Value::Object(members), key) => {
            if !add && !members.contains_key(&key) {
                return None;
            }
            members.insert(key, value);
        }
        (Value::Array(elements), index) => {
            let end = elements.len();
            let at = if index == "-" { end } else { index.parse().ok()? };
            match (add, at < end) {
                (true, _) if at <= end => elements.insert(at, value),
                (false, true) => elements[at] = value,
                _ => return None,
            }
        }
        _ => return None,
    }
    Some(())
}

fn take(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Object(members), key) => members.remove(&key),
        (Value::Array(elements), index) => {
            let at: usize = index.parse().ok()?;
            (at < elements.len()).then(|| elements.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn merge_patches_remove_merge_and_replace() {
        let mut target = value!({"metadata": {"labels": {"a": "1", "b": "2"}}, "list": [1, 2]});
        merge(&mut target, &value!({"metadata": {"labels": {"a": null, "c": "3"}}, "list": [3], "new": {"x": null}}));
        assert_eq!(target, value!({"metadata": {"labels": {"b": "2", "c": "3"}}, "list": [3], "new": {}}));
    }

    #[test]
    fn strategic_patches_merge_lists_by_element() {
        let mut target =
            value!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}], "args": ["x"]});
        let patch = value!({
            "$setElementOrder/containers": [{"name": "b"}],
            "containers": [{"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}, {"name": "c"}],
            "args": ["y"],
        });
        strategic(&mut target, &patch);
        assert_eq!(target, value!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}], "args": ["y"]}));
    }

    #[test]
    fn json_patches_apply_in_order() {
        let mut target = value!({"a": {"b/c": 1}, "list": [1, 3]});
        let patch = value!([
            {"op": "test", "path": "/a/b~1c", "value": 1},
            {"op": "replace", "path": "/a/b~1c", "value": 2},
            {"op": "add", "path": "/list/1", "value": 2},
            {"op": "add", "path": "/list/-", "value": 4},
            {"op": "remove", "path": "/list/0"},
            {"op": "move", "from": "/a", "path": "/z"},
            {"op": "copy", "from": "/z", "path": "/y"},
        ]);
        json(&mut target, &patch).unwrap();
        assert_eq!(target, value!({"list": [2, 3, 4], "z": {"b/c": 2}, "y": {"b/c": 2}}));
        for refused in [
            value!([{"op": "test", "path": "/z", "value": 0}]),
            value!([{"op": "replace", "path": "/none", "value": 0}]),
            value!([{"op": "remove", "path": "/list/9"}]),
            value!([{"op": "add", "path": "/list/9", "value": 0}]),
            value!([{"op": "what", "path": "/list"}]),
        ] {
            assert_eq!(json(&mut target, &refused).unwrap_err().code, 422, "{refused}");
        }
        assert_eq!(json(&mut target, &value!({})).unwrap_err().code, 400);
    }
}
