//! Puts a text in a file's place so that what stood there is gone from the disk, as far as the file system lets it be.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Opens a file that is no link.
///
/// # Errors
/// What the system says.
pub fn open(path: &Path, write: bool) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.union(rustix::fs::OFlags::NONBLOCK).bits();
    OpenOptions::new().read(true).write(write).custom_flags(i32::try_from(flags).unwrap_or_default()).open(path)
}

/// Puts another text in the file's place, readable to its owner alone, and writes zeros over what was there.
///
/// # Errors
/// What the system says; before the rename, nothing has changed.
pub fn write_over(path: &Path, text: &str) -> std::io::Result<()> {
    let mut old = open(path, true)?;
    let found = old.metadata()?;
    let next = path.with_added_extension("moltbot-new");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::fchown(&file, Some(found.uid()), Some(found.gid()))?;
        file.sync_all()?;
        std::fs::rename(&next, path)
    });
    if let Err(error) = written {
        let _ = std::fs::remove_file(&next);
        return Err(error);
    }
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    old.seek(SeekFrom::Start(0))?;
    let zeros = vec![0; usize::try_from(found.len()).unwrap_or_default()];
    old.write_all(&zeros)?;
    old.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_was_written_over_is_private_and_its_old_bytes_are_gone_from_every_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a.json"), dir.path().join("b"));
        std::fs::write(&path, "{ token: 'plain' }").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::hard_link(&path, &link).unwrap();
        write_over(&path, "{ token: 'vault:token' }").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{ token: 'vault:token' }");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&link).unwrap(), [0; 18]);
    }
}
