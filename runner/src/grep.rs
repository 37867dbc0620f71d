//! Lines that match, in a file or beneath a directory. Linear in what is read whatever the expression is; links, devices and
//! what looks binary are passed over.

use crate::files::{Out, Workspace, entries};
use proto::edge::Refusal;
use proto::sandbox::{EntryKind, FileReply};
use regex::bytes::{Regex, RegexBuilder};
use rustix::fs::{FileType, OFlags, fstat};
use std::io::{BufRead, BufReader, Read, Write};

/// Lines passed on.
const LINES: u32 = 1_000;
/// Bytes of each.
const WIDTH: usize = 500;
/// Files looked into.
const FILES: u32 = 50_000;
/// Bytes read of each, and of all.
const EACH: u64 = 8 << 20;
const ALL: u64 = 256 << 20;
/// Directories within directories.
const DEPTH: usize = 64;
/// Bytes an expression may take once it is compiled.
const COMPILED: usize = 1 << 20;

struct Search<'s, W: Write> {
    workspace: &'s Workspace,
    expression: Regex,
    out: &'s mut Out<W>,
    lines: u32,
    files: u32,
    read: u64,
    more: bool,
}

/// Serves [`proto::sandbox::FileVerb::Grep`].
pub fn grep<W: Write>(
    workspace: &Workspace,
    pattern: &str,
    path: &str,
    out: &mut Out<W>,
) -> Result<FileReply, Refusal> {
    let expression = RegexBuilder::new(pattern).size_limit(COMPILED).dfa_size_limit(COMPILED).build();
    let expression = expression.map_err(|error| Refusal::new("grep.pattern", &error.to_string()))?;
    let mut search = Search { workspace, expression, out, lines: 0, files: 0, read: 0, more: false };
    let fd = workspace.open(path, OFlags::RDONLY)?;
    let kind = fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let path = path.trim_end_matches('/');
    match kind {
        Ok(FileType::Directory) => search.directory(path, 0)?,
        Ok(FileType::RegularFile) => search.file(path)?,
        _ => return Err(Refusal::new("file.not_a_file", &format!("{path}: it is neither a file nor a directory"))),
    }
    Ok(FileReply::Found { lines: search.lines, more: search.more })
}

impl<W: Write> Search<'_, W> {
    fn is_over(&mut self) -> bool {
        self.more |= self.lines >= LINES || self.files >= FILES || self.read >= ALL;
        self.more
    }

    fn directory(&mut self, path: &str, depth: usize) -> Result<(), Refusal> {
        if depth > DEPTH {
            self.more = true;
            return Ok(());
        }
        // What is not to be had any more is passed over.
        let Ok(directory) = self.workspace.open(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Ok(()) };
        let Ok(mut entries) = entries(&directory) else { return Ok(()) };
        drop(directory);
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            if self.is_over() {
                return Ok(());
            }
            let Ok(name) = std::str::from_utf8(&entry.name) else { continue };
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            match entry.kind {
                EntryKind::Directory => self.directory(&path, depth.saturating_add(1))?,
                EntryKind::File => self.file(&path)?,
                EntryKind::Link | EntryKind::Other => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str) -> Result<(), Refusal> {
        self.files = self.files.saturating_add(1);
        let Ok((file, _)) = self.workspace.file(path) else { return Ok(()) };
        let mut reader = BufReader::with_capacity(64 << 10, file.take(EACH));
        let Ok(front) = reader.fill_buf() else { return Ok(()) };
        if front.contains(&0) {
            return Ok(());
        }
        let (mut line, mut number) = (Vec::new(), 0u64);
        loop {
            line.clear();
            let Ok(count @ 1..) = reader.read_until(b'\n', &mut line) else { return Ok(()) };
            self.read = self.read.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            number = number.saturating_add(1);
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if self.expression.is_match(text) {
                let mut found = format!("{path}:{number}:").into_bytes();
                found.extend_from_slice(text.get(..WIDTH).unwrap_or(text));
                found.push(b'\n');
                self.out.data(&found)?;
                self.lines = self.lines.saturating_add(1);
            }
            if self.is_over() {
                return Ok(());
            }
        }
    }
}
