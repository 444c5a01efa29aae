//! The listeners of a member: gRPC and HTTP on one port.
//!
//! [`Listeners`] accepts connections and serves each with hyper; [`Front`] decides per request: HTTP/2 with an
//! `application/grpc` content type goes straight to the generated services of [`GrpcRoutes`], everything else past
//! the [`AccessRules`] to the v2 API by its [`Shortcut`] or to an axum router. Every put passes here, so the gRPC way does
//! one map look-up, no routing layers and no boxing of its own.
//!
//! Nothing a client does may cost more than its own connection: connections are limited in number, have a deadline
//! for their first bytes and for the head of a request, and garbage closes only the connection it came on.
//!
//! `server` makes the services, starts listeners and shuts them down.

mod accept;
mod access;
mod authority;
mod body;
mod frame;
mod front;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_target;
mod gather;
mod hpack;
mod interrupt;
mod observe;
mod socket;
mod streamed;

#[cfg(test)]
mod tests;

pub use accept::{ListenSettings, Listeners, max_connections};
pub use access::AccessRules;
pub use body::{GatewayBody, RequestBody, ResponseBody};
pub(crate) use front::CallerCertificate;
pub(crate) use front::HttpCaller;
pub use front::{Front, GrpcRoutes, OverTls};
pub(crate) use front::{ServeHttp, Shortcut};
pub use interrupt::LeaderGate;
pub(crate) use interrupt::timeout as grpc_timeout;
pub use socket::{Bound, ListenError, Traffic};
pub use streamed::{MayStream, StreamedMessage};
