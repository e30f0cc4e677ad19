//! Lessons and labs as mdBook wants them: a preprocessor that speaks its JSON.
//!
//! mdBook sends `[context, book]` on the standard input and takes the book back. Comments go; predictions, questions and
//! checks, which live in comments, become text with folded answers; a `page` block becomes the lab's own page with a line that
//! says how to run it. mdBook does not notice an include that names nothing ([`broken_includes`] does).
//!
//! Source: the mdBook guide, "Preprocessors"; version 0.5 calls the chapters `items`, earlier ones `sections`.

use crate::lab::guide::LabError;
use crate::lab::guide::budget;
use crate::lab::guide::model::letter;
use crate::lab::guide::parse;
use crate::lab::guide::settings;
use crate::lab::guide::settings::AskSettings;
use crate::lab::guide::settings::Head;
use crate::lab::guide::settings::PageSettings;
use crate::lab::guide::settings::PredictSettings;
use crate::lab::guide::settings::StepSettings;
use serde_json::Value as Json;
use std::fmt::Write as _;
use std::io::Read;
use std::io::Write;
use std::path::Path;

/// `etcd-lab mdbook`: one turn of a preprocessor. `mdbook supports NAME` answers by its exit code.
pub fn mdbook(args: &[String], input: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if args.first().is_some_and(|a| a == "supports") {
        return 0;
    }
    match turn(input, out) {
        Ok(()) => 0,
        Err(e) => {
            let _ = writeln!(err, "etcd-lab mdbook: {e}");
            1
        }
    }
}

fn turn(input: &mut dyn Read, out: &mut dyn Write) -> Result<(), String> {
    let mut text = String::new();
    input.read_to_string(&mut text).map_err(|e| format!("the book cannot be read: {e}"))?;
    let sent: Json = serde_json::from_str(&text)
        .map_err(|e| format!("this is not mdBook's JSON: {e}. mdbook calls this command itself."))?;
    let (root, mut book) = match sent {
        Json::Array(mut both) if both.len() == 2 => {
            let book = both.pop().unwrap_or_default();
            (both[0]["root"].as_str().unwrap_or(".").to_owned(), book)
        }
        _ => return Err("mdBook sends a context and a book".into()),
    };
    let project = Path::new(&root).join("..");
    let list = if book.get("items").is_some() { "items" } else { "sections" };
    chapters(&mut book[list], &project)?;
    writeln!(out, "{book}").map_err(|e| format!("the book cannot be written: {e}"))
}

fn chapters(items: &mut Json, project: &Path) -> Result<(), String> {
    for item in items.as_array_mut().into_iter().flatten() {
        let Some(chapter) = item.get_mut("Chapter") else { continue };
        let path = chapter["source_path"].as_str().or(chapter["path"].as_str()).unwrap_or_default().to_owned();
        if let Some(content) = chapter["content"].as_str() {
            let page = page(Path::new(&path), content, project).map_err(|e| e.to_string())?;
            chapter["content"] = Json::String(page);
        }
        chapters(&mut chapter["sub_items"], project)?;
    }
    Ok(())
}

/// A page without its comments; what they say to a reader stands in their place.
fn page(file: &Path, text: &str, project: &Path) -> Result<String, LabError> {
    let mut out = String::new();
    let mut lines = text.lines().enumerate();
    let mut fence = String::new();
    while let Some((n, line)) = lines.next() {
        let mark: String = line.trim_start().chars().take_while(|c| *c == '`' || *c == '~').collect();
        if mark.len() >= 3 && (fence.is_empty() || (fence == mark && line.trim() == mark)) {
            fence = if fence.is_empty() { mark } else { String::new() };
        }
        if !fence.is_empty() || !line.trim_start().starts_with("<!--lab ") {
            let shown = if fence.is_empty() { summary(line) } else { shown(line).to_owned() };
            let _ = writeln!(out, "{shown}");
            continue;
        }
        let mut comment = line.to_owned();
        while !comment.contains("-->") {
            let Some((_, more)) = lines.next() else { break };
            comment = format!("{comment}\n{more}");
        }
        let inner =
            comment.trim_start().trim_start_matches("<!--lab").split("-->").next().unwrap_or_default().trim_start();
        let end = inner.find(char::is_whitespace).unwrap_or(inner.len());
        out += &said(file, n + 1, &inner[..end], &inner[end..], project)?;
    }
    Ok(out)
}

/// A fence's first line without what only we understand: `console,ignore` would not be highlighted.
fn shown(line: &str) -> &str {
    let plain = ["console,ignore", "console,ours"].iter().find_map(|info| line.strip_suffix(info));
    plain.map_or(line, |ticks| &line[..ticks.len() + "console".len()])
}

/// A summary is HTML, in which Markdown's backticks would stay as they are: they become elements.
fn summary(line: &str) -> String {
    let Some((before, rest)) = line.split_once("<summary>") else { return line.to_owned() };
    let Some((inside, after)) = rest.split_once("</summary>") else { return line.to_owned() };
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut title = String::new();
    for (n, part) in inside.split('`').enumerate() {
        title += &if n % 2 == 1 { format!("<code>{}</code>", escaped(part)) } else { part.to_owned() };
    }
    format!("{before}<summary>{title}</summary>{after}")
}

/// What a comment says to the reader of the book.
fn said(file: &Path, line: usize, kind: &str, text: &str, project: &Path) -> Result<String, LabError> {
    let wrong = |(_, what): (usize, String)| LabError::new(file, line, what);
    Ok(match kind {
        "lab" => {
            let head: Head = settings::read(text).map_err(wrong)?;
            if head.minutes == 0 {
                String::new()
            } else {
                format!("*{}, {} members.*\n", budget::words(&head), head.cluster.nodes.len())
            }
        }
        "step" => {
            let step: StepSettings = settings::read(text).map_err(wrong)?;
            let mut out = String::new();
            for check in &step.check {
                let _ = writeln!(out, "- [ ] {}", check.title);
            }
            step.predict.iter().for_each(|p| out += &predicted(p));
            out
        }
        "predict" | "quiz" => predicted(&settings::read(text).map_err(wrong)?),
        "ask" => {
            let ask: AskSettings = settings::read(text).map_err(wrong)?;
            format!("**Question.** {}\n\n{}", ask.label, options(&ask.options))
        }
        "page" => {
            let page: PageSettings = settings::read(text).map_err(wrong)?;
            lab(&project.join(&page.dir), &page.dir, project)?
        }
        _ => String::new(),
    })
}

fn options(options: &[String]) -> String {
    let rows = options.iter().enumerate().map(|(n, option)| format!("- {}) {option}\n", letter(n)));
    rows.collect::<String>() + "\n"
}

fn predicted(predict: &PredictSettings) -> String {
    let PredictSettings { ask, options: all, answer, why, .. } = predict;
    let answer = format!("<details><summary>After you have guessed</summary>\n\n**{answer}.** {why}\n\n</details>\n");
    format!("\n**Predict.** {ask}\n\n{}{answer}\n", options(all))
}

/// A lab's page, without its title: the stub has one.
fn lab(dir: &Path, name: &str, project: &Path) -> Result<String, LabError> {
    let file = dir.join("lab.md");
    let text = std::fs::read_to_string(&file).map_err(|e| LabError::new(&file, 0, format!("cannot be read: {e}")))?;
    parse(&file, &text)?;
    let body =
        text.split_once('\n').filter(|(first, _)| first.starts_with("# ")).map_or(text.as_str(), |(_, body)| body);
    let run = format!("> Run this lab: `etcd-lab`, then `1`. Test it as its author does: `etcd-lab test {name}`.\n\n");
    Ok(run + &page(&file, body, project)?)
}

/// The includes of a page that name no file, or no anchor in it: mdBook renders nothing for them, and says nothing.
#[must_use]
pub fn broken_includes(file: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for (n, line) in text.lines().enumerate() {
        for part in line.split("{{#").skip(1) {
            let Some((directive, _)) = part.split_once("}}") else { continue };
            let Some(target) = directive.strip_prefix("include ").or(directive.strip_prefix("rustdoc_include ")) else {
                continue;
            };
            let (path, anchor) = target.trim().split_once(':').unwrap_or((target.trim(), ""));
            let place = format!("{}:{}", file.display(), n + 1);
            let Ok(source) = std::fs::read_to_string(file.parent().unwrap_or(Path::new(".")).join(path)) else {
                broken.push(format!("{place}: there is no file {path}"));
                continue;
            };
            let named = !anchor.is_empty() && !anchor.starts_with(|c: char| c.is_ascii_digit() || c == ':');
            let marks = |mark: &str| source.lines().any(|l| l.trim_end().ends_with(&format!("{mark}: {anchor}")));
            if named && !(marks("ANCHOR") && marks("ANCHOR_END")) {
                broken.push(format!("{place}: {path} has no anchor {anchor}"));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_has_no_comments_and_keeps_what_they_say() {
        let text = "a\n<!--lab step\nid = \"s\"\n[[check]]\nid = \"c\"; title = \"the key is there\"; want = \"revision > 1\"\n-->\nb\n\
            ```text\n<!--lab kept -->\n```\n<!--lab notes\nfor the teacher\n-->\n```console,ignore\n$ x\n```\n\
            <details><summary>What is `<id>`?</summary>\n";
        let page = page(Path::new("x.md"), text, Path::new(".")).expect("it is right");
        assert_eq!(
            page,
            "a\n- [ ] the key is there\nb\n```text\n<!--lab kept -->\n```\n```console\n$ x\n```\n\
            <details><summary>What is <code>&lt;id&gt;</code>?</summary>\n"
        );
    }

    #[test]
    fn a_book_goes_through_and_comes_out() {
        let chapter = r##"{"Chapter":{"name":"One","content":"# One\n<!--lab notes x -->\ntext","sub_items":[],"path":"one.md"}}"##;
        for list in ["items", "sections"] {
            let sent = format!("[{{\"root\":\"/nowhere\"}},{{\"{list}\":[{chapter},\"Separator\"]}}]");
            let (mut out, mut err) = (Vec::new(), Vec::new());
            assert_eq!(mdbook(&[], &mut sent.as_bytes(), &mut out, &mut err), 0);
            let book: Json = serde_json::from_slice(&out).expect("it is JSON");
            assert_eq!(book[list][0]["Chapter"]["content"], "# One\ntext\n");
            assert_eq!(book[list][1], "Separator");
        }
        assert_eq!(mdbook(&["supports".into(), "html".into()], &mut &b""[..], &mut Vec::new(), &mut Vec::new()), 0);
        let mut err = Vec::new();
        assert_eq!(mdbook(&[], &mut &b"hello"[..], &mut Vec::new(), &mut err), 1);
        assert!(String::from_utf8_lossy(&err).contains("mdbook calls this command itself"));
    }
}
