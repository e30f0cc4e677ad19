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

#[cfg(test)]
mod tests;

pub use model::Cmd;
pub use model::Model;
pub use model::Msg;
pub use model::update;
pub use run::run;
pub use view::view;
