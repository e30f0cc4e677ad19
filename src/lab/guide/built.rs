//! The built book, file by file, if it was built before this program was: see `build.rs`. Without it the list is empty.

include!(concat!(env!("OUT_DIR"), "/book.rs"));
