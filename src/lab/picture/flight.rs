//! Messages on their way, from what their senders and receivers tell.
//!
//! On one machine a message takes less than a millisecond: nobody would see it. So a dot is drawn for [`FLIGHT_MS`], however fast the
//! message was. It arrives on screen only if its receiver has told so; otherwise it waits before the receiver's door, and a message that
//! a member says it dropped ends half-way. The order stays true: messages on one way leave one after the other, and an answer leaves
//! when its request has arrived. Of messages that repeat (heartbeats), one at a time is drawn in each direction.

use crate::proto::lab::Wire;
use crate::types::Millis;

/// How long a dot takes from member to member.
pub const FLIGHT_MS: u64 = 700;
/// A message whose arrival nobody has told waits so much longer before it is forgotten.
const WAIT_MS: u64 = 1_500;
/// Messages on the same way leave so far apart, so that their codes can be read.
const GAP_MS: u64 = 250;
/// A message that would leave later than this is not drawn: the picture must not lag behind the feed.
const LAG_MS: u64 = 1_500;
/// Most dots at once.
const FLIGHTS_MAX: usize = 64;

/// Who told about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its sender, on sending.
    Sent,
    /// Its receiver, on taking it in.
    Received,
    /// Whoever dropped it.
    Dropped,
    /// Its receiver: it waits for the lab's clock.
    Held,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its receiver has not said anything.
    Unknown,
    /// Its receiver has taken it in.
    Arrived,
    /// It was dropped.
    Lost,
    /// It waits at its receiver's door for the lab's clock.
    Held,
}

/// One message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Place of the sender.
    pub from: usize,
    /// Place of the receiver.
    pub to: usize,
    /// Short name of the kind: see [`code`].
    pub code: String,
    /// When its dot leaves the sender.
    pub since: Millis,
    /// What became of it.
    pub fate: Fate,
    identity: Identity,
}

/// What matches a message's Sent with its Received.
type Identity = (u32, u64, u64, u64);

impl Flight {
    /// Whether its dot is on its way.
    #[must_use]
    pub fn has_left(&self, now: Millis) -> bool {
        self.since <= now
    }

    /// Whether it is one of those that come all the time (heartbeats), and therefore is drawn less bright.
    #[must_use]
    pub fn is_routine(&self) -> bool {
        is_routine(self.identity.0)
    }

    /// How far the dot has come, from 0 to 1000.
    #[must_use]
    pub fn travelled(&self, now: Millis) -> u64 {
        let age = now.0.saturating_sub(self.since.0);
        let stops_at = match self.fate {
            Fate::Arrived => 1000,
            Fate::Unknown | Fate::Held => 850,
            Fate::Lost => 500,
        };
        (age * 1000 / FLIGHT_MS).min(stops_at)
    }

    fn is_over(&self, now: Millis) -> bool {
        let age = now.0.saturating_sub(self.since.0);
        self.fate != Fate::Held && age > if self.fate == Fate::Arrived { FLIGHT_MS } else { FLIGHT_MS + WAIT_MS }
    }
}

/// All messages that are drawn.
#[derive(Clone, Debug, Default)]
pub struct Flights(Vec<Flight>);

impl Flights {
    /// The messages on their way.
    pub fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.0.iter()
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what one member told about one message.
    pub fn learn(&mut self, now: Millis, from: usize, to: usize, wire: &Wire, told: Told) {
        let identity = (wire.r#type, wire.term, wire.index, wire.log_term);
        let fate = match told {
            Told::Sent => Fate::Unknown,
            Told::Received => Fate::Arrived,
            Told::Dropped => Fate::Lost,
            Told::Held => Fate::Held,
        };
        let same = |f: &&mut Flight| f.from == from && f.to == to && f.identity == identity;
        if let Some(known) = self.0.iter_mut().find(same) {
            if known.fate == Fate::Held && fate != Fate::Held {
                // It goes the last bit now.
                known.since = Millis(now.0.saturating_sub(FLIGHT_MS * 850 / 1000));
                known.fate = fate;
            } else if known.fate == Fate::Unknown {
                known.fate = fate;
            }
            return;
        }
        let code = code(wire);
        let twin = |f: &Flight| f.from == from && f.to == to && f.code == code;
        if self.0.len() == FLIGHTS_MAX || is_routine(wire.r#type) && self.0.iter().any(twin) {
            return;
        }
        let since = self.departure(now, from, to, wire.r#type);
        if since.0 <= now.0 + LAG_MS {
            self.0.push(Flight { from, to, code, since, fate, identity });
        }
    }

    /// After the dot before it on the same way, and, if it answers a message that is still on its way, after that has arrived.
    fn departure(&self, now: Millis, from: usize, to: usize, kind: u32) -> Millis {
        let before = self.0.iter().filter(|f| (f.from, f.to) == (from, to)).map(|f| f.since.plus(GAP_MS));
        let asked = request_of(kind);
        let answers = |f: &&Flight| (f.to, f.from) == (from, to) && Some(f.identity.0) == asked;
        // Several requests of one kind: the oldest is the one that is answered first.
        let request = self.0.iter().filter(answers).map(|f| f.since.plus(FLIGHT_MS)).min();
        before.chain(request).chain([now]).max().unwrap_or(now)
    }

    /// Removes what has arrived or has waited long enough.
    pub fn forget(&mut self, now: Millis) {
        self.0.retain(|f| !f.is_over(now));
    }
}

/// The kind of message that a kind answers.
fn request_of(kind: u32) -> Option<u32> {
    [(4, 3), (6, 5), (9, 8), (18, 17)].iter().find(|(answer, _)| *answer == kind).map(|(_, request)| *request)
}

fn is_routine(kind: u32) -> bool {
    matches!(kind, 8 | 9)
}

/// A message's kind in at most four characters. The numbers are raft's.
#[must_use]
pub fn code(wire: &Wire) -> String {
    let verdict = if wire.reject { "-" } else { "+" };
    match wire.r#type {
        2 => "ask".into(),
        3 => format!("+{}", wire.entries),
        4 => if wire.reject { "no" } else { "ack" }.into(),
        5 => "V?".into(),
        6 => format!("V{verdict}"),
        7 => "SNAP".into(),
        8 => "hb".into(),
        9 => "ok".into(),
        13 => "hand".into(),
        14 => "go!".into(),
        15 => "R?".into(),
        16 => "R+".into(),
        17 => "P?".into(),
        18 => format!("P{verdict}"),
        other => format!("m{other}"),
    }
}

/// What the codes mean, for the legend and the help.
pub const CODES: &[(&str, &str)] = &[
    ("hb ok", "heartbeat, and its answer"),
    ("+3 ack no", "3 new log entries; stored; refused"),
    ("+0", "no entry: how far all is committed"),
    ("ask", "a follower hands on a request"),
    ("P? P+ P-", "could I win? (pre-vote); yes; no"),
    ("V? V+ V-", "vote for me; granted; refused"),
    ("SNAP", "a whole snapshot"),
    ("R? R+", "is it safe to read?; yes"),
    ("hand go!", "leader hands over; campaign now"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(kind: u32, index: u64) -> Wire {
        Wire { from: 1, to: 2, r#type: kind, term: 3, index, entries: 1, ..Wire::default() }
    }

    #[test]
    fn a_message_arrives_only_when_its_receiver_says_so() {
        let mut flights = Flights::default();
        flights.learn(Millis(0), 0, 1, &wire(3, 8), Told::Sent);
        let far = |f: &Flights| f.iter().next().expect("drawn").travelled(Millis(FLIGHT_MS));
        assert_eq!(far(&flights), 850);
        flights.learn(Millis(5), 0, 1, &wire(3, 8), Told::Received);
        assert_eq!(far(&flights), 1000);
        assert_eq!(flights.iter().count(), 1);
    }

    #[test]
    fn a_dropped_message_ends_half_way() {
        let mut flights = Flights::default();
        flights.learn(Millis(0), 0, 1, &wire(5, 8), Told::Sent);
        flights.learn(Millis(1), 0, 1, &wire(5, 8), Told::Dropped);
        assert_eq!(flights.iter().next().expect("drawn").travelled(Millis(2 * FLIGHT_MS)), 500);
    }

    #[test]
    fn an_answer_leaves_when_its_request_has_arrived() {
        let mut flights = Flights::default();
        flights.learn(Millis(0), 0, 1, &wire(3, 8), Told::Sent);
        flights.learn(Millis(1), 1, 0, &Wire { index: 9, ..wire(4, 9) }, Told::Sent);
        let answer = flights.iter().find(|f| f.code == "ack").expect("noted");
        assert!(!answer.has_left(Millis(FLIGHT_MS - 1)) && answer.has_left(Millis(FLIGHT_MS)));
    }

    #[test]
    fn messages_on_one_way_leave_one_after_the_other() {
        let mut flights = Flights::default();
        for index in 0..20 {
            flights.learn(Millis(0), 0, 1, &wire(3, index), Told::Sent);
        }
        let since: Vec<u64> = flights.iter().map(|f| f.since.0).collect();
        assert_eq!(since, [0, 250, 500, 750, 1000, 1250, 1500], "and a crowd is cut off");
    }

    #[test]
    fn heartbeats_do_not_crowd_the_screen() {
        let mut flights = Flights::default();
        for i in 0..7 {
            flights.learn(Millis(i * 100), 0, 1, &wire(8, i), Told::Sent);
        }
        assert_eq!(flights.iter().count(), 1);
    }
}
