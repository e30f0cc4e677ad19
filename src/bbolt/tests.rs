//! What is written is read back, and no bytes make the reader panic or run for ever.

use super::*;
use crate::disk::DiskFile;
use crate::error::Error;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A file in memory.
#[derive(Clone, Default)]
struct File(Vec<u8>);

impl DiskFile for File {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let (from, to) = (offset as usize, offset as usize + data.len());
        if self.0.len() < to {
            self.0.resize(to, 0);
        }
        self.0[from..to].copy_from_slice(data);
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Error> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(self.0.len() as u64)
    }

    fn set_len(&mut self, len: u64) -> Result<(), Error> {
        self.0.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Buckets = BTreeMap<Vec<u8>, Rows>;

fn written(buckets: &Buckets) -> Vec<u8> {
    let mut file = File::default();
    let mut writer = Writer::new(&mut file);
    for (name, rows) in buckets {
        writer.bucket(name).expect("in order");
        rows.iter().for_each(|(key, value)| writer.put(key, value).expect("in order"));
    }
    let bytes = writer.finish().expect("memory");
    assert_eq!(bytes, file.0.len() as u64);
    file.0
}

/// The buckets of a database; nested ones are named `outer/inner`.
fn read(bytes: &[u8]) -> Result<Buckets, Error> {
    let reader = Reader::open(Box::new(File(bytes.to_vec())), bytes.len() as u64)?;
    let (mut buckets, mut path) = (Buckets::new(), Vec::<Vec<u8>>::new());
    reader.walk(&mut |item| {
        match item {
            Item::Enter(name) => {
                path.push(name.to_owned());
                buckets.insert(path.join(&b'/'), Rows::new());
            }
            Item::Row(key, value) => {
                let rows = buckets.get_mut(&path.join(&b'/')).expect("entered");
                rows.insert(key.to_owned(), value.to_owned());
            }
            Item::Leave => drop(path.pop()),
        }
        Ok(())
    })?;
    assert!(path.is_empty());
    Ok(buckets)
}

fn rows(count: usize, value_bytes: usize) -> Rows {
    (0..count as u64).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; value_bytes])).collect()
}

fn one(name: &str, rows: Rows) -> Buckets {
    Buckets::from([(name.as_bytes().to_vec(), rows)])
}

#[test]
fn what_is_written_is_read_back() {
    let mut buckets = one("empty", Rows::new());
    buckets.insert(b"a few".to_vec(), rows(3, 10));
    buckets.insert(b"many".to_vec(), rows(20_000, 60));
    buckets.insert(b"of two pages".to_vec(), rows(40, 100));
    buckets.insert(b"large".to_vec(), rows(5, 1_600_000));
    assert_eq!(read(&written(&buckets)), Ok(buckets));
    assert_eq!(read(&written(&Buckets::new())), Ok(Buckets::new()));
}

#[test]
fn a_small_bucket_stands_in_its_row_and_a_large_one_on_pages_of_its_own() {
    let pages = |buckets: &Buckets| written(buckets).len() / PAGE_BYTES;
    assert_eq!(pages(&one("b", rows(10, 50))), 4, "metas, free list, root");
    assert_eq!(pages(&one("b", rows(20, 50))), 5, "and a leaf");
    // A leaf has room for 30 rows of 8 + 110 + 16 bytes; 60 leaves and a last one hang below one branch.
    assert_eq!(pages(&one("b", rows(61 * 30, 110))), 4 + 61 + 1);
}

#[test]
fn rows_out_of_order_are_refused() {
    let mut file = File::default();
    let mut writer = Writer::new(&mut file);
    assert!(writer.put(b"k", b"").is_err(), "outside of any bucket");
    writer.bucket(b"b").expect("the first");
    writer.put(b"k", b"").expect("the first");
    assert!(writer.put(b"k", b"").is_err());
    assert!(writer.put(b"a", b"").is_err());
    writer.put(b"l", b"").expect("in order");
    writer.bucket(b"b").expect("told at its end");
    assert!(writer.finish().is_err(), "two buckets of one name");
}

/// A database by hand: a root bucket on page 3 with this element as its only one.
fn by_hand(flags: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = written(&Buckets::new());
    let page = 3 * PAGE_BYTES;
    bytes[page..page + HEADER_BYTES].copy_from_slice(&header(3, LEAF, 1, 0));
    let words = [flags, ELEMENT_BYTES as u32, key.len() as u32, value.len() as u32];
    let element: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).chain(key.to_vec()).collect();
    let element = [element, value.to_vec()].concat();
    bytes[page + HEADER_BYTES..][..element.len()].copy_from_slice(&element);
    bytes
}

#[test]
fn a_bucket_inside_a_bucket_is_entered() {
    let leaf = |flags: u32, key: &[u8], value: &[u8]| {
        let words = [flags, ELEMENT_BYTES as u32, key.len() as u32, value.len() as u32];
        let element: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        [vec![0; BUCKET_BYTES], header(0, LEAF, 1, 0).to_vec(), element, key.to_vec(), value.to_vec()].concat()
    };
    let inner = leaf(0, b"k", b"v");
    let outer = leaf(IS_BUCKET, b"inner", &inner);
    let found = read(&by_hand(IS_BUCKET, b"outer", &outer)).expect("whole");
    let expected = Buckets::from([
        (b"outer".to_vec(), Rows::new()),
        (b"outer/inner".to_vec(), Rows::from([(b"k".to_vec(), b"v".to_vec())])),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn the_newer_meta_counts_and_a_damaged_one_does_not() {
    let whole = written(&one("b", rows(3, 3)));
    for meta in [0, 1] {
        let mut bytes = whole.clone();
        bytes[meta * PAGE_BYTES + HEADER_BYTES + 20] ^= 1;
        assert_eq!(read(&bytes), read(&whole), "meta {meta} damaged");
    }
    let mut bytes = whole.clone();
    bytes[HEADER_BYTES + 20] ^= 1;
    bytes[PAGE_BYTES + HEADER_BYTES] ^= 1;
    assert_eq!(read(&bytes), Err(Error::Damaged("invalid database: checksum error".into())));
}

#[test]
fn a_wrong_file_is_refused_with_the_reason() {
    let why = |bytes: &[u8]| read(bytes).expect_err("no database").to_string();
    assert_eq!(why(b""), "corrupt: invalid database: the file is too short");
    assert_eq!(why(&[b'x'; 9000]), "corrupt: invalid database: it does not begin as one");
    let whole = written(&one("b", rows(1000, 50)));
    let cut = why(&whole[..whole.len() - 1]);
    assert!(cut.contains("the file is cut short"), "{cut}");
    assert!(why(&by_hand(0, b"k", b"v")).contains("outside of any bucket"));
    assert!(why(&by_hand(7, b"k", b"v")).contains("unknown kind"));
    assert!(why(&by_hand(IS_BUCKET, b"k", b"v")).contains("too short"));
    let circle = [3_u64.to_le_bytes(), [0; 8]].concat();
    assert!(why(&by_hand(IS_BUCKET, b"k", &circle)).contains("used twice"));
    let outside = [9_u64.to_le_bytes(), [0; 8]].concat();
    assert!(why(&by_hand(IS_BUCKET, b"k", &outside)).contains("outside of the database"));
}

/// A database with every kind of page.
fn every_kind() -> Vec<u8> {
    let mut buckets = one("inline", rows(3, 10));
    buckets.insert(b"tree".to_vec(), rows(300, 100));
    buckets.insert(b"long".to_vec(), rows(2, 9000));
    written(&buckets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 3000 }))]

    #[test]
    fn rows_of_all_sizes_come_back(
        names in proptest::collection::btree_set("[a-z]{1,8}", 0..5),
        sizes in proptest::collection::vec(0_usize..6000, 0..120),
        key_bytes in 1_usize..3000,
    ) {
        let rows: Rows = sizes.iter().enumerate().map(|(n, size)| {
            let mut key = (n as u32).to_be_bytes().to_vec();
            key.resize(4 + key_bytes % (n + 1), b'k');
            (key, vec![n as u8; *size])
        }).collect();
        let buckets: Buckets = names.into_iter().map(|name| (name.into_bytes(), rows.clone())).collect();
        prop_assert_eq!(read(&written(&buckets)), Ok(buckets));
    }

    #[test]
    fn flipped_bytes_are_read_or_refused(flips in proptest::collection::vec((0_usize..1 << 20, 1_u8..=255), 1..8)) {
        let mut bytes = every_kind();
        for (place, mask) in flips {
            let place = place % bytes.len();
            bytes[place] ^= mask;
        }
        let _verdict = read(&bytes);
    }

    #[test]
    fn flipped_heads_and_elements_are_read_or_refused(
        flips in proptest::collection::vec((2_usize..100, 0_usize..80, any::<u8>()), 1..6),
    ) {
        let mut bytes = every_kind();
        let pages = bytes.len() / PAGE_BYTES;
        for (page, place, byte) in flips {
            bytes[page % pages * PAGE_BYTES + place] = byte;
        }
        let _verdict = read(&bytes);
    }

    #[test]
    fn a_file_that_is_cut_is_refused(len in 0_usize..1 << 20) {
        let bytes = every_kind();
        let len = len % bytes.len();
        prop_assert!(read(&bytes[..len]).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        prop_assert!(read(&bytes).is_err());
    }
}
