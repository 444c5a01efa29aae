//! A small HTTP/2 client (RFC 9113) for gRPC calls.
//!
//! A general HTTP/2 library costs the generator about as much CPU for a call as the kernel's sockets and this client
//! together, and a generator that shares its cores with the server it measures takes that from the server. What makes it
//! cheap: requests are written straight into one output buffer, headers are one byte each after the first request,
//! answers that nobody reads are counted and not kept.
//!
//! - [`hpack`]: header compression.
//! - [`state`]: a connection without its socket: bytes in, bytes out, streams and windows.
//! - [`driver`]: the task that moves bytes between the state and the socket.
//!
//! It serves no requests, takes no pushes, has no priorities and no TLS.

pub(crate) mod driver;
mod hpack;
pub(crate) mod state;
