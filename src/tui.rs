//! The terminal interface: model, update, view.
//!
//! ```text
//!  ┌ header: LIVE, size, term, leader ──────────────┐   key ─▶ keys.rs ─▶ ┐
//!  │                                                │   report ─────────▶ ├─ update(&mut Model, Msg) -> Option<Cmd>
//!  │ Learn (1), Ring (2) or Logs (3)                │   tick ───────────▶ ┘            │
//!  │                                                │                                  ▼
//!  ├ feed: what happens, in words ──────────────────┤                      view(&Model, &mut Frame)
//!  └ bar: the keys of this place ───────────────────┘
//! ```
//!
//! `update` and `view` are pure; [`run`](mod@run) alone touches the terminal, the clock and the processes. Every screen can be
//! tested, and later replayed, from messages.

pub mod keys;
pub mod learn;
pub mod look;
pub mod model;
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
