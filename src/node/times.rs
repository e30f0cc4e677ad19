//! How long entries take to apply, by what they ask for.

use crate::meter;
use crate::meter::Histogram;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use std::sync::Arc;
use std::time::Duration;

/// Fields of `InternalRaftRequest` by their number, with etcd's names for them.
const OPS: [(u64, &str); 14] = [
    (3, "Range"),
    (4, "Put"),
    (5, "DeleteRange"),
    (6, "Txn"),
    (7, "Compaction"),
    (8, "LeaseGrant"),
    (9, "LeaseRevoke"),
    (10, "Alarm"),
    (11, "LeaseCheckpoint"),
    (1000, "AuthEnable"),
    (1012, "Authenticate"),
    (1300, "ClusterVersionSet"),
    (1301, "ClusterMemberAttrSet"),
    (1302, "DowngradeInfoSet"),
];

const TXN: u64 = 6;

/// The histograms, looked up once.
pub(crate) struct Times {
    by_op: Vec<[Arc<Histogram>; 2]>,
    conf_change: [Arc<Histogram>; 2],
    other: [Arc<Histogram>; 2],
}

impl Default for Times {
    fn default() -> Times {
        let of = |op: &str| ["false", "true"].map(|success| meter::APPLY.with(&["v3", op, success]));
        Times { by_op: OPS.iter().map(|(_, op)| of(op)).collect(), conf_change: of("ConfChange"), other: of("Other") }
    }
}

impl Times {
    /// Counts an entry that was applied.
    pub(crate) fn count(&self, entry: &Entry, success: bool, took: Duration) {
        let pair = if entry.entry_type() == EntryType::EntryNormal {
            let place = OPS.iter().position(|(number, _)| Some(*number) == asks(&entry.data));
            place.map_or(&self.other, |place| &self.by_op[place])
        } else {
            &self.conf_change
        };
        pair[usize::from(success)].time(took);
        if success && asks(&entry.data) == Some(TXN) {
            meter::TXNS.inc();
        }
    }
}

/// The number of the first field, which is what the entry asks for: the header has number 100 and comes after the common ones, so it is looked past.
fn asks(mut data: &[u8]) -> Option<u64> {
    use prost::encoding::decode_key;
    use prost::encoding::decode_varint;
    loop {
        let (number, kind) = decode_key(&mut data).ok()?;
        match number {
            // The id of an entry of etcd 3.0, and the header: both stand beside the request.
            1 => drop(decode_varint(&mut data).ok()?),
            100 if kind == prost::encoding::WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut data).ok()?).ok()?;
                data = data.get(length..)?;
            }
            number => return Some(u64::from(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb as pb;
    use prost::Message as _;

    #[test]
    fn an_entry_is_counted_under_what_it_asks_for() {
        let header = Some(pb::RequestHeader { id: 7, ..Default::default() });
        let put =
            pb::InternalRaftRequest { header: header.clone(), put: Some(Default::default()), ..Default::default() };
        let set =
            pb::InternalRaftRequest { header, cluster_version_set: Some(Default::default()), ..Default::default() };
        assert_eq!(asks(&put.encode_to_vec()), Some(4));
        assert_eq!(asks(&set.encode_to_vec()), Some(1300));
        assert_eq!(asks(b""), None);
        assert_eq!(asks(&[0xff; 12]), None);
    }
}
