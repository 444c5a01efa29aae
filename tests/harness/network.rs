//! A network of the test's own: every member in a network namespace, joined by a bridge.
//!
//! The test process reaches every member over the bridge, whatever is cut between the members: clients see what a
//! cut-off member answers. Faults are rules of nftables inside the namespaces, for each direction by itself, and a
//! token bucket for a slow link: unlike `netem`, both are in the kernels of most test machines. Needs root, `iproute2` and `nftables`; without them making a network fails and says
//! what to do. Everything is removed on drop; what a killed test process left behind goes when the next one starts.

use crate::ports::claim;
use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Reserved for tests of network devices (RFC 2544), so that no real network has these addresses.
const BLOCK: [u8; 2] = [198, 18];
/// A subnet has 16 addresses.
const SUBNETS: u32 = 65_536 / 16;
/// The bridge takes one address, the first and the last are not usable.
const MAX_MEMBERS: usize = 13;
const TRIES: usize = 100;
/// Starts the names of all devices and namespaces.
const PREFIX: &str = "ct";

/// Numbers the networks of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A bridge and the namespaces on it.
#[derive(Debug)]
pub struct Network {
    name: String,
    base: u32,
    members: usize,
    _subnet: File,
}

impl Network {
    /// Makes an empty network.
    ///
    /// # Errors
    /// Without the rights or the programs; the message has the remedy.
    pub fn new() -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "network faults need network namespaces, and those need root: run this test as root, \
             or leave it out with `--skip network`"
        );
        for (program, flag, package) in [("ip", "-V", "iproute2"), ("tc", "-V", "iproute2"), ("nft", "-v", "nftables")]
        {
            run(program, &[flag]).with_context(|| format!("install the package {package} (scripts/check tools)"))?;
        }
        remove_leftovers()?;
        for _ in 0..TRIES {
            let subnet = rand::rng().random_range(0..SUBNETS);
            let Some(lock) = claim(&format!("net-{subnet}"))? else { continue };
            let base = u32::from(Ipv4Addr::new(BLOCK[0], BLOCK[1], 0, 0)) + subnet * 16;
            let name = format!("{PREFIX}{:x}n{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let network = Self { name, base, members: 0, _subnet: lock };
            run("ip", &["link", "add", &network.name, "type", "bridge"])?;
            run("ip", &["addr", "add", &format!("{}/28", network.bridge()), "dev", &network.name])?;
            run("ip", &["link", "set", &network.name, "up"])?;
            return Ok(network);
        }
        bail!("no free subnet after {TRIES} tries")
    }

    /// The address of the test process.
    pub fn bridge(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The address of a member, counted from 0.
    pub fn address(&self, member: usize) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2 + member as u32)
    }

    fn namespace(&self, member: usize) -> String {
        format!("{}m{member:x}", self.name)
    }

    /// Adds a namespace with one address and returns its number.
    pub fn add(&mut self) -> Result<usize> {
        ensure!(self.members < MAX_MEMBERS, "a network has at most {MAX_MEMBERS} members");
        let member = self.members;
        self.members += 1;
        // The outer end of the pair has the name of the namespace.
        let (space, outer) = (self.namespace(member), self.namespace(member));
        run("ip", &["netns", "add", &space])?;
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        run("ip", &["link", "set", &outer, "master", &self.name, "up"])?;
        let inside = |args: &[&str]| run("ip", &[&["-n", &space], args].concat());
        inside(&["addr", "add", &format!("{}/28", self.address(member)), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["link", "set", "lo", "up"])?;
        let table = "add table inet faults; \
                     add chain inet faults in { type filter hook input priority 0; policy accept; }";
        self.inside(member, "nft", &[table])?;
        Ok(member)
    }

    /// Program and arguments that run a command as the same process inside of a member's namespace.
    pub fn wrapper(&self, member: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace(member)].map(str::to_owned).to_vec()
    }

    fn inside(&self, member: usize, program: &str, args: &[&str]) -> Result<()> {
        let space = self.namespace(member);
        run("ip", &[&["netns", "exec", &space, program], args].concat())
    }

    /// Drops every packet from one member to another, in this direction only.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        let rule = format!("add rule inet faults in ip saddr {} drop", self.address(from));
        self.inside(to, "nft", &[&rule])
    }

    /// Drops every packet from the test process to a member.
    pub fn deafen(&self, member: usize) -> Result<()> {
        let rule = format!("add rule inet faults in ip saddr {} drop", self.bridge());
        self.inside(member, "nft", &[&rule])
    }

    /// Drops every packet between two members.
    pub fn part(&self, one: usize, other: usize) -> Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Cuts a member off from all others. Clients still reach it.
    pub fn isolate(&self, member: usize) -> Result<()> {
        (0..self.members).filter(|other| *other != member).try_for_each(|other| self.part(member, other))
    }

    /// Drops a share of the packets that other members send to this one.
    pub fn lose(&self, member: usize, percent: u32) -> Result<()> {
        let rule =
            format!("add rule inet faults in ip saddr != {} numgen random mod 100 < {percent} drop", self.bridge());
        self.inside(member, "nft", &[&rule])
    }

    /// Everything that a member sends waits for a link of so many kilobits per second.
    pub fn slow(&self, member: usize, kilobits: u32) -> Result<()> {
        let rate = format!("{kilobits}kbit");
        let shape = ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "4kb", "latency", "2s"];
        self.inside(member, "tc", &shape)
    }

    /// Ends all faults.
    pub fn heal(&self) -> Result<()> {
        for member in 0..self.members {
            self.inside(member, "nft", &["flush chain inet faults in"])?;
            let shaped = self.inside(member, "tc", &["qdisc", "del", "dev", "eth0", "root"]);
            // There is nothing to delete where nothing was slow.
            drop(shaped);
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for member in 0..self.members {
            remove("netns", &self.namespace(member));
        }
        remove("link", &self.name);
    }
}

fn remove(object: &str, name: &str) {
    if let Err(error) = run("ip", &[object, "del", name]) {
        eprintln!("could not remove the {object} {name}: {error:#}");
    }
}

/// Runs a program that ends at once.
fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), text.trim());
    Ok(())
}

/// Removes namespaces and bridges of test processes that are gone, and ends what still runs in the namespaces.
fn remove_leftovers() -> Result<()> {
    let names = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_leftover(name)).collect()
    };
    for space in names("/run/netns") {
        let pids = Command::new("ip").args(["netns", "pids", &space]).output()?;
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                killed.with_context(|| format!("end a process in the namespace {space}"))?;
            }
        }
        remove("netns", &space);
    }
    // The outer ends of the pairs went with their namespaces.
    names("/sys/class/net").iter().filter(|name| !name.contains('m')).for_each(|name| remove("link", name));
    Ok(())
}

/// True for a name that [`Network`] gave in a process that is gone.
fn is_leftover(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('n')).and_then(|(pid, rest)| {
        let ours = rest.chars().all(|c| c.is_ascii_hexdigit() || c == 'm');
        ours.then(|| u32::from_str_radix(pid, 16).ok()).flatten()
    });
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::is_leftover;

    #[test]
    fn only_names_of_dead_test_processes_are_left_over() {
        let alive = std::process::id();
        // Above the largest process id that Linux gives.
        let dead = 0x7f_ffff;
        let cases = [
            (format!("ct{dead:x}n0"), true),
            (format!("ct{dead:x}nam2"), true),
            (format!("ct{alive:x}n0"), false),
            ("ctl".to_owned(), false),
            ("ctrlnet0".to_owned(), false),
            ("eth0".to_owned(), false),
        ];
        for (name, expected) in cases {
            assert_eq!(is_leftover(&name), expected, "{name}");
        }
    }
}
