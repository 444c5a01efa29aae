//! Go's standard library, as far as users of etcdctl, confd and metad see it in what those programs read and print.
//!
//! Each module has the name of Go's package. It does what the package does, byte for byte and with its error texts, and
//! knows nothing of who calls it. Texts are bytes here as they are in Go: they need not be UTF-8.

pub mod csv;
pub mod json;
pub mod strconv;
pub mod time;
pub mod unicode;
