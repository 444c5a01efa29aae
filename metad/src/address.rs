//! Addresses of clients: what is stored for one address, for a network, or for everybody else.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// The name of what is for everybody that has nothing else.
pub(crate) const DEFAULT: &str = "default";

/// An address as it is compared: one of IPv4 that is written as IPv6 is one of IPv4.
pub(crate) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Reads one address, in any of its forms.
pub(crate) fn parse(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(canonical)
}

/// What limits for each source count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// The address, if it is one of IPv4 or is known to be of another host than its neighbours. Else the /64 of IPv6, which
    /// is one subscriber's: a host there may have as many addresses as it likes.
    pub(crate) fn new(address: IpAddr, is_known: bool) -> Self {
        match canonical(address) {
            IpAddr::V6(v6) if !is_known => Self(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))),
            address => Self(address),
        }
    }
}

/// A network, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Net {
    first: u128,
    /// Bits that count, of 128.
    length: u32,
}

/// IPv4 addresses stand in IPv6's, where no client can come from.
fn number(address: IpAddr) -> u128 {
    match canonical(address) {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl Net {
    /// Reads `ADDRESS/LENGTH`, or an address alone. In names of the tree `_` stands for the slash.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once(['/', '_']) {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().filter(|n| *n <= bits)?,
            Some(_) => return None,
        };
        let length = length + 128 - bits;
        let first = number(address) & mask(length);
        Some(Self { first, length })
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        number(address) & mask(self.length) == self.first
    }
}

impl std::fmt::Display for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = Ipv6Addr::from(self.first);
        match address.to_ipv4_mapped() {
            Some(v4) if self.length >= 96 => write!(f, "{v4}/{}", self.length - 96),
            _ => write!(f, "{address}/{}", self.length),
        }
    }
}

fn mask(length: u32) -> u128 {
    u128::MAX.checked_shl(128 - length).unwrap_or_default()
}

/// Something for each address. An address of its own comes before its networks, the smallest of them first, and these
/// before what is for everybody.
#[derive(Clone, Debug)]
pub(crate) struct Addressed<T> {
    exact: HashMap<IpAddr, T>,
    /// By names that are other forms of an address, which count if the address in its own form has nothing.
    others: HashMap<IpAddr, BTreeMap<String, T>>,
    /// The smallest first, by the names that mean it: bits that do not count may differ.
    nets: Vec<(Net, BTreeMap<String, T>)>,
    default: Option<T>,
}

impl<T> Default for Addressed<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), others: HashMap::new(), nets: Vec::new(), default: None }
    }
}

impl<T> Addressed<T> {
    /// What an address has.
    pub(crate) fn get(&self, address: IpAddr) -> Option<&T> {
        let in_net = || self.nets.iter().find(|(net, _)| net.contains(address))?.1.values().next();
        let by_other = || self.others.get(&address)?.values().next();
        self.exact.get(&address).or_else(by_other).or_else(in_net).or(self.default.as_ref())
    }

    /// Stores what a name stands for, or takes it away. A name that is no address, network or `default` is for nobody.
    pub(crate) fn set(&mut self, name: &str, it: Option<T>) {
        if name == DEFAULT {
            self.default = it;
        } else if let Some(address) = parse(name).filter(|address| address.to_string() != name) {
            let forms = self.others.entry(address).or_default();
            match it {
                Some(it) => drop(forms.insert(name.to_owned(), it)),
                None => drop(forms.remove(name)),
            }
            if forms.is_empty() {
                self.others.remove(&address);
            }
        } else if let Some(address) = parse(name) {
            match it {
                Some(it) => drop(self.exact.insert(address, it)),
                None => drop(self.exact.remove(&address)),
            }
        } else if let Some(net) = Net::parse(name) {
            let at = self.nets.iter().position(|(other, _)| *other == net);
            match (at, it) {
                (Some(at), Some(it)) => drop(self.nets[at].1.insert(name.to_owned(), it)),
                (None, Some(it)) => {
                    let at = self.nets.partition_point(|(other, _)| other.length >= net.length);
                    self.nets.insert(at, (net, BTreeMap::from([(name.to_owned(), it)])));
                }
                (Some(at), None) => {
                    self.nets[at].1.remove(name);
                    if self.nets[at].1.is_empty() {
                        self.nets.remove(at);
                    }
                }
                (None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_what_fits_best() {
        let mut things = Addressed::default();
        for name in ["default", "10.0.0.0_8", "10.1.0.0/16", "10.1.2.3", "fd00::_8", "::1", "host"] {
            things.set(name, Some(name));
        }
        let of = |things: &Addressed<&'static str>, address: &str| *things.get(parse(address).unwrap()).unwrap();
        for (address, expected) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("10.1.2.4", "10.1.0.0/16"),
            ("10.2.0.0", "10.0.0.0_8"),
            ("11.0.0.1", "default"),
            ("fd12::1", "fd00::_8"),
            ("0:0::1", "::1"),
            ("fe80::1", "default"),
        ] {
            assert_eq!(of(&things, address), expected, "{address}");
        }
        // An address in its own form has what its own form says.
        things.set("::0:1", Some("::0:1"));
        assert_eq!(of(&things, "::1"), "::1");
        things.set("::1", None);
        assert_eq!(of(&things, "::1"), "::0:1");
        things.set("::0:1", None);
        assert_eq!(of(&things, "::1"), "default");
        things.set("10.1.2.3", None);
        things.set("10.1.0.0/16", None);
        things.set("default", None);
        assert_eq!(of(&things, "10.1.2.3"), "10.0.0.0_8");
        assert_eq!(things.get(parse("11.0.0.1").unwrap()), None);
    }

    /// Both are stored; taking one away leaves the other.
    #[test]
    fn two_names_of_a_network_do_not_touch_each_other() {
        let mut things = Addressed::default();
        let of = |things: &Addressed<i32>| things.get(parse("10.9.9.9").unwrap()).copied();
        things.set("10.1.2.3_8", Some(1));
        things.set("10.0.0.0_8", Some(2));
        assert_eq!(of(&things), Some(2));
        things.set("10.0.0.0_8", None);
        assert_eq!(of(&things), Some(1));
        things.set("10.0.0.0_8", None);
        things.set("10.1.2.3_8", None);
        assert!(of(&things).is_none() && things.nets.is_empty());
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let of = |text: &str, is_known| Source::new(text.parse().unwrap(), is_known);
        assert_eq!(of("2001:db8:0:1::1", false), of("2001:db8:0:1:ffff::2", false));
        assert_ne!(of("2001:db8:0:1::1", false), of("2001:db8:0:2::1", false));
        assert_ne!(of("2001:db8:0:1::1", true), of("2001:db8:0:1::2", true));
        assert_ne!(of("10.0.0.1", false), of("10.0.0.2", false));
        assert_eq!(of("::ffff:10.0.0.1", false), of("10.0.0.1", true));
        assert_ne!(of("::ffff:10.0.0.1", false), of("::ffff:10.0.0.2", false));
    }

    #[test]
    fn networks_are_read_strictly() {
        for text in ["", "a", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "::/129", "10.0.0/8", "1.2.3.4/8/8"] {
            assert_eq!(Net::parse(text), None, "{text:?}");
        }
        for (text, expected) in
            [("10.1.2.3/8", "10.0.0.0/8"), ("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0"), ("::1", "::1/128")]
        {
            assert_eq!(Net::parse(text).unwrap().to_string(), expected);
        }
        assert!(!Net::parse("0.0.0.0/0").unwrap().contains(parse("::1").unwrap()));
    }
}
