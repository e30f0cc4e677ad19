//! Reading a database that may be anything.
//!
//! Every number in the file is checked before it is used: page ids against the count of pages, places and lengths against
//! their page, keys against the key before. A page is read once at most, so a file that leads in circles ends.

use super::BRANCH;
use super::BUCKET_BYTES;
use super::ELEMENT_BYTES;
use super::HEADER_BYTES;
use super::IS_BUCKET;
use super::LEAF;
use super::META_BYTES;
use super::Meta;
use super::u32_at;
use super::u64_at;
use crate::disk::DiskFile;
use crate::error::Error;

/// Pages and buckets one inside the other; a tree of this height would have more pages than there are.
const DEPTH_MAX: usize = 64;

/// The most that one page and those that follow it are read as.
const PAGE_RUN_BYTES_MAX: u64 = 1 << 29;

/// How long bbolt looks for the second meta if the first is damaged: at 1 KiB, 2 KiB … 16 MiB.
const META_PLACES: u32 = 15;

/// A database, open for reading.
pub struct Reader {
    file: Box<dyn DiskFile>,
    page_bytes: u64,
    root: u64,
    pages: u64,
}

/// What a walk meets, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A bucket begins; what follows up to its [`Item::Leave`] is in it.
    Enter(&'a [u8]),
    /// A row of the innermost bucket.
    Row(&'a [u8], &'a [u8]),
    Leave,
}

fn damaged(what: impl Into<String>) -> Error {
    Error::Damaged(what.into())
}

impl Reader {
    /// Opens the database that the first `len` bytes of `file` are.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the reason if it is none, or not whole; [`Error::Storage`] if the file cannot be read.
    pub fn open(file: Box<dyn DiskFile>, len: u64) -> Result<Reader, Error> {
        let meta = newest_meta(file.as_ref(), len)?;
        let page_bytes = u64::from(meta.page_bytes);
        match meta.pages.checked_mul(page_bytes) {
            Some(bytes) if bytes <= len => {}
            _ => {
                return Err(damaged(format!(
                    "the file is cut short: {} pages of {page_bytes} bytes do not fit into {len}",
                    meta.pages
                )));
            }
        }
        Ok(Reader { file, page_bytes, root: meta.root, pages: meta.pages })
    }

    /// How large the database is: all its pages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * self.page_bytes
    }

    /// Visits all buckets and rows in key order. Memory: the pages from the root to the present row.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the page and what is wrong with it, [`Error::Storage`] if the file cannot be read, and
    /// whatever `visit` returns. What was visited before an error may be all wrong.
    pub fn walk(&self, visit: &mut dyn FnMut(Item<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let words = usize::try_from(self.pages.div_ceil(64)).map_err(|_| damaged("too many pages"))?;
        let mut walk = Walk { reader: self, seen: vec![0; words], inside: 0, visit };
        walk.tree(self.root, 0, &mut None)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Error> {
        let read = self.file.read_at(at, into)?;
        if read == into.len() { Ok(()) } else { Err(damaged("the file ended while it was read")) }
    }
}

/// The valid meta of the later transaction.
fn newest_meta(file: &dyn DiskFile, len: u64) -> Result<Meta, Error> {
    let at = |place: u64| -> Result<Result<Meta, &'static str>, Error> {
        let mut page = [0; HEADER_BYTES + META_BYTES];
        if len.saturating_sub(place) < page.len() as u64 {
            return Ok(Err("the file is too short"));
        }
        let read = file.read_at(place, &mut page)?;
        Ok(Meta::decode(&page[..read]))
    };
    let first = at(0)?;
    let second = match first {
        Ok(meta) => at(u64::from(meta.page_bytes))?.ok(),
        Err(_) => {
            let mut found = None;
            for place in (0..META_PLACES).map(|shift| 1024_u64 << shift) {
                found = found.or(at(place)?.ok().filter(|meta| u64::from(meta.page_bytes) == place));
            }
            found
        }
    };
    match (first, second) {
        (Ok(first), Some(second)) if second.transaction > first.transaction => Ok(second),
        (Ok(meta), _) | (Err(_), Some(meta)) => Ok(meta),
        (Err(why), None) => Err(damaged(format!("invalid database: {why}"))),
    }
}

struct Walk<'r, 'v> {
    reader: &'r Reader,
    /// One bit for each page that was read.
    seen: Vec<u64>,
    /// How many buckets the walk is inside of.
    inside: usize,
    visit: &'v mut dyn FnMut(Item<'_>) -> Result<(), Error>,
}

/// A page with those that follow it; or an inline one.
struct Page<'a> {
    /// Zero for an inline page.
    id: u64,
    flags: u16,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Page<'a> {
    fn parse(id: u64, bytes: &'a [u8]) -> Result<Page<'a>, Error> {
        if bytes.len() < HEADER_BYTES {
            return Err(damaged(format!("page {id}: too short")));
        }
        let [flags, count] = [8, 10].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let page = Page { id, flags, count: usize::from(count), bytes };
        if HEADER_BYTES + page.count * ELEMENT_BYTES > bytes.len() {
            return Err(page.bad("has more elements than room"));
        }
        Ok(page)
    }

    fn bad(&self, what: &str) -> Error {
        damaged(format!("page {} {what}", self.id))
    }

    /// Where element `n` stands.
    fn element(&self, n: usize) -> usize {
        HEADER_BYTES + n * ELEMENT_BYTES
    }

    /// `len` bytes, `distance` behind the place `from`.
    fn slice(&self, from: usize, distance: u32, skip: u32, len: u32) -> Result<&'a [u8], Error> {
        // 32-bit numbers, summed in 64 bits, cannot overflow.
        let begin = from as u64 + u64::from(distance) + u64::from(skip);
        let end = begin + u64::from(len);
        let inside = usize::try_from(begin).ok().zip(usize::try_from(end).ok());
        let data = self.element(self.count) as u64;
        let slice = inside.filter(|_| begin >= data).and_then(|(begin, end)| self.bytes.get(begin..end));
        slice.ok_or_else(|| self.bad("has an element that points outside"))
    }

    fn leaf(&self, n: usize) -> Result<(u32, &'a [u8], &'a [u8]), Error> {
        let at = self.element(n);
        let [flags, distance, key, value] = [0, 4, 8, 12].map(|field| u32_at(self.bytes, at + field));
        Ok((flags, self.slice(at, distance, 0, key)?, self.slice(at, distance, key, value)?))
    }

    fn branch(&self, n: usize) -> Result<u64, Error> {
        let at = self.element(n);
        let [distance, key] = [0, 4].map(|field| u32_at(self.bytes, at + field));
        self.slice(at, distance, 0, key)?;
        Ok(u64_at(self.bytes, at + 8))
    }
}

impl Walk<'_, '_> {
    /// Reads a page with those that follow it, for the first time.
    fn page(&mut self, id: u64) -> Result<Vec<u8>, Error> {
        let Reader { page_bytes, pages, .. } = *self.reader;
        let bad = |what: &str| damaged(format!("page {id} {what}"));
        if !(2..pages).contains(&id) {
            return Err(bad("is named, but lies outside of the database"));
        }
        let mut head = [0; HEADER_BYTES];
        self.reader.read(id * page_bytes, &mut head)?;
        if u64_at(&head, 0) != id {
            return Err(bad("calls itself another"));
        }
        let run = u64::from(u32_at(&head, 12)) + 1;
        if run > pages - id || run * page_bytes > PAGE_RUN_BYTES_MAX {
            return Err(bad("is longer than what there is"));
        }
        for page in id..id + run {
            let (word, bit) = (usize::try_from(page / 64).expect("the words were counted"), 1 << (page % 64));
            if self.seen[word] & bit != 0 {
                return Err(damaged(format!("page {page} is used twice")));
            }
            self.seen[word] |= bit;
        }
        let mut bytes = vec![0; usize::try_from(run * page_bytes).expect("below the limit")];
        self.reader.read(id * page_bytes, &mut bytes)?;
        Ok(bytes)
    }

    /// Walks the tree below a page. `last` is the key that was visited last in this bucket.
    fn tree(&mut self, id: u64, depth: usize, last: &mut Option<Vec<u8>>) -> Result<(), Error> {
        let bytes = self.page(id)?;
        let page = Page::parse(id, &bytes)?;
        if depth > DEPTH_MAX {
            return Err(page.bad("lies too deep"));
        }
        match page.flags {
            LEAF => self.leaf(&page, depth, last),
            BRANCH if page.count == 0 => Err(page.bad("is a branch that leads nowhere")),
            BRANCH => (0..page.count).try_for_each(|n| self.tree(page.branch(n)?, depth + 1, last)),
            flags => Err(page.bad(&format!("is neither branch nor leaf (flags {flags:#x})"))),
        }
    }

    fn leaf(&mut self, page: &Page<'_>, depth: usize, last: &mut Option<Vec<u8>>) -> Result<(), Error> {
        for n in 0..page.count {
            let (flags, key, value) = page.leaf(n)?;
            if last.as_ref().is_some_and(|last| last.as_slice() >= key) {
                return Err(page.bad("has keys out of order"));
            }
            match last {
                Some(last) => key.clone_into(last),
                None => *last = Some(key.to_owned()),
            }
            match flags {
                0 if self.inside == 0 => return Err(page.bad("has a row outside of any bucket")),
                0 => (self.visit)(Item::Row(key, value))?,
                IS_BUCKET => self.bucket(page, key, value, depth)?,
                _ => return Err(page.bad("has an element of an unknown kind")),
            }
        }
        Ok(())
    }

    fn bucket(&mut self, page: &Page<'_>, name: &[u8], value: &[u8], depth: usize) -> Result<(), Error> {
        if value.len() < BUCKET_BYTES {
            return Err(page.bad("has a bucket that is too short"));
        }
        (self.visit)(Item::Enter(name))?;
        self.inside += 1;
        match u64_at(value, 0) {
            0 => {
                let inline = Page::parse(0, &value[BUCKET_BYTES..])?;
                if inline.flags != LEAF || depth > DEPTH_MAX {
                    return Err(page.bad("has an inline bucket that is none"));
                }
                self.leaf(&inline, depth + 1, &mut None)?;
            }
            root => self.tree(root, depth + 1, &mut None)?,
        }
        self.inside -= 1;
        (self.visit)(Item::Leave)
    }
}
