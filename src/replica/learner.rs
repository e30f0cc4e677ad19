//! When a learner may become a voter: not before it can do a voter's work, or the cluster waits for it.
//!
//! Source: etcd `etcdserver/server.go` (`isLearnerReady`).

use crate::error::Error;
use crate::types::Index;
use crate::types::MemberId;

/// Whether the log of `learner` has nine tenths of what the leader's has. `progress` is what the leader knows, nothing elsewhere.
///
/// # Errors
/// [`Error::NotLeader`] elsewhere, [`Error::MemberNotFound`], [`Error::LearnerNotReady`].
pub fn check_in_sync(progress: &[(MemberId, Index)], leader: MemberId, learner: MemberId) -> Result<(), Error> {
    let matched = |id| progress.iter().find(|(member, _)| *member == id).map(|(_, index)| index.0);
    let leaders = matched(leader).ok_or(Error::NotLeader)?;
    let learners = matched(learner).ok_or(Error::MemberNotFound)?;
    if u128::from(learners) * 10 < u128::from(leaders) * 9 { Err(Error::LearnerNotReady) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_is_in_sync_at_nine_tenths_of_the_leaders_log() {
        let (leader, learner) = (MemberId(1), MemberId(2));
        let judge = |matched| check_in_sync(&[(leader, Index(100)), (learner, Index(matched))], leader, learner);
        assert_eq!((judge(90), judge(89)), (Ok(()), Err(Error::LearnerNotReady)));
        assert_eq!(judge(100), Ok(()));
        assert_eq!(check_in_sync(&[], leader, learner), Err(Error::NotLeader));
        assert_eq!(check_in_sync(&[(leader, Index(5))], leader, learner), Err(Error::MemberNotFound));
        assert_eq!(
            check_in_sync(&[(leader, Index(u64::MAX)), (learner, Index(0))], leader, learner),
            Err(Error::LearnerNotReady)
        );
    }
}
