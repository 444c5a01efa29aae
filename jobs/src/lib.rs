//! `cleat-jobs`: what the Helm chart's jobs run, because the image has no shell. Each command ends, and may be run again.
//!
//! `certificates` keeps certificates in Secrets, over `kube`, the few calls of the Kubernetes API that it needs; `users` makes
//! root; `backup` stores snapshots and `restore` begins a cluster with one, at a `place`: a directory, or a bucket (`s3`);
//! `check` is `helm test`; `reload` and `signal` are for reload commands of confd, `probe` for probes; `example` is the chart's example application.

/// A line for who reads the job's log. Nobody is left to tell if nobody reads it.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        drop(writeln!(std::io::stdout(), $($text)*));
    }};
}

mod backup;
mod certificates;
mod check;
mod cluster;
mod example;
mod kube;
mod place;
pub mod program;
mod reload;
mod restore;
mod s3;
mod signal;
mod users;
