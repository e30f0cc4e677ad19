//! Who is a member, naively: what the log makes of it.

use crate::apply::Reply;
use crate::error::Error;
use crate::proto::membershippb;
use crate::proto::walpb::ConfChange;
use crate::proto::walpb::conf_change::Type;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// A member, as the log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) peer_urls: Vec<String>,
    pub(super) is_learner: bool,
}

/// All members.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    pub(super) rows: BTreeMap<u64, Row>,
    pub(super) removed: BTreeSet<u64>,
}

impl Roster {
    pub(super) fn voters(&self) -> BTreeSet<u64> {
        self.rows.iter().filter(|(_, row)| !row.is_learner).map(|(id, _)| *id).collect()
    }

    /// Carries out a change, if it can be. Peer URLs must be nobody else's, ids nobody's ever before, and one voter must stay.
    pub(super) fn change(&mut self, change: &ConfChange) -> Result<Reply, Error> {
        let id = change.node_id;
        let json: serde_json::Value = serde_json::from_slice(&change.context).unwrap_or_default();
        let urls = json["peerURLs"].as_array().into_iter().flatten();
        let peer_urls: Vec<String> = urls.filter_map(|url| url.as_str().map(str::to_owned)).collect();
        let is_taken =
            |(other, row): (&u64, &Row)| *other != id && row.peer_urls.iter().any(|url| peer_urls.contains(url));
        let is_taken = self.rows.iter().any(is_taken);
        if self.removed.contains(&id) {
            return Err(Error::MemberNotFound);
        }
        let present = self.rows.get(&id).cloned();
        match (change.r#type(), present) {
            (Type::AddNode, present) if json["isPromote"] == true => {
                let row = present.ok_or(Error::MemberNotFound)?;
                let learner = row.is_learner.then_some(row).ok_or(Error::MemberNotLearner)?;
                self.rows.insert(id, Row { is_learner: false, ..learner });
            }
            (Type::AddNode | Type::AddLearnerNode, Some(_)) => return Err(Error::MemberExists),
            (Type::RemoveNode | Type::UpdateNode, None) => return Err(Error::MemberNotFound),
            (Type::RemoveNode, Some(row)) => {
                if !row.is_learner && self.voters().len() == 1 {
                    return Err(Error::MemberNotEnoughStarted);
                }
                self.rows.remove(&id);
                self.removed.insert(id);
            }
            _ if is_taken => return Err(Error::PeerUrlExists),
            (Type::UpdateNode, Some(row)) => drop(self.rows.insert(id, Row { peer_urls, ..row })),
            (kind, None) => {
                let name = json["name"].as_str().unwrap_or_default().to_owned();
                self.rows.insert(id, Row { name, peer_urls, is_learner: kind == Type::AddLearnerNode });
            }
        }
        Ok(Reply::Done)
    }

    /// What a member says of itself once it has started.
    pub(super) fn publish(&mut self, says: &membershippb::ClusterMemberAttrSetRequest) -> Result<Reply, Error> {
        let name = says.member_attributes.as_ref().map(|attributes| attributes.name.clone()).unwrap_or_default();
        match self.rows.get_mut(&says.member_id) {
            Some(row) => row.name = name,
            None if self.removed.contains(&says.member_id) => {}
            None => return Err(Error::MemberNotFound),
        }
        Ok(Reply::Done)
    }
}
