//! Reads the few fields of certificates and revocation lists that `rustls` checks but does not show: serial numbers,
//! common names, alternative names, ends of validity.
//!
//! Called for certificates whose signatures `rustls` has verified or is about to verify, and for files of the
//! administrator. Whatever is not understood is None; nothing here decides whether a certificate is good.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` and `[3]`, explicit: version and extensions of a certificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `[2]` and `[7]`, implicit: alternative names.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Elements that follow each other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next element: its tag and its contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            let (bytes, rest) = rest.split_at_checked(count).filter(|_| (1..=4).contains(&count))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, contents))
    }

    /// Takes the next element if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let (found, contents) = ahead.next()?;
        (found == tag).then(|| {
            *self = ahead;
            contents
        })
    }

    fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }

    /// Takes a time as seconds since 1970.
    fn time(&mut self) -> Option<i64> {
        let (tag, text) = self.next()?;
        let text = std::str::from_utf8(text).ok()?.strip_suffix('Z').filter(|text| text.is_ascii())?;
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        let (year, at) = match tag {
            // Two digits mean 1950 to 2049.
            UTC_TIME => (number(0, 2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
            GENERALIZED_TIME => (number(0, 4)?, 4),
            _ => return None,
        };
        let part = |index: usize| number(at + 2 * index, at + 2 * index + 2);
        Some(days_since_1970(year, part(0)?, part(1)?) * 86_400 + part(2)? * 3600 + part(3)? * 60 + part(4)?)
    }
}

/// Counts days in the Gregorian calendar; years begin in March, so that the leap day is the last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A serial number without the zeros in front, so that different writers of the same number agree.
fn serial(integer: &[u8]) -> Vec<u8> {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    integer[zeros..].to_vec()
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertFacts {
    pub(super) serial: Vec<u8>,
    /// The last one of the subject, as in Go.
    pub(super) common_name: Option<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// In seconds since 1970.
    pub(super) not_after: i64,
}

impl CertFacts {
    /// Reads a certificate.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let mut fields = Der(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
        fields.take(VERSION);
        let serial = serial(fields.take(INTEGER)?);
        fields.take(SEQUENCE)?; // algorithm
        fields.take(SEQUENCE)?; // issuer
        let mut validity = fields.enter(SEQUENCE)?;
        validity.time()?;
        let not_after = validity.time()?;
        let common_name = common_name(fields.enter(SEQUENCE)?);
        let mut facts = Self { serial, common_name, dns_names: Vec::new(), addresses: Vec::new(), not_after };
        while let Some((tag, contents)) = fields.next() {
            if tag == EXTENSIONS {
                facts.read_names(Der(contents).enter(SEQUENCE)?);
            }
        }
        Some(facts)
    }

    fn read_names(&mut self, mut extensions: Der<'_>) {
        while let Some(mut extension) = extensions.enter(SEQUENCE) {
            if extension.take(OBJECT_ID) != Some(SUBJECT_ALT_NAME) {
                continue;
            }
            // A flag may stand in front of the value.
            while let Some((tag, contents)) = extension.next() {
                if tag == OCTET_STRING
                    && let Some(mut names) = Der(contents).enter(SEQUENCE)
                {
                    while let Some((tag, name)) = names.next() {
                        self.add_name(tag, name);
                    }
                }
            }
        }
    }

    fn add_name(&mut self, tag: u8, name: &[u8]) {
        match (tag, name.len()) {
            (DNS_NAME, _) => self.dns_names.extend(std::str::from_utf8(name).ok().map(str::to_owned)),
            (IP_ADDRESS, 4) => {
                self.addresses.extend(<[u8; 4]>::try_from(name).map(|octets| IpAddr::from(Ipv4Addr::from(octets))));
            }
            (IP_ADDRESS, 16) => {
                self.addresses.extend(<[u8; 16]>::try_from(name).map(|octets| IpAddr::from(Ipv6Addr::from(octets))));
            }
            _ => {}
        }
    }

    /// The serial number as etcd writes it.
    pub(super) fn serial_text(&self) -> String {
        let mut text = String::with_capacity(2 * self.serial.len());
        for byte in &self.serial {
            write!(text, "{byte:02x}").expect("invariant: writing to a String cannot fail");
        }
        text
    }
}

fn common_name(mut subject: Der<'_>) -> Option<String> {
    let mut found = None;
    while let Some(mut set) = subject.enter(SET) {
        while let Some(mut attribute) = set.enter(SEQUENCE) {
            if attribute.take(OBJECT_ID) == Some(COMMON_NAME) {
                let (_, text) = attribute.next()?;
                found = std::str::from_utf8(text).ok().map(str::to_owned);
            }
        }
    }
    found
}

/// A list of revoked certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RevocationList {
    pub(super) serials: HashSet<Vec<u8>>,
    /// When the next list was promised, in seconds since 1970.
    pub(super) next_update: Option<i64>,
}

impl RevocationList {
    /// Reads a list of version 1 or 2.
    pub(super) fn of(list: &[u8]) -> Option<Self> {
        let mut fields = Der(list).enter(SEQUENCE)?.enter(SEQUENCE)?;
        fields.take(INTEGER); // version
        fields.take(SEQUENCE)?; // algorithm
        fields.take(SEQUENCE)?; // issuer
        fields.time()?;
        let mut ahead = fields;
        let next_update = ahead.time();
        if next_update.is_some() {
            fields = ahead;
        }
        let mut serials = HashSet::new();
        if let Some(mut entries) = fields.enter(SEQUENCE) {
            while !entries.0.is_empty() {
                serials.insert(serial(entries.enter(SEQUENCE)?.take(INTEGER)?));
            }
        }
        Some(Self { serials, next_update })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 22), 20_779),
            ((9999, 12, 31), 2_932_896),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), days, "{date:?}");
        }
    }

    #[test]
    fn times_are_read() {
        let time = |tag: u8, text: &str| {
            let element = [&[tag, text.len() as u8], text.as_bytes()].concat();
            Der(&element).time()
        };
        assert_eq!(time(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(time(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(time(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        for bad in ["", "Z", "70010100000Z", "7001010000010", "70010100000\u{e9}Z"] {
            assert_eq!(time(UTC_TIME, bad), None, "{bad}");
        }
        assert_eq!(time(INTEGER, "700101000001Z"), None);
    }

    #[test]
    fn lengths_beyond_the_end_are_refused() {
        for bytes in [&[][..], &[0x30], &[0x30, 1], &[0x30, 0x80], &[0x30, 0x82, 1], &[0x30, 0x85, 0, 0, 0, 0, 1, 0]] {
            assert!(Der(bytes).next().is_none(), "{bytes:?}");
            assert!(CertFacts::of(bytes).is_none() && RevocationList::of(bytes).is_none(), "{bytes:?}");
        }
        assert_eq!(Der(&[2, 1, 7, 9]).next(), Some((2, &[7][..])));
    }

    #[test]
    fn a_certificate_says_who_it_is() {
        let mut params =
            rcgen::CertificateParams::new(["a.example".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "somebody");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "cleat");
        params.serial_number = Some(vec![0, 0x12, 0xab].into());
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let facts = CertFacts::of(certificate.der()).unwrap();
        assert_eq!(
            facts,
            CertFacts {
                serial: vec![0x12, 0xab],
                common_name: Some("somebody".to_owned()),
                dns_names: vec!["a.example".to_owned()],
                addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
                not_after: 2_524_608_000,
            }
        );
        assert_eq!(facts.serial_text(), "12ab");
        for end in 0..certificate.der().len() {
            assert!(CertFacts::of(&certificate.der()[..end]).is_none(), "cut at {end}");
        }
    }

    /// `openssl ca -gencrl` writes this version when its settings have no `crl_extensions`.
    #[test]
    fn lists_of_version_1_are_read() {
        let entry = |serial: u8| [&[SEQUENCE, 18, INTEGER, 1, serial, UTC_TIME, 13][..], b"260101000000Z"].concat();
        let entries = [entry(5), entry(7)].concat();
        let tbs = [
            &[SEQUENCE, 0, SEQUENCE, 0, UTC_TIME, 13][..],
            b"260101000000Z",
            &[UTC_TIME, 13],
            b"270101000000Z",
            &[SEQUENCE, entries.len() as u8],
            &entries,
        ]
        .concat();
        let list = [&[SEQUENCE, tbs.len() as u8 + 2, SEQUENCE, tbs.len() as u8][..], &tbs].concat();
        let read = RevocationList::of(&list).unwrap();
        assert_eq!(read.serials, HashSet::from([vec![5], vec![7]]));
        assert_eq!(read.next_update, Some(1_798_761_600));
    }
}
