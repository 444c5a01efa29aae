//! TLS between clients, peers and this member.
//!
//! `config` says what is wanted, [`Tls`] reads the files at the start, `listen` passes incoming connections through a
//! [`TlsAcceptor`], and connections to peers come from a [`PeerConnector`]. All files are read again when they change
//! ([`reload`]): certificate, key, CAs and revocation lists, for connections made from then on.
//!
//! A refused caller costs a slot for at most the handshake's deadline, and is told apart in the log by address and
//! reason ([`refusal`]). Who a verified caller is plays no role behind this module.

mod accept;
mod address;
mod connect;
mod der;
mod files;
mod material;
mod member;
mod refusal;
mod reload;
mod self_signed;
mod verify;

#[cfg(test)]
mod tests;

pub use accept::TlsAcceptor;
pub use connect::{PeerConnector, PeerStream};
pub use files::TlsError;
pub use member::Tls;
pub(crate) use refusal::RefusalLog;
