//! Joining: a member's own list of the cluster held against the cluster's.
//!
//! Who joins has been told names and peer URLs, and knows no ids: a member that was added has the time in its own. So the two lists are matched by
//! peer URLs, and the ids are the cluster's. The texts are etcd's; source: etcd `membership/cluster.go` (`ValidateClusterAndAssignIDs`),
//! `pkg/netutil/netutil.go` (`URLStringsEqual`).

use super::Member;
use super::Members;
use super::urls;
use crate::types::MemberId;

impl Members {
    /// The members that this list names, each with the id that the running cluster `existing` has given it. Two lists of URLs are the same if
    /// [`same_urls`] says so with this `resolve`.
    ///
    /// # Errors
    /// etcd's sentence on the first member that does not fit.
    pub fn with_ids_of(&self, existing: &Members, resolve: impl Fn(&str) -> String) -> Result<Members, String> {
        if self.len() != existing.len() {
            return Err("member count is unequal".to_owned());
        }
        let mut matched: Vec<Member> = Vec::new();
        for theirs in existing.iter() {
            let mut last = String::new();
            let found = self.iter().find(|ours| {
                let same = same_urls(&theirs.peer_urls, &ours.peer_urls, &resolve);
                same.map_err(|why| last = why).is_ok()
            });
            let Some(ours) = found else {
                return Err(format!(
                    "PeerURLs: no match found for existing member ({}, [{}]), last resolver error ({last})",
                    theirs.id,
                    theirs.peer_urls.join(" ")
                ));
            };
            matched.push(Member { id: theirs.id, ..ours.clone() });
        }
        Ok(Members::of(existing.cluster(), matched))
    }

    /// The peer URLs of all members but those called `name`, sorted: whom to ask.
    #[must_use]
    pub fn urls_beside(&self, name: &str) -> Vec<String> {
        let others = self.iter().filter(|member| member.name != name);
        let mut urls: Vec<String> = others.flat_map(|member| member.peer_urls.clone()).collect();
        urls.sort();
        urls
    }

    /// The cluster as etcd's errors show it: Go's text of its structures.
    #[must_use]
    pub fn to_go_text(&self) -> String {
        let member = |member: &Member| {
            format!(
                "&{{ID:{} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} ClientURLs:[{}]}}}}",
                member.id,
                member.peer_urls.join(" "),
                member.is_learner,
                member.name,
                member.client_urls.join(" ")
            )
        };
        let members: Vec<String> = self.iter().map(member).collect();
        let removed: Vec<String> = self.removed.iter().map(MemberId::to_string).collect();
        let cluster = self.cluster();
        format!("{{ClusterID:{cluster} Members:[{}] RemovedMemberIDs:[{}]}}", members.join(" "), removed.join(" "))
    }
}

/// Whether two lists of URLs name the same places in any order: as they are written, or after `resolve` has put an address in the place of each
/// name.
///
/// # Errors
/// How etcd's comparison of the two ends.
pub fn same_urls(a: &[String], b: &[String], resolve: impl Fn(&str) -> String) -> Result<(), String> {
    let sorted = |mut urls: Vec<String>| {
        urls.sort();
        urls
    };
    let (a, b) = (sorted(a.to_vec()), sorted(b.to_vec()));
    if a == b {
        return Ok(());
    }
    if a.len() != b.len() {
        return Err(urls::first_difference(&a, &b));
    }
    let resolved = |urls: &[String]| sorted(urls.iter().map(|url| resolve(url)).collect());
    let (a, b) = (resolved(&a), resolved(&b));
    if a == b { Ok(()) } else { Err(urls::first_difference(&a, &b)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;

    fn member(id: u64, name: &str, url: &str) -> Member {
        Member { id: MemberId(id), name: name.into(), peer_urls: vec![url.into()], ..Member::default() }
    }

    fn cluster(id: u64, members: &[(u64, &str, &str)]) -> Members {
        Members::of(ClusterId(id), members.iter().map(|(id, name, url)| member(*id, name, url)))
    }

    fn no_names(url: &str) -> String {
        url.to_owned()
    }

    #[test]
    fn ids_come_from_the_cluster_by_peer_urls_whatever_the_names() {
        let ours = cluster(1, &[(1, "new", "http://n:1"), (2, "a", "http://a:1")]);
        let theirs = cluster(9, &[(70, "A", "http://a:1"), (80, "", "http://n:1")]);
        let joined = ours.with_ids_of(&theirs, no_names).expect("they match");
        assert_eq!((joined.cluster(), joined.by_name("new").map(|m| m.id)), (ClusterId(9), Some(MemberId(80))));
        assert_eq!(joined.get(MemberId(70)).map(|m| m.name.as_str()), Some("a"));
    }

    #[test]
    fn a_list_that_is_not_the_clusters_is_refused_in_etcds_words() {
        let theirs = cluster(9, &[(0x1f, "a", "http://a:1"), (0x2f, "", "http://b:1")]);
        let short = cluster(1, &[(1, "a", "http://a:1")]);
        assert_eq!(short.with_ids_of(&theirs, no_names), Err("member count is unequal".into()));
        let wrong = cluster(1, &[(1, "a", "http://a:1"), (2, "b", "http://c:1")]);
        let why = "PeerURLs: no match found for existing member (2f, [http://b:1]), last resolver error \
                   (resolved urls: \"http://b:1\" != \"http://c:1\")";
        assert_eq!(wrong.with_ids_of(&theirs, no_names), Err(why.into()));
    }

    #[test]
    fn names_that_stand_for_one_address_are_the_same() {
        let resolve = |url: &str| url.replace("host-a", "10.0.0.1");
        let url = |url: &str| vec![url.to_owned()];
        assert_eq!(same_urls(&url("http://host-a:1"), &url("http://10.0.0.1:1"), resolve), Ok(()));
        assert!(same_urls(&url("http://host-a:1"), &url("http://10.0.0.1:2"), resolve).is_err());
        let two = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        let why = same_urls(&url("http://a:1"), &two, resolve).expect_err("one and two");
        assert_eq!(why, "len([\"http://a:1\"]) != len([\"http://a:1\" \"http://b:1\"])");
    }

    #[test]
    fn a_cluster_is_shown_as_go_shows_it() {
        let mut shown = member(0x1f, "a", "http://a:1");
        shown.client_urls = vec!["http://a:2".into()];
        let text = "{ClusterID:9 Members:[&{ID:1f RaftAttributes:{PeerURLs:[http://a:1] IsLearner:false} \
                    Attributes:{Name:a ClientURLs:[http://a:2]}}] RemovedMemberIDs:[]}";
        assert_eq!(Members::of(ClusterId(9), [shown]).to_go_text(), text);
    }
}
