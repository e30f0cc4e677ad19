//! Markdown, as far as labs need it: headings, fences, comments, folds, and everything else as it stands.
//!
//! Knows no kinds of blocks; that is `parse`'s. Left out: nested lists of fences, indented code, reference links. A lab that
//! wants them is shown correctly by the book, and as plain text by the terminal.

use crate::lab::guide::LabError;
use std::path::Path;

/// A piece of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// `## Title`, with its level.
    Heading(usize, String),
    /// A fenced block: what stands after the backticks, and the lines within.
    Fence(String, String),
    /// `<!--lab KIND …-->`.
    Comment(String, String),
    /// `<details …><summary>…</summary>`: the tag's attributes and the summary.
    Open(String, String),
    /// `</details>`.
    Close,
    /// Neighbouring lines of text.
    Text(Vec<String>),
}

/// A piece, and the line of the file that it begins on. For fences and comments, the line of their content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) line: usize,
    pub(crate) piece: Piece,
}

/// Cuts a file into pieces.
///
/// # Errors
/// A fence or comment that never ends.
pub(crate) fn scan(file: &Path, text: &str) -> Result<Vec<Found>, LabError> {
    let mut scanner = Scanner { file, lines: text.lines().collect(), at: 0, found: Vec::new() };
    while scanner.at < scanner.lines.len() {
        scanner.piece()?;
    }
    Ok(scanner.found)
}

struct Scanner<'a> {
    file: &'a Path,
    lines: Vec<&'a str>,
    at: usize,
    found: Vec<Found>,
}

impl Scanner<'_> {
    fn piece(&mut self) -> Result<(), LabError> {
        let line = self.lines[self.at];
        let trimmed = line.trim();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            return self.fence();
        }
        if trimmed.starts_with("<!--") {
            return self.comment();
        }
        if trimmed.is_empty() {
            self.at += 1;
            return Ok(());
        }
        let level = line.bytes().take_while(|b| *b == b'#').count();
        if (1..=6).contains(&level) && line[level..].starts_with(' ') {
            self.push(self.at, Piece::Heading(level, unanchored(line[level..].trim()).to_owned()));
        } else if trimmed.starts_with("<details") || trimmed.starts_with("</details") {
            self.fold(trimmed);
        } else {
            self.text(trimmed, line);
        }
        self.at += 1;
        Ok(())
    }

    fn push(&mut self, place: usize, piece: Piece) {
        self.found.push(Found { line: place + 1, piece });
    }

    fn text(&mut self, trimmed: &str, line: &str) {
        if let Some(inner) = trimmed.strip_suffix("</details>") {
            if !inner.trim().is_empty() {
                self.push(self.at, Piece::Text(vec![inner.trim().to_owned()]));
            }
            self.push(self.at, Piece::Close);
            return;
        }
        let follows = self.at > 0 && !self.lines[self.at - 1].trim().is_empty();
        match self.found.last_mut() {
            Some(Found { piece: Piece::Text(lines), .. }) if follows => lines.push(line.to_owned()),
            _ => self.push(self.at, Piece::Text(vec![line.to_owned()])),
        }
    }

    /// `<details class="hint"><summary>Hint 1</summary>text</details>`, all on one line or only its beginning.
    fn fold(&mut self, line: &str) {
        let place = self.at;
        if line.starts_with("</details") {
            self.push(place, Piece::Close);
            return;
        }
        let (tag, rest) = line.split_once('>').unwrap_or((line, ""));
        let summary = rest.split_once("<summary>").and_then(|(_, r)| r.split_once("</summary>"));
        let (summary, rest) = summary.unwrap_or(("", rest));
        self.push(place, Piece::Open(tag.trim_start_matches("<details").trim().to_owned(), summary.trim().to_owned()));
        let (inside, closed) = match rest.split_once("</details>") {
            Some((inside, _)) => (inside, true),
            None => (rest, false),
        };
        if !inside.trim().is_empty() {
            self.push(place, Piece::Text(vec![inside.trim().to_owned()]));
        }
        if closed {
            self.push(place, Piece::Close);
        }
    }

    fn fence(&mut self) -> Result<(), LabError> {
        let open = self.lines[self.at].trim();
        let mark: String = open.chars().take_while(|c| *c == '`' || *c == '~').collect();
        let info = open[mark.len()..].trim().to_owned();
        let first = self.at + 1;
        let length = self.lines[first..].iter().position(|l| l.trim() == mark);
        let length = length.ok_or_else(|| self.endless("block", &mark))?;
        let body = self.lines[first..first + length].join("\n");
        self.push(first, Piece::Fence(info, body));
        self.at = first + length + 1;
        Ok(())
    }

    fn comment(&mut self) -> Result<(), LabError> {
        let first = self.at;
        let length = self.lines[first..].iter().position(|l| l.contains("-->"));
        let last = first + length.ok_or_else(|| self.endless("comment", "-->"))?;
        let whole = self.lines[first..=last].join("\n");
        let inner = whole.trim_start().trim_start_matches("<!--").split("-->").next().unwrap_or_default();
        self.at = last + 1;
        let Some(inner) = inner.strip_prefix("lab").filter(|r| r.starts_with(char::is_whitespace)) else {
            return Ok(());
        };
        let inner = inner.trim_start();
        let end = inner.find(char::is_whitespace).unwrap_or(inner.len());
        self.push(first, Piece::Comment(inner[..end].to_owned(), inner[end..].to_owned()));
        Ok(())
    }

    fn endless(&self, what: &str, end: &str) -> LabError {
        LabError::new(self.file, self.at + 1, format!("this {what} has no end; close it with {end}"))
    }
}

/// A heading without the anchor that mdBook gives it: `Title {#s1-1}`.
fn unanchored(title: &str) -> &str {
    title.split_once(" {#").filter(|(_, rest)| rest.ends_with('}')).map_or(title, |(title, _)| title)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<Piece> {
        scan(Path::new("lab.md"), text).expect("it is right").into_iter().map(|f| f.piece).collect()
    }

    #[test]
    fn a_page_is_cut_into_its_pieces() {
        let text =
            "# T {#t}\none\ntwo\n\nthree\n<!--lab run id = \"a\" -->\n```bash\n# no heading\n```\n<!-- a remark -->\n";
        let expected = [
            Piece::Heading(1, "T".into()),
            Piece::Text(vec!["one".into(), "two".into()]),
            Piece::Text(vec!["three".into()]),
            Piece::Comment("run".into(), " id = \"a\" ".into()),
            Piece::Fence("bash".into(), "# no heading".into()),
        ];
        assert_eq!(pieces(text), expected);
    }

    #[test]
    fn a_fold_may_be_one_line_or_many() {
        let one = pieces("<details class=\"hint\" data-level=\"1\"><summary>Hint 1</summary>Look up.</details>");
        let many =
            pieces("<details class=\"hint\" data-level=\"1\"><summary>Hint 1</summary>\n\nLook up.\n\n</details>");
        assert_eq!(one, many);
        assert_eq!(one[0], Piece::Open("class=\"hint\" data-level=\"1\"".into(), "Hint 1".into()));
    }

    #[test]
    fn what_never_ends_is_named_by_its_first_line() {
        for (text, line) in [("a\n```bash\nb", 2), ("<!--lab run\nid", 1)] {
            let error = scan(Path::new("lab.md"), text).expect_err("it is wrong");
            assert_eq!(error.line, line);
            assert!(error.what.contains("has no end"), "{error}");
        }
    }
}
