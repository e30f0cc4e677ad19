//! Writing a database in one pass.
//!
//! Rows come in order, so a page is complete when the next row does not fit any more; then it is written, and its first key and its
//! place go into the page above, which is complete some time later. The metas come last: a file that was not finished is none.
//! A branch is never left with a single child: the last child of a full page moves on to the next one.

use super::BRANCH;
use super::BUCKET_BYTES;
use super::ELEMENT_BYTES;
use super::FREELIST;
use super::HEADER_BYTES;
use super::IS_BUCKET;
use super::LEAF;
use super::META;
use super::Meta;
use super::PAGE_BYTES;
use super::header;
use crate::disk::DiskFile;
use crate::error::Error;

/// Pages that are there before the first row: two metas and a list of free pages, of which there are none.
const FIRST_PAGES: u64 = 3;
const FREELIST_PAGE: u64 = 2;

/// bbolt keeps a bucket in its row if it is at most this large.
const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;

/// How much is written at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// A database on its way.
pub struct Writer<'f> {
    pages: Pages<'f>,
    root: Tree,
    open: Option<(Vec<u8>, Tree)>,
}

/// What has been written so far, page after page.
struct Pages<'f> {
    file: &'f mut dyn DiskFile,
    /// Where the buffer goes.
    at: u64,
    buffer: Vec<u8>,
    next: u64,
}

impl Pages<'_> {
    /// Writes a page, or several if it is larger, and says where.
    fn append(&mut self, flags: u16, elements: &[Element]) -> Result<u64, Error> {
        let (id, begin) = (self.next, self.buffer.len());
        let bytes = HEADER_BYTES + elements.iter().map(Element::bytes).sum::<usize>();
        let run = bytes.div_ceil(PAGE_BYTES);
        let overflow = u32::try_from(run - 1).map_err(|_| Error::Damaged("a row is too large".into()))?;
        self.buffer.extend(header(id, flags, elements.len(), overflow));
        encode(flags, elements, &mut self.buffer)?;
        self.buffer.resize(begin + run * PAGE_BYTES, 0);
        self.next += run as u64;
        if self.buffer.len() >= BUFFER_BYTES { self.flush().map(|()| id) } else { Ok(id) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file.write_at(self.at, &self.buffer)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// An element of a page; in a branch, `value` is empty and `child` the page below.
struct Element {
    flags: u32,
    key: Vec<u8>,
    value: Vec<u8>,
    child: u64,
}

impl Element {
    fn bytes(&self) -> usize {
        ELEMENT_BYTES + self.key.len() + self.value.len()
    }
}

/// Writes elements and what they point to, behind a page's head.
fn encode(flags: u16, elements: &[Element], out: &mut Vec<u8>) -> Result<(), Error> {
    let small = |n: usize| u32::try_from(n).map_err(|_| Error::Damaged("a row is too large".into()));
    let mut data = elements.len() * ELEMENT_BYTES;
    for (n, element) in elements.iter().enumerate() {
        // A place is counted from where its own element begins.
        let distance = small(data - n * ELEMENT_BYTES)?;
        let (key, value) = (small(element.key.len())?, small(element.value.len())?);
        if flags == BRANCH {
            [distance, key].iter().for_each(|word| out.extend(word.to_le_bytes()));
            out.extend(element.child.to_le_bytes());
        } else {
            [element.flags, distance, key, value].iter().for_each(|word| out.extend(word.to_le_bytes()));
        }
        data += element.key.len() + element.value.len();
    }
    for element in elements {
        out.extend(&element.key);
        out.extend(&element.value);
    }
    Ok(())
}

/// A page that is being filled.
#[derive(Default)]
struct Level {
    elements: Vec<Element>,
    bytes: usize,
}

impl Level {
    fn has_room(&self, element: &Element) -> bool {
        HEADER_BYTES + self.bytes + element.bytes() <= PAGE_BYTES
    }

    fn push(&mut self, element: Element) {
        self.bytes += element.bytes();
        self.elements.push(element);
    }

    /// Writes the page, and returns the element that leads to it.
    fn close(&mut self, flags: u16, pages: &mut Pages<'_>) -> Result<Element, Error> {
        let child = pages.append(flags, &self.elements)?;
        let key = self.elements.first_mut().map(|first| std::mem::take(&mut first.key)).unwrap_or_default();
        self.elements.clear();
        self.bytes = 0;
        Ok(Element { flags: 0, key, value: Vec::new(), child })
    }
}

/// A bucket that is being filled: the rightmost page of each height.
#[derive(Default)]
struct Tree {
    leaf: Level,
    branches: Vec<Level>,
    last: Option<Vec<u8>>,
}

impl Tree {
    fn put(&mut self, element: Element, pages: &mut Pages<'_>) -> Result<(), Error> {
        match &mut self.last {
            Some(last) if *last >= element.key => {
                return Err(Error::Damaged("rows of a snapshot come out of order".into()));
            }
            Some(last) => last.clone_from(&element.key),
            None => self.last = Some(element.key.clone()),
        }
        if !self.leaf.elements.is_empty() && !self.leaf.has_room(&element) {
            let up = self.leaf.close(LEAF, pages)?;
            self.lift(0, up, pages)?;
        }
        self.leaf.push(element);
        Ok(())
    }

    /// Adds the way to a page that was written to the branch above it.
    fn lift(&mut self, height: usize, element: Element, pages: &mut Pages<'_>) -> Result<(), Error> {
        if self.branches.len() == height {
            self.branches.push(Level::default());
        }
        let level = &mut self.branches[height];
        if !level.has_room(&element) && level.elements.len() >= 3 {
            let kept = level.elements.pop().expect("at least three");
            let up = level.close(BRANCH, pages)?;
            level.push(kept);
            level.push(element);
            return self.lift(height + 1, up, pages);
        }
        level.push(element);
        Ok(())
    }

    /// Writes what is left, and returns the root page.
    fn finish(mut self, pages: &mut Pages<'_>) -> Result<u64, Error> {
        let up = self.leaf.close(LEAF, pages)?;
        if self.branches.is_empty() {
            return Ok(up.child);
        }
        self.lift(0, up, pages)?;
        let mut height = 0;
        loop {
            let level = &mut self.branches[height];
            let up = level.close(BRANCH, pages)?;
            height += 1;
            if self.branches.len() == height {
                return Ok(up.child);
            }
            self.lift(height, up, pages)?;
        }
    }

    /// The value of the bucket's row: where its root is, or all of it.
    fn into_value(self, pages: &mut Pages<'_>) -> Result<Vec<u8>, Error> {
        let inline = self.branches.is_empty() && HEADER_BYTES + self.leaf.bytes <= INLINE_BYTES_MAX;
        let mut value = vec![0; BUCKET_BYTES];
        if inline {
            value.extend(header(0, LEAF, self.leaf.elements.len(), 0));
            encode(LEAF, &self.leaf.elements, &mut value)?;
        } else {
            let root = self.finish(pages)?;
            value[..8].copy_from_slice(&root.to_le_bytes());
        }
        Ok(value)
    }
}

impl<'f> Writer<'f> {
    /// Begins a database in an empty file.
    #[must_use]
    pub fn new(file: &'f mut dyn DiskFile) -> Writer<'f> {
        let at = FIRST_PAGES * PAGE_BYTES as u64;
        let pages = Pages { file, at, buffer: Vec::with_capacity(2 * BUFFER_BYTES), next: FIRST_PAGES };
        Writer { pages, root: Tree::default(), open: None }
    }

    /// Ends the bucket before, and begins the next one. Names come in order.
    ///
    /// # Errors
    /// [`Error::Storage`] from the disk, [`Error::Damaged`] if the order is broken.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.end_bucket()?;
        self.open = Some((name.to_owned(), Tree::default()));
        Ok(())
    }

    /// Adds a row to the bucket that was begun last. Keys come in order and are not empty.
    ///
    /// # Errors
    /// As [`Writer::bucket`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let Some((_, tree)) = &mut self.open else {
            return Err(Error::Damaged("a row of a snapshot stands outside of any bucket".into()));
        };
        let element = Element { flags: 0, key: key.to_owned(), value: value.to_owned(), child: 0 };
        tree.put(element, &mut self.pages)
    }

    fn end_bucket(&mut self) -> Result<(), Error> {
        let Some((key, tree)) = self.open.take() else { return Ok(()) };
        let value = tree.into_value(&mut self.pages)?;
        self.root.put(Element { flags: IS_BUCKET, key, value, child: 0 }, &mut self.pages)
    }

    /// Completes the database and returns its size in bytes. Does not sync.
    ///
    /// # Errors
    /// As [`Writer::bucket`].
    pub fn finish(mut self) -> Result<u64, Error> {
        self.end_bucket()?;
        let Writer { mut pages, root, .. } = self;
        let root = root.finish(&mut pages)?;
        pages.flush()?;
        let mut first = Vec::with_capacity(FIRST_PAGES as usize * PAGE_BYTES);
        for transaction in [0, 1] {
            let meta =
                Meta { page_bytes: PAGE_BYTES as u32, root, freelist: FREELIST_PAGE, pages: pages.next, transaction };
            first.extend(header(transaction, META, 0, 0));
            first.extend(meta.encode());
            first.resize((transaction as usize + 1) * PAGE_BYTES, 0);
        }
        first.extend(header(FREELIST_PAGE, FREELIST, 0, 0));
        first.resize(FIRST_PAGES as usize * PAGE_BYTES, 0);
        pages.file.write_at(0, &first)?;
        Ok(pages.next * PAGE_BYTES as u64)
    }
}
