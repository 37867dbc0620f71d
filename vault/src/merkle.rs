//! The root over the store's records: the Merkle tree hash of RFC 6962 section 2.1, with SHA-256. It is a commitment to
//! what the vault holds, small enough to stand in a record of the log.

use sha2::{Digest as _, Sha256};

/// A node of the tree.
pub type Hash = [u8; 32];

fn leaf(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

pub(crate) fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Root over `leaves`, in their order; the hash of nothing where there are none.
pub fn root<B: AsRef<[u8]>>(leaves: impl IntoIterator<Item = B>) -> Hash {
    // Whole subtrees from left to right, each at least twice as large as the next: (leaves, hash).
    let mut forest: Vec<(u64, Hash)> = Vec::new();
    for bytes in leaves {
        let mut tree = (1, leaf(bytes.as_ref()));
        while let Some((size, left)) = forest.pop_if(|(size, _)| *size == tree.0) {
            tree = (size + tree.0, node(&left, &tree.1));
        }
        forest.push(tree);
    }
    let folded = forest.into_iter().rev().map(|(_, hash)| hash).reduce(|right, left| node(&left, &right));
    folded.unwrap_or_else(|| Sha256::digest([]).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 6962 section 2.1 writes it down.
    fn by_definition(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => leaf(one),
            more => {
                let half = more.len().next_power_of_two() / 2;
                node(&by_definition(&more[..half]), &by_definition(&more[half..]))
            }
        }
    }

    proptest! {
        #[test]
        fn root_is_what_the_definition_says(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..70)) {
            prop_assert_eq!(root(&leaves), by_definition(&leaves));
        }
    }

    #[test]
    fn root_agrees_with_the_vectors_of_certificate_transparency() {
        // Leaves and roots of the test suite of google/certificate-transparency (merkle_tree_test).
        let leaves: [&[u8]; 3] = [b"", b"\x00", b"\x10"];
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(root::<&[u8]>([])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(root(&leaves[..1])), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(hex(root(&leaves[..2])), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        assert_eq!(hex(root(&leaves[..3])), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
    }
}
