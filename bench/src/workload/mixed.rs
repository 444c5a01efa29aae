//! Reads beside writes: what a read's latency is while many clients put at full speed.

use std::sync::Arc;

use super::put::Put;
use super::range::Range;
use super::unary::Unary;
use super::{Group, Load};

/// How many clients read and write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Clients that put at full speed.
    pub(crate) writers: usize,
    /// Their connections.
    pub(crate) writer_connections: usize,
    /// Clients that read one key after the other.
    pub(crate) readers: usize,
    /// Their own connections.
    pub(crate) reader_connections: usize,
}

/// The two groups: ranges first, because their latency is what the run is for.
pub(crate) fn groups(mix: Mix, range: Range, put: Put, rate: Option<f64>, seed: u64) -> Vec<Group> {
    let reads = Group {
        name: "mixed: range".to_owned(),
        unit: "range",
        connections: mix.reader_connections,
        clients: mix.readers,
        rate,
        is_counted: true,
        traffic: Load::Grpc(Arc::new(Unary { source: Arc::new(range), seed })),
    };
    let writes = Group {
        name: "mixed: put".to_owned(),
        unit: "put",
        connections: mix.writer_connections,
        clients: mix.writers,
        rate: None,
        is_counted: true,
        // Other keys than the readers' at the same moment.
        traffic: Load::Grpc(Arc::new(Unary { source: Arc::new(put), seed: seed ^ u64::MAX })),
    };
    vec![reads, writes]
}
