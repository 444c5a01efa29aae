//! The command line: raw text to checked parameters. Reads no files and starts nothing.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};

use crate::connection::Endpoint;
use crate::workload::Length;
use crate::workload::keys::KeySpace;

/// Load generator for any etcd endpoint, and a side-by-side comparison of two servers.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A workload, or the comparison.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put values to random keys (or keys in order with --sequential)
    Put {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Read one key or a range of keys, linearizable or serializable
    Range {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        data: DataArgs,
        /// Keys that one request reads
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Let a member answer without asking the leader
        #[arg(long)]
        serializable: bool,
    },
    /// Compare and put in one transaction, or fill the key space with many puts a transaction
    Txn {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        data: DataArgs,
        /// Fill with so many puts in each transaction, keys in order, instead of compare and put
        #[arg(long, value_name = "PUTS", value_parser = clap::value_parser!(u64).range(1..))]
        fill: Option<u64>,
    },
    /// Watch keys while writers put them: events a second and delivery latency
    Watch {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        data: DataArgs,
        /// Watchers of all streams together
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        watchers: u64,
        /// Keys that are watched: 1 for fan-out, as many as watchers for one event a put
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        watched_keys: u64,
        /// Watch streams; each carries its share of the watchers, as a client process does
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        streams: u64,
        /// Connections of the watch streams
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=50_000))]
        stream_connections: u64,
        /// Puts whose events may be on their way: writers wait for room, unless there is a --rate [default: --clients]
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "rate")]
        in_flight: Option<u64>,
    },
    /// Renew leases over keepalive streams
    Lease {
        #[command(flatten)]
        load: LoadArgs,
        /// Leases of all clients together
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        leases: u64,
    },
    /// Read one key at a time while other clients put at full speed; --clients and --connections are the writers'
    Mixed {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        data: DataArgs,
        /// Clients that read; --rate limits them, not the writers
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        readers: u64,
        /// Connections of the readers
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=50_000))]
        reader_connections: u64,
        /// Let a member answer reads without asking the leader
        #[arg(long)]
        serializable: bool,
    },
    /// Read single keys through the v2 API, over HTTP/1.1: each client has a connection of its own
    V2Get {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Write single keys through the v2 API
    V2Put {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Long polls that one write ends, again and again: how long until the last one has its answer
    ///
    /// The defaults are for the v2 API. For metad, say: --path '/self?wait=true' --write-endpoint 127.0.0.1:9611
    /// --write-path /v1/data --write-type application/json --write-body '{"node":"{n}"}'
    Polls {
        #[command(flatten)]
        load: LoadArgs,
        /// Polls that wait at the same time, each on a connection of its own
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
        polls: u64,
        /// What they get
        #[arg(long, default_value = "/v2/keys/bench/polls?wait=true")]
        path: String,
        /// Seconds between the polls and the write that ends them: all of them have to wait by then
        #[arg(long, default_value_t = 1.0, value_parser = not_negative)]
        settle: f64,
        /// Where the write goes, if not to the --endpoint
        #[arg(long, value_name = "HOST:PORT")]
        write_endpoint: Option<Endpoint>,
        /// What is written with PUT
        #[arg(long, default_value = "/v2/keys/bench/polls")]
        write_path: String,
        /// Type of what is written
        #[arg(long, default_value = crate::workload::http::FORM)]
        write_type: String,
        /// What is written; {n} is a number that is new in each write
        #[arg(long, default_value = "value={n}")]
        write_body: String,
    },
    /// Start two servers, run every workload on both in turns, and print medians and ratios
    Compare(CompareArgs),
}

/// How a workload is driven.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Client URLs; connections go to them in turn
    #[arg(
        long,
        alias = "endpoints",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        value_name = "HOST:PORT"
    )]
    pub(crate) endpoint: Vec<Endpoint>,
    /// TCP connections
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub(crate) connections: u64,
    /// Concurrent clients, spread over the connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) clients: u64,
    /// Calls a second of all clients together; latency then counts from the moment a call was due
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,
    /// Measured seconds
    #[arg(long, default_value_t = 10.0, value_parser = positive, conflicts_with = "total")]
    pub(crate) duration: f64,
    /// Seconds before them that are not measured
    #[arg(long, default_value_t = 0.5, value_parser = not_negative)]
    pub(crate) warmup: f64,
    /// Stop after so many calls instead
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) total: Option<u64>,
    /// Seconds after which a call counts as failed
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) deadline: f64,
    /// Generator threads; one is cheapest while it keeps up
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// The same seed gives the same keys and values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Processes of the server on this machine: adds the sum of their CPU, memory and written bytes
    #[arg(long, value_delimiter = ',', value_name = "PID,PID")]
    pub(crate) server_pid: Vec<u32>,
    /// Write all figures to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl LoadArgs {
    /// When the run ends.
    pub(crate) fn length(&self) -> Length {
        match self.total {
            Some(total) => Length::Total(total),
            None => Length::Time {
                warmup: Duration::from_secs_f64(self.warmup),
                measured: Duration::from_secs_f64(self.duration),
            },
        }
    }
}

/// Which keys and values a workload uses.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// Keys in the key space
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Bytes of a key
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) key_size: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(0..=16_777_216))]
    pub(crate) value_size: u64,
    /// What every key starts with
    #[arg(long, default_value = "bench/")]
    pub(crate) prefix: String,
    /// Take keys in order instead of at random
    #[arg(long)]
    pub(crate) sequential: bool,
}

impl DataArgs {
    /// The key space.
    ///
    /// # Errors
    /// The keys are too short for their number.
    pub(crate) fn key_space(&self) -> anyhow::Result<KeySpace> {
        let space = KeySpace {
            prefix: Bytes::copy_from_slice(self.prefix.as_bytes()),
            key_size: self.key_size as usize,
            count: self.keys,
            is_sequential: self.sequential,
        };
        space.check().map_err(anyhow::Error::msg)?;
        Ok(space)
    }
}

/// Parameters of the comparison.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Our server binary
    #[arg(long, value_name = "PATH", default_value = "cleat")]
    pub(crate) cleat: PathBuf,
    /// The etcd binary to compare with
    #[arg(long, value_name = "PATH", default_value = "etcd")]
    pub(crate) etcd: PathBuf,
    /// Members of each server; a cluster of three has workloads of its own (see --list)
    #[arg(long, default_value = "1", value_parser = members)]
    pub(crate) members: u64,
    /// How often every workload runs on each server
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) rounds: u64,
    /// Measured seconds of each workload
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub(crate) seconds: f64,
    /// Keys that the servers hold while they are measured
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) keys: u64,
    /// Keys of the workload on memory, restart and disk
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) large_keys: u64,
    /// Leaders that are ended in each round of a failover workload
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) failovers: u64,
    /// The --election-timeout of a cluster's members, in milliseconds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..=50_000), value_name = "MS")]
    pub(crate) election_timeout: u64,
    /// Keys that are put while a member is stopped, before it catches up
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(crate) catch_up_keys: u64,
    /// The --snapshot-count of the members there: far fewer than those keys, or the log alone serves the stopped member
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..), value_name = "ENTRIES")]
    pub(crate) snapshot_count: u64,
    /// Only these workloads (see --list)
    #[arg(long, value_delimiter = ',', value_name = "NAME,NAME")]
    pub(crate) only: Vec<String>,
    /// List the workloads and what they claim, and stop
    #[arg(long)]
    pub(crate) list: bool,
    /// Where the data directories are made; its disk is part of what is measured
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Generator threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// Seconds after which a call counts as failed
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) deadline: f64,
    /// Seconds that a server may take to start
    #[arg(long, default_value_t = 60.0, value_parser = positive)]
    pub(crate) start_timeout: f64,
    /// The same seed gives the same keys and values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write all figures of all rounds to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the ratios to FILE as SVG, which follows the reader's light or dark setting
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Draw the ratios to FILE as PNG, on a light background
    #[arg(long, value_name = "FILE")]
    pub(crate) png: Option<PathBuf>,
    /// Exit with an error when a ratio misses its floor
    #[arg(long)]
    pub(crate) strict: bool,
}

fn members(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(members @ (1 | 3)) => Ok(members),
        _ => Err("expected 1 or 3".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e9 => Ok(value),
        _ => Err("expected a number greater than 0".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    if text.parse::<f64>() == Ok(0.0) { Ok(0.0) } else { positive(text) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn loads_are_parsed() {
        let cli = Cli::try_parse_from(["cleat-bench", "put", "--endpoint", "a:1,http://b:2", "--total", "7"]);
        let Command::Put { load, data } = cli.expect("valid arguments").command else { panic!("not a put") };
        assert_eq!(load.endpoint.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(load.length(), Length::Total(7));
        assert!(data.key_space().is_ok());
        let short = DataArgs { key_size: 6, ..data };
        assert!(short.key_space().expect_err("too short").to_string().contains("--key-size 11"));
    }

    #[test]
    fn wrong_values_are_refused() {
        for wrong in [
            &["put", "--rate", "0"][..],
            &["put", "--duration", "-1"],
            &["put", "--endpoint", "nowhere"],
            &["put", "--total", "1", "--duration", "1"],
            &["range", "--limit", "0"],
            &["compare", "--members", "2"],
        ] {
            let arguments = std::iter::once("cleat-bench").chain(wrong.iter().copied());
            assert!(Cli::try_parse_from(arguments).is_err(), "{wrong:?}");
        }
    }
}
