//! How things look: themes, and the 7-bit alphabet.
//!
//! Colour only repeats what a letter, a border or a word says already, so that a screen without colours carries every fact.
//! The colours (blue, orange, violet) are told apart with any common colour blindness.

use crate::proto::lab::Role;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use ratatui::style::Modifier;
use ratatui::style::Style;
use ratatui::symbols::border;

/// The colours of a theme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    /// For dark terminals.
    #[default]
    Dark,
    /// For light terminals.
    Light,
    /// For dark terminals, at least 7 to 1.
    Contrast,
    /// No colours; also `NO_COLOR`.
    Mono,
}

impl Theme {
    /// The theme of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Theme> {
        let all =
            [("dark", Theme::Dark), ("light", Theme::Light), ("contrast", Theme::Contrast), ("mono", Theme::Mono)];
        all.iter().find(|t| t.0 == name).map(|t| t.1)
    }

    fn colour(self, dark: u8, light: u8) -> Style {
        match self {
            Theme::Dark => Style::new().fg(Color::Indexed(dark)),
            Theme::Light => Style::new().fg(Color::Indexed(light)),
            Theme::Contrast => Style::new().fg(Color::Indexed(bright(dark))),
            Theme::Mono => Style::new(),
        }
    }

    /// Leaders, committed writes.
    #[must_use]
    pub fn good(self) -> Style {
        self.colour(75, 25).add_modifier(Modifier::BOLD)
    }

    /// Candidates, messages.
    #[must_use]
    pub fn busy(self) -> Style {
        self.colour(214, 130).add_modifier(Modifier::BOLD)
    }

    /// Faults and losses.
    #[must_use]
    pub fn bad(self) -> Style {
        self.colour(177, 91).add_modifier(Modifier::BOLD)
    }

    /// What is less important now.
    #[must_use]
    pub fn faint(self) -> Style {
        self.colour(245, 240)
    }

    /// Bars, selections: they also carry a mark.
    #[must_use]
    pub fn marked(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// A member's style by its role; `None`: down or not heard.
    #[must_use]
    pub fn role(self, role: Option<Role>) -> Style {
        match role {
            Some(Role::Leader) => self.good(),
            Some(Role::Candidate | Role::PreCandidate) => self.busy(),
            Some(Role::Follower | Role::Learner) => Style::new(),
            None => self.faint(),
        }
    }
}

/// The colour of the same kind that stands out most from black: none of them is darker than 7 to 1.
fn bright(colour: u8) -> u8 {
    match colour {
        75 => 123,
        214 => 220,
        177 => 219,
        _ => 255,
    }
}

/// A member's border by its role: double leads, bold stands for election, plain follows, dashed is down or not heard.
#[must_use]
pub fn border(role: Option<Role>) -> border::Set<'static> {
    match role {
        Some(Role::Leader) => border::DOUBLE,
        Some(Role::Candidate | Role::PreCandidate) => border::THICK,
        Some(Role::Follower | Role::Learner) => border::PLAIN,
        None => border::LIGHT_TRIPLE_DASHED,
    }
}

/// A role's letter.
#[must_use]
pub fn letter(role: Role) -> char {
    match role {
        Role::Leader => 'L',
        Role::Candidate => 'C',
        Role::PreCandidate => 'P',
        Role::Follower => 'F',
        Role::Learner => 'l',
    }
}

/// A term's pattern: neighbouring terms differ.
#[must_use]
pub fn hatch(term: u64) -> char {
    ['·', '░', '▒', '▓'][(term % 4) as usize]
}

/// The 7-bit character for each that we draw.
const SEVEN_BIT: &[(&str, &str)] = &[
    ("╔╗╚╝═║", "#"),
    ("┏┓┗┛━┃", "*"),
    ("┌┐└┘├┤┬┴┼", "+"),
    ("─", "-"),
    ("│▏▕┊", "|"),
    ("┄┆", ":"),
    ("●", "o"),
    ("·░", "."),
    ("▒", "%"),
    ("▓", "&"),
    ("█▇", "#"),
    ("▸→▶", ">"),
    ("←◀", "<"),
    ("▁", "_"),
    ("✔", "y"),
    ("↑", "^"),
    ("↓", "v"),
    ("×✗", "x"),
    ("≤", "<"),
    ("…", "~"),
];

/// Replaces everything that is not 7-bit.
pub fn to_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        if !cell.symbol().is_ascii() {
            cell.set_symbol(seven_bit(cell.symbol()).unwrap_or("?"));
        }
    }
}

/// The 7-bit stand-in of a character that we draw.
pub(super) fn seven_bit(symbol: &str) -> Option<&'static str> {
    SEVEN_BIT.iter().find(|(set, _)| set.contains(symbol)).map(|(_, to)| *to)
}
