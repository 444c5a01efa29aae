//! etcd's JSON gateway: the v3 API over plain HTTP, below `/v3`.
//!
//! A request is a POST whose body is the request message in protobuf's JSON form. It becomes a gRPC call of the same
//! port's services, in process: [`gateway`] writes the message as gRPC frames it and hands it to
//! [`GrpcRoutes`](crate::listen::GrpcRoutes), so that counting, deadlines, limits and permissions are those of gRPC.
//!
//! ```text
//!   HTTP request  -> access -> gateway -> read  -> GrpcRoutes -> service
//!   HTTP response <----------- answer  <- write <----------------'
//! ```
//!
//! [`routes`] is the one list of paths, [`read`] and [`write`] transcode by the descriptors that the build writes, without
//! a tree in between. [`split`] finds the values of a stream of requests, [`error`] is the form of errors, [`openapi`]
//! describes it all.

mod answer;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_target;
mod gateway;
mod openapi;
mod read;
mod routes;
mod split;
mod write;

pub(crate) use gateway::router;
