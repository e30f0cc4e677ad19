//! Members and endpoints: the answers to member, endpoint, alarm and move-leader.

use super::Answer;
use super::Page;
use super::json;
use super::json::Object;
use super::table::Table;
use crate::golang;
use crate::proto::etcdserverpb::AlarmResponse;
use crate::proto::etcdserverpb::HashKvResponse;
use crate::proto::etcdserverpb::Member;
use crate::proto::etcdserverpb::MemberAddResponse;
use crate::proto::etcdserverpb::MemberListResponse;
use crate::proto::etcdserverpb::MoveLeaderResponse;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::StatusResponse;
use prost::Message;

fn member_json(member: &Member) -> String {
    Object::default()
        .number("ID", member.id)
        .text("name", &member.name)
        .list("peerURLs", member.peer_ur_ls.iter().map(golang::json))
        .list("clientURLs", member.client_ur_ls.iter().map(golang::json))
        .flag("isLearner", member.is_learner)
        .end()
}

fn member_row(member: &Member) -> Vec<String> {
    vec![
        format!("{:x}", member.id),
        if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
        member.name.clone(),
        member.peer_ur_ls.join(","),
        member.client_ur_ls.join(","),
        member.is_learner.to_string(),
    ]
}

/// The one answer that `--hex` changes in json: ids as strings of hexadecimal digits, and fewer fields.
fn members_hex_json(answer: &MemberListResponse) -> String {
    let hex = |id: u64| format!("\"{id:x}\"");
    let urls = |urls: &[String]| json::array(urls.iter().map(golang::json));
    let header = answer.header.unwrap_or_default();
    let header = Object::default()
        .always("cluster_id", hex(header.cluster_id))
        .always("member_id", hex(header.member_id))
        .always("raft_term", header.raft_term.to_string())
        .end();
    let members = answer.members.iter().map(|member| {
        Object::default()
            .always("ID", hex(member.id))
            .always("name", golang::json(&member.name))
            .always("peerURLs", urls(&member.peer_ur_ls))
            .always("clientURLs", urls(&member.client_ur_ls))
            .end()
    });
    Object::default().always("header", header).list("members", members).end()
}

impl Answer for MemberListResponse {
    fn simple(&self, page: &mut Page) {
        for line in self.table().iter().flat_map(Table::lines) {
            page.line(line);
        }
    }

    fn json(&self, hex: bool) -> String {
        if hex {
            return members_hex_json(self);
        }
        Object::default().header(self.header.as_ref()).list("members", self.members.iter().map(member_json)).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        for member in &self.members {
            page.id("ID", member.id);
            page.quoted("Name", member.name.as_bytes());
            for url in &member.peer_ur_ls {
                page.quoted("PeerURL", url.as_bytes());
            }
            for url in &member.client_ur_ls {
                page.quoted("ClientURL", url.as_bytes());
            }
            page.field("IsLearner", member.is_learner);
            page.line("");
        }
        true
    }

    fn table(&self) -> Option<Table> {
        let titles = &["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
        Some(Table { titles, rows: self.members.iter().map(member_row).collect() })
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// A new member, and what it must be started with.
pub(crate) struct MemberAdded {
    pub(crate) name: String,
    pub(crate) peer_urls: String,
    pub(crate) answer: MemberAddResponse,
}

impl Answer for MemberAdded {
    fn simple(&self, page: &mut Page) {
        let member = self.answer.member.clone().unwrap_or_default();
        let cluster = self.answer.header.unwrap_or_default().cluster_id;
        let learner = if member.is_learner { " as learner" } else { "" };
        page.line(format_args!("Member {:>16x} added{learner} to cluster {cluster:>16x}\n", member.id));
        let mut peers = Vec::new();
        for other in &self.answer.members {
            let name = if other.id == member.id { &self.name } else { &other.name };
            peers.extend(other.peer_ur_ls.iter().map(|url| format!("{name}={url}")));
        }
        let quote = |text: &str| golang::quote(text.as_bytes());
        page.line(format_args!("ETCD_NAME={}", quote(&self.name)));
        page.line(format_args!("ETCD_INITIAL_CLUSTER={}", quote(&peers.join(","))));
        page.line(format_args!("ETCD_INITIAL_ADVERTISE_PEER_URLS={}", quote(&self.peer_urls)));
        page.line("ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
    }

    fn json(&self, _: bool) -> String {
        Object::default()
            .header(self.answer.header.as_ref())
            .maybe("member", self.answer.member.as_ref().map(member_json))
            .list("members", self.answer.members.iter().map(member_json))
            .end()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

/// A member that was removed, updated or promoted. The three answers have the same fields.
pub(crate) struct MemberChanged {
    /// `removed from`, `updated in`, `promoted in`.
    pub(crate) how: &'static str,
    pub(crate) id: u64,
    pub(crate) answer: MemberListResponse,
}

impl Answer for MemberChanged {
    fn simple(&self, page: &mut Page) {
        let cluster = self.answer.header.unwrap_or_default().cluster_id;
        page.line(format_args!("Member {:>16x} {} cluster {cluster:>16x}", self.id, self.how));
    }

    fn json(&self, _: bool) -> String {
        self.answer.json(false)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

/// What one endpoint answered; a command shows a list of them.
pub(crate) struct PerEndpoint<T>(pub(crate) Vec<(String, T)>);

/// A Go slice that nothing was added to is null.
fn list_or_null(items: Vec<String>) -> String {
    if items.is_empty() { "null".to_owned() } else { json::array(items) }
}

/// How an endpoint is.
pub(crate) struct Health {
    /// How long the answer took; empty if no call was made.
    pub(crate) took: String,
    /// Empty if it is well.
    pub(crate) error: String,
    pub(crate) health: bool,
}

impl Answer for PerEndpoint<Health> {
    fn simple(&self, page: &mut Page) {
        for (endpoint, Health { took, error, .. }) in &self.0 {
            if error.is_empty() {
                page.line(format_args!("{endpoint} is healthy: successfully committed proposal: took = {took}"));
            } else {
                page.err.extend(format!("{endpoint} is unhealthy: failed to commit proposal: {error}\n").bytes());
            }
        }
    }

    fn json(&self, _: bool) -> String {
        let one = |(endpoint, health): &(String, Health)| {
            Object::default()
                .always("endpoint", golang::json(endpoint))
                .always("health", health.health.to_string())
                .always("took", golang::json(&health.took))
                .text("error", &health.error)
                .end()
        };
        list_or_null(self.0.iter().map(one).collect())
    }

    fn fields(&self, page: &mut Page) -> bool {
        for (endpoint, health) in &self.0 {
            page.quoted("Endpoint", endpoint.as_bytes());
            page.field("Health", health.health);
            page.field("Took", &health.took);
            page.field("Error", &health.error);
            page.line("");
        }
        true
    }

    fn table(&self) -> Option<Table> {
        let row = |(endpoint, health): &(String, Health)| {
            vec![endpoint.clone(), health.health.to_string(), health.took.clone(), health.error.clone()]
        };
        Some(Table { titles: &["endpoint", "health", "took", "error"], rows: self.0.iter().map(row).collect() })
    }
}

fn id_of(header: Option<ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.member_id)
}

fn status_json(status: &StatusResponse) -> String {
    let downgrade = status
        .downgrade_info
        .as_ref()
        .map(|info| Object::default().flag("enabled", info.enabled).text("targetVersion", &info.target_version).end());
    Object::default()
        .header(status.header.as_ref())
        .text("version", &status.version)
        .number("dbSize", status.db_size)
        .number("leader", status.leader)
        .number("raftIndex", status.raft_index)
        .number("raftTerm", status.raft_term)
        .number("raftAppliedIndex", status.raft_applied_index)
        .list("errors", status.errors.iter().map(golang::json))
        .number("dbSizeInUse", status.db_size_in_use)
        .flag("isLearner", status.is_learner)
        .text("storageVersion", &status.storage_version)
        .number("dbSizeQuota", status.db_size_quota)
        .maybe("downgradeInfo", downgrade)
        .end()
}

fn status_row((endpoint, status): &(String, StatusResponse)) -> Vec<String> {
    let size = |bytes: i64| golang::size(bytes.unsigned_abs());
    let used = status.db_size_in_use.saturating_mul(100).checked_div(status.db_size).unwrap_or(100);
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    vec![
        endpoint.clone(),
        format!("{:x}", id_of(status.header)),
        status.version.clone(),
        status.storage_version.clone(),
        size(status.db_size),
        size(status.db_size_in_use),
        format!("{}%", 100 - used),
        size(status.db_size_quota),
        (status.leader == id_of(status.header)).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

const STATUS_TITLES: [&str; 16] = [
    "endpoint",
    "ID",
    "version",
    "storage version",
    "db size",
    "in use",
    "percentage not in use",
    "quota",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
    "downgrade target version",
    "downgrade enabled",
];

impl Answer for PerEndpoint<StatusResponse> {
    fn simple(&self, page: &mut Page) {
        for line in self.table().iter().flat_map(Table::lines) {
            page.line(line);
        }
    }

    fn json(&self, _: bool) -> String {
        let one = |(endpoint, status): &(String, StatusResponse)| {
            Object::default().always("Endpoint", golang::json(endpoint)).always("Status", status_json(status)).end()
        };
        list_or_null(self.0.iter().map(one).collect())
    }

    fn fields(&self, page: &mut Page) -> bool {
        for (endpoint, status) in &self.0 {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            page.header(status.header.as_ref());
            page.quoted("Version", status.version.as_bytes());
            page.quoted("StorageVersion", status.storage_version.as_bytes());
            page.field("DBSize", status.db_size);
            page.field("DBSizeInUse", status.db_size_in_use);
            page.field("DBSizeQuota", status.db_size_quota);
            page.field("Leader", status.leader);
            page.field("IsLearner", status.is_learner);
            page.field("RaftIndex", status.raft_index);
            page.field("RaftTerm", status.raft_term);
            page.field("RaftAppliedIndex", status.raft_applied_index);
            page.field("Errors", format_args!("[{}]", status.errors.join(" ")));
            page.quoted("Endpoint", endpoint.as_bytes());
            page.quoted("DowngradeTargetVersion", downgrade.target_version.as_bytes());
            page.field("DowngradeEnabled", downgrade.enabled);
            page.line("");
        }
        true
    }

    fn table(&self) -> Option<Table> {
        Some(Table { titles: &STATUS_TITLES, rows: self.0.iter().map(status_row).collect() })
    }
}

impl Answer for PerEndpoint<HashKvResponse> {
    fn simple(&self, page: &mut Page) {
        for line in self.table().iter().flat_map(Table::lines) {
            page.line(line);
        }
    }

    fn json(&self, _: bool) -> String {
        let one = |(endpoint, hash): &(String, HashKvResponse)| {
            let answer = Object::default()
                .header(hash.header.as_ref())
                .number("hash", hash.hash)
                .number("compact_revision", hash.compact_revision)
                .number("hash_revision", hash.hash_revision)
                .end();
            Object::default().always("Endpoint", golang::json(endpoint)).always("HashKV", answer).end()
        };
        list_or_null(self.0.iter().map(one).collect())
    }

    fn fields(&self, page: &mut Page) -> bool {
        for (endpoint, hash) in &self.0 {
            page.header(hash.header.as_ref());
            page.quoted("Endpoint", endpoint.as_bytes());
            page.field("Hash", hash.hash);
            page.field("HashRevision", hash.hash_revision);
            page.line("");
        }
        true
    }

    fn table(&self) -> Option<Table> {
        let row = |(endpoint, hash): &(String, HashKvResponse)| {
            vec![endpoint.clone(), hash.hash.to_string(), hash.hash_revision.to_string()]
        };
        Some(Table { titles: &["endpoint", "hash", "hash_revision"], rows: self.0.iter().map(row).collect() })
    }
}

impl Answer for AlarmResponse {
    fn simple(&self, page: &mut Page) {
        for alarm in &self.alarms {
            // Go's text form of a message: fields that are set, each followed by a blank.
            let mut text = String::new();
            if alarm.member_id != 0 {
                text += &format!("memberID:{} ", alarm.member_id);
            }
            if alarm.alarm != 0 {
                text += &format!("alarm:{} ", alarm.alarm().as_str_name());
            }
            page.line(text);
        }
    }

    fn json(&self, _: bool) -> String {
        let alarms = self
            .alarms
            .iter()
            .map(|alarm| Object::default().number("memberID", alarm.member_id).number("alarm", alarm.alarm).end());
        Object::default().header(self.header.as_ref()).list("alarms", alarms).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        for alarm in &self.alarms {
            page.id("MemberID", alarm.member_id);
            page.field("AlarmType", alarm.alarm().as_str_name());
            page.line("");
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// Leadership that went from one member to another.
pub(crate) struct LeaderMoved {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) answer: MoveLeaderResponse,
}

impl Answer for LeaderMoved {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("Leadership transferred from {:x} to {:x}", self.from, self.to));
    }

    fn json(&self, _: bool) -> String {
        Object::default().header(self.answer.header.as_ref()).end()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}
