//! Does a tree continue an earlier one? The check of a consistency proof as RFC 9162 section 2.1.4.2 has it. Sizes, roots and
//! proof come from auditd and are hostile: the earlier root alone is the vault's own.

use crate::merkle::{Hash, node};

/// True where `proof` shows that the tree of `old` leaves is the beginning of that of `size`.
#[must_use]
pub fn continues(old: u64, old_root: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> bool {
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
    let (mut of_old, mut of_new) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            (of_old, of_new) = (node(sibling, &of_old), node(sibling, &of_new));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            of_new = node(&of_new, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && of_old == *old_root && of_new == *root
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::merkle;

    pub(crate) fn lines(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|line| vec![line; 3]).collect()
    }

    /// PROOF of RFC 6962 section 2.1.2, word by word.
    pub(crate) fn proof(old: usize, lines: &[Vec<u8>]) -> Vec<Hash> {
        fn sub(old: usize, lines: &[Vec<u8>], whole: bool) -> Vec<Hash> {
            if old == lines.len() {
                return if whole { Vec::new() } else { vec![merkle::root(lines)] };
            }
            let half = lines.len().next_power_of_two() / 2;
            let (left, right) = lines.split_at(half);
            if old <= half {
                [sub(old, left, whole), vec![merkle::root(right)]].concat()
            } else {
                [sub(old - half, right, false), vec![merkle::root(left)]].concat()
            }
        }
        sub(old, lines, true)
    }

    #[test]
    fn every_beginning_of_a_tree_is_recognised_and_no_other_tree_is() {
        for count in 1..40 {
            let lines = lines(count);
            let root = merkle::root(&lines);
            for old in 1..=usize::from(count) {
                let (old_root, proof) = (merkle::root(&lines[..old]), proof(old, &lines));
                let check = |old_root, root, proof: &[Hash]| {
                    continues(u64::try_from(old).unwrap(), old_root, u64::from(count), root, proof)
                };
                assert!(check(&old_root, &root, &proof), "{old} of {count}");
                assert!(!check(&[7; 32], &root, &proof) && !check(&old_root, &[7; 32], &proof));
                assert!(!check(&old_root, &root, &[proof.as_slice(), &[[7; 32]]].concat()));
                assert!(proof.is_empty() || !check(&old_root, &root, &proof[1..]));
            }
        }
        assert!(!continues(0, &[0; 32], 3, &[1; 32], &[]) && !continues(4, &[0; 32], 3, &[1; 32], &[]));
    }
}
