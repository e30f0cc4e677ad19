//! A set that has one member most of the time, and takes the memory of one then.

use std::collections::BTreeSet;

/// One, or a set of more.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "a set is three words, of which most would have no use")]
pub(super) enum Few<W> {
    One(W),
    Many(Box<BTreeSet<W>>),
}

impl<W: Copy + Ord> Few<W> {
    pub(super) fn insert(&mut self, who: W) {
        match self {
            Few::One(one) if *one == who => {}
            Few::One(one) => *self = Few::Many(Box::new(BTreeSet::from([*one, who]))),
            Few::Many(all) => drop(all.insert(who)),
        }
    }

    /// Takes `who` off, if it is there. True if nobody is left, and this must go.
    pub(super) fn remove(&mut self, who: W) -> bool {
        match self {
            Few::One(one) => *one == who,
            Few::Many(all) => {
                all.remove(&who);
                all.is_empty()
            }
        }
    }

    pub(super) fn for_each(&self, each: impl FnMut(W)) {
        match self {
            Few::One(one) => std::iter::once(*one).for_each(each),
            Few::Many(all) => all.iter().copied().for_each(each),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(few: &Few<u8>) -> Vec<u8> {
        let mut all = Vec::new();
        few.for_each(|who| all.push(who));
        all
    }

    #[test]
    fn it_is_a_set() {
        let mut few = Few::One(2);
        few.insert(2);
        assert_eq!((all(&few), few.remove(1)), (vec![2], false));
        few.insert(1);
        few.insert(3);
        assert_eq!(all(&few), [1, 2, 3]);
        assert!(!few.remove(2) && !few.remove(1));
        assert_eq!((all(&few), few.remove(3)), (vec![3], true));
    }
}
