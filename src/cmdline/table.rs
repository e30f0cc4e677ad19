//! Tables as Go's tablewriter draws them: titles centred in upper case, cells to the right, and a cell of more than
//! 30 columns broken at blanks into lines as even as can be.
//!
//! Source: `olekukonko/tablewriter` 0.0.5, with which etcdctl 3.4 to 3.6 are built.

use unicode_width::UnicodeWidthStr;

/// A cell wider than this is broken.
const CELL_WIDTH_MAX: usize = 30;

/// What a line longer than the limit costs when lines are chosen; it happens only for words that are longer.
const TOO_LONG: usize = 100_000;

/// Titles and rows.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) titles: &'static [&'static str],
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The rows as lines of comma-separated cells, without titles.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.rows.iter().map(|row| row.join(", "))
    }

    /// The table, drawn.
    pub(crate) fn render(&self) -> String {
        let titles: Vec<Vec<String>> =
            self.titles.iter().map(|title| vec![title.to_uppercase().replace('_', " ")]).collect();
        let rows: Vec<Vec<Vec<String>>> =
            self.rows.iter().map(|row| row.iter().map(|cell| wrap(cell)).collect()).collect();
        let mut widths = vec![0; titles.len()];
        for row in rows.iter().chain([&titles]) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.iter().map(|line| line.width()).max().unwrap_or(0).max(*width);
            }
        }
        let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
        let mut out = rule.clone();
        draw(&mut out, &titles, &widths, |text, width| {
            let gap = width - text.width();
            format!("{}{text}{}", " ".repeat(gap / 2), " ".repeat(gap - gap / 2))
        });
        out.push_str(&rule);
        for row in &rows {
            draw(&mut out, row, &widths, |text, width| format!("{}{text}", " ".repeat(width - text.width())));
        }
        out + &rule
    }
}

fn draw(out: &mut String, row: &[Vec<String>], widths: &[usize], align: impl Fn(&str, usize) -> String) {
    let height = row.iter().map(Vec::len).max().unwrap_or(0);
    for line in 0..height {
        for (cell, width) in row.iter().zip(widths) {
            let text = cell.get(line).map_or("", String::as_str);
            out.push_str(&format!("| {} ", align(text, *width)));
        }
        out.push_str("|\n");
    }
}

/// Breaks a cell that is too wide, so that the squares of the room left at the lines' ends add up to the least. The
/// last line is free.
fn wrap(cell: &str) -> Vec<String> {
    if cell.width() <= CELL_WIDTH_MAX {
        return vec![cell.to_owned()];
    }
    let words: Vec<&str> = cell.split(' ').collect();
    let limit = words.iter().map(|word| word.width()).max().unwrap_or(0).max(CELL_WIDTH_MAX);
    let width = |from: usize, to: usize| words[from..to].iter().map(|word| word.width()).sum::<usize>() + to - from - 1;
    // For each word that begins a line: the least cost from there on, and the word that begins the next line.
    let mut best = vec![(0, words.len()); words.len() + 1];
    for from in (0..words.len()).rev() {
        if width(from, words.len()) <= limit {
            continue;
        }
        best[from] = (from + 1..words.len())
            .map(|to| {
                let room = limit.abs_diff(width(from, to));
                let fine = if width(from, to) > limit { TOO_LONG } else { 0 };
                (room * room + fine + best[to].0, to)
            })
            .min()
            .unwrap_or((0, words.len()));
    }
    let mut lines = Vec::new();
    let mut from = 0;
    while from < words.len() {
        let to = best[from].1;
        lines.push(words[from..to].join(" "));
        from = to;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_centred_and_cells_stand_to_the_right() {
        let table = Table { titles: &["hash_id", "n"], rows: vec![vec!["1".to_owned(), "false".to_owned()]] };
        let drawn = "\
            +---------+-------+\n\
            | HASH ID |   N   |\n\
            +---------+-------+\n\
            |       1 | false |\n\
            +---------+-------+\n";
        assert_eq!(table.render(), drawn);
    }

    #[test]
    fn a_wide_cell_is_broken_at_blanks_into_even_lines() {
        let lines = wrap("memberID:12345678901234567890 alarm:NOSPACE etcdserver: no leader");
        assert_eq!(lines, ["memberID:12345678901234567890", "alarm:NOSPACE etcdserver: no", "leader"]);
        assert_eq!(wrap("short enough"), ["short enough"]);
    }
}
