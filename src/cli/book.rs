//! `etcd-lab book`: gives the built book to a browser on this machine, and to nobody else.
//!
//! mdBook builds the pages; this serves them on loopback, because a browser's search does not work on files: from this program, if the book
//! was built before it (`build.rs`), or from a folder, and then below that folder only. Left out: everything a public web server needs.

use crate::cli::say;
use crate::lab::guide::BOOK;
use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use std::io::Write;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

const HELP: &str = "\
usage: etcd-lab book [--dir DIR] [--port N] [--open]

  --dir DIR   where a built book is; without it the one in this program, ./target/book, ./book, or `book` beside this program
  --port N    at 127.0.0.1; without it a port that is free
  --open      show it in this machine's browser
";

/// Serves until it is ended. Returns the exit code.
pub(super) fn serve(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let done = match asked(args) {
        Ok(None) => return say(HELP),
        Ok(Some(asked)) => run(asked, out),
        Err(why) => Err(format!("{why}\n{HELP}")),
    };
    match done {
        Ok(()) => 0,
        Err(why) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(err, "Error: {}", why.trim_end());
            2
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    dir: Option<PathBuf>,
    port: u16,
    open: bool,
}

fn asked(args: &[String]) -> Result<Option<Asked>, String> {
    let mut asked = Asked::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--dir" => asked.dir = Some(PathBuf::from(value()?)),
            "--open" => asked.open = true,
            "--port" => {
                let word = value()?;
                asked.port = word.parse().map_err(|_| format!("--port is a number up to 65535, not {word}"))?;
            }
            other => return Err(format!("etcd-lab book does not know {other}")),
        }
    }
    Ok(Some(asked))
}

/// Where the pages are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pages {
    Folder(PathBuf),
    Inside(&'static [(&'static str, &'static [u8])]),
}

impl Pages {
    /// The file at this path below the book's folder.
    fn file(&self, path: &Path) -> Option<Vec<u8>> {
        match self {
            Pages::Folder(dir) => {
                let path = dir.join(path);
                // A pipe or a device has no end.
                path.is_file().then(|| std::fs::read(path).ok()).flatten()
            }
            Pages::Inside(files) => {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, bytes)| bytes.to_vec())
            }
        }
    }

    fn place(&self) -> String {
        match self {
            Pages::Folder(dir) => dir.display().to_string(),
            Pages::Inside(_) => "from this program".to_owned(),
        }
    }
}

/// The folder that was named, the book inside, or the first folder that holds one.
fn found(dir: Option<PathBuf>, inside: &'static [(&'static str, &'static [u8])]) -> Result<Pages, String> {
    if dir.is_none() && !inside.is_empty() {
        return Ok(Pages::Inside(inside));
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("book")));
    let places = match dir {
        Some(dir) => vec![dir],
        None => ["target/book", "book"].map(PathBuf::from).into_iter().chain(beside).collect(),
    };
    let book = places.iter().find(|place| place.join("index.html").is_file());
    book.cloned().map(Pages::Folder).ok_or_else(|| {
        let tried: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        format!(
            "no book is in this program, and none in {}. Build it where the source is: `mdbook build book`",
            tried.join(", ")
        )
    })
}

fn run(asked: Asked, out: &mut dyn Write) -> Result<(), String> {
    let pages = found(asked.dir, BOOK)?;
    let port = asked.port;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.map_err(|e| format!("127.0.0.1:{port}: {e}; choose another --port"))?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        // A reader that is gone is no failure.
        let _ = writeln!(out, "The book ({}): http://{address}/  Ctrl-C ends it.", pages.place()).and(out.flush());
        if asked.open {
            open(&format!("http://{address}/"), out);
        }
        let pages = Router::new().fallback(move |uri: Uri| std::future::ready(answer(&pages, uri.path())));
        axum::serve(listener, pages).await.map_err(|e| e.to_string())
    })
}

/// Shows the book in a browser; says so if there is none, for the address stands above.
fn open(address: &str, out: &mut dyn Write) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    if let Err(e) = std::process::Command::new(opener).arg(address).spawn() {
        // A reader that is gone is no failure.
        let _ = writeln!(out, "no browser was opened ({opener}: {e}): type the address in one");
    }
}

fn answer(pages: &Pages, path: &str) -> Response {
    let below = Path::new(path.trim_start_matches('/'));
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    let file = if path.ends_with('/') { below.join("index.html") } else { below.to_owned() };
    let (status, kind, body) = match plain.then(|| pages.file(&file)).flatten() {
        Some(bytes) => (StatusCode::OK, kind(&file), bytes),
        None => (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", b"There is no such page in this book.\n".to_vec()),
    };
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind).body(Body::from(body));
    response.expect("these headers are constant and right")
}

fn kind(file: &Path) -> &'static str {
    match file.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "json" => "application/json",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_given_with_its_kind_and_nothing_beside_the_book() {
        let folder = tempfile::tempdir().expect("a folder");
        let book = folder.path().join("book");
        std::fs::create_dir(&book).expect("made");
        std::fs::write(book.join("index.html"), "<p>").expect("written");
        std::fs::write(folder.path().join("secret"), "x").expect("written");
        let pages = Pages::Folder(book.clone());
        assert_eq!(found(Some(book), &[("index.html", b"<p>")]), Ok(pages.clone()), "what is named comes first");
        let inside = found(None, &[("index.html", b"<p>"), ("labs/a.html", b"<p>")]).expect("it is inside");
        assert_eq!(answer(&inside, "/labs/a.html").status().as_u16(), 200);
        assert_eq!(answer(&inside, "/labs/b.html").status().as_u16(), 404);
        for (path, status, kind) in [
            ("/", 200, "text/html; charset=utf-8"),
            ("/index.html", 200, "text/html; charset=utf-8"),
            ("/../secret", 404, "text/plain; charset=utf-8"),
            ("/nowhere.html", 404, "text/plain; charset=utf-8"),
        ] {
            let response = answer(&pages, path);
            let got = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
            assert_eq!((response.status().as_u16(), got), (status, Some(kind)), "{path}");
        }
        let none = found(Some(folder.path().to_owned()), &[]).expect_err("no book there");
        assert!(none.contains("mdbook build book"), "{none}");
    }

    #[test]
    fn what_is_no_page_is_not_even_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let book = folder.path().join("book");
        std::fs::create_dir(&book).expect("made");
        for pipe in [folder.path().join("beside"), book.join("inside")] {
            assert!(std::process::Command::new("mkfifo").arg(pipe).status().expect("mkfifo").success());
        }
        let pages = Pages::Folder(book);
        for path in ["/../beside", "/inside"] {
            let pages = pages.clone();
            // In a thread: whoever reads a pipe waits for a writer.
            let (told, hears) = std::sync::mpsc::channel();
            std::thread::spawn(move || told.send(answer(&pages, path).status().as_u16()));
            assert_eq!(hears.recv_timeout(std::time::Duration::from_secs(20)), Ok(404), "{path}");
        }
    }

    #[test]
    fn what_is_asked_wrongly_is_told() {
        let asked = |args: &[&str]| asked(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        assert_eq!(asked(&[]), Ok(Some(Asked::default())));
        assert_eq!(asked(&["--port", "x"]), Err("--port is a number up to 65535, not x".into()));
        assert_eq!(asked(&["--dir"]), Err("--dir needs a value".into()));
        assert_eq!(asked(&["now"]), Err("etcd-lab book does not know now".into()));
    }
}
