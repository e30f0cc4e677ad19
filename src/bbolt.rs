//! bbolt's file format: what an etcd snapshot is, and what etcd keeps its data in.
//!
//! A database is pages of one size. Two of them are metas, of which the valid one with the higher transaction counts;
//! it names the root bucket, whose rows are buckets; a bucket is a tree of branch and leaf pages, its rows in key order.
//!
//! ```text
//! page 0  meta   txid 0 ─┐
//! page 1  meta   txid 1 ─┴─▶ root bucket: leaf  key ─▶ branch ─┬▶ leaf  row row row
//! page 2  freelist                              lease ─▶ leaf  └▶ leaf  row row
//! page 3  …                                     meta ─▶ (inline: the leaf stands in the row itself)
//! ```
//!
//! [`Reader`] walks a file once, in order, and believes nothing in it: any bytes are read or refused. [`Writer`] writes one in a
//! single pass from rows that come in order, and keeps one page of each level in memory. Changing a file in place is left
//! out: nobody here needs it.
//!
//! Source: bbolt `internal/common/{page,meta,bucket}.go`; contract-server 8.3.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::Item;
pub use read::Reader;
pub use write::Writer;

/// The size of the pages that we write: etcd's on every common machine.
pub const PAGE_BYTES: usize = 4096;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// A page's or an inline page's head: id, flags, count of elements, pages that follow it.
const HEADER_BYTES: usize = 16;
/// The fixed part of an element, in branch and leaf alike.
const ELEMENT_BYTES: usize = 16;
/// A bucket's value: its root page (0: inline) and its sequence.
const BUCKET_BYTES: usize = 16;
/// A meta up to its checksum, and with it.
const META_BODY_BYTES: usize = 56;
const META_BYTES: usize = 64;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;

/// The flag of a leaf's element that is a bucket.
const IS_BUCKET: u32 = 0x01;

/// What a meta says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    page_bytes: u32,
    root: u64,
    freelist: u64,
    /// How many pages the database has, free ones included.
    pages: u64,
    transaction: u64,
}

impl Meta {
    fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        let words = [MAGIC, VERSION, self.page_bytes, 0];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let words = [self.root, 0, self.freelist, self.pages, self.transaction];
        for (place, word) in bytes[16..META_BODY_BYTES].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = fnv(&bytes[..META_BODY_BYTES]);
        bytes[META_BODY_BYTES..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a meta that stands behind a page's head.
    fn decode(page: &[u8]) -> Result<Meta, &'static str> {
        let bytes = page.get(HEADER_BYTES..HEADER_BYTES + META_BYTES).ok_or("the file is too short")?;
        let (short, long) = (|at: usize| u32_at(bytes, at), |at: usize| u64_at(bytes, at));
        if short(0) != MAGIC {
            return Err("it does not begin as one");
        }
        if short(4) != VERSION {
            return Err("version mismatch");
        }
        if fnv(&bytes[..META_BODY_BYTES]) != long(META_BODY_BYTES) {
            return Err("checksum error");
        }
        let page_bytes = short(8);
        if !page_bytes.is_power_of_two() || !(1 << 10..=1 << 24).contains(&page_bytes) {
            return Err("a page size that cannot be");
        }
        Ok(Meta { page_bytes, root: long(16), freelist: long(32), pages: long(40), transaction: long(48) })
    }
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number at a place that has been checked to lie inside.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// A page's head.
fn header(id: u64, flags: u16, count: usize, overflow: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    bytes[8..10].copy_from_slice(&flags.to_le_bytes());
    bytes[10..12].copy_from_slice(&u16::try_from(count).expect("a page has few elements").to_le_bytes());
    bytes[12..].copy_from_slice(&overflow.to_le_bytes());
    bytes
}
