//! What a member's pod needs of Kubernetes.
//!
//! An agent runs beside every member of a `StatefulSet` and acts only while its own member leads the cluster: leadership
//! is the lock. It labels pods with the roles of their members, removes members that were scaled away, keeps the mark
//! that the cluster was founded, and publishes what happened as Events.
//!
//! [`plan`] decides and does nothing: what is observed and what is wanted go in, actions come out. [`observe`] asks the
//! members, [`kubernetes`] the API server; [`run`] does all of that again and again.
//!
//! An agent never replaces a member: a member that lost its volume finds its place itself
//! (`--initial-cluster-state=auto`). It never removes one because its pod restarts either: only the number of replicas
//! tells a restart from a change of scale.

pub mod kubernetes;
pub mod observe;
pub mod plan;
pub mod program;
pub mod run;
