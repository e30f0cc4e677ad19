//! Puts the built book into the program, if there is one, and the time at which it was built.
//!
//! mdBook needs this program to build the book, so the book comes second: build, `mdbook build book`, and build again with `ETCD_LAB_BOOK`
//! naming the folder that came out. `packaging/static` does so. Without the variable there is no book inside, and nothing else changes.
//!
//! The time is that of SOURCE_DATE_EPOCH, if it is set: who builds twice gets the same program twice.
#![expect(clippy::disallowed_methods, reason = "the time of the build is asked for")]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let set = env::var("SOURCE_DATE_EPOCH").ok().and_then(|secs| secs.parse().ok());
    println!("cargo:rustc-env=ETCD_LAB_BUILT={}", set.unwrap_or_else(now));
    println!("cargo:rerun-if-env-changed=ETCD_LAB_BOOK");
    let mut files = Vec::new();
    let book = env::var_os("ETCD_LAB_BOOK").filter(|book| !book.is_empty()).map(PathBuf::from);
    if let Some(book) = &book {
        println!("cargo:rerun-if-changed={}", book.display());
        assert!(book.join("index.html").is_file(), "ETCD_LAB_BOOK is {}, and no built book is there", book.display());
        collect(book, &mut files);
        files.sort();
    }
    let mut code = String::from(
        "/// Each file's path below the book's folder, and its bytes.\npub static BOOK: &[(&str, &[u8])] = &[\n",
    );
    for (file, book) in files.iter().zip(book.iter().cycle()) {
        let name = file.strip_prefix(book).expect("it is below the book").to_string_lossy().into_owned();
        let path = fs::canonicalize(file).expect("it was listed").to_string_lossy().into_owned();
        let _ = writeln!(code, "    ({name:?}, include_bytes!({path:?})),");
    }
    code += "];\n";
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("book.rs");
    fs::write(&out, code).expect("cargo's own folder can be written to");
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the book can be read") {
        let path = entry.expect("the book can be read").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
