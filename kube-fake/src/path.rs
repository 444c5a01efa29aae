//! What a request's path and parameters ask for.

use crate::failure::Failure;
use crate::selector::Selector;
use std::collections::BTreeMap;

/// A path below `/api/v1` or `/apis/GROUP/VERSION`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty for all namespaces, and for what has none.
    pub(crate) namespace: String,
    pub(crate) plural: String,
    /// Empty for the collection.
    pub(crate) name: String,
    pub(crate) subresource: String,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Version,
    /// `/livez` and its like.
    Health,
    Api,
    Groups,
    Group(String),
    /// The resources of a group and version.
    Resources(String, String),
    Resource(Target),
    /// A word from the test itself, behind `/fake/`.
    Control(String),
    Unknown,
}

/// Reads a path.
pub(crate) fn route(path: &str) -> Route {
    let decode = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts[..] {
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz"] => Route::Health,
        ["fake", word] => Route::Control(word.to_owned()),
        ["api"] => Route::Api,
        ["api", version] => Route::Resources(String::new(), version.to_owned()),
        ["api", version, ref rest @ ..] => target("", version, rest),
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group(group.to_owned()),
        ["apis", group, version] => Route::Resources(group.to_owned(), version.to_owned()),
        ["apis", group, version, ref rest @ ..] => target(group, version, rest),
        _ => Route::Unknown,
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Route {
    let (namespace, [plural, more @ ..]) = (match rest {
        // A namespace's own subresources have the form of a namespace's resources.
        ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => ("", rest),
        ["namespaces", namespace, inside @ ..] => (*namespace, inside),
        _ => ("", rest),
    }) else {
        return Route::Unknown;
    };
    let (name, subresource) = match more {
        [] => ("", ""),
        [name] => (*name, ""),
        [name, subresource] => (*name, *subresource),
        _ => return Route::Unknown,
    };
    Route::Resource(Target {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        plural: (*plural).to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    /// A number; 0 if it is absent.
    ///
    /// # Errors
    /// It is not a number.
    pub(crate) fn number(&self, name: &str) -> Result<u64, Failure> {
        match self.text(name) {
            "" => Ok(0),
            text => text.parse().map_err(|_| Failure::bad_request(format!("{name}: invalid value '{text}'"))),
        }
    }

    /// # Errors
    /// A selector cannot be read.
    pub(crate) fn selector(&self) -> Result<Selector, Failure> {
        Selector::parse(self.text("labelSelector"), self.text("fieldSelector"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> [String; 6] {
        match route(path) {
            Route::Resource(t) => [t.group, t.version, t.namespace, t.plural, t.name, t.subresource],
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_lead_to_resources() {
        for (path, expected) in [
            ("/api/v1/pods", ["", "v1", "", "pods", "", ""]),
            ("/api/v1/namespaces", ["", "v1", "", "namespaces", "", ""]),
            ("/api/v1/namespaces/a", ["", "v1", "", "namespaces", "a", ""]),
            ("/api/v1/namespaces/a/status", ["", "v1", "", "namespaces", "a", "status"]),
            ("/api/v1/namespaces/a/pods", ["", "v1", "a", "pods", "", ""]),
            ("/api/v1/namespaces/a/pods/p-0/status", ["", "v1", "a", "pods", "p-0", "status"]),
            ("/apis/apps/v1/namespaces/a/statefulsets/s", ["apps", "v1", "a", "statefulsets", "s", ""]),
            ("/apis/x.io/v1/widgets/w%2Fx", ["x.io", "v1", "", "widgets", "w/x", ""]),
        ] {
            assert_eq!(parts(path), expected, "{path}");
        }
        assert_eq!(route("/apis/apps/v1"), Route::Resources("apps".to_owned(), "v1".to_owned()));
        assert_eq!(route("/"), Route::Unknown);
        assert_eq!(route("/api/v1/pods/a/b/c"), Route::Unknown);
    }

    #[test]
    fn parameters_are_read() {
        let read = Parameters::parse(Some("watch=1&limit=5&labelSelector=app%3Ddb&timeoutSeconds=x"));
        assert!(read.flag("watch") && !read.flag("none"));
        assert_eq!(read.number("limit"), Ok(5));
        assert_eq!(read.number("none"), Ok(0));
        assert_eq!(read.number("timeoutSeconds").unwrap_err().code, 400);
        assert_eq!(read.selector(), Selector::parse("app=db", ""));
    }
}
