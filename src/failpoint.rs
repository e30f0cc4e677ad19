//! Named places at which a test can stop, delay or kill a member: the crash-relevant points of its paths.
//!
//! They are etcd's, by its names where the place is the same, and they are set in gofail's language: in the environment,
//! `GOFAIL_FAILPOINTS='walBeforeSync=panic;raftBeforeSave=10.0%sleep(50)'`, or while the member runs, over HTTP at `GOFAIL_HTTP`
//! (see `server/failpoints.rs`).
//!
//! ```text
//! terms ::= term ( "->" term )*        the first term that is allowed to acts
//! term  ::= ( percent "%" | count "*" )* action [ "(" value ")" ]
//! action ::= off | return | sleep | panic | print
//! ```
//!
//! They exist in debug builds, which tests use, and in builds with the feature `failpoints`. In what is shipped [`hit`] is empty.
//!
//! Source: gofail `runtime/terms.go`, `runtime/runtime.go`; names from etcd.

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place in the program.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Point] = &[$(Point::$point,)*];

            /// Its name, etcd's where etcd has the same place.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// Before a round's entries and hard state go to the log.
    RaftBeforeSave = "raftBeforeSave",
    /// After the log has them, synced if they must be.
    RaftAfterSave = "raftAfterSave",
    /// Before a leader's messages leave.
    RaftBeforeLeaderSend = "raftBeforeLeaderSend",
    /// Before everybody else's messages leave.
    RaftBeforeFollowerSend = "raftBeforeFollowerSend",
    /// Before raft learns that a round is on disk.
    RaftBeforeAdvance = "raftBeforeAdvance",
    /// Before the log's record that the store has everything up to a point.
    RaftBeforeSaveSnap = "raftBeforeSaveSnap",
    /// After it.
    RaftAfterSaveSnap = "raftAfterSaveSnap",
    /// After segments of the log were given back.
    RaftAfterWalRelease = "raftAfterWALRelease",
    /// Before the log's `fdatasync`.
    WalBeforeSync = "walBeforeSync",
    /// After it.
    WalAfterSync = "walAfterSync",
    /// Before a received image gets its name.
    SnapBeforeKeep = "snapBeforeKeep",
    /// After it has it, before raft hears of it.
    SnapAfterKeep = "snapAfterKeep",
    /// After the manifest names an accepted image, before the log does.
    SnapAfterAccept = "snapAfterAccept",
    /// Before an image is made into a store.
    ApplyBeforeOpenSnapshot = "applyBeforeOpenSnapshot",
    /// After it was, before the manifest names the store.
    ApplyAfterOpenSnapshot = "applyAfterOpenSnapshot",
    /// After the manifest names it, before the image goes.
    SnapAfterComplete = "snapAfterComplete",
    /// Before an image is sent to a follower.
    SnapBeforeSend = "snapBeforeSend",
    /// After the follower has taken it, before raft hears of that.
    SnapAfterSend = "snapAfterSend",
    /// Before an ordinary entry is applied.
    BeforeApplyOneEntryNormal = "beforeApplyOneEntryNormal",
    /// Before a conf change is applied.
    BeforeApplyOneConfChange = "beforeApplyOneConfChange",
    /// After an entry was applied, before anybody hears of it.
    AfterApplyOneEntry = "afterApplyOneEntry",
    /// Before what has changed since the last batch is taken out as the next.
    BeforeTakeBatch = "beforeTakeBatch",
    /// Before a batch goes to the store.
    BeforeCommit = "beforeCommit",
    /// After it.
    AfterCommit = "afterCommit",
    /// Before the store is synced.
    StoreBeforeSync = "storeBeforeSync",
    /// After it.
    StoreAfterSync = "storeAfterSync",
    /// Before an accepted compaction counts.
    CompactBeforeSetScheduledCompact = "compactBeforeSetScheduledCompact",
    /// After it, before it is stored.
    CompactAfterSetScheduledCompact = "compactAfterSetScheduledCompact",
    /// Before a slice of what was compacted is removed.
    CompactBeforeCommitBatch = "compactBeforeCommitBatch",
    /// After it.
    CompactAfterCommitBatch = "compactAfterCommitBatch",
    /// After the last slice.
    CompactAfterSetFinishedCompact = "compactAfterSetFinishedCompact",
    /// Before the rows are copied into a fresh store.
    DefragBeforeCopy = "defragBeforeCopy",
    /// Before the fresh store takes the old one's place.
    DefragBeforeRename = "defragBeforeRename",
    /// Between the two renames.
    DefragBetweenRenames = "defragBetweenRenames",
    /// A returned text is the error with which copying fails.
    DefragOpenFileError = "defragOpenFileError",
    /// Before anything is made of a data directory of etcd's own.
    AdoptBeforeMake = "adoptBeforeMake",
    /// After its database was made into a store.
    AdoptAfterStore = "adoptAfterStore",
    /// After its log was copied, before what is made says that it is whole.
    AdoptBeforeFormat = "adoptBeforeFormat",
    /// Before the old folder is moved away.
    AdoptBeforeRenames = "adoptBeforeRenames",
    /// Before the new folder takes its place.
    AdoptBetweenRenames = "adoptBetweenRenames",
    /// After it has, before the data directory is synced.
    AdoptAfterRenames = "adoptAfterRenames",
    /// Before a watch response is handed to its stream.
    BeforeSendWatchResponse = "beforeSendWatchResponse",
    /// Before a leader renews a lease.
    BeforeCheckpointInLeaseRenew = "beforeCheckpointInLeaseRenew",
    /// Before a member tells the cluster its name.
    BeforePublishing = "beforePublishing",
}

/// The program has come to `point`.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline]
pub fn hit(_point: Point) {}

/// What the program should go on with at `point`, in place of what it would do.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline]
#[must_use]
pub fn value(_point: Point) -> Option<String> {
    None
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
pub use armed::hit;
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub use armed::value;

#[cfg(any(test, debug_assertions, feature = "failpoints"))]
pub mod armed;
