//! The versions that this member reports.
//!
//! Two numbers with different readers: [`COMPATIBLE_ETCD_VERSION`] is what etcd clients compare to decide which
//! features they may use (kube-apiserver reads it from `Status.version`), [`CLEAT_VERSION`] is our own. Used by
//! `--version`, `/version`, `Status` and the metrics; nothing else in the tree names a version.

/// The etcd release whose API this member claims to serve.
pub const COMPATIBLE_ETCD_VERSION: &str = "3.5.21";

/// The cluster version that goes with [`COMPATIBLE_ETCD_VERSION`], as `/version` shows it.
pub const COMPATIBLE_CLUSTER_VERSION: &str = "3.5.0";

/// This release.
pub const CLEAT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this was built from, when the build set `GIT_SHA`.
pub const GIT_SHA: &str = match option_env!("GIT_SHA") {
    Some(sha) => sha,
    None => "Not provided",
};

/// What `cleat --version` prints. The first line is the one that test frameworks parse.
pub fn long_version() -> String {
    format!(
        "etcd Version: {COMPATIBLE_ETCD_VERSION}\nCleat Version: {CLEAT_VERSION}\nGit SHA: {GIT_SHA}\nOS/Arch: {}/{}\n",
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_compatible_etcd_version() {
        let text = long_version();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], "etcd Version: 3.5.21");
        assert_eq!(lines[1], format!("Cleat Version: {CLEAT_VERSION}"));
        assert!(lines[3].starts_with("OS/Arch: "));
    }
}
