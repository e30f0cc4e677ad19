//! `etcd-lab lesson`: a chapter of the book in the terminal, and the very cluster that its commands were tested on.
//!
//! A lesson is a lab without steps. Reading needs no cluster; `--shell` starts a fresh one, prints the page with that cluster's addresses and
//! opens a shell at its desk, so that what the page shows is what comes out.

use crate::lab::guide::ProcessBeds;
use crate::lab::guide::bed::Beds as _;
use crate::lab::guide::bed::LentBed;
use crate::lab::guide::model::Block;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Lab;
use crate::lab::guide::quiz::quiz;
use crate::lab::guide::scratch::scratch;
use crate::lab::guide::session::Session;
use crate::lab::guide::shelf::LESSONS;
use crate::lab::guide::shelf::lesson_named;
use crate::lab::progress::Progress;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Columns of the text.
const WIDTH: usize = 78;

const HELP: &str = "\
usage: etcd-lab lesson              all chapters
       etcd-lab lesson 3            read a chapter
       etcd-lab lesson 3 --answers  the same, with the answers to its questions
       etcd-lab lesson 3 --quiz     its questions; the answers are kept with your progress
       etcd-lab lesson 3 --shell    start the cluster of this chapter, and a shell in which its commands work as printed
";

/// What was asked.
struct Asked {
    name: String,
    answers: bool,
    shell: bool,
    quiz: bool,
}

/// `etcd-lab lesson …`. Returns the exit code; with `--shell`, the shell's.
pub fn lesson(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let done = match asked(args) {
        Ok(None) if args.is_empty() => return said(out, &contents()),
        Ok(None) => return said(out, HELP),
        Ok(Some(asked)) => told(&asked, out),
        Err(why) => Err(why),
    };
    done.unwrap_or_else(|why| {
        // Nobody is left to tell if this fails.
        let _ = write!(err, "Error: {why}\n{HELP}");
        2
    })
}

fn said(out: &mut dyn Write, text: &str) -> u8 {
    // A reader that is gone is no failure.
    let _ = out.write_all(text.as_bytes());
    0
}

fn asked(args: &[String]) -> Result<Option<Asked>, String> {
    let mut found = Asked { name: String::new(), answers: false, shell: false, quiz: false };
    for arg in args {
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--answers" => found.answers = true,
            "--shell" => found.shell = true,
            "--quiz" => found.quiz = true,
            name if !name.starts_with('-') && found.name.is_empty() => name.clone_into(&mut found.name),
            other => return Err(format!("etcd-lab lesson does not know {other}")),
        }
    }
    match (found.name.is_empty(), args.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => Err("which chapter? A number, such as 3".into()),
        _ => Ok(Some(found)),
    }
}

/// The chapters, one to a line.
fn contents() -> String {
    let titles = LESSONS.iter().filter_map(|(file, text)| {
        let number: usize = file.split('-').next()?.parse().ok()?;
        let title = text.lines().next()?.trim_start_matches("# ");
        Some(format!("  {number:>2}  {}\n", title.trim_start_matches(&format!("{number}. "))))
    });
    format!("The chapters; `etcd-lab lesson NUMBER` reads one:\n\n{}", titles.collect::<String>())
}

fn told(asked: &Asked, out: &mut dyn Write) -> Result<u8, String> {
    let mut lab = lesson_named(&asked.name).map_err(|e| e.to_string())?.ok_or_else(|| {
        let last = LESSONS.last().map_or("", |(file, _)| file.split('-').next().unwrap_or_default());
        format!("there is no chapter {:?}; there are 0 to {last}", asked.name)
    })?;
    if asked.quiz {
        return quiz(&lab, &mut std::io::stdin().lock(), out, &Progress::file());
    }
    if asked.answers {
        lab.intro = unfolded(std::mem::take(&mut lab.intro));
    }
    if asked.shell {
        return practised(lab, out);
    }
    let nobody = LentBed::new(Path::new("."), Vec::new());
    let session = Session::new(Arc::new(lab), Arc::new(nobody), Path::new("."));
    Ok(said(out, &page(&session)))
}

/// What is folded on the page stands open.
fn unfolded(blocks: Vec<Block>) -> Vec<Block> {
    let open = |block| match block {
        Block::Fold(Fold::Other(summary, inner)) => {
            let mut all = vec![Block::Text(vec![summary])];
            all.extend(unfolded(inner));
            all
        }
        Block::Predict(predict) => {
            let answer = format!("Answer: {}. {}", predict.answer, predict.why);
            vec![Block::Predict(predict), Block::Text(vec![answer])]
        }
        other => vec![other],
    };
    blocks.into_iter().flat_map(open).collect()
}

fn page(session: &Session) -> String {
    let lines = session.page(WIDTH).into_iter().map(|line| line.text + "\n");
    format!("{}\n\n{}", session.lab().title, lines.collect::<String>())
}

/// The chapter on a cluster of its own, and a shell there. Both end with the shell.
fn practised(lab: Lab, out: &mut dyn Write) -> Result<u8, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let bed = runtime.block_on(ProcessBeds::ours()?.fresh(&lab.head.cluster))?;
    let folder = scratch("lesson")?;
    let session = Session::new(Arc::new(lab), bed.into(), &folder);
    said(out, &page(&session));
    let again = "The page stands above; `etcd-lab lesson` reads it in another window.";
    said(out, &format!("\n{}\n{again} Cluster and files go with this shell.\n", session.terminal_greeting()));
    let shell = session.terminal().map_err(|e| format!("{}: {e}", folder.display()))?;
    let ended = shell.ok_or("this cluster has no desk")?.status();
    drop(session);
    // What was tried there is of no use to anybody.
    let _ = std::fs::remove_dir_all(&folder);
    let status = ended.map_err(|e| format!("no shell: {e}"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(args: &[&str]) -> (u8, String, String) {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = lesson(&args, &mut out, &mut err);
        (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
    }

    #[test]
    fn a_chapter_is_read_by_its_number_and_its_answers_only_when_asked_for() {
        let (code, page, _) = ran(&["0"]);
        assert_eq!(code, 0);
        assert!(page.starts_with("What a put does\n"), "{page}");
        assert!(page.contains("  $ etcdctl put color blue -w json\n"), "{page}");
        assert!(!page.contains("Two of three are a majority, and two disks have it."), "{page}");
        let (_, page, _) = ran(&["00", "--answers"]);
        assert!(page.contains("Two of three are a majority, and two disks have it."), "{page}");
        assert!(page.contains("Answer: Revision 4, version 2."), "{page}");
    }

    #[test]
    fn the_list_has_every_chapter_and_what_is_not_there_is_told() {
        let (code, list, _) = ran(&[]);
        assert_eq!((code, list.lines().count()), (0, LESSONS.len() + 2));
        assert!(list.contains("\n   0  What a put does\n   1  Introduction to etcd\n"), "{list}");
        assert_eq!(ran(&["--help"]).1, HELP);
        for (args, words) in [
            (&["99"][..], "there is no chapter \"99\"; there are 0 to"),
            (&["--shell"], "which chapter? A number"),
            (&["1", "2"], "does not know 2"),
            (&["1", "--fast"], "does not know --fast"),
        ] {
            let (code, out, err) = ran(args);
            assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
            assert!(err.contains(words), "{args:?}: {err}");
        }
    }
}
