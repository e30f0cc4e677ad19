//! A lab in which people learn etcd by running it: a raft-backed etcd v3 server, its clients, and a terminal lab
//! that starts real members and shows what they do.
//!
//! Modules are floors: each imports only from floors below it. ARCHITECTURE.md holds the table, the walks through the
//! code and the invariants; `tests/tidy.rs` holds the code to it.
//!
//! One put, six rooms:
//!
//! ```text
//! server/kv.rs     check the request, name the user
//! node.rs          queue it for the raft thread, wait for the answer
//! consensus.rs     raft: propose, replicate, commit
//! wal.rs           append all that is queued, one fdatasync, while the messages are on their way
//! apply.rs         one committed entry: permitted? which store? one batch out
//! mvcc.rs          the next revision; the answer goes back by request id, the events go to watch.rs
//! ```

pub mod apply;
pub mod auth;
pub mod bbolt;
pub mod bench;
pub mod cli;
pub mod client;
pub mod cmdline;
pub mod consensus;
pub mod ctl;
pub mod disk;
pub mod dns;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod golang;
#[cfg(test)]
mod golden;
pub mod image;
pub mod kube;
pub mod lab;
pub mod lease;
pub mod membership;
pub mod meter;
pub mod mvcc;
pub mod node;
pub mod peer;
pub(crate) mod planted;
pub mod probe;
pub mod proto;
pub mod replica;
pub mod server;
pub mod sim;
pub mod store;
pub mod tls;
pub mod tui;
pub mod types;
pub mod utl;
pub mod wal;
pub mod wall;
pub mod watch;
