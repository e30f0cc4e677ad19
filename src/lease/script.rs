//! Scripts of lease timing: `src/lease/scripts/`.
//!
//! | command | what it does |
//! |---|---|
//! | `at S` | it is S seconds (with tenths) after the beginning |
//! | `lead [S]`, `follow` | this member leads from now on, with S seconds of extension; does not lead |
//! | `grant ID TTL`, `revoke ID`, `mark ID S` | an entry is applied: S seconds are left, 0 is all |
//! | `renew ID`, `left ID` | a client asks |
//! | `expire [MAX]`, `marks [MAX]` | the leader's round: what it proposes now |
//! | `lost ID` | nobody knows what became of the mark that was proposed |

use super::Renewal;
use super::Table;
use super::Timers;
use crate::engine::Batch;
use crate::golden;
use crate::types::LeaseId;
use crate::types::Millis;

struct World {
    now: Millis,
    table: Table,
    timers: Timers,
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

fn millis(text: &str) -> u64 {
    let (whole, tenths) = text.split_once('.').unwrap_or((text, "0"));
    whole.parse::<u64>().expect("seconds") * 1000 + tenths.parse::<u64>().expect("tenths") * 100
}

impl World {
    fn new() -> World {
        World { now: Millis(0), table: Table::default(), timers: Timers::new(Some(300_000)) }
    }

    fn run(&mut self, words: &[&str]) -> String {
        let number = |place: usize| words.get(place).map(|word| word.parse::<i64>().expect("a number"));
        let id = || LeaseId(number(1).expect("an id"));
        let max = || number(1).map_or(1000, |max| max as usize);
        match words {
            ["at", time] => self.now = Millis(millis(time)),
            ["lead", ..] => {
                let extend = words.get(1).map_or(0, |word| millis(word));
                self.timers.promote(self.now, &self.table, extend);
                let ends = self.table.iter().map(|(id, _)| self.ends(id));
                return ends.collect::<Vec<_>>().join("\n");
            }
            ["follow"] => self.timers.demote(),
            ["grant", _, ttl] => {
                let id = id();
                let ttl = ttl.parse().expect("seconds");
                if let Err(why) = self.table.grant(id, ttl, &mut Batch::default()) {
                    return why.to_string();
                }
                self.timers.granted(self.now, id, ttl);
                return self.ends(id);
            }
            ["revoke", _] => {
                let id = id();
                if let Err(why) = self.table.revoke(id, &mut Batch::default()) {
                    return why.to_string();
                }
                self.timers.revoked(id);
            }
            ["mark", _, left] => {
                let id = id();
                let left = left.parse().expect("seconds");
                self.table.checkpoint(id, left, &mut Batch::default());
                self.timers.checkpointed(self.now, id, left);
            }
            ["lost", _] => self.timers.checkpoint_lost(id()),
            ["renew", _] => return self.renew(id()),
            ["left", _] => return self.timers.remaining(self.now, id()).map_or("nobody knows".into(), seconds),
            ["expire", ..] => {
                let ids = self.timers.expired(self.now, max());
                return ids.iter().map(|id| format!("revoke {}\n", id.0)).collect();
            }
            ["marks", ..] => {
                let due = self.timers.due_checkpoints(self.now, max());
                return due.iter().map(|(id, left)| format!("mark {} {left}\n", id.0)).collect();
            }
            other => panic!("no command: {other:?}"),
        }
        String::new()
    }

    fn ends(&self, id: LeaseId) -> String {
        let ends =
            self.timers.expires(id).map_or("nobody counts".into(), |at| format!("runs out at {}", seconds(at.0)));
        format!("{} {ends}", id.0)
    }

    fn renew(&mut self, id: LeaseId) -> String {
        match self.timers.renew(self.now, id) {
            Renewal::Extended(ttl) => format!("{ttl} s: {}", self.ends(id)),
            Renewal::Checkpointed => format!("first: mark {} 0", id.0),
            Renewal::Wait => "wait for the log".into(),
            Renewal::Unknown => "no such lease".into(),
            Renewal::NotPrimary => "ask the leader".into(),
        }
    }
}

#[test]
fn leases_are_timed_as_their_scripts_say() {
    golden::check("src/lease/scripts", World::new, |world, words| world.run(words));
}
