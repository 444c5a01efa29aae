//! etcd's v3 API as Rust types.
//!
//! The `.proto` files under `proto/` are our own, with etcd's packages, names and numbers (up to 3.7's
//! additions). `bytes` fields are [`bytes::Bytes`]: **slices of the receive buffer**, so a value that
//! outlives its request must be copied, or it pins the whole buffer.
//!
//! - [`mvccpb`], [`authpb`], [`etcdserverpb`], [`v3lockpb`], [`v3electionpb`]: messages, and with the
//!   feature `services` the clients.
//! - [`cleatpb`]: the commands that members replicate.
//! - [`health`]: gRPC's own health service.
//! - [`encoded`]: the same responses with key-values as stored bytes, for the server.
//! - `server` (feature `services`): the service traits, answering with [`encoded`] types; `codec` decodes for them.
//! - [`descriptor`]: what messages and methods look like, as data.
//! - [`error`]: every error that etcd can answer, with its gRPC code and exact text.

#[cfg(feature = "services")]
pub mod codec;
pub mod descriptor;
pub mod encoded;
pub mod error;
mod redacted;

macro_rules! generated {
    ($package:ident) => {
        generated!($package, stringify!($package));
    };
    ($module:ident, $package:expr) => {
        #[allow(
            missing_docs,
            clippy::all,
            clippy::pedantic,
            clippy::allow_attributes_without_reason,
            unreachable_pub,
            unused_qualifications,
            reason = "generated"
        )]
        #[doc = concat!("Generated from package `", $package, "`.")]
        pub mod $module {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    };
}

generated!(mvccpb);
generated!(authpb);
generated!(etcdserverpb);
generated!(v3lockpb);
generated!(v3electionpb);
generated!(cleatpb);
generated!(health, "grpc.health.v1");

/// The service traits and their tower services.
#[cfg(feature = "services")]
pub mod server {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        unused_qualifications,
        reason = "generated"
    )]
    include!(concat!(env!("OUT_DIR"), "/server/etcdserverpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/server/v3lockpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/server/v3electionpb.rs"));
    include!(concat!(env!("OUT_DIR"), "/server/grpc.health.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/server/cleatpb.rs"));
}
