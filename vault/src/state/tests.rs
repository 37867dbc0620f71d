use super::*;
use std::fs::File;

pub(crate) struct Dirs {
    pub(crate) dir: tempfile::TempDir,
}

impl Dirs {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("keys")).unwrap();
        std::fs::create_dir(dir.path().join("vault")).unwrap();
        Self { dir }
    }

    pub(crate) fn open(&self) -> Result<State, StartError> {
        let fd = |name| OwnedFd::from(File::open(self.dir.path().join(name)).unwrap());
        State::open(&fd("keys"), fd("vault"))
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.dir.path().join(from), self.dir.path().join(to)).unwrap();
    }
}

fn token(state: &State) -> Vec<u8> {
    state.gateway_token().unwrap().expose().to_vec()
}

#[test]
fn first_start_makes_a_token_that_the_next_start_finds() {
    let dirs = Dirs::new();
    let first = dirs.open().unwrap();
    assert!(first.newly_made && token(&first).len() == 43);
    let second = dirs.open().unwrap();
    assert!(!second.newly_made);
    assert_eq!(token(&second), token(&first));
    assert_ne!(token(&Dirs::new().open().unwrap()), token(&first));
}

#[test]
fn lost_key_and_lost_store_are_refused_and_nothing_is_made_in_their_place() {
    for name in ["keys/secrets.key", "vault/vault.db"] {
        let dirs = Dirs::new();
        dirs.open().unwrap();
        dirs.remove(name);
        assert!(dirs.open().is_err());
        assert!(!dirs.dir.path().join(name).exists());
    }
}

#[test]
fn key_of_another_vault_is_refused() {
    let (dirs, other) = (Dirs::new(), Dirs::new());
    dirs.open().unwrap();
    other.open().unwrap();
    std::fs::rename(other.dir.path().join("keys/secrets.key"), dirs.dir.path().join("keys/secrets.key")).unwrap();
    assert!(dirs.open().is_err_and(|error| error.to_string().contains("not the store of this key")));
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).unwrap()
}

#[test]
fn secret_that_was_put_rotated_rebound_and_removed_survives_a_start_each_time() {
    let dirs = Dirs::new();
    let mut state = dirs.open().unwrap();
    let permit = Policy::parse(crate::permit::tests::TELEGRAM).unwrap();
    assert_eq!(state.put("bot", &secret("one"), None, 1).unwrap(), 1);
    assert_eq!(state.set_policy("bot", &permit, 2).unwrap(), 2);
    assert_eq!(state.put("bot", &secret("two"), None, 3).unwrap(), 3);
    let mut state = dirs.open().unwrap();
    assert_eq!(state.open_secret("bot").unwrap().expose(), b"two");
    assert_eq!(state.record("bot").unwrap().policy(), permit);
    state.remove("bot").unwrap();
    assert!(matches!(state.remove("bot"), Err(ChangeError::NoSuchSecret)));
    assert!(matches!(dirs.open().unwrap().open_secret("bot"), Err(ChangeError::NoSuchSecret)));
}

#[test]
fn rotated_ring_has_one_new_term_and_opens_everything() {
    let dirs = Dirs::new();
    let mut state = dirs.open().unwrap();
    state.put("bot", &secret("one"), None, 1).unwrap();
    let (kek, generation) = (*state.contents().ring.expose().next().unwrap(), state.generation());
    assert_eq!(state.rotate_keys(9).unwrap(), 2);
    let state = dirs.open().unwrap();
    assert_eq!(state.generation(), generation + 1, "one snapshot");
    assert!(state.records().all(|record| record.term() == 2));
    assert_eq!(state.open_secret("bot").unwrap().expose(), b"one");
    assert!(state.contents().ring.expose().all(|key| *key != kek));
}

#[test]
fn renewed_master_key_opens_everything_and_the_old_one_nothing() {
    let dirs = Dirs::new();
    let mut state = dirs.open().unwrap();
    state.put("bot", &secret("one"), None, 1).unwrap();
    let key = |name: &str| std::fs::read(dirs.dir.path().join("keys").join(name));
    let old = key("secrets.key").unwrap();
    state.want_new_master().unwrap();
    let renewed = dirs.open().unwrap();
    assert!(renewed.renewed && !renewed.contents().renew);
    assert_eq!(renewed.open_secret("bot").unwrap().expose(), b"one");
    assert!(key("secrets.key").unwrap() != old && key("secrets.key.new").is_err());
    assert!(!dirs.open().unwrap().renewed, "once");
    dirs.remove("keys/secrets.key");
    std::fs::write(dirs.dir.path().join("keys/secrets.key"), old).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(dirs.dir.path().join("keys/secrets.key"), mode).unwrap();
    assert!(dirs.open().is_err_and(|error| error.to_string().contains("not the store of this key")));
}

#[test]
fn change_that_cannot_be_written_is_undone_in_memory() {
    let dirs = Dirs::new();
    let mut state = dirs.open().unwrap();
    state.put("bot", &secret("one"), None, 1).unwrap();
    // A leftover that nobody swept: the next store cannot be made.
    let block = dirs.dir.path().join("vault/vault.db.new");
    std::fs::write(&block, b"").unwrap();
    let unwritable = |error| matches!(error, ChangeError::Store(StoreError::Unwritable(_)));
    assert!(unwritable(state.put("bot", &secret("two"), None, 2).unwrap_err()));
    assert!(unwritable(state.put("new", &secret("x"), None, 2).unwrap_err()));
    assert!(unwritable(state.remove("bot").unwrap_err()));
    assert!(unwritable(state.rotate_keys(2).unwrap_err()));
    assert_eq!(state.open_secret("bot").unwrap().expose(), b"one");
    assert!(state.record("new").is_none());
    std::fs::remove_file(&block).unwrap();
    assert_eq!(state.put("bot", &secret("two"), None, 2).unwrap(), 2);
}

#[test]
fn interrupted_first_start_is_finished_by_the_next() {
    let dirs = Dirs::new();
    let made = token(&dirs.open().unwrap());
    dirs.rename("keys/secrets.key", "keys/secrets.key.new");
    let finished = dirs.open().unwrap();
    assert!(finished.newly_made);
    assert_eq!(token(&finished), made);
    dirs.rename("keys/secrets.key", "keys/secrets.key.new");
    dirs.remove("vault/vault.db");
    let afresh = dirs.open().unwrap();
    assert_ne!(token(&afresh), made);
    std::fs::write(dirs.dir.path().join("vault/vault.db.new"), b"half").unwrap();
    assert_eq!(token(&dirs.open().unwrap()), token(&afresh));
}
