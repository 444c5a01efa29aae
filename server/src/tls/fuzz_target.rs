//! Fuzz target: certificates and revocation lists.

use super::der::{CertFacts, RevocationList};
use ::fuzz::{Memory, Target};

/// Which of the two, and the bytes.
pub(crate) const CERTIFICATE: Target =
    Target { name: "certificate", seeds, run, memory: Memory { base: 1 << 16, per_byte: 256 } };

fn run(input: &[u8]) {
    let Some((&kind, bytes)) = input.split_first() else { return };
    if kind & 1 == 0 {
        if let Some(facts) = CertFacts::of(bytes) {
            assert_eq!(facts.serial_text().len(), 2 * facts.serial.len());
        }
    } else if let Some(list) = RevocationList::of(bytes) {
        assert!(list.serials.len() <= bytes.len(), "a serial number takes bytes");
    }
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    match contents.len() {
        len @ 0..=0x7f => [&[tag, len as u8], &*contents].concat(),
        len => [&[tag, 0x82, (len >> 8) as u8, len as u8], &*contents].concat(),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let sequence = |parts: &[&[u8]]| element(0x30, parts);
    let serial = element(0x02, &[&[0, 0x9a, 7]]);
    let empty = sequence(&[]);
    let times = [element(0x17, &[b"250101000000Z"]), element(0x18, &[b"20500101000000Z"])];
    let name = sequence(&[&element(0x06, &[&[0x55, 4, 3]]), &element(0x0c, &[b"somebody"])]);
    let subject = sequence(&[&element(0x31, &[&name])]);
    let names =
        sequence(&[&element(0x82, &[b"a.example"]), &element(0x87, &[&[127, 0, 0, 1]]), &element(0x87, &[&[0; 16]])]);
    let alternatives = sequence(&[&element(0x06, &[&[0x55, 0x1d, 0x11]]), &element(0x04, &[&names])]);
    let extensions = element(0xa3, &[&sequence(&[&alternatives])]);
    let version = element(0xa0, &[&element(0x02, &[&[2]])]);
    let validity = sequence(&[&times[0], &times[1]]);
    let certificate =
        sequence(&[&sequence(&[&version, &serial, &empty, &empty, &validity, &subject, &empty, &extensions]), &empty]);
    let revoked = sequence(&[&sequence(&[&serial, &times[0]]), &sequence(&[&serial, &times[0]])]);
    let list =
        sequence(&[&sequence(&[&element(0x02, &[&[1]]), &empty, &empty, &times[0], &times[1], &revoked]), &empty]);
    vec![[&[0][..], &certificate].concat(), [&[1][..], &list].concat()]
}

#[cfg(test)]
mod tests {
    use super::{CertFacts, RevocationList, seeds};

    /// A seed that is refused reaches nothing.
    #[test]
    fn the_seeds_are_read() {
        let seeds = seeds();
        let facts = CertFacts::of(&seeds[0][1..]).unwrap();
        assert_eq!((facts.common_name.as_deref(), facts.addresses.len()), (Some("somebody"), 2));
        assert_eq!(facts.dns_names, ["a.example"]);
        let list = RevocationList::of(&seeds[1][1..]).unwrap();
        assert_eq!((list.serials.len(), list.next_update.is_some()), (1, true));
    }
}
