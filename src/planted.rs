//! Bugs that tests plant, to prove that the simulator would find them.
//!
//! Each is a mistake that etcd, raft-rs or a sibling really had. The code that could make it asks [`is_planted`], which outside of test builds
//! is a constant no and costs nothing. In test builds a bug is planted for one thread, so that other tests do not see it.

/// A mistake that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Entries count as persisted before the disk has them (etcd 14370).
    AcknowledgeBeforeSync,
    /// A vote leaves before the disk has it.
    VoteBeforeSync,
    /// The batch carries the applied index of the one before (etcd 13766).
    AppliedIndexOutsideBatch,
    /// Compaction removes the tombstone at its own revision (etcd 18089).
    TombstoneDropped,
    /// Every round of reads asks with the same context (etcd 20418).
    ReadContextReused,
    /// A leader answers reads without asking whether it still leads.
    ReadAfterStepDown,
    /// A leader answers reads before it has committed in its term.
    ReadBeforeFirstCommit,
    /// A read does not wait until its index is applied.
    ReadBeforeApplied,
    /// The commit index at start is the hard state's, although the store is ahead.
    CommitFromHardStateOnly,
    /// raft-rs reads etcd's number of "update member" as its own "add learner".
    UpdateNodeMisread,
    /// A start writes the founders' records again.
    BootstrapTwice,
    /// The voters are not stored with the conf change.
    ConfStateNotStored,
    /// A progress report overtakes the events of those who lag (etcd 15220).
    ProgressBeforeEvents,
    /// A watch from a revision to come gets what is before it (etcd 20221).
    FutureWatchGetsOldEvents,
    /// The event that finds a watcher's queue full is forgotten.
    WatchCursorForgotten,
    /// Whoever led once revokes leases by its own clock (etcd 15247).
    DeposedLeaderRevokes,
    /// A new leader gives a lease its full time again, whatever a checkpoint says is left of it.
    LeaseTimeReset,
    /// A member over its quota does not apply what the others apply.
    QuotaJudgedAtApply,
    /// A transaction that fails half way leaves its first half (etcd 18667, 18799).
    PartialTransaction,
    /// The log is released before the store has reached the disk.
    ReleasedBeforeDurable,
    /// The log says that a snapshot was accepted, and the manifest does not yet (etcd 11888, 12492).
    SnapshotInTwoSteps,
    /// Watchers that were up to date go on from an installed snapshot, not from where they were (etcd 15271).
    CursorForgottenAtInstall,
    /// A learner asks for votes when the leader's process ends (raft-rs: `campaign` does not ask whether it may).
    LearnerCampaignsOnLoss,
    /// All voters ask for votes at once when the leader's process ends.
    AllCampaignAtOnce,
    /// A voter grants a pre-vote although it hears from its leader.
    PreVoteDespiteLeader,
}

#[cfg(test)]
impl Bug {
    pub(crate) const ALL: [Bug; 25] = [
        Bug::AcknowledgeBeforeSync,
        Bug::VoteBeforeSync,
        Bug::AppliedIndexOutsideBatch,
        Bug::TombstoneDropped,
        Bug::ReadContextReused,
        Bug::ReadAfterStepDown,
        Bug::ReadBeforeFirstCommit,
        Bug::ReadBeforeApplied,
        Bug::CommitFromHardStateOnly,
        Bug::UpdateNodeMisread,
        Bug::BootstrapTwice,
        Bug::ConfStateNotStored,
        Bug::ProgressBeforeEvents,
        Bug::FutureWatchGetsOldEvents,
        Bug::WatchCursorForgotten,
        Bug::DeposedLeaderRevokes,
        Bug::LeaseTimeReset,
        Bug::QuotaJudgedAtApply,
        Bug::PartialTransaction,
        Bug::ReleasedBeforeDurable,
        Bug::SnapshotInTwoSteps,
        Bug::CursorForgottenAtInstall,
        Bug::LearnerCampaignsOnLoss,
        Bug::AllCampaignAtOnce,
        Bug::PreVoteDespiteLeader,
    ];
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug for this thread, or takes the planted one out.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether `bug` was planted.
#[cfg(test)]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether `bug` was planted: never, outside of tests.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}
