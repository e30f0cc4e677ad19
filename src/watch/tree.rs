//! Who watches an interval that a key lies in.
//!
//! A search tree of intervals, ordered by where they begin; each node also knows how far the intervals below it reach, so that
//! a search turns back where none can reach the key. Weights drawn from a fixed sequence keep it balanced (a treap): a
//! parent weighs more than its children.
//!
//! ```text
//!              [c, m) reaches z
//!             /                \
//!    [a, d) reaches d      [k, z) reaches z        key p: not left (d ≤ p), not [c, m), yes [k, z)
//! ```
//!
//! Source: Cormen et al., *Introduction to Algorithms*, 14.3; Aragon and Seidel, "Randomized Search Trees" (1989).

use super::few::Few;
use crate::types::KeyRange;
use bytes::Bytes;
use std::cmp::Ordering;

/// Where an interval ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < end.as_ref(),
            End::Never => true,
        }
    }
}

/// Sets of `W` by interval.
#[derive(Debug)]
pub(super) struct Tree<W> {
    root: Link<W>,
    drawn: u64,
}

type Link<W> = Option<Box<Node<W>>>;

#[derive(Debug)]
struct Node<W> {
    from: Bytes,
    to: End,
    who: Few<W>,
    /// The furthest end in this subtree.
    reach: End,
    weight: u64,
    left: Link<W>,
    right: Link<W>,
}

impl<W> Default for Tree<W> {
    fn default() -> Tree<W> {
        Tree { root: None, drawn: 0 }
    }
}

/// The interval that `range` is, if it is not a single key.
fn ends(range: &KeyRange) -> Option<(Bytes, End)> {
    match range {
        KeyRange::Single(_) => None,
        KeyRange::Interval(from, to) => Some((from.clone(), End::Before(to.clone()))),
        KeyRange::From(from) => Some((from.clone(), End::Never)),
    }
}

impl<W: Copy + Ord> Tree<W> {
    /// Adds `who` to the interval `range`; single keys are not for this tree.
    pub(super) fn insert(&mut self, range: &KeyRange, who: W) {
        let Some((from, to)) = ends(range) else { return };
        self.drawn += 1;
        let node =
            Node { reach: to.clone(), from, to, who: Few::One(who), weight: mix(self.drawn), left: None, right: None };
        self.root = Some(insert(self.root.take(), Box::new(node), who));
    }

    /// Takes `who` off the interval `range`.
    pub(super) fn remove(&mut self, range: &KeyRange, who: W) {
        let Some((from, to)) = ends(range) else { return };
        self.root = remove(self.root.take(), &from, &to, who);
    }

    /// Calls `found` with everybody whose interval has `key`.
    pub(super) fn find(&self, key: &[u8], found: &mut impl FnMut(W)) {
        find(&self.root, key, found);
    }
}

/// The `n`th number of a fixed sequence that looks random: splitmix64.
fn mix(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl<W> Node<W> {
    fn order(&self, from: &Bytes, to: &End) -> Ordering {
        (from, to).cmp(&(&self.from, &self.to))
    }

    fn measure(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.reach).max();
        self.reach = below.max(Some(&self.to)).unwrap_or(&self.to).clone();
    }
}

fn insert<W: Copy + Ord>(link: Link<W>, new: Box<Node<W>>, who: W) -> Box<Node<W>> {
    let Some(mut node) = link else { return new };
    match node.order(&new.from, &new.to) {
        Ordering::Equal => node.who.insert(who),
        Ordering::Less => {
            let mut child = insert(node.left.take(), new, who);
            if child.weight > node.weight {
                node.left = child.right.take();
                node.measure();
                child.right = Some(node);
                child.measure();
                return child;
            }
            node.left = Some(child);
        }
        Ordering::Greater => {
            let mut child = insert(node.right.take(), new, who);
            if child.weight > node.weight {
                node.right = child.left.take();
                node.measure();
                child.left = Some(node);
                child.measure();
                return child;
            }
            node.right = Some(child);
        }
    }
    node.measure();
    node
}

fn remove<W: Copy + Ord>(link: Link<W>, from: &Bytes, to: &End, who: W) -> Link<W> {
    let mut node = link?;
    match node.order(from, to) {
        Ordering::Less => node.left = remove(node.left.take(), from, to, who),
        Ordering::Greater => node.right = remove(node.right.take(), from, to, who),
        Ordering::Equal => {
            if node.who.remove(who) {
                return join(node.left.take(), node.right.take());
            }
        }
    }
    node.measure();
    Some(node)
}

/// One tree of two; everything in `left` comes before everything in `right`.
fn join<W>(left: Link<W>, right: Link<W>) -> Link<W> {
    match (left, right) {
        (None, one) | (one, None) => one,
        (Some(mut left), Some(mut right)) => {
            let mut top = if left.weight > right.weight {
                left.right = join(left.right.take(), Some(right));
                left
            } else {
                right.left = join(Some(left), right.left.take());
                right
            };
            top.measure();
            Some(top)
        }
    }
}

fn find<W: Copy + Ord>(link: &Link<W>, key: &[u8], found: &mut impl FnMut(W)) {
    let Some(node) = link else { return };
    if !node.reach.is_after(key) {
        return;
    }
    find(&node.left, key, found);
    if node.from.as_ref() <= key {
        if node.to.is_after(key) {
            node.who.for_each(&mut *found);
        }
        find(&node.right, key, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(from: u8, to: u8) -> KeyRange {
        let from = Bytes::copy_from_slice(&[from]);
        if to == 0 { KeyRange::From(from) } else { KeyRange::Interval(from, Bytes::copy_from_slice(&[to])) }
    }

    fn found(tree: &Tree<u32>, key: u8) -> Vec<u32> {
        let mut all = Vec::new();
        tree.find(&[key], &mut |who| all.push(who));
        all.sort_unstable();
        all
    }

    fn depth(link: &Link<u32>) -> usize {
        link.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
    }

    #[test]
    fn a_tree_that_is_filled_in_order_stays_flat() {
        let mut tree = Tree::default();
        for n in 0..10_000u32 {
            let from = Bytes::copy_from_slice(&n.to_be_bytes());
            tree.insert(&KeyRange::From(from), n);
        }
        assert!(depth(&tree.root) < 60, "{}", depth(&tree.root));
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_scan_finds(
            steps in prop::collection::vec((any::<bool>(), 1u8..20, 0u8..20, 0u32..5), 0..120)
        ) {
            let (mut tree, mut all) = (Tree::default(), BTreeSet::new());
            for (add, from, to, who) in steps {
                if add {
                    tree.insert(&range(from, to), who);
                    all.insert((from, to, who));
                } else {
                    tree.remove(&range(from, to), who);
                    all.remove(&(from, to, who));
                }
                for key in 0..22 {
                    let hit = |&&(from, to, _): &&(u8, u8, u32)| range(from, to).contains(&[key]);
                    let mut expected: Vec<u32> = all.iter().filter(hit).map(|(_, _, who)| *who).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found(&tree, key), expected);
                }
            }
        }
    }
}
