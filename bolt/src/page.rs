//! bbolt's layout: page headers, the two meta pages, and the elements of branch and leaf pages.
//!
//! All integers are little endian (bbolt writes the byte order of the machine; etcd supports no other).
//!
//! ```text
//! header    id u64, flags u16, count u16, overflow u32
//! meta      magic u32, version u32, page size u32, flags u32, root u64, sequence u64, freelist u64, pages u64, txid u64, FNV-1a u64
//! branch    count x (position u32, key length u32, child u64), then keys
//! leaf      count x (flags u32, position u32, key length u32, value length u32), then keys and values
//! freelist  count x page u64; a count of 65535 means that the first one is the count
//! bucket    root u64, sequence u64; a root of 0 means that the leaf page follows (an inline bucket)
//! ```
//!
//! A position counts from its own element. A page with `overflow` n is n + 1 pages long.

use crate::error::{Damage, MetaFault};
use bytes::{Buf, BufMut, Bytes};
use fnv::FnvHasher;
use std::hash::Hasher;

pub(crate) const HEADER: usize = 16;
/// Of branch pages as of leaf pages.
pub(crate) const ELEMENT: usize = 16;
pub(crate) const BUCKET_HEADER: usize = 16;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;

/// The number of a page that is a value in its parent's.
pub(crate) const INLINE: u64 = 0;

/// The flag of a leaf's element that describes a bucket.
pub(crate) const BUCKET: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The fields of a meta page that its checksum covers.
const META_FIELDS: usize = 56;
/// Header, fields and checksum of a meta page.
pub(crate) const META_BYTES: usize = HEADER + META_FIELDS + 8;
/// Stands for a freelist that was not written; the free pages are then those that nothing refers to.
pub(crate) const NO_FREELIST: u64 = u64::MAX;

/// Sizes that bbolt looks for.
pub(crate) const MIN_PAGE_SIZE: u32 = 1 << 10;
pub(crate) const MAX_PAGE_SIZE: u32 = 1 << 24;

/// The start of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Self {
        let mut rest = &bytes[..];
        Self { id: rest.get_u64_le(), flags: rest.get_u16_le(), count: rest.get_u16_le(), overflow: rest.get_u32_le() }
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.put_u64_le(self.id);
        out.put_u16_le(self.flags);
        out.put_u16_le(self.count);
        out.put_u32_le(self.overflow);
    }
}

/// One of the two descriptions of the database; the one of the later transaction counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: u32,
    /// Root page of the bucket of buckets.
    pub(crate) root: u64,
    /// [`NO_FREELIST`], or the first page of the list.
    pub(crate) freelist: u64,
    /// Pages that the database has, used or free.
    pub(crate) pages: u64,
    pub(crate) txid: u64,
}

impl Meta {
    pub(crate) fn decode(page: u64, bytes: &[u8; META_BYTES]) -> Result<Self, MetaFault> {
        let (header, fields) = bytes.split_at(HEADER);
        let mut rest = fields;
        let magic = rest.get_u32_le();
        if magic != MAGIC {
            return Err(MetaFault::Magic(magic));
        }
        let version = rest.get_u32_le();
        if version != VERSION {
            return Err(MetaFault::Version(version));
        }
        let page_size = rest.get_u32_le();
        rest.advance(4);
        let root = rest.get_u64_le();
        rest.advance(8);
        let (freelist, pages, txid) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
        if rest.get_u64_le() != checksum(&fields[..META_FIELDS]) {
            return Err(MetaFault::Checksum);
        }
        let mut rest = header;
        let (id, flags) = (rest.get_u64_le(), rest.get_u16_le());
        if id != page || flags != META {
            return Err(MetaFault::Header { id, flags });
        }
        if !page_size.is_power_of_two() || !(MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&page_size) {
            return Err(MetaFault::PageSize(page_size));
        }
        Ok(Self { page_size, root, freelist, pages, txid })
    }

    /// The page without what fills it up.
    pub(crate) fn encode(&self, page: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(META_BYTES);
        Header { id: page, flags: META, count: 0, overflow: 0 }.encode(&mut out);
        out.put_u32_le(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(self.page_size);
        out.put_u32_le(0);
        out.put_u64_le(self.root);
        out.put_u64_le(0);
        out.put_u64_le(self.freelist);
        out.put_u64_le(self.pages);
        out.put_u64_le(self.txid);
        let sum = checksum(&out[HEADER..]);
        out.put_u64_le(sum);
        out
    }
}

pub(crate) fn checksum(fields: &[u8]) -> u64 {
    let mut hash = FnvHasher::default();
    hash.write(fields);
    hash.finish()
}

/// What the elements of a page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Branch,
    Leaf,
}

/// A branch or leaf page with its overflow, whose elements were all checked: the rest of the crate cannot read
/// outside of it.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) page: u64,
    pub(crate) kind: Kind,
    count: usize,
    bytes: Bytes,
}

/// Where an element's bytes are.
struct Place {
    key: std::ops::Range<usize>,
    /// Empty for a branch.
    value: std::ops::Range<usize>,
    flags: u32,
    child: u64,
}

impl Node {
    /// Checks every element.
    pub(crate) fn parse(page: u64, bytes: Bytes) -> Result<Self, Damage> {
        let header = bytes.first_chunk().map(Header::decode).ok_or(Damage::Short)?;
        if header.id != page {
            return Err(Damage::OtherId { found: header.id });
        }
        let kind = match header.flags {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            flags => return Err(Damage::Kind { flags }),
        };
        let node = Self { page, kind, count: usize::from(header.count), bytes };
        // bbolt leaves no bytes between the elements and none between their bytes. So nearly every wrong length or
        // count is seen here, and a page is never more to read than its size.
        let mut end = HEADER + node.count * ELEMENT;
        if end > node.bytes.len() {
            return Err(Damage::Elements { count: u64::from(header.count) });
        }
        for index in 0..node.count {
            let place = node.place(index).ok_or(Damage::Element { index })?;
            if place.key.start != end {
                return Err(Damage::Element { index });
            }
            if place.key.is_empty() {
                return Err(Damage::EmptyKey { index });
            }
            end = place.value.end;
        }
        if page == INLINE && end != node.bytes.len() {
            return Err(Damage::Elements { count: u64::from(header.count) });
        }
        Ok(node)
    }

    /// None when the element reaches outside of the page.
    fn place(&self, index: usize) -> Option<Place> {
        let at = HEADER + index * ELEMENT;
        let mut element = self.bytes.get(at..at + ELEMENT)?;
        let (flags, position, key, value, child);
        match self.kind {
            Kind::Branch => {
                (position, key) = (element.get_u32_le(), element.get_u32_le());
                child = element.get_u64_le();
                (flags, value) = (0, 0);
            }
            Kind::Leaf => {
                flags = element.get_u32_le();
                (position, key, value) = (element.get_u32_le(), element.get_u32_le(), element.get_u32_le());
                child = 0;
            }
        }
        let start = at.checked_add(position as usize)?;
        let middle = start.checked_add(key as usize)?;
        let end = middle.checked_add(value as usize)?;
        (end <= self.bytes.len()).then_some(Place { key: start..middle, value: middle..end, flags, child })
    }

    fn checked(&self, index: usize) -> Place {
        self.place(index).expect("invariant: every element was checked")
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn key(&self, index: usize) -> Bytes {
        self.bytes.slice(self.checked(index).key)
    }

    /// Key, value and flags of a leaf's element.
    pub(crate) fn entry(&self, index: usize) -> (Bytes, Bytes, u32) {
        let place = self.checked(index);
        (self.bytes.slice(place.key), self.bytes.slice(place.value), place.flags)
    }

    /// The page below a branch's element.
    pub(crate) fn child(&self, index: usize) -> u64 {
        self.checked(index).child
    }
}

/// Where the tree of a bucket begins.
#[derive(Clone)]
pub(crate) enum Root {
    Page(u64),
    Inline(Node),
}

impl Root {
    /// Reads the value that describes a bucket.
    pub(crate) fn decode(value: &Bytes) -> Result<Self, Damage> {
        let mut rest = value.get(..BUCKET_HEADER).ok_or(Damage::Short)?;
        match rest.get_u64_le() {
            0 => {
                let node = Node::parse(INLINE, value.slice(BUCKET_HEADER..))?;
                match node.kind {
                    Kind::Leaf => Ok(Self::Inline(node)),
                    Kind::Branch => Err(Damage::Kind { flags: BRANCH }),
                }
            }
            page => Ok(Self::Page(page)),
        }
    }
}
