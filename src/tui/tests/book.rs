//! The book's pictures: drawn by `etcd-lab export` from a recording of three real members, as anybody would draw them.
//!
//! The recording and the pictures are checked in, so that the book is built without the lab. After a change of what a screen shows write them anew with
//! `UPDATE_PICTURES=1 cargo test --lib tui::tests::book`, and look at them.

use crate::lab::recording::Recording;
use crate::tui::export;
use std::fs;
use std::path::Path;

/// `put color blue`, and then, ten times slower, the end of the leader and the next one's election.
const RECORDING: &str = "a-put-and-an-election.labrec";

/// File, the page that shows it, what `etcd-lab export` is asked for, and a word that the picture has.
const PICTURES: [(&str, &str, &str, &str); 3] = [
    ("a-put-between-members.svg", "00-what-a-put-does.md", "spacetime-svg --from 9.8 --to 10", "+1"),
    ("a-put-in-the-logs.svg", "00-what-a-put-does.md", "svg --screen logs --at 11 --size 80x24", "put color"),
    ("an-election.svg", "README.md", "svg --screen ring --at 13.3 --size 80x24", "V?"),
];

#[test]
fn the_books_pictures_are_what_the_lab_draws_of_a_recorded_run() {
    let lessons = Path::new(env!("CARGO_MANIFEST_DIR")).join("lessons");
    let folder = lessons.join("pictures");
    for (name, page, words, has) in PICTURES {
        let recording = Recording::read(&folder.join(RECORDING)).expect("a recording");
        let picture = export::drawn(words, recording).expect("drawn");
        assert!(picture.starts_with("<svg ") && picture.contains(has), "{name}: {picture}");
        let page = fs::read_to_string(lessons.join(page)).expect("a page");
        assert!(page.contains(&format!("(pictures/{name})")), "{name} is not shown");
        let path = folder.join(name);
        if std::env::var_os("UPDATE_PICTURES").is_some() {
            fs::write(&path, &picture).expect("written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == picture, "{} is not what the lab draws: UPDATE_PICTURES=1 writes it anew", path.display());
    }
}
