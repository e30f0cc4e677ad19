//! What each call needs: the one table of all methods of all services. What is not in it is refused.
//!
//! Before a call reaches its service, and while authentication is on, the table is asked. It names the least that a caller must have; calls about keys
//! are judged once more where the keys are known, those that change users or roles once more when they are applied. A test compares the
//! table with the services' descriptors, so that a new method cannot be forgotten.
//!
//! Stricter than etcd in one thing: calls about keys need a user before anything of the request is looked at, so that nobody's requests cost no entry of the
//! log and tell nothing. Locks and elections are other calls made in the caller's name, so it is those that are judged. Source: etcd 3.6.14
//! `server/etcdserver/api/v3rpc/`; contract-server 7.6.

use tonic::Status;

/// The least that a caller must have while authentication is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: the call gets one a user, or tells nothing.
    Nothing,
    /// A user, by token or certificate; what the call touches is nobody's in particular.
    User,
    /// A user with rights to the keys in question: judged where they are read, or when the entry is applied.
    Keys,
    /// The role root.
    Root,
    /// What its messages ask for: each is judged by the service that has read it, and refused as etcd does there, such as without ending the stream.
    Message,
}

use Need::Keys;
use Need::Message;
use Need::Nothing;
use Need::Root;
use Need::User;

/// Every method, as gRPC writes its path.
#[rustfmt::skip]
pub(super) const TABLE: &[(&str, Need)] = &[
    ("/etcdserverpb.KV/Range",                      Keys),
    ("/etcdserverpb.KV/RangeStream",                Keys),
    ("/etcdserverpb.KV/Put",                        Keys),
    ("/etcdserverpb.KV/DeleteRange",                Keys),
    ("/etcdserverpb.KV/Txn",                        Keys),
    ("/etcdserverpb.KV/Compact",                    Root),
    ("/etcdserverpb.Watch/Watch",                   Message),
    // Keys hang on leases: all but grants are judged by them.
    ("/etcdserverpb.Lease/LeaseGrant",              User),
    ("/etcdserverpb.Lease/LeaseRevoke",             Keys),
    ("/etcdserverpb.Lease/LeaseKeepAlive",          Message),
    ("/etcdserverpb.Lease/LeaseTimeToLive",         Keys),
    ("/etcdserverpb.Lease/LeaseLeases",             Keys),
    ("/etcdserverpb.Cluster/MemberAdd",             Root),
    ("/etcdserverpb.Cluster/MemberRemove",          Root),
    ("/etcdserverpb.Cluster/MemberUpdate",          Root),
    ("/etcdserverpb.Cluster/MemberList",            User),
    ("/etcdserverpb.Cluster/MemberPromote",         Root),
    // Anything but listing alarms needs root: judged once the request is read.
    ("/etcdserverpb.Maintenance/Alarm",             User),
    ("/etcdserverpb.Maintenance/Status",            User),
    ("/etcdserverpb.Maintenance/Defragment",        Root),
    ("/etcdserverpb.Maintenance/Hash",              Root),
    ("/etcdserverpb.Maintenance/HashKV",            Root),
    ("/etcdserverpb.Maintenance/Snapshot",          Root),
    ("/etcdserverpb.Maintenance/MoveLeader",        Root),
    ("/etcdserverpb.Maintenance/Downgrade",         Root),
    ("/etcdserverpb.Auth/Authenticate",             Nothing),
    ("/etcdserverpb.Auth/AuthEnable",               Root),
    ("/etcdserverpb.Auth/AuthDisable",              Root),
    ("/etcdserverpb.Auth/AuthStatus",               Root),
    ("/etcdserverpb.Auth/UserAdd",                  Root),
    // Themselves, or root. Nobody is told that nobody has no name.
    ("/etcdserverpb.Auth/UserGet",                  Message),
    ("/etcdserverpb.Auth/UserList",                 Root),
    ("/etcdserverpb.Auth/UserDelete",               Root),
    ("/etcdserverpb.Auth/UserChangePassword",       Root),
    ("/etcdserverpb.Auth/UserGrantRole",            Root),
    ("/etcdserverpb.Auth/UserRevokeRole",           Root),
    ("/etcdserverpb.Auth/RoleAdd",                  Root),
    // Their own, or root.
    ("/etcdserverpb.Auth/RoleGet",                  User),
    ("/etcdserverpb.Auth/RoleList",                 Root),
    ("/etcdserverpb.Auth/RoleDelete",               Root),
    ("/etcdserverpb.Auth/RoleGrantPermission",      Root),
    ("/etcdserverpb.Auth/RoleRevokePermission",     Root),
    // In the caller's name, through KV and Lease.
    ("/v3lockpb.Lock/Lock",                         Message),
    ("/v3lockpb.Lock/Unlock",                       Message),
    ("/v3electionpb.Election/Campaign",             Message),
    ("/v3electionpb.Election/Proclaim",             Message),
    ("/v3electionpb.Election/Leader",               Message),
    ("/v3electionpb.Election/Observe",              Message),
    ("/v3electionpb.Election/Resign",               Message),
    ("/grpc.health.v1.Health/Check",                Nothing),
    ("/grpc.health.v1.Health/Watch",                Nothing),
    ("/grpc.health.v1.Health/List",                 Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",      Nothing),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Nothing),
];

/// What a method needs; nothing at all is known of a method that is not in the table.
pub(super) fn need(path: &str) -> Option<Need> {
    TABLE.iter().find(|(method, _)| *method == path).map(|(_, need)| *need)
}

/// Says which part of a path there is not, in grpc-go's words.
pub(super) fn unknown(path: &str) -> Status {
    let (service, method) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/').unwrap_or((path, ""));
    let is_of = |(known, _): &(&str, Need)| known[1..].split_once('/').is_some_and(|(known, _)| known == service);
    Status::unimplemented(match TABLE.iter().any(is_of) {
        true => format!("unknown method {method} for service {service}"),
        false => format!("unknown service {service}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every method of every service that `proto/etcd` describes.
    fn described() -> BTreeSet<String> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/etcd");
        let files = ["rpc.proto", "lock.proto", "election.proto"];
        let set = protox::compile(files, [dir]).expect("proto/ compiles");
        let mut methods = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                let name = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
                methods.extend(service.method.iter().map(|method| name(method.name())));
            }
        }
        methods
    }

    #[test]
    fn the_table_has_every_method_of_every_service_once_and_no_other() {
        let mut listed = BTreeSet::new();
        for (path, _) in TABLE {
            assert!(listed.insert((*path).to_owned()), "{path} twice");
        }
        let etcds: BTreeSet<String> = listed.iter().filter(|path| !path.starts_with("/grpc.")).cloned().collect();
        let described = described();
        assert!(described.len() >= 49, "the services were found: {described:?}");
        assert_eq!(etcds, described);
    }

    #[test]
    fn what_is_not_in_the_table_is_not_known() {
        for path in ["/etcdserverpb.KV/range", "/etcdserverpb.KV/", "/etcdserverpb.KV/Range/", "", "/"] {
            assert_eq!(need(path), None, "{path}");
        }
        assert_eq!(need("/etcdserverpb.KV/Range"), Some(Keys));
    }
}
