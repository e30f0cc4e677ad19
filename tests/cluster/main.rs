//! Claims about real member processes: what holds after kill -9, on a full disk, against etcd's own programs.
//!
//! Every test starts members of its own, on free loopback ports and in a directory of its own, and ends them whatever happens. Tests take
//! turns, since most of them are about time. Nothing sleeps: everything waits for a condition, with a deadline.
//!
//! | variable | what it does |
//! |---|---|
//! | `ETCD_BIN` | members run this program instead of ours: the harness against real etcd |
//! | `ETCD_351` | etcd 3.5.1, for comparisons; its etcdctl and etcdutl lie beside it |
//! | `ETCD_3516` | etcd 3.5.16, for clusters of etcd's members and ours |
//! | `ETCD_PEER` | any other etcd for the differ, which has more variables of its own ([`differ`]) |
//! | `ETCDCTL_34` | etcdctl 3.4, for comparisons; otherwise an `etcdctl` of that release on the `PATH` |
//! | `CI_REQUIRE_FOREIGN=1` | a foreign program that is missing fails the test; otherwise `skipped: …` is printed |
//! | `CI_WITHOUT` | releases of Debian's suites that may be missing all the same: `etcd-3.5.16`, `etcd-newer`, or both with a comma |

mod abuse;
mod as_typed;
mod auth;
mod bad_input;
mod bars;
mod bench;
mod bounds;
mod catchup;
mod chaos;
mod chaos_mixed;
mod checker;
mod client;
mod commands;
mod conversions;
mod corruption;
mod cuts;
mod differ;
mod discovery;
mod doctor;
mod effects;
mod etcdctl;
mod evidence;
mod failpoints;
mod flags;
mod floods;
mod foreign;
mod gateway;
mod gateway_tls;
mod harness;
mod hashkv;
mod http;
mod ids;
mod in_place;
mod journeys;
mod kills;
mod kube;
mod lab_clock;
mod lab_faults;
mod lab_misfits;
mod lab_record;
mod leases;
mod locks;
mod long_commands;
mod maintenance;
mod member_commands;
mod membership;
mod metrics;
mod mixed;
mod newer_flags;
mod offline;
mod old_dialect;
mod ports;
mod power;
mod prometheus;
mod raw;
mod seed_lines;
mod seeded;
mod service;
mod small_print;
mod snapshots;
mod spans;
mod srv;
mod strangers;
mod systemd;
mod terminate;
mod tls;
mod tls_matrix;
mod tls_peers;
mod watch_rules;
mod watches;
mod websocket;
mod writers;
