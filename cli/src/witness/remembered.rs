//! What the operator keeps of witnesses, in `witness/` of the state directory: who they are, the key that signs for them, and
//! the last note that each cosigned.

use crate::CliError;
use auditd::note::{PublicKey, SignatureLine, SignedNote};
use ed25519_dalek::SigningKey;
use proto::audit::Stream;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A witness.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Witness {
    pub name: String,
    pub url: String,
    /// Its verifier key, `<name>+<id>+<base64>`.
    pub key: String,
}

/// The directory.
pub struct Store(PathBuf);

impl Store {
    pub fn at(state: &Path) -> Self {
        Self(state.join("witness"))
    }

    fn make(&self) -> Result<(), CliError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|error| CliError::Failed(format!("{}: {error}", self.0.display())))
    }

    fn list(&self) -> PathBuf {
        self.0.join("witnesses.json")
    }

    pub fn all(&self) -> Result<Vec<Witness>, CliError> {
        match std::fs::read(self.list()) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| CliError::Unchecked(format!("{}: {error}", self.list().display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(CliError::Unchecked(format!("{}: {error}", self.list().display()))),
        }
    }

    pub fn add(&self, witness: &Witness) -> Result<(), CliError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if witness.name.is_empty() || witness.name.len() > 32 || !witness.name.bytes().all(plain) {
            return Err(CliError::failed("a witness's name is of letters, digits, - and _, 32 at most"));
        }
        let mut all = self.all()?;
        if all.iter().any(|one| one.name == witness.name) {
            return Err(CliError::Failed(format!("{} is there already; remove it first", witness.name)));
        }
        all.push(witness.clone());
        self.make()?;
        self.write(&self.list(), &serde_json::to_vec_pretty(&all).map_err(CliError::failed)?)
    }

    /// Forgets a witness and what it cosigned.
    pub fn remove(&self, name: &str) -> Result<(), CliError> {
        let mut all = self.all()?;
        let Some(at) = all.iter().position(|one| one.name == name) else {
            return Err(CliError::Failed(format!("there is no witness {name}")));
        };
        let gone = all.remove(at);
        for path in Stream::ALL.map(|stream| self.path_of(&gone, stream)) {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(CliError::Failed(format!("{}: {error}", path.display()))),
            }
        }
        self.write(&self.list(), &serde_json::to_vec_pretty(&all).map_err(CliError::failed)?)
    }

    fn path_of(&self, witness: &Witness, stream: Stream) -> PathBuf {
        self.0.join(format!("{}.{}.note", witness.name, stream.name()))
    }

    /// The last note of a stream that a witness cosigned.
    pub fn note(&self, witness: &Witness, stream: Stream) -> Result<Option<SignedNote>, CliError> {
        let path = self.path_of(witness, stream);
        match std::fs::read_to_string(&path) {
            Ok(text) => SignedNote::parse(&text)
                .map(Some)
                .map_err(|error| CliError::Unchecked(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CliError::Unchecked(format!("{}: {error}", path.display()))),
        }
    }

    pub fn remember(&self, witness: &Witness, stream: Stream, note: &SignedNote) -> Result<(), CliError> {
        self.write(&self.path_of(witness, stream), note.to_string().as_bytes())
    }

    /// Replaces a file as a whole.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), CliError> {
        let new = path.with_extension("new");
        let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", path.display()));
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)
    }

    /// The operator's key; drawn where there is none.
    pub fn key(&self) -> Result<Key, CliError> {
        self.make()?;
        let path = self.0.join("key");
        let failed = |what: &dyn std::fmt::Display| CliError::Unchecked(format!("{}: {what}", path.display()));
        let mut seed = Zeroizing::new([0; 32]);
        match std::fs::read(&path).map(Zeroizing::new) {
            Ok(bytes) => *seed = bytes.as_slice().try_into().map_err(|_| failed(&"is not a key of 32 bytes"))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let filled = rustix::rand::getrandom(seed.as_mut_slice(), rustix::rand::GetRandomFlags::empty());
                if filled.map_err(|errno| failed(&errno))? != 32 {
                    return Err(failed(&"the kernel gave too few random bytes"));
                }
                self.write(&path, seed.as_slice())?;
            }
            Err(error) => return Err(failed(&error)),
        }
        Ok(Key(SigningKey::from_bytes(&seed)))
    }
}

/// What signs for witnesses.
pub struct Key(SigningKey);

impl Key {
    /// Its public half under the name of a log.
    pub fn public(&self, origin: &str) -> Result<String, CliError> {
        let key = PublicKey::new(origin, self.0.verifying_key().as_bytes()).map_err(CliError::failed)?;
        Ok(key.to_string())
    }

    /// A signature line under a checkpoint.
    pub fn sign(&self, text: &str, origin: &str) -> Result<SignatureLine, CliError> {
        let note = SignedNote::sign(text.to_owned(), origin, &self.0).map_err(CliError::failed)?;
        note.signatures().first().cloned().ok_or_else(|| CliError::failed("no signature was made"))
    }
}
