//! The few files of a backup as an archive of POSIX (ustar), so that `age -d | tar x` restores them where there is no Moltbot.
//! An archive that is read was authenticated, and is read as if it was not.

use zeroize::Zeroizing;

const BLOCK: usize = 512;

/// A file in an archive.
pub struct Entry {
    /// Its path.
    pub name: String,
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
}

/// An archive of these files, all of them for their owner alone.
#[must_use]
pub fn write(files: &[(&str, u32, &[u8])], time: u64) -> Zeroizing<Vec<u8>> {
    let room = files.iter().map(|(_, _, content)| content.len().saturating_add(2 * BLOCK)).sum::<usize>();
    let mut archive = Zeroizing::new(Vec::with_capacity(room.saturating_add(2 * BLOCK)));
    for (name, mode, content) in files {
        archive.extend_from_slice(&header(name, *mode, content.len(), time));
        archive.extend_from_slice(content);
        let whole = archive.len().next_multiple_of(BLOCK);
        archive.resize(whole, 0);
    }
    let whole = archive.len().saturating_add(2 * BLOCK);
    archive.resize(whole, 0);
    archive
}

fn header(name: &str, mode: u32, size: usize, time: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(BLOCK);
    let mut field = |text: String, length: usize| {
        header.extend(text.bytes().chain(std::iter::repeat(0)).take(length));
    };
    field(name.to_owned(), 100);
    field(format!("{mode:07o}"), 8);
    field("0000000".to_owned(), 8);
    field("0000000".to_owned(), 8);
    field(format!("{size:011o}"), 12);
    field(format!("{time:011o}"), 12);
    field(" ".repeat(8), 8);
    field("0".to_owned(), 1);
    field(String::new(), 100);
    field("ustar\x0000".to_owned(), 8);
    field(String::new(), BLOCK - 265);
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    let sum = format!("{sum:06o}\0 ");
    header.iter_mut().skip(148).zip(sum.bytes()).for_each(|(to, from)| *to = from);
    header
}

/// The files of an archive; none where it is not one that this writes.
#[must_use]
pub fn read(archive: &[u8]) -> Option<Vec<Entry>> {
    let (mut files, mut rest) = (Vec::new(), archive);
    loop {
        let (head, after) = rest.split_at_checked(BLOCK)?;
        if head.iter().all(|byte| *byte == 0) {
            return Some(files);
        }
        let text = |from: usize, length: usize| {
            let field = head.get(from..from.checked_add(length)?)?;
            std::str::from_utf8(field.split(|byte| *byte == 0).next()?).ok()
        };
        let (name, size) = (text(0, 100)?.to_owned(), usize::from_str_radix(text(124, 12)?, 8).ok()?);
        if text(257, 6)? != "ustar" || head.get(156) != Some(&b'0') {
            return None;
        }
        let (content, _) = after.split_at_checked(size)?;
        files.push(Entry { name, content: Zeroizing::new(content.to_vec()) });
        rest = after.get(size.checked_next_multiple_of(BLOCK)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_reads_back_and_a_cut_one_does_not() {
        let files: [(&str, u32, &[u8]); 3] =
            [("keys/secrets.key", 0o400, b"key\n"), ("empty", 0o600, b""), ("b", 0o600, &[7; 512])];
        let archive = write(&files, 1_795_431_600);
        let read_back = read(&archive).unwrap();
        let pairs: Vec<(&str, &[u8])> =
            read_back.iter().map(|entry| (entry.name.as_str(), entry.content.as_slice())).collect();
        assert_eq!(pairs, files.map(|(name, _, content)| (name, content)));
        for cut in 0..archive.len() - BLOCK {
            assert!(read(&archive[..cut]).is_none() || read(&archive[..cut]).unwrap().len() == 3, "{cut}");
        }
    }
}
