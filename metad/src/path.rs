//! Paths of the tree: names between slashes, as Go's `path.Clean` leaves them.

/// The names of a path. Empty ones and `.` are none, and `..` takes the name before it away, but never leads above the
/// root: what comes in over HTTP is joined to nothing before it has passed here.
pub(crate) fn names(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names
}

/// The path in its only form: `/` between names and before the first, none at the end. The root is `/`.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    join(&[], path)
}

/// The second path below the first one, both cleaned by themselves, so the second cannot lead out of the first.
pub(crate) fn join(base: &[u8], path: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(base.len() + path.len() + 1);
    for name in names(base).into_iter().chain(names(path)) {
        joined.push(b'/');
        joined.extend_from_slice(name);
    }
    if joined.is_empty() {
        joined.push(b'/');
    }
    joined
}

/// The path and all above it, from the root down. It must be clean.
pub(crate) fn upwards(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let whole = (path != b"/").then_some(path);
    std::iter::once(&path[..1]).chain(ends.map(|end| &path[..end])).chain(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: Vec<u8>) -> String {
        String::from_utf8(path).unwrap()
    }

    #[test]
    fn a_path_has_one_form_and_never_leads_out() {
        for (path, expected) in
            [("", "/"), ("/", "/"), ("a//b/", "/a/b"), ("/a/./b", "/a/b"), ("/a/../../b", "/b"), ("/..", "/")]
        {
            assert_eq!(text(clean(path.as_bytes())), expected, "{path:?}");
        }
        for (base, path, expected) in [("/u/1", "../2/x", "/u/1/2/x"), ("/", "/a", "/a"), ("/u/", "", "/u")] {
            assert_eq!(text(join(base.as_bytes(), path.as_bytes())), expected, "{base:?} {path:?}");
        }
    }

    #[test]
    fn a_path_is_below_itself_and_all_above() {
        let of = |path: &'static str| upwards(path.as_bytes()).map(|path| text(path.to_vec())).collect::<Vec<_>>();
        assert_eq!(of("/"), ["/"]);
        assert_eq!(of("/a/bc/d"), ["/", "/a", "/a/bc", "/a/bc/d"]);
    }
}
