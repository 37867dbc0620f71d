//! The line of one record without reading those before it: positions in a file only ever rise, so a bisection finds it.
//! The file is hostile; whatever does not come out as it should is for the reader from the first line on to say.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes that are read to find a line in: several ordinary ones, and some of the longest.
const PIECE: usize = 4 << 10;
/// Longest line that is looked for here.
const LONGEST: usize = 128 << 10;

/// The line of record `seq`, without its newline; none where the file is not in order there, or has no such line.
///
/// # Errors
/// What the system says.
pub fn line(file: &File, seq: u64) -> io::Result<Option<Vec<u8>>> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    // Every line that begins in front of `low` is of an earlier record, every one from `high` on of a later.
    while low < high {
        let middle = low + (high - low) / 2;
        let Some((start, line)) = first_from(file, middle, high)? else {
            // None begins in the upper half.
            high = middle;
            continue;
        };
        match number(&line) {
            Some(found) if found == seq => return Ok(Some(line)),
            Some(found) if found < seq => low = start.saturating_add(1),
            Some(_) => high = middle,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Where the first line from `from` on begins, in front of `until`, and the line.
fn first_from(file: &File, from: u64, until: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut start = from;
    if from > 0 {
        // The newline in front of a line may stand right in front of `from`.
        let Some(rest) = to_newline(file, from - 1)? else { return Ok(None) };
        start = from.saturating_add(u64::try_from(rest.len()).unwrap_or(u64::MAX));
    }
    if start >= until {
        return Ok(None);
    }
    Ok(to_newline(file, start)?.map(|line| (start, line)))
}

/// What stands from `at` on up to the next newline; none where there is none near.
fn to_newline(file: &File, at: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST {
        let mut piece = [0; PIECE];
        let read = file.read_at(&mut piece, at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX)))?;
        let Some(piece) = piece.get(..read).filter(|piece| !piece.is_empty()) else { return Ok(None) };
        if let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            bytes.extend_from_slice(piece.get(..end).unwrap_or_default());
            return Ok(Some(bytes));
        }
        bytes.extend_from_slice(piece);
    }
    Ok(None)
}

/// The position that a record says it has: its first field.
fn number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let end = digits.iter().position(|byte| *byte == b',')?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn record(seq: u64) -> String {
        let length = [0, 1, 7, 300, 5_000, 70_000][usize::try_from(seq % 6).unwrap()];
        format!("{{\"seq\":{seq},\"x\":\"{}\"}}", "x".repeat(length))
    }

    #[test]
    fn every_record_is_found_and_no_other() {
        for (first, count) in [(0, 1), (0, 2), (7, 200)] {
            let text: String = (first..first + count).map(|seq| record(seq) + "\n").collect();
            let file = file(&text);
            for seq in first..first + count {
                assert_eq!(line(&file, seq).unwrap().unwrap(), record(seq).as_bytes(), "{seq} of {first} and {count}");
            }
            for seq in [first.checked_sub(1), Some(first + count), Some(u64::MAX)].into_iter().flatten() {
                assert_eq!(line(&file, seq).unwrap(), None);
            }
        }
    }

    #[test]
    fn file_that_is_not_in_order_finds_nothing_and_ends() {
        for text in
            ["", "\n\n\n", "{\"seq\":", "x", &"x".repeat(300_000), "{\"seq\":9,}\n{\"seq\":1,}\n", "{\"seq\":-1,}\n"]
        {
            assert_eq!(line(&file(text), 5).unwrap(), None, "{text:.20}");
        }
        // A last line without its newline is none yet.
        assert_eq!(line(&file("{\"seq\":0,}\n{\"seq\":1,}"), 1).unwrap(), None);
    }
}
