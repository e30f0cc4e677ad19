//! "Why is it not …?": answers computed from what the members report, never from what usually is the reason.
//!
//! Each answer is a few lines: what would have to be, what is, member by member, and what to look at next. Where the reports do not
//! suffice, it says so.

use crate::lab::Picture;
use crate::lab::picture::MemberView;
use crate::lab::picture::Process;
use crate::lab::picture::Tap;
use crate::lab::upstream::NOT_VISIBLE;
use crate::proto::lab::Role;
use crate::proto::lab::Watcher;

impl Picture {
    /// How many voters decide, as far as we know: the cluster has as many members as the lab made.
    fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    fn can_speak(&self, m: &MemberView) -> bool {
        !m.is_down() && !m.is_paused() && m.is_heard(self.now)
    }

    /// What keeps a member from taking part, if anything does.
    fn absence(&self, m: &MemberView) -> Option<String> {
        match (&m.process, &m.tap) {
            (Process::Ended { how, .. }, _) => Some(format!("it is down ({how})")),
            (Process::Paused { .. }, _) => Some("it stands still (SIGSTOP)".into()),
            (_, Tap::Never { .. }) => Some("it has not spoken yet".into()),
            (_, Tap::Lost { why }) => Some(format!("we do not hear it ({why})")),
            _ if !m.is_heard(self.now) => Some("it is silent".into()),
            _ => None,
        }
    }

    /// Who is missed, if the member at this place is not: the first that does not take part.
    #[must_use]
    pub fn missed_but(&self, member: usize) -> Option<usize> {
        if self.members.get(member).is_none_or(|m| self.absence(m).is_some()) {
            return None;
        }
        self.members.iter().position(|m| self.absence(m).is_some())
    }

    /// Whether this member's rules cut a way to or from another.
    fn is_cut(&self, a: &MemberView, b: &MemberView) -> bool {
        let rule = |m: &MemberView, peer: &MemberView| {
            let links = m.look.as_ref().map(|l| &l.links[..]).unwrap_or_default();
            links.iter().any(|l| Some(l.peer) == peer.id && (l.cut_out || l.cut_in))
        };
        rule(a, b) || rule(b, a)
    }

    /// Why the newest entry, or the one at `index`, is not committed.
    #[must_use]
    pub fn why_not_committed(&self, index: u64) -> Vec<String> {
        let Some(leader) = self.leader() else {
            let mut lines = vec!["Nothing can be committed: no member that we hear is leader.".into()];
            lines.extend(self.why_no_leader());
            return lines;
        };
        let l = &self.members[leader];
        let Some(state) = &l.state else { return vec!["The leader has not told its state.".into()] };
        if self.is_upstream() {
            return vec![
                format!("{NOT_VISIBLE} of its log."),
                format!("Leader {} says only that it has committed up to {}.", l.name, state.commit),
            ];
        }
        if index <= state.commit {
            return vec![format!("Entry {index} is committed: leader {} says commit {}.", l.name, state.commit)];
        }
        if index > state.last_index {
            return vec![format!("The leader {} has no entry {index}: its log ends at {}.", l.name, state.last_index)];
        }
        let needs = self.quorum();
        let mut lines =
            vec![format!("Entry {index} must be on the disks of {needs} of {} members.", self.members.len())];
        let mut have = 0;
        for m in &self.members {
            let (has, why) = self.holds(l, m, index);
            have += usize::from(has);
            lines.push(format!("  {}  {}  {why}", m.name, if has { "yes" } else { "no " }));
        }
        lines.push(match needs.checked_sub(have) {
            None | Some(0) => "That is enough: the leader counts it when it hears of it.".into(),
            Some(1) => "One more answer is enough.".to_string(),
            Some(more) => format!("{more} more answers are needed."),
        });
        if l.log.get(&index).is_some_and(|e| e.term != state.term) {
            lines.push(format!(
                "It is of an older term than {}: it counts only once an entry of term {} does (Raft paper 5.4.2).",
                state.term, state.term
            ));
        }
        lines
    }

    /// Whether `m` has the entry on disk, and how we know or why not.
    fn holds(&self, leader: &MemberView, m: &MemberView, index: u64) -> (bool, String) {
        if m.name == leader.name {
            let on_disk = m.state.as_ref().is_some_and(|s| s.persisted >= index);
            return (
                on_disk,
                if on_disk { "the leader's own disk".into() } else { "its disk has not synced yet".into() },
            );
        }
        let known = m.id.and_then(|id| leader.progress.get(&id));
        if let Some(p) = known.filter(|p| p.match_index >= index) {
            return (true, format!("it has answered (match {})", p.match_index));
        }
        if let Some(why) = self.absence(m) {
            return (false, why);
        }
        if self.is_cut(leader, m) {
            return (false, format!("the link to {} is cut", leader.name));
        }
        let waits =
            self.wires.held().find(|(w, _)| self.members[w.to].name == m.name || self.members[w.from].name == m.name);
        if let Some((w, id)) = waits {
            let to = &self.members[w.to].name;
            return (false, format!("a message waits at {to}: {} number {id}", w.code()));
        }
        match known {
            Some(p) => (false, format!("match {}, next {}: on its way, or lost", p.match_index, p.next_index)),
            None => (false, "the leader has not told how far it is".into()),
        }
    }

    fn why_no_leader(&self) -> Vec<String> {
        let needs = self.quorum();
        let able = self.members.iter().filter(|m| self.can_speak(m)).count();
        let mut lines: Vec<String> =
            self.members.iter().filter_map(|m| Some(format!("  {}: {}", m.name, self.absence(m)?))).collect();
        lines.push(match able >= needs {
            true if needs == 1 => {
                "It can vote, and its own vote is enough: an election is under way, or must begin.".into()
            }
            true => format!(
                "{able} of {} can vote and {needs} are enough: an election is under way, or must begin.",
                self.members.len()
            ),
            false => format!(
                "{able} of {} can vote, {needs} {} needed: start or continue {} more.",
                self.members.len(),
                if needs == 1 { "is" } else { "are" },
                needs - able
            ),
        });
        lines
    }

    /// Why this member is not the leader.
    #[must_use]
    pub fn why_not_leader(&self, member: usize) -> Vec<String> {
        let Some(m) = self.members.get(member) else { return Vec::new() };
        if let Some(why) = self.absence(m) {
            return vec![format!("{} cannot lead: {why}.", m.name)];
        }
        let Some(state) = &m.state else { return vec![format!("{} has not told its state.", m.name)] };
        if state.role() == Role::Leader {
            return vec![format!("{} is the leader of term {}.", m.name, state.term)];
        }
        if state.role() == Role::Learner {
            return vec![format!("{} is a learner: it has no vote, and must be promoted first.", m.name)];
        }
        let mut lines = Vec::new();
        if let Some(leader) = self.leader().map(|l| &self.members[l]) {
            let term = leader.state.as_ref().map_or(0, |s| s.term);
            lines.push(format!("{} leads term {term}: a term has one leader.", leader.name));
            match state.leader == leader.id.unwrap_or(0) && state.term == term {
                true => lines.push(format!("{} hears its heartbeats, so its timer begins anew each time.", m.name)),
                false => lines.push(format!("{} does not follow it (its term is {}).", m.name, state.term)),
            }
        } else {
            lines.push("Nobody leads.".into());
            lines.extend(self.why_no_leader());
        }
        match self.is_upstream() {
            true => lines.push(format!("{NOT_VISIBLE} how its log ends: nobody can say here who would vote.")),
            false => lines.extend(self.vote_lines(m)),
        }
        lines
    }

    /// How the others' logs compare with this member's: who would vote for it.
    fn vote_lines(&self, m: &MemberView) -> Vec<String> {
        let mine = last_of(m);
        let mut lines = vec![format!("If it asked: its log ends at term {}, index {}.", mine.0, mine.1)];
        let mut votes = 1;
        for other in self.members.iter().filter(|o| o.name != m.name) {
            let theirs = last_of(other);
            let cannot = self.absence(other).or_else(|| self.is_cut(m, other).then(|| "the link is cut".into()));
            let grants = cannot.is_none() && mine >= theirs;
            votes += usize::from(grants);
            let why = cannot.unwrap_or_else(|| {
                let word = if mine >= theirs { "not newer" } else { "newer: it would refuse" };
                format!("its log ends at term {}, index {}: {word}", theirs.0, theirs.1)
            });
            lines.push(format!("  {}  {}  {why}", other.name, if grants { "yes" } else { "no " }));
        }
        lines.push(match self.quorum() {
            1 => "It needs no vote but its own.".into(),
            needs => format!("It could get {votes} of the {needs} votes that it needs."),
        });
        lines
    }

    /// Why a member has not started to serve.
    #[must_use]
    pub fn why_unstarted(&self, member: usize) -> Vec<String> {
        let Some(m) = self.members.get(member) else { return Vec::new() };
        if let Process::Ended { how, .. } = &m.process {
            let mut lines = vec![format!("{} has no process: {how}.", m.name)];
            lines.extend(own_words(m));
            lines.extend([
                format!("All that it wrote: etcd-lab shell -- sh -c 'tail $ETCD_LAB/{}/etcd.log'", m.name),
                format!("Start it: etcd-lab fault start {}", m.name),
            ]);
            return lines;
        }
        let absence = self.absence(m);
        if let (Some(why), Some(_)) = (&absence, self.leader()) {
            let mut lines = vec![format!("{} does not take part: {why}.", m.name)];
            lines.extend(own_words(m));
            return lines;
        }
        if m.survey.is_some() && self.leader().is_some() {
            return vec![format!("{} serves clients.", m.name)];
        }
        if self.leader().is_some() && absence.is_none() {
            return vec![format!(
                "{} takes part, but has not answered clients' Status yet: look again in a second.",
                m.name
            )];
        }
        let mut lines =
            vec![format!("{} serves clients once it has joined a quorum; without a leader it waits.", m.name)];
        lines.extend(absence.map(|why| format!("  {}: {why}", m.name)));
        lines.extend(own_words(m));
        if self.leader().is_none() {
            lines.extend(self.why_no_leader());
        }
        lines
    }

    /// Why a write would be refused or hang, now.
    #[must_use]
    pub fn why_write_refused(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match self.leader() {
            None => {
                lines.push("A write waits, and fails after 7 s: there is no leader to take it.".to_string());
                lines.extend(self.why_no_leader());
            }
            Some(leader) => {
                let l = &self.members[leader];
                let reach = |m: &&MemberView| m.name == l.name || (self.absence(m).is_none() && !self.is_cut(l, m));
                let reached = self.members.iter().filter(reach).count();
                if reached < self.quorum() {
                    lines.push(format!(
                        "Leader {} reaches {reached} of {} members, and needs {}: a write waits.",
                        l.name,
                        self.members.len(),
                        self.quorum()
                    ));
                }
                let apart = self.members.iter().filter(|m| m.name != l.name && self.can_speak(m) && self.is_cut(l, m));
                let apart: Vec<&str> = apart.map(|m| m.name.as_str()).collect();
                if !apart.is_empty() {
                    let (who, l) = (apart.join(" or "), &l.name);
                    lines.push(format!("A write at {who} waits, and fails: no way from there to leader {l}."));
                }
            }
        }
        let alarms = self.members.iter().filter_map(|m| m.survey.as_ref()).flat_map(|s| &s.alarms);
        if let Some((id, alarm)) = alarms.into_iter().next() {
            lines.push(format!(
                "Alarm {alarm} of {}: writes are refused until it is disarmed (etcdctl alarm disarm).",
                self.name(*id)
            ));
        }
        if self.pace() == crate::lab::picture::Pace::Held {
            lines.push("The clock is held: a write goes on with each step ( . ).".into());
        }
        if lines.is_empty() {
            lines.push("Nothing that we see: a leader reaches a quorum, and no alarm is raised.".into());
        }
        lines
    }

    /// Why a watcher is behind; `revision` is its member's.
    #[must_use]
    pub fn why_watcher_behind(&self, member: usize, watcher: &Watcher) -> Vec<String> {
        let Some((m, look)) = self.members.get(member).and_then(|m| Some((m, m.look.as_ref()?))) else {
            return vec!["Its member has not answered.".into()];
        };
        let newest = self.members.iter().map(|m| m.revision).max().unwrap_or(0);
        let mut lines = Vec::new();
        if watcher.cancelled {
            lines.push(format!(
                "Cancelled: it still wanted what lies below {}, and that was compacted away. Its client must list anew.",
                look.compact_revision
            ));
            return lines;
        }
        let behind = (look.revision + 1).saturating_sub(watcher.next_revision);
        match watcher.synced {
            true if watcher.next_revision > look.revision + 1 => {
                lines.push(format!("It waits for revision {}, which is still to come.", watcher.next_revision));
            }
            true => lines.push(format!("Synced: member {} has told it everything up to {}.", m.name, look.revision)),
            false => lines.push(format!(
                "Unsynced: it reads history from revision {} on, {behind} behind member {}; nothing is skipped.",
                watcher.next_revision, m.name
            )),
        }
        if watcher.queued > 0 {
            let wait = if watcher.queued == 1 { "response waits" } else { "responses wait" };
            lines.push(format!("{} {wait} in its stream: its client reads slowly, or not at all.", watcher.queued));
        }
        if !watcher.client.is_empty() {
            lines.push(format!("Its client is {}.", watcher.client));
        }
        if look.revision < newest {
            lines.push(format!(
                "Member {} itself is at {}, the newest is {newest}: a watcher knows no more than its member.",
                m.name, look.revision
            ));
        }
        if !watcher.synced && watcher.next_revision <= look.compact_revision {
            lines.push(format!("Below {} history is gone: it will be cancelled.", look.compact_revision));
        }
        lines
    }
}

/// What its log says, if it says anything.
fn own_words(m: &MemberView) -> impl Iterator<Item = String> + '_ {
    m.said.iter().map(|line| format!("  Its own log: {line}"))
}

/// Term and index of the last entry that a member has told.
fn last_of(m: &MemberView) -> (u64, u64) {
    let newest = m.log.last_key_value().map(|(i, e)| (e.term, *i));
    newest.unwrap_or_else(|| (0, m.state.as_ref().map_or(0, |s| s.last_index)))
}
