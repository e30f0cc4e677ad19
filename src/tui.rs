//! The terminal interface: model, update, view.
//!
//! ```text
//!  ┌ header: screen, LIVE or HELD, term, leader ────┐   key ─▶ keys.rs ─▶ ┐
//!  │ Learn (1), Ring or Wire (2), Logs (3),         │   report ─────────▶ ├─ update(&mut Model, Msg) -> Option<Cmd>
//!  │ Watch (4), Data (5), Cluster (6)               │   tick ───────────▶ ┘            │
//!  │                                                │                                  ▼
//!  ├ feed: what happens, in words ──────────────────┤                      view(&Model, &mut Frame)
//!  └ bars: the keys of this place, the screens ─────┘
//! ```
//!
//! `update` and `view` are pure; [`run`](mod@run) alone touches the terminal, the clock and the processes. Every screen can be
//! tested, and replayed, from messages.
//! What keys do to the cluster is in `act`, what clicks do in `mouse`, by name in `command`, on the Data screen in `data`, in a recording in `replay`. What
//! drawing and watching cost `bench` measures.

pub mod act;
pub mod bench;
pub mod command;
pub mod data;
pub mod export;
mod keyboard;
pub mod keys;
pub mod learn;
pub mod look;
pub mod model;
pub mod mouse;
pub mod replay;
pub mod run;
pub mod view;
pub mod why;

#[cfg(test)]
mod tests;

/// Every sign that the screens draw with, so that a font can be judged on the projector before the course.
pub const FONT_TEST: &str = "\
Look at this on the projector, from the last row of the room.

  ┌──────────┬──────────╮     ╔══════════╗     ┏━━━━━━━━━━┓
  │ signs of │ one wide │     ║ the same ║     ┃ and here ┃
  ├──────────┼──────────┤     ╚══════════╝     ┗━━━━━━━━━━┛
  │ ● ○ ◐ ▸· │ ░░▒▒▓▓██ │     ← ↑ → ↓ ◀ ▶     … × ┄ ┄ ┊ ┊ ▁▂▃▄▅▆▇█
  └──────────┴──────────╯
  0O 1lI 8B 5S  {}[]()<>  'straight' \"quotes\" -- two minus signs, no dash

The right edges of the boxes are straight, no sign is a small square or a question mark, and 0 is not O: this font will do.
If not, take another one (DejaVu Sans Mono has all of it), or `etcd-lab --ascii`. 80 columns and 24 rows must fit: the ruler is 80 wide.

12345678901234567890123456789012345678901234567890123456789012345678901234567890
";

pub use model::Cmd;
pub use model::Model;
pub use model::Msg;
pub use model::update;
pub use run::run;
pub use view::view;
