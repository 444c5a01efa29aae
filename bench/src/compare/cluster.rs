//! The members of one server that run together: one alone, or a cluster on loopback ports.
//!
//! A [`Cluster`] gives all members etcd's flags for a static bootstrap, waits until each of them serves, and knows who
//! leads. Dropping it ends every member.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::etcdserverpb::StatusResponse;
use tokio::time::Instant;

use super::probe;
use super::servers::{Ending, POLL_INTERVAL, Server};
use crate::args::CompareArgs;
use crate::measure::ProcessSample;

/// How often the leader sends heartbeats, as a share of the election timeout: etcd's default.
const HEARTBEATS: u64 = 10;

/// Members that run.
pub(crate) struct Cluster {
    members: Vec<Server>,
    start_timeout: Duration,
}

impl Cluster {
    /// Starts the members of `binary` with fresh directories below `parent`, and waits until all serve reads, with `more` flags
    /// than the plain ones.
    ///
    /// # Errors
    /// The binary cannot be started, or a member ends or does not serve within the time of `args`.
    pub(crate) async fn start(
        binary: &Path,
        parent: &Path,
        args: &CompareArgs,
        more: &[(&'static str, String)],
    ) -> anyhow::Result<Self> {
        let start_timeout = Duration::from_secs_f64(args.start_timeout);
        let ports = free_ports(args.members).context("cannot find free ports on 127.0.0.1")?;
        let mut members = Vec::with_capacity(ports.len());
        for (index, (client, _)) in ports.iter().enumerate() {
            let endpoint = format!("127.0.0.1:{client}").parse().map_err(anyhow::Error::msg)?;
            let mut flags = flags(args, &ports, index);
            flags.extend_from_slice(more);
            members.push(Server::spawn(binary, parent, start_timeout, endpoint, &flags)?);
        }
        let mut cluster = Self { members, start_timeout };
        cluster.await_reads().await?;
        Ok(cluster)
    }

    /// Waits until every member serves linearizable reads.
    ///
    /// # Errors
    /// A member ends or does not serve in time.
    pub(crate) async fn await_reads(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.await_read(None).await?;
        }
        Ok(())
    }

    /// How many there are.
    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// The member with number `index`, from 0.
    pub(crate) fn member(&mut self, index: usize) -> &mut Server {
        &mut self.members[index]
    }

    /// Every member.
    pub(crate) fn all(&self) -> Vec<&Server> {
        self.members.iter().collect()
    }

    /// Every member but `index`.
    pub(crate) fn others(&self, index: usize) -> Vec<&Server> {
        self.members.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, member)| member).collect()
    }

    /// What the members use together.
    ///
    /// # Errors
    /// A member has ended.
    pub(crate) fn sample(&self) -> anyhow::Result<ProcessSample> {
        let samples: Vec<_> =
            self.members.iter().map(|member| ProcessSample::read(member.pid())).collect::<Result<_, _>>()?;
        Ok(samples
            .into_iter()
            .fold(ProcessSample { written_bytes: Some(0), ..Default::default() }, ProcessSample::plus))
    }

    /// Returns an error with the end of its log when a member has ended.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        self.members.iter_mut().try_for_each(Server::check_alive)
    }

    /// Kills every member.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            member.end(Ending::Kill).await?;
        }
        Ok(())
    }

    /// Asks until most members answer and all that answer name one of them as the leader; returns its number and status.
    ///
    /// # Errors
    /// They do not agree in the time that a start may take.
    pub(crate) async fn leader(&self) -> anyhow::Result<(usize, StatusResponse)> {
        let end = Instant::now() + self.start_timeout;
        loop {
            let mut answers = Vec::new();
            for (index, member) in self.members.iter().enumerate() {
                // A stopped member does not answer.
                answers.extend(probe::status(member.endpoint()).await.ok().map(|status| (index, status)));
            }
            if let Some(leader) = agreed_leader(&answers, self.members.len()) {
                return Ok(leader);
            }
            if Instant::now() > end {
                bail!("the members did not agree on a leader within {:?} (see --start-timeout)", self.start_timeout);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The one of `answers` that all of them name as the leader of one term, when they are a majority of `size`.
fn agreed_leader(answers: &[(usize, StatusResponse)], size: usize) -> Option<(usize, StatusResponse)> {
    let (_, first) = answers.first()?;
    let is_agreed =
        answers.iter().all(|(_, status)| (status.leader, status.raft_term) == (first.leader, first.raft_term));
    if answers.len() * 2 <= size || !is_agreed {
        return None;
    }
    let id = |status: &StatusResponse| status.header.as_ref().map(|header| header.member_id);
    answers.iter().find(|(_, status)| id(status) == Some(first.leader)).cloned()
}

/// The flags of member `index`; a member alone keeps its own defaults.
fn flags(args: &CompareArgs, ports: &[(u16, u16)], index: usize) -> Vec<(&'static str, String)> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let name = |index: usize| if ports.len() == 1 { "bench".to_owned() } else { format!("bench-{index}") };
    let peers = ports.iter().enumerate().map(|(index, (_, peer))| format!("{}={}", name(index), url(*peer)));
    let (client, peer) = ports[index];
    let mut flags = vec![
        ("--name", name(index)),
        ("--listen-client-urls", url(client)),
        ("--advertise-client-urls", url(client)),
        ("--listen-peer-urls", url(peer)),
        ("--initial-advertise-peer-urls", url(peer)),
        ("--initial-cluster", peers.collect::<Vec<_>>().join(",")),
    ];
    if ports.len() > 1 {
        flags.extend([
            ("--heartbeat-interval", (args.election_timeout / HEARTBEATS).max(1).to_string()),
            ("--election-timeout", args.election_timeout.to_string()),
        ]);
    }
    flags
}

/// Client and peer ports of `members` members, on which nothing listens now; all are different.
fn free_ports(members: u64) -> io::Result<Vec<(u16, u16)>> {
    let listen = |_| Ok((TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?));
    let listeners: Vec<_> = (0..members).map(listen).collect::<io::Result<_>>()?;
    listeners.iter().map(|(client, peer)| Ok((client.local_addr()?.port(), peer.local_addr()?.port()))).collect()
}

#[cfg(test)]
mod tests {
    use api::etcdserverpb::ResponseHeader;
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(members: &str) -> CompareArgs {
        let cli = Cli::try_parse_from(["cleat-bench", "compare", "--members", members, "--start-timeout", "10"]);
        let Command::Compare(args) = cli.expect("valid arguments").command else { panic!("not a comparison") };
        args
    }

    #[tokio::test]
    async fn a_binary_that_ends_is_reported_with_its_log() {
        let parent = tempfile::tempdir().expect("a directory");
        for members in ["1", "3"] {
            let started = Cluster::start(Path::new("/bin/echo"), parent.path(), &args(members), &[]).await;
            let text = format!("{:#}", started.err().expect("echo is no server"));
            assert!(text.contains("ended with") && text.contains("--data-dir"), "{text}");
            assert_eq!(std::fs::read_dir(parent.path()).expect("readable").count(), 0, "the directories are removed");
        }
        let missing = Cluster::start(Path::new("/nonexistent"), parent.path(), &args("1"), &[]).await.err();
        assert!(format!("{:#}", missing.expect("no such binary")).contains("--etcd"));
    }

    #[test]
    fn members_know_each_other() {
        let of = |flags: &[(&str, String)], name| flags.iter().find(|flag| flag.0 == name).map(|flag| flag.1.clone());
        let flags = flags(&args("3"), &[(1, 2), (3, 4), (5, 6)], 1);
        let peers = "bench-0=http://127.0.0.1:2,bench-1=http://127.0.0.1:4,bench-2=http://127.0.0.1:6";
        assert_eq!(of(&flags, "--initial-cluster").as_deref(), Some(peers));
        assert_eq!(of(&flags, "--listen-client-urls").as_deref(), Some("http://127.0.0.1:3"));
        assert_eq!(of(&flags, "--heartbeat-interval").as_deref(), Some("100"));
        let alone = super::flags(&args("1"), &[(1, 2)], 0);
        assert_eq!(of(&alone, "--initial-cluster").as_deref(), Some("bench=http://127.0.0.1:2"));
        assert_eq!(of(&alone, "--election-timeout"), None);
        let ports = free_ports(3).expect("free ports");
        assert_eq!(ports.iter().flat_map(|(one, two)| [one, two]).collect::<std::collections::HashSet<_>>().len(), 6);
    }

    #[test]
    fn a_leader_answers_and_is_agreed_on() {
        let status = |member_id, leader, raft_term| StatusResponse {
            header: Some(ResponseHeader { member_id, ..Default::default() }),
            leader,
            raft_term,
            ..Default::default()
        };
        let found = |answers: &[(usize, StatusResponse)]| agreed_leader(answers, 3).map(|(index, _)| index);
        assert_eq!(found(&[(0, status(10, 12, 2)), (2, status(12, 12, 2))]), Some(2));
        assert_eq!(found(&[(0, status(10, 11, 2)), (2, status(12, 11, 2))]), None, "the leader has ended");
        assert_eq!(found(&[(0, status(10, 10, 2)), (1, status(11, 10, 1)), (2, status(12, 10, 2))]), None);
        assert_eq!(found(&[(0, status(10, 10, 2))]), None, "no majority");
        assert_eq!(found(&[(0, status(10, 0, 2)), (2, status(12, 0, 2))]), None, "no leader");
    }
}
