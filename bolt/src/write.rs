//! Writes a new database from entries in key order, page after page.
//!
//! Every level of a tree collects elements until they fill a page; the page is written, and the level above gets its
//! first key. So memory holds one page's worth of each level, whatever the file's size. There are no free pages.
//! A bucket that fits into a quarter of a page is put into its parent, as bbolt does it.

use crate::database::{MAX_BUCKETS, digest};
use crate::error::{Error, WriteFault};
use crate::page::{BRANCH, BUCKET, BUCKET_HEADER, ELEMENT, FREELIST, HEADER, Header, LEAF, Meta};
use bytes::{BufMut, Bytes};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// bbolt's limit.
pub const MAX_KEY_BYTES: usize = 32_768;
/// Far more than a request of etcd may have. A page holds up to four large values, and a reader takes a page into
/// memory as a whole.
pub const MAX_VALUE_BYTES: usize = 100 << 20;
/// Sizes that the offsets inside a page and the counts of its elements have room for.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1 << 12..=1 << 16;
/// Elements that a page has at least, but the root: bbolt does not merge a branch with one child.
const MIN_ELEMENTS: usize = 2;

/// How a file is written.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Bytes of a page: a power of two from 4096, the default, to 65536.
    pub page_size: u32,
    /// Put the SHA-256 of all bytes behind them, as `etcdctl snapshot restore` asks for. The default.
    pub digest: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { page_size: 4096, digest: true }
    }
}

/// A database that is being written. The file gets its name when it is complete and durable, and is removed when
/// the writer is dropped before.
pub struct Writer {
    pages: Pages,
    path: PathBuf,
    digest: bool,
    /// Values that describe the finished buckets.
    buckets: BTreeMap<Bytes, Vec<u8>>,
    current: Option<(Bytes, Tree)>,
}

/// The pages written so far.
struct Pages {
    file: BufWriter<NamedTempFile>,
    /// Where the file is going to be, for messages.
    path: PathBuf,
    page_size: usize,
    next: u64,
}

impl Writer {
    /// Begins a file that must not exist yet.
    ///
    /// # Errors
    /// When it does, or the directory cannot be written.
    pub fn create(path: &Path, options: &WriteOptions) -> Result<Self, Error> {
        let io = Error::io(path);
        let page_size = options.page_size;
        if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
            return Err(WriteFault::PageSize(page_size).into());
        }
        // Told now, and not after hours; the end of finish() makes sure of it.
        if path.try_exists().map_err(&io)? {
            return Err(io(std::io::ErrorKind::AlreadyExists.into()));
        }
        let file = tempfile::Builder::new().prefix(".bolt-").tempfile_in(directory(path)).map_err(&io)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        // The meta pages are written last.
        file.write_all(&vec![0; 2 * page_size as usize]).map_err(&io)?;
        let pages = Pages { file, path: path.to_owned(), page_size: page_size as usize, next: 2 };
        let digest = options.digest;
        Ok(Self { pages, path: path.to_owned(), digest, buckets: BTreeMap::new(), current: None })
    }

    /// Begins a bucket, and ends the one before it. Buckets may come in any order.
    ///
    /// # Errors
    /// When there was one with the name, or the file cannot be written.
    pub fn bucket(&mut self, name: &str) -> Result<(), Error> {
        self.end_bucket()?;
        check_entry(name.as_bytes(), &[])?;
        let name = Bytes::copy_from_slice(name.as_bytes());
        if self.buckets.contains_key(&name) {
            return Err(WriteFault::Twice.into());
        }
        if self.buckets.len() == MAX_BUCKETS {
            return Err(WriteFault::TooManyBuckets { limit: MAX_BUCKETS }.into());
        }
        self.current = Some((name, Tree::default()));
        Ok(())
    }

    /// Adds an entry to the bucket, behind all that it has.
    ///
    /// # Errors
    /// When the key is not behind the last one, key or value are too long, or the file cannot be written.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        check_entry(key, value)?;
        let (_, tree) = self.current.as_mut().ok_or(WriteFault::NoBucket)?;
        tree.put(&mut self.pages, key, value, 0)
    }

    /// Writes what is left, makes the file durable and gives it its name.
    ///
    /// # Errors
    /// When the file cannot be written, or another one has its name by now.
    pub fn finish(mut self) -> Result<(), Error> {
        self.end_bucket()?;
        let mut tree = Tree::default();
        for (name, value) in &self.buckets {
            tree.put(&mut self.pages, name, value, BUCKET)?;
        }
        let root = tree.finish(&mut self.pages)?;
        let freelist = self.pages.next;
        self.pages.write(FREELIST, 0, &[])?;

        let io = Error::io(&self.path);
        let Pages { file, page_size, next: pages, .. } = self.pages;
        let file = file.into_inner().map_err(|error| io(error.into_error()))?;
        let meta = Meta { page_size: page_size as u32, root, freelist, pages, txid: 1 };
        // bbolt writes transaction n into page n % 2.
        for (page, txid) in [(0, 2), (1, 1)] {
            let bytes = Meta { txid, ..meta }.encode(page);
            file.as_file().write_all_at(&bytes, page * page_size as u64).map_err(&io)?;
        }
        if self.digest {
            let len = pages * page_size as u64;
            let digest = digest(file.as_file(), len).map_err(&io)?;
            file.as_file().write_all_at(&digest, len).map_err(&io)?;
        }
        file.as_file().sync_all().map_err(&io)?;
        file.persist_noclobber(&self.path).map_err(|error| io(error.error))?;
        let directory = directory(&self.path);
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(Error::io(directory))
    }

    fn end_bucket(&mut self) -> Result<(), Error> {
        let Some((name, tree)) = self.current.take() else { return Ok(()) };
        let mut value = Vec::new();
        match tree.inline(self.pages.page_size / 4) {
            Ok(page) => {
                value.put_bytes(0, BUCKET_HEADER);
                value.extend(page);
            }
            Err(tree) => {
                value.put_u64_le(tree.finish(&mut self.pages)?);
                value.put_u64_le(0);
            }
        }
        self.buckets.insert(name, value);
        Ok(())
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).field("pages", &self.pages.next).finish_non_exhaustive()
    }
}

/// The directory that a file is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn check_entry(key: &[u8], value: &[u8]) -> Result<(), WriteFault> {
    if key.is_empty() {
        return Err(WriteFault::EmptyKey);
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(WriteFault::LargeKey { len: key.len(), limit: MAX_KEY_BYTES });
    }
    if value.len() > MAX_VALUE_BYTES {
        return Err(WriteFault::LargeValue { len: value.len(), limit: MAX_VALUE_BYTES });
    }
    Ok(())
}

impl Pages {
    /// Writes a page, with overflow as its body needs, and says which one it is.
    fn write(&mut self, flags: u16, count: usize, body: &[u8]) -> Result<u64, Error> {
        let id = self.next;
        let span = (HEADER + body.len()).div_ceil(self.page_size);
        let mut header = Vec::with_capacity(HEADER);
        Header { id, flags, count: count as u16, overflow: span as u32 - 1 }.encode(&mut header);
        let rest = span * self.page_size - HEADER - body.len();
        let written = [&header, body, &vec![0; rest]].into_iter().try_for_each(|part| self.file.write_all(part));
        written.map_err(Error::io(&self.path))?;
        self.next += span as u64;
        Ok(id)
    }

    /// Bytes up to which a page is filled. etcd's defragmentation leaves a tenth as well.
    fn full(&self) -> usize {
        self.page_size / 10 * 9
    }
}

/// An element of a page to be written.
struct Element {
    key: Bytes,
    content: Content,
}

enum Content {
    Entry { value: Bytes, flags: u32 },
    Child(u64),
}

impl Element {
    fn size(&self) -> usize {
        let value = match &self.content {
            Content::Entry { value, .. } => value.len(),
            Content::Child(_) => 0,
        };
        ELEMENT + self.key.len() + value
    }
}

/// A tree, from the leaves up.
#[derive(Default)]
struct Tree {
    levels: Vec<Level>,
    last: Bytes,
}

/// The elements of one level that are not written yet.
#[derive(Default)]
struct Level {
    elements: Vec<Element>,
    /// How many of them make the next page, and their size.
    head: usize,
    head_bytes: usize,
    has_pages: bool,
}

impl Level {
    /// Counts what the next page takes of the elements.
    fn measure(&mut self, full: usize) {
        while let Some(element) = self.elements.get(self.head) {
            let bytes = self.head_bytes + element.size();
            if self.head >= MIN_ELEMENTS && HEADER + bytes > full {
                break;
            }
            (self.head, self.head_bytes) = (self.head + 1, bytes);
        }
    }

    /// The next page, once enough elements are behind it that the last page has them, too.
    fn take_page(&mut self, full: usize) -> Option<Vec<Element>> {
        self.measure(full);
        if self.elements.len() < self.head + MIN_ELEMENTS {
            return None;
        }
        let page = self.elements.drain(..self.head).collect();
        (self.head, self.head_bytes, self.has_pages) = (0, 0, true);
        Some(page)
    }
}

impl Tree {
    fn put(&mut self, pages: &mut Pages, key: &[u8], value: &[u8], flags: u32) -> Result<(), Error> {
        if *key <= *self.last {
            return Err(WriteFault::Order.into());
        }
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        self.last = key.clone();
        self.push(pages, 0, Element { key, content: Content::Entry { value, flags } })
    }

    /// Adds an element to a level, and what follows from it to those above.
    fn push(&mut self, pages: &mut Pages, level: usize, element: Element) -> Result<(), Error> {
        let mut next = Some(element);
        for level in level.. {
            let Some(element) = next.take() else { break };
            if level == self.levels.len() {
                self.levels.push(Level::default());
            }
            let level = &mut self.levels[level];
            level.elements.push(element);
            if let Some(page) = level.take_page(pages.full()) {
                next = Some(write_page(pages, page)?);
            }
        }
        Ok(())
    }

    /// The only page as an inline bucket has it, if it is no larger than the limit.
    fn inline(mut self, limit: usize) -> Result<Vec<u8>, Self> {
        let Some(leaf) = self.levels.first_mut() else { return Ok(encode_inline(&[])) };
        let size = HEADER + leaf.elements.iter().map(Element::size).sum::<usize>();
        if leaf.has_pages || size > limit {
            return Err(self);
        }
        Ok(encode_inline(&leaf.elements))
    }

    /// Writes what is left and says which page is the root.
    fn finish(mut self, pages: &mut Pages) -> Result<u64, Error> {
        let mut level = 0;
        loop {
            let Some(last) = self.levels.get_mut(level) else {
                // A tree without entries is an empty leaf.
                return pages.write(LEAF, 0, &[]);
            };
            let element = write_page(pages, std::mem::take(&mut last.elements))?;
            let has_pages = last.has_pages;
            level += 1;
            match element.content {
                Content::Child(page) if !has_pages => return Ok(page),
                _ => self.push(pages, level, element)?,
            }
        }
    }
}

/// Writes a page, and gives the element that leads to it.
fn write_page(pages: &mut Pages, elements: Vec<Element>) -> Result<Element, Error> {
    let (flags, body) = encode_elements(&elements);
    let page = pages.write(flags, elements.len(), &body)?;
    let first = elements.into_iter().next().expect("invariant: a page that is written has elements");
    Ok(Element { key: first.key, content: Content::Child(page) })
}

fn encode_inline(elements: &[Element]) -> Vec<u8> {
    let mut out = Vec::new();
    Header { id: 0, flags: LEAF, count: elements.len() as u16, overflow: 0 }.encode(&mut out);
    out.extend(encode_elements(elements).1);
    out
}

/// The elements, then their bytes; and whether it is a branch or a leaf.
fn encode_elements(elements: &[Element]) -> (u16, Vec<u8>) {
    let table = elements.len() * ELEMENT;
    let mut out = Vec::with_capacity(elements.iter().map(Element::size).sum());
    let (mut kind, mut bytes) = (LEAF, table);
    for (index, Element { key, content }) in elements.iter().enumerate() {
        let position = (bytes - index * ELEMENT) as u32;
        bytes += key.len();
        match content {
            Content::Entry { value, flags } => {
                out.put_u32_le(*flags);
                out.put_u32_le(position);
                out.put_u32_le(key.len() as u32);
                out.put_u32_le(value.len() as u32);
                bytes += value.len();
            }
            Content::Child(page) => {
                kind = BRANCH;
                out.put_u32_le(position);
                out.put_u32_le(key.len() as u32);
                out.put_u64_le(*page);
            }
        }
    }
    for Element { key, content } in elements {
        out.extend_from_slice(key);
        if let Content::Entry { value, .. } = content {
            out.extend_from_slice(value);
        }
    }
    (kind, out)
}
