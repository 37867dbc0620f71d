//! The Merkle tree of RFC 6962 section 2.1 over a stream's lines: `leaf = SHA-256(0x00 || line)`,
//! `node = SHA-256(0x01 || left || right)`.
//!
//! Of a tree that only grows, the roots of its complete subtrees are enough to go on and to tell the root; there are at
//! most 64 of them. Proofs are made in one pass over the leaves, each sibling by a small tree of its own, so that no
//! number of records has to be held in memory. Nothing here does I/O; proofs that come from outside are hostile.

use sha2::{Digest, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// Leaf hash of a line without its newline.
#[must_use]
pub fn leaf_hash(line: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(line).finalize().into()
}

/// Hash of an inner node.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The roots of the complete subtrees of a tree, the largest (leftmost) first: one for each bit set in its size.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// From its parts; none where they cannot belong together.
    #[must_use]
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        let fits = u32::try_from(peaks.len()).is_ok_and(|peaks| peaks == size.count_ones());
        fits.then_some(Self { size, peaks })
    }

    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The subtrees' roots.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut complete = self.size;
        while complete & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
            complete >>= 1;
        }
        self.peaks.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The tree's root; SHA-256 of nothing where it is empty.
    #[must_use]
    pub fn root(&self) -> Hash {
        let smallest_first = self.peaks.iter().rev().copied();
        smallest_first.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(|| Sha256::digest(b"").into())
    }
}

/// The largest power of two that is smaller than `size`, for sizes from 2 on.
const fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// One sibling on the way from a leaf to the root: the leaves that it covers, and its tree as far as it is known.
#[derive(Clone, Debug)]
struct Sibling {
    from: u64,
    until: u64,
    tree: Frontier,
}

/// Makes a proof while the leaves go by.
#[derive(Clone, Debug)]
pub struct Prover {
    siblings: Vec<Sibling>,
}

impl Prover {
    /// For the inclusion of leaf `index` in the tree of `size` (RFC 6962 section 2.1.1); none where it is not in it.
    #[must_use]
    pub fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        let (mut from, mut until) = (0u64, size);
        let mut siblings = Vec::new();
        while until.saturating_sub(from) > 1 {
            let middle = from.saturating_add(split(until.saturating_sub(from)));
            let (a, b) = if index < middle { (middle, until) } else { (from, middle) };
            siblings.push(Sibling { from: a, until: b, tree: Frontier::default() });
            if index < middle {
                until = middle;
            } else {
                from = middle;
            }
        }
        siblings.reverse();
        Some(Self { siblings })
    }

    /// For the consistency of the tree of `old` with that of `size` (RFC 6962 section 2.1.2); none where `old` is zero
    /// or larger.
    #[must_use]
    pub fn consistency(old: u64, size: u64) -> Option<Self> {
        if old == 0 || old > size {
            return None;
        }
        let (mut from, mut until) = (0u64, size);
        let mut siblings = Vec::new();
        // True while what is left of the old tree is the whole old tree, whose root the checker has.
        let mut known = true;
        while until != old {
            let middle = from.saturating_add(split(until.saturating_sub(from)));
            let (a, b) = if old <= middle { (middle, until) } else { (from, middle) };
            siblings.push(Sibling { from: a, until: b, tree: Frontier::default() });
            if old <= middle {
                until = middle;
            } else {
                from = middle;
                known = false;
            }
        }
        if !known {
            siblings.push(Sibling { from, until, tree: Frontier::default() });
        }
        siblings.reverse();
        Some(Self { siblings })
    }

    /// Takes all leaves of `prefix` at once, which must be the first of the tree. Whatever of a sibling lies within it is
    /// complete there, so its roots are enough.
    pub fn skip(&mut self, prefix: &Frontier) {
        let mut from = 0u64;
        let sizes = (0..64).rev().map(|bit| 1u64 << bit).filter(|size| prefix.size & size != 0);
        for (size, peak) in sizes.zip(&prefix.peaks) {
            let until = from.saturating_add(size);
            let holds = |sibling: &&mut Sibling| sibling.from <= from && until <= sibling.until;
            if let Some(sibling) = self.siblings.iter_mut().find(holds) {
                sibling.tree.size = sibling.tree.size.saturating_add(size);
                sibling.tree.peaks.push(*peak);
            }
            from = until;
        }
    }

    /// Takes every sibling from the roots of complete subtrees, which `subtree` gives for a first leaf and a number of them.
    /// None where it does not have one.
    pub fn fill(&mut self, mut subtree: impl FnMut(u64, u64) -> Option<Hash>) -> Option<()> {
        for sibling in &mut self.siblings {
            let size = sibling.until.saturating_sub(sibling.from);
            let mut from = sibling.from;
            for part in (0..64).rev().map(|bit| 1u64 << bit).filter(|part| size & part != 0) {
                sibling.tree.peaks.push(subtree(from, part)?);
                from = from.saturating_add(part);
            }
            sibling.tree.size = size;
        }
        Some(())
    }

    /// Takes the leaf at position `at`; every leaf of the tree must come once, in order.
    pub fn push(&mut self, at: u64, leaf: Hash) {
        if let Some(sibling) = self.siblings.iter_mut().find(|sibling| (sibling.from..sibling.until).contains(&at)) {
            sibling.tree.push(leaf);
        }
    }

    /// The proof; none where leaves are missing.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Hash>> {
        let complete = |sibling: &Sibling| sibling.tree.size() == sibling.until.saturating_sub(sibling.from);
        self.siblings.iter().all(complete).then(|| self.siblings.iter().map(|sibling| sibling.tree.root()).collect())
    }
}

/// True where `proof` shows that `leaf` stands at `index` of the tree with this size and root (RFC 9162 section
/// 2.1.3.2).
#[must_use]
pub fn includes(root: &Hash, size: u64, index: u64, leaf: &Hash, proof: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// True where `proof` shows that the tree of `old` leaves is a prefix of that of `size` (RFC 9162 section 2.1.4.2).
#[must_use]
pub fn extends(old_root: &Hash, old: u64, root: &Hash, size: u64, proof: &[Hash]) -> bool {
    if old == size {
        return proof.is_empty() && old_root == root;
    }
    if old == 0 || old > size {
        return false;
    }
    let mut path = proof.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut at, mut last) = (old - 1, size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old_hash == *old_root && new_hash == *root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|at| leaf_hash(&at.to_be_bytes())).collect()
    }

    /// MTH of RFC 6962 section 2.1, word by word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest(b"").into(),
            [leaf] => *leaf,
            more => {
                let (left, right) = more.split_at(usize::try_from(split(more.len() as u64)).unwrap());
                node_hash(&by_definition(left), &by_definition(right))
            }
        }
    }

    fn tree(leaves: &[Hash]) -> Frontier {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree
    }

    fn feed(mut prover: Prover, leaves: &[Hash]) -> Vec<Hash> {
        (0..).zip(leaves).for_each(|(at, leaf)| prover.push(at, *leaf));
        prover.finish().unwrap()
    }

    #[test]
    fn root_is_the_one_of_the_definition_at_every_size() {
        for count in 0..70 {
            let leaves = leaves(count);
            let tree = tree(&leaves);
            assert_eq!(tree.root(), by_definition(&leaves), "{count}");
            assert_eq!(Frontier::from_parts(count, tree.peaks().to_vec()), Some(tree));
        }
        assert_eq!(Frontier::from_parts(3, vec![[0; 32]]), None);
    }

    #[test]
    fn inclusion_of_every_leaf_is_proved_and_of_no_other() {
        for count in 1..34 {
            let leaves = leaves(count);
            let root = tree(&leaves).root();
            for index in 0..count {
                let proof = feed(Prover::inclusion(index, count).unwrap(), &leaves);
                for other in 0..count {
                    let leaf = &leaves[usize::try_from(other).unwrap()];
                    assert_eq!(includes(&root, count, index, leaf, &proof), other == index);
                }
                let leaf = &leaves[usize::try_from(index).unwrap()];
                assert!(!includes(&root, count, count, leaf, &proof));
                let longer: Vec<_> = proof.iter().copied().chain([[0; 32]]).collect();
                assert!(!includes(&root, count, index, leaf, &longer));
                assert!(proof.is_empty() || !includes(&root, count, index, leaf, &proof[1..]));
            }
        }
        assert!(Prover::inclusion(4, 4).is_none());
    }

    #[test]
    fn leaf_behind_a_prefix_is_proved_from_the_prefixes_roots() {
        let leaves = leaves(33);
        for count in 2..34u64 {
            let root = tree(&leaves[..usize::try_from(count).unwrap()]).root();
            for skipped in 0..count {
                let prefix = tree(&leaves[..usize::try_from(skipped).unwrap()]);
                for index in skipped..count {
                    let mut prover = Prover::inclusion(index, count).unwrap();
                    prover.skip(&prefix);
                    (skipped..count).for_each(|at| prover.push(at, leaves[usize::try_from(at).unwrap()]));
                    let proof = prover.finish().unwrap();
                    assert!(includes(&root, count, index, &leaves[usize::try_from(index).unwrap()], &proof));
                }
            }
        }
    }

    #[test]
    fn consistency_of_every_pair_is_proved_and_of_no_other_tree() {
        for count in 1..34u64 {
            let leaves = leaves(count);
            let root = tree(&leaves).root();
            for old in 1..=count {
                let old_root = tree(&leaves[..usize::try_from(old).unwrap()]).root();
                let proof = feed(Prover::consistency(old, count).unwrap(), &leaves);
                assert!(extends(&old_root, old, &root, count, &proof), "{old} of {count}");
                // What stands before is known by its roots: the rest alone is read.
                let mut prover = Prover::consistency(old, count).unwrap();
                prover.skip(&tree(&leaves[..usize::try_from(old).unwrap()]));
                (old..count).for_each(|at| prover.push(at, leaves[usize::try_from(at).unwrap()]));
                assert_eq!(prover.finish().unwrap(), proof);
                assert!(!extends(&[7; 32], old, &root, count, &proof));
                assert!(!extends(&old_root, old, &[7; 32], count, &proof));
            }
        }
    }

    #[test]
    fn proof_with_a_leaf_missing_is_none() {
        let mut prover = Prover::inclusion(0, 4).unwrap();
        prover.push(1, [0; 32]);
        assert!(prover.finish().is_none());
    }
}
