//! The gateway token: what it looks like, how it is drawn, how an offered one is compared.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::secret::Secret;
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

/// Distinct characters that a token has at least; weaker draws are thrown away.
pub const DISTINCT: usize = 20;

/// A new token: 256 random bits as 43 characters of base64url.
///
/// # Errors
/// Where the kernel gives no random bytes.
pub fn draw() -> Result<Secret, Errno> {
    draw_from(crate::entropy::fill)
}

fn draw_from(mut fill: impl FnMut(&mut [u8]) -> Result<(), Errno>) -> Result<Secret, Errno> {
    let mut raw = Zeroizing::new([0u8; 32]);
    loop {
        fill(raw.as_mut_slice())?;
        let mut text = URL_SAFE_NO_PAD.encode(raw.as_slice()).into_bytes();
        if distinct(&text) >= DISTINCT {
            // 43 bytes are far below what a secret may have.
            return Secret::new(text).map_err(|_| Errno::OVERFLOW);
        }
        text.zeroize();
    }
}

/// How many different bytes there are.
#[must_use]
pub fn distinct(text: &[u8]) -> usize {
    let mut seen = Zeroizing::new(text.to_vec());
    seen.sort_unstable();
    seen.dedup();
    seen.len()
}

/// True where both are the same. The time it takes depends on the length of what was offered alone: digests are
/// compared, so that neither the kept one's length nor a common prefix shows.
#[must_use]
pub fn same(kept: &Secret, offered: &Secret) -> bool {
    let digest = |secret: &Secret| Zeroizing::new(<[u8; 32]>::from(Sha256::digest(secret.expose())));
    digest(kept).as_slice().ct_eq(digest(offered).as_slice()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn token_of_any_draw_has_its_shape(raw: [u8; 32]) {
            let mut draws = [raw].into_iter().chain(std::iter::from_fn(|| {
                let mut real = [0; 32];
                crate::entropy::fill(&mut real).unwrap();
                Some(real)
            }));
            let token = draw_from(|bytes| { bytes.copy_from_slice(&draws.next().unwrap()); Ok(()) }).unwrap();
            prop_assert_eq!(token.expose().len(), 43);
            prop_assert!(distinct(token.expose()) >= DISTINCT);
            prop_assert!(token.expose().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
        }
    }

    #[test]
    fn weak_draw_is_thrown_away() {
        let mut draws = 0;
        let token = draw_from(|bytes| {
            draws += 1;
            if draws == 1 {
                bytes.fill(0);
                Ok(())
            } else {
                crate::entropy::fill(bytes)
            }
        });
        assert!(draws >= 2 && distinct(token.unwrap().expose()) >= DISTINCT);
    }

    #[test]
    fn comparison_is_true_for_the_same_bytes_only() {
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec()).unwrap();
        assert!(same(&secret("abc"), &secret("abc")));
        for other in ["", "ab", "abd", "abcd", "Abc"] {
            assert!(!same(&secret("abc"), &secret(other)));
        }
    }
}
