//! `etcd-lab fault …` from another terminal: a line goes to the lab that runs, which does it, shows it, and can undo it.
//!
//! The socket lies in the lab's folder, which only its user can enter, and a line counts only with the lab's token: a cluster that the lab
//! has not made has neither.

use crate::lab::Board;
use crate::lab::Deed;
use crate::lab::Error;
use crate::lab::Picture;
use crate::lab::board::Order;
use crate::lab::board::Undo;
use crate::lab::deed::WORDS;
use crate::lab::guide;
use crate::lab::observe;
use crate::lab::preflight;
use crate::lab::workdir::Running;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufReader;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// Longest line.
const LINE_MAX: u64 = 1024;
/// A line that asks and does nothing: what this lab has seen of the promises. Only it has seen everything.
pub const ASK_PROMISES: &str = "show promises";
/// The same: what the Learn screen shows.
pub const ASK_LEARN: &str = "show learn";
const ANSWER: Duration = Duration::from_secs(10);

/// One line, and where its answer goes.
pub struct Line {
    pub text: String,
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// What is in force in a lab without a screen, and how to take it back.
#[derive(Default)]
pub struct Deeds {
    pub board: Board,
    undo: Vec<(String, Undo)>,
}

impl Deeds {
    /// Decides a line: what to say, and the orders to carry out.
    ///
    /// # Errors
    /// Why it is not done, in a sentence.
    pub fn take(&mut self, text: &str, picture: &Picture) -> Result<(String, Vec<Order>), String> {
        if text.trim() == ASK_PROMISES {
            return Ok((picture.promises.to_json().to_string(), Vec::new()));
        }
        if text.trim() == "undo" {
            let (line, undo) = self.undo.pop().ok_or("nothing to undo")?;
            return Ok((format!("undone: {line}"), self.board.undo(undo, picture)?));
        }
        let names = picture.member_names();
        let deed = Deed::parse(text, &names)?;
        let (orders, undo) = self.board.decide(&deed, picture)?;
        let line = deed.line(&names);
        let can = if undo.is_some() { "; undo it with: etcd-lab fault undo" } else { "" };
        let said = format!("done: {line}{can}");
        self.undo.extend(undo.map(|undo| (line, undo)));
        Ok((said, orders))
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("orders.sock")
}

/// Takes lines until nobody wants them any more.
///
/// # Errors
/// If the socket cannot be made.
pub fn serve(folder: &Path, token: &str, to: mpsc::Sender<Line>) -> Result<(), Error> {
    let path = socket(folder);
    drop(std::fs::remove_file(&path));
    let listener = UnixListener::bind(&path).map_err(Error::file("cannot listen on", &path))?;
    let token = token.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if to.is_closed() {
                return;
            }
            tokio::spawn(talk(stream, token.clone(), to.clone()));
        }
    });
    Ok(())
}

async fn talk(stream: UnixStream, token: String, to: mpsc::Sender<Line>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    if BufReader::new(reader.take(LINE_MAX)).read_line(&mut line).await.is_err() {
        return;
    }
    let said = match line.trim().split_once(' ') {
        Some((given, text)) if given == token => {
            let (answer, done) = oneshot::channel();
            let handed = to.send(Line { text: text.to_owned(), answer }).await;
            match handed {
                Ok(()) => done.await.unwrap_or_else(|_| Err("the lab ends".into())),
                Err(_) => Err("the lab ends".into()),
            }
        }
        _ => Err("the lab's token is missing or wrong".into()),
    };
    let text = match said {
        Ok(said) => format!("ok {said}\n"),
        Err(why) => format!("no {why}\n"),
    };
    drop(writer.write_all(text.as_bytes()).await);
}

/// `etcd-lab fault [--folder PATH] WORD ARGS…`; without a word, what there is.
pub fn fault(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if let Some(code) = guide::simulated_fault(args, out, err) {
        return code;
    }
    let (folder, words) = match args {
        [flag, folder, rest @ ..] if flag == "--folder" => (Some(PathBuf::from(folder)), rest),
        all => (None, all),
    };
    if words.is_empty() || words[0] == "--help" {
        drop(write!(out, "{}", help()));
        return 0;
    }
    let asked = Running::find(folder.as_deref(), &preflight::bases()).and_then(|running| {
        let token = running.token()?;
        observe::runtime()?.block_on(send(&running.folder, &token, &words.join(" ")))
    });
    match asked {
        Ok(said) => {
            drop(writeln!(out, "{said}"));
            0
        }
        Err(e) => {
            drop(writeln!(err, "Error: {e}"));
            1
        }
    }
}

fn help() -> String {
    let mut text =
        "usage: etcd-lab fault [--folder PATH] WORD ARGS…   (in the lab that runs; u undoes it there)\n\n".to_string();
    for (word, shape, what) in WORDS {
        text.push_str(&format!("  {:<26} {what}\n", format!("{word} {shape}")));
    }
    text.push_str("  undo                       take the last fault back\n");
    text
}

/// Sends a line to the lab in this folder, and waits for its answer.
///
/// # Errors
/// Why it does not do it; that nobody answers.
pub async fn send(folder: &Path, token: &str, line: &str) -> Result<String, Error> {
    let path = socket(folder);
    let talk = async {
        let stream = UnixStream::connect(&path).await?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(format!("{token} {line}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(reader).read_line(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER, talk).await;
    let answer = answer.map_err(|_| Error::Refused("the lab has not answered within 10 s".into()))?;
    let answer = answer.map_err(Error::file("cannot talk to the lab at", &path))?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", said)) => Ok(said.to_owned()),
        Some((_, why)) => Err(Error::Refused(why.to_owned())),
        None => Err(Error::Refused("the lab has hung up".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_only_with_the_token() {
        let folder = tempfile::tempdir().expect("temp dir");
        let runtime = observe::runtime().expect("made");
        runtime.block_on(async {
            let (to, mut lines) = mpsc::channel(1);
            serve(folder.path(), "secret", to).expect("listens");
            let answers = tokio::spawn(async move {
                let line: Line = lines.recv().await.expect("one line");
                assert_eq!(line.text, "kill n2");
                line.answer.send(Ok("done: kill n2".into())).expect("waited for");
            });
            let wrong = send(folder.path(), "guess", "kill n1").await.expect_err("refused");
            assert!(wrong.to_string().contains("token is missing or wrong"), "{wrong}");
            assert_eq!(send(folder.path(), "secret", "kill n2").await.expect("done"), "done: kill n2");
            answers.await.expect("no panic");
        });
    }

    #[test]
    fn without_a_word_it_says_which_there_are() {
        let mut out = Vec::new();
        assert_eq!(fault(&[], &mut out, &mut Vec::new()), 0);
        let text = String::from_utf8(out).expect("text");
        assert!(WORDS.iter().all(|(word, ..)| text.contains(word)), "{text}");
    }
}
