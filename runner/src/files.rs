//! File verbs beneath the workspace, which is the working directory. Every path is resolved by `openat2` with
//! `RESOLVE_BENEATH`, and no link is followed, whoever made it and whenever. What is written is written beside its place
//! and moved there, so that a file is the old one or the new one.

use crate::{grep, patch};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::edge::Refusal;
use proto::runner::{CHUNK, Frames, FromFiles, frame};
use proto::sandbox::{Entry, EntryKind, FileReply, FileVerb};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat, openat2,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Most of a file that one read passes on, and the largest file that is edited.
pub const MOST: u64 = 8 << 20;
/// Room for a directory's entries in one reply.
const LISTING: usize = 40 << 10;
/// Names under which a file is put together before it has a free one.
const ATTEMPTS: u32 = 64;

/// Reads one verb from the standard input, does it, and answers on the standard output.
pub fn serve() -> io::Result<()> {
    let mut frames = Frames::default();
    let mut bytes = vec![0; 64 << 10];
    let verb: FileVerb = loop {
        if let Some(verb) = frames.take().map_err(io::Error::other)? {
            break verb;
        }
        match io::stdin().read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => frames.push(bytes.get(..count).unwrap_or_default()),
        }
    };
    let workspace = open(".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut out = Out(io::stdout().lock());
    let outcome = Workspace(workspace).serve(&verb, &mut out);
    out.say(&FromFiles::Ended(outcome))?;
    out.0.flush()
}

/// Where answers go.
pub struct Out<W: Write>(pub W);

impl<W: Write> Out<W> {
    fn say(&mut self, word: &FromFiles) -> io::Result<()> {
        self.0.write_all(&frame(word).map_err(io::Error::other)?)
    }

    /// Part of the answer.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        for piece in bytes.chunks(CHUNK) {
            let piece = BoundedBytes::new(piece).map_err(|error| Refusal::new("file.failed", &error.to_string()))?;
            self.say(&FromFiles::Data(piece)).map_err(|error| failed("the answer", &error))?;
        }
        Ok(())
    }
}

/// The directory that everything is beneath.
pub struct Workspace(pub OwnedFd);

fn failed(what: &str, why: &dyn std::fmt::Display) -> Refusal {
    Refusal::new("file.failed", &format!("{what}: {why}"))
}

fn by(path: &str, errno: Errno) -> Refusal {
    let (rule, why) = match errno {
        Errno::LOOP => ("file.link", "a link is in its way, and none is followed; name the file itself"),
        Errno::XDEV => ("file.outside", "it is outside the workspace"),
        Errno::NOENT | Errno::NOTDIR => ("file.missing", "there is no such file or directory"),
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ("file.full", "the workspace has no room for it"),
        Errno::NXIO | Errno::ISDIR | Errno::OPNOTSUPP => ("file.not_a_file", "it is no regular file"),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ("file.denied", "the sandbox may not do that with it"),
        other => return failed(path, &other),
    };
    Refusal::new(rule, &format!("{path}: {why}"))
}

/// The path as it is beneath the workspace.
pub fn relative(path: &str) -> Result<&str, Refusal> {
    let rest = match path.strip_prefix("/workspace") {
        Some("") => "",
        Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => path,
    };
    if rest.starts_with('/') {
        let why = format!("{path}: it is outside the workspace; paths are relative to it, or begin with /workspace/");
        return Err(Refusal::new("file.outside", &why));
    }
    if rest.contains('\0') {
        return Err(Refusal::new("file.name", "a path has no NUL byte"));
    }
    Ok(if rest.is_empty() { "." } else { rest })
}

/// The directory's part of a path and the last name.
fn split(path: &str) -> Result<(&str, &str), Refusal> {
    let path = path.trim_end_matches('/');
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    match name {
        "" | "." | ".." => Err(Refusal::new("file.not_a_file", &format!("{path}: it names no file"))),
        name => Ok((directory, name)),
    }
}

impl Workspace {
    fn serve<W: Write>(&self, verb: &FileVerb, out: &mut Out<W>) -> Result<FileReply, Refusal> {
        match verb {
            FileVerb::Read { path, offset, limit } => self.read(path, *offset, *limit, out),
            FileVerb::Write { path, bytes, append: false } => self.put(path, bytes).map(|()| FileReply::Written),
            FileVerb::Write { path, bytes, append: true } => self.append(path, bytes),
            FileVerb::Edit { path, old, new, all } => self.edit(path, old, new, *all),
            FileVerb::Patch { patch } => patch::apply(self, patch),
            FileVerb::List { path } => self.list(path),
            FileVerb::Grep { pattern, path } => grep::grep(self, pattern, path, out),
        }
    }

    /// Opens beneath the workspace, through no link.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Refusal> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        // Nobody waits for a writer to come; openat2 knows no such flags for a mere place.
        let eager = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NOCTTY | OFlags::NONBLOCK };
        let flags = flags | eager | OFlags::CLOEXEC;
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        openat2(&self.0, relative(path)?, flags, mode, resolve).map_err(|errno| by(path, errno))
    }

    /// Opens a regular file for reading; its size.
    pub fn file(&self, path: &str) -> Result<(File, u64), Refusal> {
        let fd = self.open(path, OFlags::RDONLY)?;
        let stat = fstat(&fd).map_err(|errno| by(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(by(path, Errno::ISDIR));
        }
        Ok((File::from(fd), u64::try_from(stat.st_size).unwrap_or_default()))
    }

    /// All of a text file.
    pub fn text(&self, path: &str) -> Result<String, Refusal> {
        let (file, size) = self.file(path)?;
        let mut text = String::new();
        if size > MOST {
            return Err(Refusal::new("file.too_large", &format!("{path}: {size} bytes; {MOST} at most are edited")));
        }
        match file.take(MOST).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Refusal::new("file.not_text", &format!("{path}: it is not UTF-8")))
            }
            Err(error) => Err(failed(path, &error)),
        }
    }

    fn read<W: Write>(&self, path: &str, offset: u64, limit: u64, out: &mut Out<W>) -> Result<FileReply, Refusal> {
        let (mut file, size) = self.file(path)?;
        file.seek(SeekFrom::Start(offset.min(size))).map_err(|error| failed(path, &error))?;
        let mut rest = file.take(limit.min(MOST));
        let mut bytes = vec![0; CHUNK];
        loop {
            match rest.read(&mut bytes) {
                Ok(0) => return Ok(FileReply::Read { size }),
                Ok(count) => out.data(bytes.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(path, &error)),
            }
        }
    }

    /// The directory of a path that is to be written, made with those above it where they are missing, and the name in it.
    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Refusal> {
        let (directory, name) = split(relative(path)?)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open(directory, flags) {
            Err(refusal)
                if refusal.rule.as_str() == "file.missing" && !directory.split('/').any(|part| part == "..") => {}
            other => return other.map(|fd| (fd, name)),
        }
        let mut at = String::new();
        for part in directory.split('/').filter(|part| !matches!(*part, "" | ".")) {
            let above = self.open(if at.is_empty() { "." } else { &at }, flags)?;
            match mkdirat(&above, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(by(path, errno)),
            }
            at.push_str(part);
            at.push('/');
        }
        self.open(&at, flags).map(|fd| (fd, name))
    }

    /// Puts `bytes` where a file is or is to be.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<(), Refusal> {
        let (parent, name) = self.parent(path)?;
        let mode = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => Mode::from_raw_mode(stat.st_mode & 0o7777),
                FileType::Symlink => return Err(by(path, Errno::LOOP)),
                _ => return Err(by(path, Errno::ISDIR)),
            },
            Err(Errno::NOENT) => Mode::from_raw_mode(0o644),
            Err(errno) => return Err(by(path, errno)),
        };
        let (mut file, beside) = beside(&parent).map_err(|errno| by(path, errno))?;
        let done = file
            .write_all(bytes)
            .map_err(|error| by(path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))
            .and_then(|()| fchmod(&file, mode).map_err(|errno| by(path, errno)))
            .and_then(|()| {
                renameat_with(&parent, &beside, &parent, name, RenameFlags::empty()).map_err(|errno| by(path, errno))
            });
        if done.is_err() {
            let _ = unlinkat(&parent, &beside, AtFlags::empty());
        }
        done
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<FileReply, Refusal> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&parent, name, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::from_raw_mode(0o644));
        let fd = fd.map_err(|errno| by(path, errno))?;
        let stat = fstat(&fd).map_err(|errno| by(path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(by(path, Errno::ISDIR));
        }
        let written = File::from(fd).write_all(bytes);
        written.map_err(|error| by(path, Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        Ok(FileReply::Written)
    }

    /// Removes a file, never what a link leads to.
    pub fn remove(&self, path: &str) -> Result<(), Refusal> {
        let (directory, name) = split(relative(path)?)?;
        let parent = self.open(directory, OFlags::PATH | OFlags::DIRECTORY)?;
        unlinkat(&parent, name, AtFlags::empty()).map_err(|errno| by(path, errno))
    }

    fn edit(&self, path: &str, old: &str, new: &str, all: bool) -> Result<FileReply, Refusal> {
        if old.is_empty() || old == new {
            return Err(Refusal::new(
                "edit.nothing",
                "there is nothing to replace: the old text is empty, or is the new one",
            ));
        }
        let text = self.text(path)?;
        let places = match text.matches(old).count() {
            0 => return Err(Refusal::new("edit.no_match", &format!("{path}: the old text is not in it"))),
            many @ 2.. if !all => {
                let why = format!("{path}: the old text is in it {many} times; say more of what is around it, or all");
                return Err(Refusal::new("edit.ambiguous", &why));
            }
            places => u32::try_from(places).unwrap_or(u32::MAX),
        };
        let grown = new.len().saturating_sub(old.len()).saturating_mul(usize::try_from(places).unwrap_or(usize::MAX));
        if u64::try_from(text.len().saturating_add(grown)).unwrap_or(u64::MAX) > MOST {
            return Err(Refusal::new("file.too_large", &format!("{path}: it would have more than {MOST} bytes")));
        }
        self.put(path, text.replace(old, new).as_bytes())?;
        Ok(changed(places, [format!("M {path}")]))
    }

    fn list(&self, path: &str) -> Result<FileReply, Refusal> {
        let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = entries(&directory).map_err(|errno| by(path, errno))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let all = entries.len();
        let mut room = LISTING;
        let fits = entries.iter().take(1024).take_while(|entry| {
            let needed = entry.name.len().saturating_add(16);
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        });
        let count = fits.count();
        entries.truncate(count);
        Ok(FileReply::Listed { entries: BoundedVec::new(entries).unwrap_or_default(), more: count < all })
    }
}

/// Files that were changed, in words.
pub fn changed(places: u32, files: impl IntoIterator<Item = String>) -> FileReply {
    let files = files.into_iter().take(24).map(|file| BoundedStr::truncated(&file)).collect();
    FileReply::Changed { places, files: BoundedVec::new(files).unwrap_or_default() }
}

/// What is in a directory. What vanished meanwhile is left out.
pub fn entries(directory: &OwnedFd) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Link,
            _ => EntryKind::Other,
        };
        let size = if kind == EntryKind::File { u64::try_from(stat.st_size).unwrap_or_default() } else { 0 };
        let Ok(name) = BoundedBytes::new(name.to_bytes()) else { continue };
        entries.push(Entry { name, kind, size });
    }
    Ok(entries)
}

/// A new file in `parent` under a name that nothing has.
fn beside(parent: impl AsFd) -> Result<(File, String), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for attempt in 0..ATTEMPTS {
        let name = format!(".moltbot-{}-{attempt}", std::process::id());
        match openat(parent.as_fd(), &name, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => return Ok((File::from(fd), name)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
#[path = "tests/files.rs"]
mod tests;
