//! The verbs on resources: reads a request, asks the store, makes the answer.

use crate::failure::Failure;
use crate::fields;
use crate::patch;
use crate::path::{Parameters, Target};
use crate::protobuf;
use crate::resource::Resource;
use crate::server::Shared;
use crate::store::{self, Deletion, Key, Write};
use crate::watch::Watch;
use hyper::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What Go's typed clients send.
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A request, read.
pub(crate) struct Request<'a> {
    pub(crate) target: &'a Target,
    pub(crate) parameters: &'a Parameters,
    pub(crate) content_type: &'a str,
    pub(crate) user_agent: &'a str,
    pub(crate) body: &'a [u8],
}

/// What a request is answered with.
pub(crate) enum Answer {
    Object(u16, Arc<Value>),
    Watch(Box<Watch>),
}

/// The verb of a request, as rules name it.
pub(crate) fn verb(method: &Method, target: &Target, parameters: &Parameters) -> Option<&'static str> {
    let one = !target.name.is_empty();
    match method.as_str() {
        "GET" if parameters.flag("watch") => Some("watch"),
        "GET" if one => Some("get"),
        "GET" => Some("list"),
        "POST" => Some("create"),
        "PUT" if one => Some("update"),
        "PATCH" if one => Some("patch"),
        "DELETE" if one => Some("delete"),
        "DELETE" => Some("deletecollection"),
        _ => None,
    }
}

impl Request<'_> {
    /// Does what a request asks for.
    ///
    /// # Errors
    /// It is refused.
    pub(crate) fn answer(&self, shared: &Shared, verb: &str) -> Result<Answer, Failure> {
        let target = self.target;
        if target.plural == "tokenreviews" && target.group == "authentication.k8s.io" && verb == "create" {
            return Ok(Answer::Object(201, Arc::new(shared.accounts.lock().review(self.object()?))));
        }
        let resource = shared.resources.find(&target.group, &target.version, &target.plural)?;
        let has_subresource = match target.subresource.as_str() {
            "" => true,
            "status" => resource.has_status && matches!(verb, "get" | "update" | "patch"),
            _ => false,
        };
        if !has_subresource || resource.plural == "tokenreviews" {
            return Err(Failure::not_found("the server could not find the requested resource".to_owned()));
        }
        let mut key = Key {
            group: target.group.clone(),
            plural: target.plural.clone(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
        };
        if resource.namespaced && key.namespace.is_empty() && !matches!(verb, "list" | "watch") {
            return Err(Failure::bad_request(format!("{} are namespaced: the path names no namespace", key.plural)));
        }
        match verb {
            "get" => {
                let found = shared.store.lock().get(&key).ok_or_else(|| store::missing(resource, &key.name))?;
                Ok(Answer::Object(200, found))
            }
            "list" => self.list(shared, resource),
            "watch" => self.watch(resource),
            "create" => self.create(shared, resource, &mut key),
            "update" => self.update(shared, resource, &key),
            "patch" => self.patch(shared, resource, &mut key),
            "delete" => self.delete(shared, resource, &key),
            _ => self.delete_all(shared, resource),
        }
    }

    /// The body as an object.
    fn object(&self) -> Result<Value, Failure> {
        if self.content_type.starts_with(PROTOBUF) {
            return protobuf::object(self.body);
        }
        let known = self.content_type.is_empty() || self.content_type.contains("json");
        if !known && !self.content_type.starts_with("application/apply-patch") {
            return Err(Failure::unsupported(self.content_type));
        }
        let value: Value = serde_json::from_slice(self.body)
            .map_err(|error| Failure::bad_request(format!("the body of the request is not JSON: {error}")))?;
        Ok(value)
    }

    /// The body as an object of the resource at the path.
    fn object_of(&self, resource: &Resource) -> Result<Value, Failure> {
        let mut object = self.object()?;
        if !object.is_object() {
            return Err(Failure::bad_request("the body of the request is not an object"));
        }
        for (field, expected) in [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())] {
            match object[field].as_str() {
                None | Some("") => object[field] = json!(expected),
                Some(given) if given == expected => {}
                Some(given) => {
                    let message =
                        format!("the {field} in the data ({given}) does not match the expected one ({expected})");
                    return Err(Failure::bad_request(message));
                }
            }
        }
        for (field, expected) in [("namespace", &self.target.namespace), ("name", &self.target.name)] {
            if let Some(given) = object["metadata"][field].as_str().filter(|given| !given.is_empty())
                && !expected.is_empty()
                && given != expected
            {
                let message =
                    format!("the {field} of the object ({given}) does not match the {field} on the URL ({expected})");
                return Err(Failure::bad_request(message));
            }
        }
        Ok(object)
    }

    fn write(&self) -> Write {
        let agent = self.user_agent.split('/').next().unwrap_or_default();
        let manager = Some(self.parameters.text("fieldManager")).filter(|name| !name.is_empty()).unwrap_or(agent);
        Write {
            manager: if manager.is_empty() { "unknown".to_owned() } else { manager.to_owned() },
            dry_run: self.parameters.text("dryRun") == "All",
            force: self.parameters.flag("force"),
            subresource: self.target.subresource.clone(),
            now: crate::server::now(),
        }
    }

    fn list(&self, shared: &Shared, resource: &Resource) -> Result<Answer, Failure> {
        let selector = self.parameters.selector()?;
        let limit = self.parameters.number("limit")? as usize;
        let store = shared.store.lock();
        let mut version = store.version();
        let token = self.parameters.text("continue");
        let behind = if token.is_empty() { None } else { Some(self.behind(token)?) };
        if let Some((asked, _)) = &behind {
            store.check_version(*asked)?;
            version = *asked;
        } else if self.parameters.text("resourceVersionMatch") == "Exact" {
            store.check_version(self.parameters.number("resourceVersion")?)?;
        }
        let mut found = store.list(resource, &self.target.namespace, behind.as_ref().map(|(_, key)| key), &selector);
        let (mut items, mut last) = (Vec::new(), None);
        for (key, object) in found.by_ref().take(if limit == 0 { usize::MAX } else { limit }) {
            items.push(object.as_ref().clone());
            last = Some(key.clone());
        }
        let remaining = found.count();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if let (Some(last), true) = (last, remaining > 0) {
            metadata["continue"] = json!(format!("{version}/{}/{}", last.namespace, last.name));
            metadata["remainingItemCount"] = json!(remaining);
        }
        let kind = format!("{}List", resource.kind);
        let list = json!({"kind": kind, "apiVersion": resource.api_version(), "metadata": metadata, "items": items});
        Ok(Answer::Object(200, Arc::new(list)))
    }

    /// Version and last key of the page before, from the token that it ended with. The pages show what is there when
    /// they are read; the real server shows the state of the first page.
    fn behind(&self, token: &str) -> Result<(u64, Key), Failure> {
        let refused = || Failure::bad_request(format!("continue key is not valid: '{token}'"));
        let [version, namespace, name] = token.splitn(3, '/').collect::<Vec<_>>()[..] else { return Err(refused()) };
        let key = Key {
            group: self.target.group.clone(),
            plural: self.target.plural.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        Ok((version.parse().map_err(|_| refused())?, key))
    }

    fn watch(&self, resource: &Resource) -> Result<Answer, Failure> {
        let mut selector = self.parameters.selector()?;
        if !self.target.name.is_empty() {
            let name = format!("metadata.name={}", self.target.name);
            let fields = [self.parameters.text("fieldSelector"), &name].join(",");
            selector = crate::selector::Selector::parse(self.parameters.text("labelSelector"), &fields)?;
        }
        let marks_initial = self.parameters.flag("sendInitialEvents");
        Ok(Answer::Watch(Box::new(Watch {
            resource: resource.clone(),
            namespace: self.target.namespace.clone(),
            selector,
            from: if marks_initial { 0 } else { self.parameters.number("resourceVersion")? },
            marks_initial,
            bookmarks: self.parameters.flag("allowWatchBookmarks"),
            duration: Duration::from_secs(self.parameters.number("timeoutSeconds")?),
        })))
    }

    fn create(&self, shared: &Shared, resource: &Resource, key: &mut Key) -> Result<Answer, Failure> {
        if !self.target.name.is_empty() {
            return Err(Failure::bad_request("an object is created at the path of its collection"));
        }
        let mut object = self.object_of(resource)?;
        object["metadata"]["name"].as_str().unwrap_or_default().clone_into(&mut key.name);
        begin_status(resource, &mut object);
        let write = self.write();
        fields::record_update(&Value::Null, &mut object, &store::field_change(&write));
        let made = shared.change(|store| store.create(resource, key, object, &write))?;
        Ok(Answer::Object(201, made))
    }

    fn update(&self, shared: &Shared, resource: &Resource, key: &Key) -> Result<Answer, Failure> {
        let (object, write) = (self.object_of(resource)?, self.write());
        let changed = shared.change(|store| {
            let live = store.get(key).ok_or_else(|| store::missing(resource, &key.name))?;
            store.update(resource, key, &live, object, &write)
        })?;
        Ok(Answer::Object(200, changed))
    }

    fn patch(&self, shared: &Shared, resource: &Resource, key: &mut Key) -> Result<Answer, Failure> {
        let write = self.write();
        let kind = self.content_type.split(';').next().unwrap_or_default().trim();
        if matches!(kind, "application/apply-patch+yaml" | "application/apply-patch+json") {
            return self.apply(shared, resource, key, &write);
        }
        let patch = self.object()?;
        let changed = shared.change(|store| {
            let live = store.get(key).ok_or_else(|| store::missing(resource, &key.name))?;
            let mut object = live.as_ref().clone();
            match kind {
                "application/merge-patch+json" => patch::merge(&mut object, &patch),
                "application/strategic-merge-patch+json" => patch::strategic(&mut object, &patch),
                "application/json-patch+json" => patch::json(&mut object, &patch)?,
                other => return Err(Failure::unsupported(other)),
            }
            store.update(resource, key, &live, object, &write)
        })?;
        Ok(Answer::Object(200, changed))
    }

    /// Server-side apply.
    fn apply(&self, shared: &Shared, resource: &Resource, key: &mut Key, write: &Write) -> Result<Answer, Failure> {
        if self.parameters.text("fieldManager").is_empty() {
            return Err(Failure::bad_request("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value"));
        }
        let mut applied = self.object_of(resource)?;
        if applied["metadata"].get("managedFields").is_some() {
            return Err(Failure::bad_request("metadata.managedFields must be nil"));
        }
        if resource.has_status {
            let others = if write.subresource == "status" { "spec" } else { "status" };
            applied.as_object_mut().map(|members| members.remove(others));
        }
        let change = store::field_change(write);
        shared.change(|store| match store.get(key) {
            Some(live) => {
                let object = fields::apply(&live, &applied, &change)?;
                Ok(Answer::Object(200, store.replace(resource, key, &live, object, write)?))
            }
            None if write.subresource.is_empty() => {
                let empty = json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {}});
                let mut object = fields::apply(&empty, &applied, &change)?;
                begin_status(resource, &mut object);
                Ok(Answer::Object(201, store.create(resource, key, object, write)?))
            }
            None => Err(store::missing(resource, &key.name)),
        })
    }

    fn deletion(&self) -> Result<Deletion, Failure> {
        // Go's typed clients send their options as protobuf; the defaults do for them.
        let has_options = !self.body.is_empty() && !self.content_type.starts_with(PROTOBUF);
        let options: Value = if has_options { self.object()? } else { Value::Null };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let grace = self.parameters.number("gracePeriodSeconds")?;
        Ok(Deletion {
            grace_seconds: options["gracePeriodSeconds"].as_u64().unwrap_or(grace),
            uid: text(&options["preconditions"]["uid"]),
            resource_version: text(&options["preconditions"]["resourceVersion"]),
            now: crate::server::now(),
        })
    }

    fn delete(&self, shared: &Shared, resource: &Resource, key: &Key) -> Result<Answer, Failure> {
        let deletion = self.deletion()?;
        Ok(Answer::Object(200, shared.change(|store| store.delete(resource, key, &deletion))?))
    }

    fn delete_all(&self, shared: &Shared, resource: &Resource) -> Result<Answer, Failure> {
        let (selector, deletion) = (self.parameters.selector()?, self.deletion()?);
        let deleted = shared.change(|store| {
            let keys: Vec<Key> =
                store.list(resource, &self.target.namespace, None, &selector).map(|(key, _)| key.clone()).collect();
            keys.iter()
                .map(|key| Ok(store.delete(resource, key, &deletion)?.as_ref().clone()))
                .collect::<Result<Vec<_>, _>>()
        })?;
        let kind = format!("{}List", resource.kind);
        let list = json!({"kind": kind, "apiVersion": resource.api_version(), "metadata": {}, "items": deleted});
        Ok(Answer::Object(200, Arc::new(list)))
    }
}

/// Nobody but the server gives a new object its status.
fn begin_status(resource: &Resource, object: &mut Value) {
    if !resource.has_status {
        return;
    }
    if resource.plural == "pods" && resource.group.is_empty() {
        object["status"] = json!({"phase": "Pending"});
    } else if let Some(members) = object.as_object_mut() {
        members.remove("status");
    }
}
