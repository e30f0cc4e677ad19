//! The book is whole: all fifty sections of the course outline are there, each with commands that are run and a question, and no link
//! leads nowhere. That the commands print what the pages say is `tests/lessons.rs`.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// How many sections each chapter of the outline has.
const SECTIONS: [usize; 11] = [4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 4];

/// What the documents claim without a command: the section, words of the claim, and part of a command that shows it.
const CLAIMS: [(&str, &str, &str); 6] = [
    ("9.5", "Starvation", "systemctl kill -s STOP etcd"),
    ("10.2", "no resource starvation", "systemctl kill -s KILL etcd"),
    ("9.1", "10,000 writes per second", "etcd-lab bench"),
    ("2.2", "**Stacked**", "put stacked 1"),
    ("2.2", "**External**", "put external 1"),
    ("5.2", "**A volume snapshot**", "cp -a var/lib/etcd volume"),
];

fn lessons() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lessons")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The Markdown files below a folder.
fn pages(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let paths = entries.map(|e| e.expect("an entry can be read").path());
    let mut found: Vec<PathBuf> = paths
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => pages(&path),
            Some(e) if e == "md" => vec![path],
            _ => Vec::new(),
        })
        .collect();
    found.sort();
    found
}

/// The text of the chapter with this number.
fn chapter(number: usize) -> String {
    let begins = format!("{number:02}-");
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begins));
    let page = pages(&lessons()).into_iter().find(named).unwrap_or_else(|| panic!("there is no chapter {number}"));
    read(&page)
}

/// A section, from below its heading to the next one; its heading has the anchor by which it is linked to.
fn section<'a>(chapter: &'a str, id: &str) -> Option<&'a str> {
    let anchor = format!("{{#s{}}}", id.replace('.', "-"));
    let heading = chapter.lines().find(|l| l.starts_with(&format!("## {id} ")) && l.ends_with(&anchor))?;
    let (_, below) = chapter.split_once(heading)?;
    Some(below.split("\n## ").next().unwrap_or_default())
}

/// The first lines of the commands of a text that are run.
fn commands(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut runs = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(info) => runs = matches!(info, "console" | "console,ours"),
            None if runs => found.extend(line.strip_prefix("$ ")),
            None => {}
        }
    }
    found
}

/// What a chapter lacks to have this section: the heading, a command that is run, a question.
fn gaps(chapter: &str, id: &str) -> Vec<String> {
    let Some(text) = section(chapter, id) else { return vec![format!("{id}: no heading with its anchor")] };
    let asks = ["<summary>Question: ", "<!--lab predict\nid = \"", "<!--lab quiz\nid = \""];
    let mut found = Vec::new();
    if commands(text).is_empty() {
        found.push(format!("{id}: no command that is run"));
    }
    if !asks.iter().any(|ask| text.contains(ask)) {
        found.push(format!("{id}: no question"));
    }
    found
}

fn ids() -> impl Iterator<Item = (usize, String)> {
    let sections = |(n, count): (usize, usize)| (1..=count).map(move |m| (n + 1, format!("{}.{m}", n + 1)));
    SECTIONS.into_iter().enumerate().flat_map(sections)
}

#[test]
fn each_of_the_fifty_sections_has_commands_that_are_run_and_a_question() {
    assert_eq!(ids().count(), 50);
    let lacking: Vec<String> = ids().flat_map(|(number, id)| gaps(&chapter(number), &id)).collect();
    assert_eq!(lacking, Vec::<String>::new());
    for (number, id) in ids() {
        let head = chapter(number);
        let head = head.split("-->").next().unwrap_or_default();
        assert!(head.contains(&format!("\"{id}\"")), "the head of chapter {number} names section {id}");
    }
}

#[test]
fn a_section_without_commands_or_questions_is_noticed() {
    let whole =
        "## 1.1 A {#s1-1}\n```console\n$ true\n```\n<details><summary>Question: why?</summary>\nSo.\n</details>\n";
    assert_eq!(gaps(whole, "1.1"), Vec::<String>::new());
    for (from, to, gap) in [
        ("{#s1-1}", "{#s1-2}", "1.1: no heading with its anchor"),
        ("```console\n", "```console,ignore\n", "1.1: no command that is run"),
        ("```console\n", "## 1.2 B {#s1-2}\n```console\n", "1.1: no command that is run"),
        ("Question: why?", "Answer", "1.1: no question"),
    ] {
        let found = gaps(&whole.replace(from, to), "1.1");
        assert!(found.iter().any(|g| g == gap), "{to}: {found:?}");
    }
}

#[test]
fn claims_of_the_documents_that_are_no_command_are_shown_by_one() {
    for (id, words, command) in CLAIMS {
        let number = id.split('.').next().and_then(|n| n.parse().ok()).expect("a chapter's number");
        let chapter = chapter(number);
        let text = section(&chapter, id).unwrap_or_else(|| panic!("there is no section {id}"));
        assert!(text.contains(words), "{id} speaks of {words}");
        assert!(commands(text).iter().any(|c| c.contains(command)), "{id} runs {command}");
    }
}

/// The anchors of a page: those that its headings are given, and those that mdBook makes of the others.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        match title.split_once(" {#") {
            Some((_, id)) => found.insert(id.trim_end_matches('}').to_owned()),
            None => found.insert(slug(title.trim())),
        };
    }
    found
}

fn slug(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// The links and pictures of a page that lead into the book, outside of code.
fn targets(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let parts = line.split("](").skip(1).filter(|_| !fenced);
        let links = parts.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        found.extend(links.filter(|t| !t.contains("://")).map(str::to_owned));
    }
    found
}

/// The links of a page that lead nowhere.
fn dead(page: &Path, text: &str) -> Vec<String> {
    let gone = |target: &String| {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = if file.is_empty() { page.to_owned() } else { page.parent().unwrap_or(page).join(file) };
        let there = if file.is_empty() { Ok(text.to_owned()) } else { std::fs::read_to_string(&path) };
        there.map_or(true, |text| !anchor.is_empty() && !anchors(&text).contains(anchor))
    };
    let name = page.file_name().unwrap_or_default().display();
    targets(text).into_iter().filter(gone).map(|target| format!("{name}: {target}")).collect()
}

#[test]
fn no_link_leads_nowhere() {
    let pages = pages(&lessons());
    let links: usize = pages.iter().map(|page| targets(&read(page)).len()).sum();
    assert!(links > 100, "{links} links were looked at");
    let dead: Vec<String> = pages.iter().flat_map(|page| dead(page, &read(page))).collect();
    assert_eq!(dead, Vec::<String>::new());
}

#[test]
fn a_dead_link_is_noticed() {
    let page = lessons().join("sources.md");
    let text = "# A b\n[1](nowhere.md) [2](#a-b) [3](#c) [4](03-consensus.md#s3-1) [5](03-consensus.md#s9-1) [6](https://x)\n\
                ```text\n[7](gone.md)\n```\n";
    assert_eq!(dead(&page, text), ["sources.md: nowhere.md", "sources.md: #c", "sources.md: 03-consensus.md#s9-1"]);
}

/// Each command that the book's index names is one that etcdctl, etcdutl or etcd-lab has, and each section it points to is there.
#[test]
fn the_index_of_commands_names_what_the_chapters_type() {
    let index = read(&lessons().join("commands.md"));
    let all: String = (0..=11).map(chapter).collect();
    let mut named = 0;
    for row in index.lines().filter(|l| l.starts_with("| `")) {
        let command = row.split('`').nth(1).unwrap_or_default();
        assert!(all.contains(command), "no chapter types `{command}`");
        named += 1;
    }
    assert!(named > 30, "{named} commands");
}
