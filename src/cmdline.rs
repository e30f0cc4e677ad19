//! What the command-line programs have in common: how their words are read and their tables drawn.

pub(crate) mod args;
pub(crate) mod progress;
pub(crate) mod table;
