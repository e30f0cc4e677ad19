//! Operations of maintenance, alarms, authentication, locks and elections.

use super::generate::NO_LEASE;
use super::generate::STREAMS;
use super::generate::World;
use super::step::Family;
use super::step::Member;
use super::step::Op;
use super::step::Step;
use super::step::Watching;
use super::step::Who;
use etcd_lab::proto::authpb;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::v3electionpb as election;
use pb::alarm_request::AlarmAction;

const USERS: [&str; 5] = ["root", "ann", "bob", "cy", ""];
const ROLES: [&str; 5] = ["root", "reader", "writer", "some", ""];
const PASSWORDS: [&str; 3] = ["pw1", "pw2", ""];
const ROOT_PASSWORD: &str = "of-root";
const LOCKS: [&str; 3] = ["lock", "lock/deep", ""];
const ELECTIONS: [&str; 2] = ["poll", "vote"];
/// Leases of locks and elections, so that revoking another's does not make a call wait.
const HOLDERS: [i64; 3] = [0x5001, 0x5002, 0x5003];
const LONG: i64 = 1_000_000;
/// Authentication is turned on after so many steps at the earliest: some things can be compared only where it never was.
const OPEN_STEPS: u64 = 400;

impl World {
    pub(super) fn maintenance(&mut self) -> Op {
        match self.random.below(100) {
            0..30 => Op::Status,
            30..35 => Op::Hash,
            35..38 => Op::Defragment,
            38..40 => Op::Snapshot,
            40..65 => Op::MemberList { linearizable: self.random.below(2) == 0 },
            65..75 => Op::MoveLeader(*self.random.pick(&[0, 1, u64::MAX])),
            _ => {
                let version =
                    *self.random.pick(&["", "3", "x.y", "3.4", "3.4.0", "3.3.0", "3.9.0", "4.0.0", "3.4.0.0"]);
                // Not 1, to enable one: the two are of different releases, so one of them would.
                let action = *self.random.pick(&[0, 0, 0, 2, 9]);
                Op::Downgrade(pb::DowngradeRequest { action, version: version.to_owned() })
            }
        }
    }

    pub(super) fn alarm(&mut self) -> Op {
        let member = match self.random.below(6) {
            0 => Member::Id(0),
            1 => Member::Id(7),
            _ => Member::Own,
        };
        let mut alarm = *self.random.pick(&[0, 1, 1, 1, 2, 2, 9]);
        // An action that does not exist would stop etcd for good.
        let action = self.random.below(40) as i32;
        let action = [(16, 0), (22, 1), (40, 2)].into_iter().find_map(|(below, what)| (action < below).then_some(what));
        let action = action.unwrap_or(0);
        if action == AlarmAction::Activate as i32 {
            // One that does not exist stops etcd for good.
            alarm = alarm.min(2);
            // A while with it, then none.
            let soon = 4 + self.random.below(25);
            for _ in 0..soon {
                let op = match self.random.below(7) {
                    // None inside another: releases before 3.6 let their puts through.
                    5 => Op::Txn(self.flat_txn()),
                    6 => Op::LeaseRevoke(self.lease_id()),
                    0 => Op::Put(self.put(true)),
                    1 => Op::DeleteRange(self.delete()),
                    2 => Op::Range(self.range()),
                    3 => Op::LeaseGrant(pb::LeaseGrantRequest { id: 3, ttl: LONG }),
                    _ => Op::Status,
                };
                self.follow(op);
            }
            self.follow(Op::Alarm { action: 0, member, alarm: 0 });
            for alarm in [1, 2] {
                for member in [Member::Own, Member::Id(7), Member::Id(0)] {
                    self.follow(Op::Alarm { action: AlarmAction::Deactivate as i32, member, alarm });
                }
            }
        }
        Op::Alarm { action, member, alarm }
    }

    /// Appends to the script, in the name of somebody who may.
    pub(super) fn follow(&mut self, op: Op) {
        let who = if self.auth_on { Who::Token(0) } else { Who::Nobody };
        self.script.push_back(Step { who, op });
    }

    pub(super) fn auth(&mut self) -> Op {
        match self.random.below(100) {
            0..3 if !self.auth_on && self.steps >= OPEN_STEPS => self.switch_on(),
            0..6 if self.auth_on => self.switch_off(),
            0..12 => Op::AuthStatus,
            12..20 => self.authenticate(),
            20..30 => {
                let options = (self.random.below(4) == 0)
                    .then(|| authpb::UserAddOptions { no_password: self.random.below(2) == 0 });
                let (name, password) = (self.user().to_owned(), self.random.pick(&PASSWORDS).to_string());
                // A root who cannot log in would have everything refused for the rest of the run.
                let is_root = name == "root";
                let (password, options) = if is_root { (ROOT_PASSWORD.to_owned(), None) } else { (password, options) };
                Op::UserAdd(pb::AuthUserAddRequest { name, password, options, hashed_password: String::new() })
            }
            30..35 => Op::UserGet(self.user()),
            35..38 => Op::UserList,
            38..41 => Op::UserDelete(self.user()),
            41..45 => {
                let (name, password) = (self.user(), *self.random.pick(&PASSWORDS));
                if name == "root" && self.auth_on {
                    // Its token went with the old password.
                    self.follow(Op::Authenticate { name: "root", password: ROOT_PASSWORD, slot: 0 });
                }
                Op::UserChangePassword { name, password: if name == "root" { ROOT_PASSWORD } else { password } }
            }
            45..58 => Op::UserGrantRole { user: self.user(), role: self.role() },
            58..63 => Op::UserRevokeRole { user: self.user(), role: self.role() },
            63..70 => Op::RoleAdd(self.role()),
            70..75 => Op::RoleGet(self.role()),
            75..78 => Op::RoleList,
            78..80 => Op::RoleDelete(self.role()),
            80..95 => self.grant_permission(),
            _ => {
                let key = self.key();
                let range_end = self.range_end(&key);
                let role = self.role().to_owned();
                Op::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
            }
        }
    }

    fn user(&mut self) -> &'static str {
        if self.random.below(12) == 0 { "nobody" } else { self.random.pick::<&str>(&USERS) }
    }

    fn role(&mut self) -> &'static str {
        if self.random.below(12) == 0 { "none" } else { self.random.pick::<&str>(&ROLES) }
    }

    fn authenticate(&mut self) -> Op {
        let slot = self.random.below(4) as u8;
        match slot {
            0 => Op::Authenticate { name: "root", password: ROOT_PASSWORD, slot },
            _ => Op::Authenticate { name: self.user(), password: self.random.pick::<&str>(&PASSWORDS), slot },
        }
    }

    fn grant_permission(&mut self) -> Op {
        let key = self.key();
        let mut range_end = self.range_end(&key);
        let is_empty = key.is_empty() || (!range_end.is_empty() && range_end != "\0" && range_end <= key);
        let key = if is_empty && !self.habits.refuses_empty_permissions { "k".into() } else { key };
        if is_empty && !self.habits.refuses_empty_permissions {
            range_end = "l".into();
        }
        let perm_type = self.random.below(3) as i32;
        let perm = authpb::Permission { perm_type, key, range_end };
        // Without a permission etcd 3.4 stops for good; 3.5 answers.
        let perm = (self.random.below(20) != 0).then_some(perm);
        Op::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest { name: self.role().to_owned(), perm })
    }

    /// Root with its role, and authentication on. The steps before may have done some of it.
    fn switch_on(&mut self) -> Op {
        let options = None;
        let add = pb::AuthUserAddRequest {
            name: "root".to_owned(),
            password: ROOT_PASSWORD.to_owned(),
            options,
            hashed_password: String::new(),
        };
        (0..STREAMS).for_each(|stream| self.follow(Op::Watch(Watching::Drop(stream))));
        // Without a root, mostly.
        self.follow(Op::AuthEnable);
        self.follow(Op::UserAdd(add));
        self.follow(Op::UserChangePassword { name: "root", password: ROOT_PASSWORD });
        self.follow(Op::UserGrantRole { user: "root", role: "root" });
        self.follow(Op::RoleAdd("reader"));
        self.follow(Op::UserGrantRole { user: "ann", role: "reader" });
        let perm = authpb::Permission { perm_type: 2, key: "k0".into(), range_end: "k3".into() };
        let grant = pb::AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm: Some(perm) };
        self.follow(Op::RoleGrantPermission(grant));
        for password in PASSWORDS {
            // Whichever it has.
            self.follow(Op::Authenticate { name: "ann", password, slot: 1 });
        }
        self.follow(Op::AuthEnable);
        self.follow(Op::Authenticate { name: "root", password: ROOT_PASSWORD, slot: 0 });
        for password in PASSWORDS {
            self.follow(Op::Authenticate { name: "ann", password, slot: 1 });
            self.follow(Op::Authenticate { name: "bob", password, slot: 2 });
            self.follow(Op::Authenticate { name: "cy", password, slot: 3 });
        }
        Op::AuthStatus
    }

    fn switch_off(&mut self) -> Op {
        self.follow(Op::AuthDisable);
        self.script.push_back(Step::new(Op::AuthStatus));
        Op::Authenticate { name: "root", password: ROOT_PASSWORD, slot: 0 }
    }

    pub(super) fn lock(&mut self) -> Op {
        let name = *self.random.pick(&LOCKS);
        let lease = *self.random.pick(&HOLDERS);
        match self.random.below(10) {
            // All who wait in etcd share one watch stream, which asks with the token of whoever opened it, good or bad: what becomes of them is chance.
            0..3 if !self.auth_was_on => {
                self.serial += 4;
                let first = 0x7000 + self.serial;
                let leases: Vec<i64> = (0..2 + self.random.below(2) as i64).map(|number| first + number).collect();
                let grants = leases.iter().map(|&id| Op::LeaseGrant(pb::LeaseGrantRequest { id, ttl: LONG }));
                grants.collect::<Vec<_>>().into_iter().for_each(|grant| self.follow(grant));
                let revoke = self.random.below(2) == 0;
                self.follow(Op::LockQueue { name: "queue", leases: leases.clone(), revoke });
                leases.into_iter().for_each(|id| self.follow(Op::LeaseRevoke(id)));
                Op::LeaseLeases
            }
            3..7 => {
                // Alone, so it is not kept waiting; twice with one lease is the same lock.
                self.follow(Op::LeaseGrant(pb::LeaseGrantRequest { id: lease, ttl: LONG }));
                self.follow(Op::Lock { name, lease });
                self.follow(Op::Lock { name, lease });
                self.follow(Op::Unlock(format!("{name}/{lease:x}")));
                Op::Unlock(format!("{name}/{lease:x}"))
            }
            7 => Op::Lock { name, lease: NO_LEASE },
            8 => Op::Unlock(String::new()),
            _ => Op::Unlock("no such lock".to_owned()),
        }
    }

    pub(super) fn election(&mut self) -> Op {
        let name = *self.random.pick(&ELECTIONS);
        let lease = *self.random.pick(&HOLDERS);
        match self.random.below(10) {
            0..5 => {
                self.follow(Op::LeaseGrant(pb::LeaseGrantRequest { id: lease, ttl: LONG }));
                self.follow(Op::Campaign { name, lease, value: "first" });
                self.follow(Op::Leader(name));
                self.follow(Op::Campaign { name, lease, value: "again" });
                self.follow(Op::Observe(name));
                // The key that it won with is the newest revision but one, if nothing was refused.
                let wrong = self.leader_key(name, lease, 1);
                self.follow(Op::Proclaim(election::ProclaimRequest {
                    leader: Some(wrong.clone()),
                    value: "no".into(),
                }));
                self.follow(Op::Resign(election::ResignRequest { leader: Some(wrong) }));
                let guess = self.leader_key(name, lease, self.revision + 1);
                self.follow(Op::Proclaim(election::ProclaimRequest {
                    leader: Some(guess.clone()),
                    value: "yes".into(),
                }));
                self.follow(Op::Leader(name));
                self.follow(Op::Resign(election::ResignRequest { leader: Some(guess) }));
                self.follow(Op::LeaseRevoke(lease));
                Op::Leader(name)
            }
            5 => Op::Proclaim(election::ProclaimRequest { leader: None, value: "v".into() }),
            6 => Op::Resign(election::ResignRequest { leader: None }),
            7 => Op::Campaign { name, lease: NO_LEASE, value: "v" },
            8 => Op::Observe(name),
            _ => Op::Leader(name),
        }
    }

    fn leader_key(&self, name: &str, lease: i64, revision: i64) -> election::LeaderKey {
        let key = format!("{name}/{lease:x}").into();
        election::LeaderKey { name: name.to_owned().into(), key, rev: revision, lease }
    }

    pub(super) fn has(&self, family: Family) -> bool {
        self.families().contains(&family)
    }

    /// Steps after which a run can be compared as a whole.
    pub(super) fn last_words(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.auth_on {
            steps.push(Step::new(Op::Authenticate { name: "root", password: ROOT_PASSWORD, slot: 0 }));
            steps.push(Step { who: Who::Token(0), op: Op::AuthDisable });
        }
        if self.has(Family::Alarm) {
            for alarm in [1, 2] {
                for member in [Member::Own, Member::Id(7), Member::Id(0)] {
                    let action = AlarmAction::Deactivate as i32;
                    steps.push(Step::new(Op::Alarm { action, member, alarm }));
                }
            }
        }
        let everything = pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        steps.push(Step::new(Op::Range(everything)));
        steps.push(Step::new(Op::LeaseLeases));
        steps.push(Step::new(Op::HashKv { revision: 0, at: "elsewhere" }));
        steps
    }
}
