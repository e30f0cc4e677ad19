//! Alarms: what a member has raised for everybody, and what is refused while they stand.
//!
//! Source: contract-server 6.2 and 6.3.

use super::check;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeSet;

/// How many alarms are read from the engine at a time.
const ROWS: usize = 64;

/// The raised alarms: kind and member.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeSet<(i32, u64)>);

impl Alarms {
    pub(super) fn load(engine: &dyn Engine) -> Result<Alarms, Error> {
        let (mut alarms, mut from) = (Alarms::default(), Vec::new());
        loop {
            let rows = engine.scan(Table::Alarm, &from, ROWS)?;
            for (row, _) in &rows {
                let alarm = pb::AlarmMember::decode(row.clone()).map_err(|e| Error::Damaged(format!("alarm: {e}")))?;
                alarms.0.insert((alarm.alarm, alarm.member_id));
            }
            let Some((last, _)) = rows.last() else { return Ok(alarms) };
            from = [last.as_ref(), &[0]].concat();
        }
    }

    /// Writes every row.
    pub(super) fn save(&self, batch: &mut Batch) {
        for alarm in self.list(0) {
            batch.put(Table::Alarm, alarm.encode_to_vec(), Bytes::new());
        }
    }

    /// Those of one kind, or all for 0.
    pub(super) fn list(&self, kind: i32) -> Vec<pb::AlarmMember> {
        let of_kind = self.0.iter().filter(|(alarm, _)| kind == 0 || kind == *alarm);
        of_kind.map(|(alarm, member)| pb::AlarmMember { member_id: *member, alarm: *alarm }).collect()
    }

    /// Lists, raises or takes back. Returns what the answer lists: all that was asked for, or the one that was raised or taken back.
    pub(super) fn apply(&mut self, request: &pb::AlarmRequest, batch: &mut Batch) -> Vec<pb::AlarmMember> {
        let alarm = pb::AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let entry = (alarm.alarm, alarm.member_id);
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.list(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if self.0.insert(entry) {
                    batch.put(Table::Alarm, alarm.encode_to_vec(), Bytes::new());
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) if self.0.remove(&entry) => {
                batch.delete(Table::Alarm, alarm.encode_to_vec());
                vec![alarm]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn stands(&self, kind: AlarmType) -> bool {
        self.0.range((kind as i32, 0)..=(kind as i32, u64::MAX)).next().is_some()
    }

    /// Refuses what must not happen while an alarm stands.
    pub(super) fn permit(&self, request: &pb::InternalRaftRequest) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let changes_keys = request.put.is_some()
            || request.delete_range.is_some()
            || request.txn.is_some()
            || request.compaction.is_some()
            || request.lease_grant.is_some()
            || request.lease_revoke.is_some();
        if changes_keys && self.stands(AlarmType::Corrupt) {
            return Err(Error::Corrupt);
        }
        if check::quota_cost(request) > 0 && self.stands(AlarmType::Nospace) {
            return Err(Error::NoSpace);
        }
        Ok(())
    }
}
