//! Derives `SCHEMA_HASH` from this crate's own sources, so that two builds that could disagree about a message never talk.

#![expect(
    clippy::expect_used,
    reason = "a build script that cannot read its own crate has nothing better to do than to say so"
)]

use sha2::{Digest, Sha256};
use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src");
    let mut files: Vec<PathBuf> = fs::read_dir("src")
        .expect("proto/src is readable")
        .map(|entry| entry.expect("proto/src lists").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect();
    files.sort();
    let mut hash = Sha256::new();
    hash.update(env::var("CARGO_PKG_VERSION").expect("cargo sets the version"));
    // Roles of a test build wait for words that broker does not know: they must not talk to each other.
    hash.update([u8::from(env::var_os("CARGO_FEATURE_PROBES").is_some())]);
    for file in files {
        hash.update(fs::read(&file).expect("source file reads"));
    }
    let digest: [u8; 32] = hash.finalize().into();
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("schema_hash.rs");
    fs::write(out, format!("{digest:?}")).expect("OUT_DIR is writable");
}
