//! Three members with TLS towards clients and each other, none of them running, and `etcdctl` for all of them.

use crate::authority::Authority;
use crate::server::{Kind, Options, Server};
use crate::site::Site;
use crate::tool::{Output, etcdctl_binary, run};
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// For a line in a log, or a tool.
const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// The names of the members.
pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// The members, and everybody's certificates.
pub struct Secure {
    /// In the order of [`NAMES`].
    pub members: Vec<Server>,
    /// Everybody's certificates.
    pub site: Site,
    /// Who signed them.
    pub ca: Authority,
}

impl Secure {
    /// Members that have a list of each other.
    pub fn new() -> Result<Self> {
        let mut secure = Self::discovering(&[], &[])?;
        let list = secure.list();
        for member in &mut secure.members {
            member.options_mut().initial_cluster.clone_from(&list);
            member.options_mut().discovers = false;
        }
        Ok(secure)
    }

    /// Members that find each other by these flags, run by this program and its arguments.
    pub fn discovering(flags: &[String], wrapper: &[String]) -> Result<Self> {
        let ca = Authority::new("ca")?;
        let site = Site::new(&ca)?;
        let member = |name: &&str| {
            site.admit(&ca, name)?;
            let flags = [site.flags(name), flags.to_vec()].concat();
            let (name, wrapper) = ((*name).to_owned(), wrapper.to_vec());
            let client_tls = Some(site.caller("client"));
            let options = Options { name, flags, client_tls, wrapper, ..Options::default() };
            let options = Options { is_secure: true, secures_peers: true, discovers: true, ..options };
            Server::prepare(Kind::Cleat, options)
        };
        let members = NAMES.iter().map(member).collect::<Result<Vec<_>>>()?;
        Ok(Self { members, site, ca })
    }

    /// What `--initial-cluster` takes.
    pub fn list(&self) -> String {
        let pairs = NAMES.iter().zip(&self.members).map(|(name, member)| format!("{name}={}", member.peer_url()));
        pairs.collect::<Vec<_>>().join(",")
    }

    /// Client URLs of some members.
    pub fn endpoints(&self, members: &[usize]) -> String {
        members.iter().map(|&member| self.members[member].client_url()).collect::<Vec<_>>().join(",")
    }

    /// `etcdctl` with all three endpoints.
    pub async fn etcdctl(&self, args: &[&str]) -> Result<Output> {
        self.etcdctl_with(&[&["--endpoints", self.endpoints(&[0, 1, 2]).as_str()], args].concat(), &[]).await
    }

    /// `etcdctl` with the endpoints of some members.
    pub async fn etcdctl_of(&self, members: &[usize], args: &[&str]) -> Result<Output> {
        self.etcdctl_with(&[&["--endpoints", self.endpoints(members).as_str()], args].concat(), &[]).await
    }

    /// `etcdctl` with no more than certificates, run by this program and its arguments.
    pub async fn etcdctl_with(&self, args: &[&str], wrapper: &[String]) -> Result<Output> {
        let mut command = match wrapper.split_first() {
            None => Command::new(etcdctl_binary()),
            Some((program, wrapping)) => {
                let mut command = Command::new(program);
                command.args(wrapping).arg(etcdctl_binary());
                command
            }
        };
        let file = |name: &str| self.site.path(name);
        command.env("ETCDCTL_API", "3").arg("--cacert").arg(file("trusted.pem")).arg("--cert").arg(file("client.pem"));
        command.arg("--key").arg(file("client.key")).arg("--command-timeout=30s").args(args);
        run(command, b"", LIMIT).await
    }

    /// Waits until these members answer.
    pub async fn ready(&mut self, members: &[usize]) -> Result<()> {
        for member in members {
            self.members[*member].wait_ready().await?;
        }
        Ok(())
    }

    /// Waits until the log of a member has a line with all of these texts.
    pub async fn wait_for_line(&self, member: usize, texts: &[&str]) -> Result<()> {
        self.wait_for_line_of_any(&[member], texts).await
    }

    /// Waits until one of the members has a line with all of these texts.
    pub async fn wait_for_line_of_any(&self, members: &[usize], texts: &[&str]) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let has_line = |member: &usize| {
            let log = self.members[*member].log();
            log.lines().any(|line| texts.iter().all(|text| line.contains(text)))
        };
        while !members.iter().any(has_line) {
            ensure!(Instant::now() < deadline, "no line with {texts:?} in the log of {members:?}:\n{}", self.logs());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Kills a member and forgets its data.
    pub fn lose(&mut self, member: usize) -> Result<()> {
        self.members[member].kill()?;
        let data = self.members[member].data_dir();
        if Path::new(&data).exists() {
            std::fs::remove_dir_all(&data)?;
        }
        Ok(())
    }

    /// The ends of all members' logs.
    pub fn logs(&self) -> String {
        let logs = NAMES
            .iter()
            .zip(&self.members)
            .map(|(name, member)| format!("--- end of the log of {name} ---\n{}\n", member.log_tail()));
        logs.collect()
    }

    /// Writes and reads through all endpoints, and finds three members that have started.
    pub async fn check(&self) -> Result<()> {
        let value = format!("{:x}", rand::random::<u32>());
        for (member, name) in NAMES.iter().enumerate() {
            let put = self.etcdctl_of(&[member], &["put", name, &value]).await?;
            ensure!(put.stdout == "OK\n", "{put:#?}\n{}", self.logs());
        }
        for name in NAMES {
            let get = self.etcdctl(&["get", name]).await?;
            ensure!(get.stdout == format!("{name}\n{value}\n"), "{get:#?}");
        }
        let health = self.etcdctl(&["endpoint", "health"]).await?;
        ensure!(health.code == Some(0), "{health:#?}\n{}", self.logs());
        let list = self.etcdctl(&["member", "list"]).await?;
        ensure!(list.stdout.lines().filter(|line| line.contains(", started, ")).count() == 3, "{list:#?}");
        Ok(())
    }
}
