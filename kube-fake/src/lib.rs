//! A small Kubernetes API server for tests.
//!
//! It serves objects of any group, version and resource from memory, on the loopback interface: create, get, list (in
//! pages), watch (with bookmarks), update, delete; merge, strategic and JSON patches; server-side apply with field
//! managers, also of `status`; label and field selectors; discovery documents, bearer tokens with the rules of a Role,
//! and `TokenReview`. A test breaks it on demand: history expires (410 Gone), watches are cut, requests fail. It serves https with
//! certificates that it makes.
//!
//! It runs nothing: no scheduler, no controller, no garbage collection, no admission. It knows no schema either: what
//! the real server would call invalid, and what it would fill in, is the caller's. Where its behaviour is that of the
//! real server, clients cannot tell: the tests use kube's own client, and Helm installs charts against it.
//!
//! Only tests depend on it.

mod access;
mod api;
mod failure;
mod fields;
mod patch;
mod path;
mod protobuf;
mod resource;
mod selector;
mod server;
mod store;
mod tls;
mod watch;

pub use access::{Access, Account};
pub use failure::Failure;
pub use resource::Resource;
pub use server::{FakeKube, Fault, Options, Request};
pub use tls::Certificates;
