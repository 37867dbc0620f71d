//! Every bit, offset, pair of lines and splice of a log of a hundred records. What is before the change is checked once and
//! taken up there, with the same code that checks a file; that both say the same is a test of its own.

use super::*;
use crate::offline::lines::Check;
use std::collections::BTreeSet;

/// A log with what is known before each of its lines.
struct Known {
    honest: Honest,
    notes: Notes,
    lines: Vec<Vec<u8>>,
    /// Where each line begins.
    offsets: Vec<usize>,
    before: Vec<Position>,
    end: Position,
}

/// What is wrong: file, line, class.
type Verdict = Result<Position, (String, Broken)>;

impl Known {
    fn new(records: usize) -> Self {
        let honest = honest(records);
        let notes = notes::parse(&honest.notes, &[]).unwrap();
        let lines = honest.lines();
        let mut verifier = Verifier::new(Stream::Auth, Position::default(), honest.expected.first_key);
        let (mut before, mut offsets, mut at) = (Vec::new(), Vec::new(), 0);
        for line in &lines {
            before.push(verifier.position().clone());
            offsets.push(at);
            verifier.line(&mut line.clone()).unwrap();
            at += line.len() + 1;
        }
        let mut known = Self { honest, notes, lines, offsets, before, end: verifier.position().clone() };
        // With the checkpoints beside it, all of it is signed.
        known.end.signed = known.end.head.size;
        assert_eq!(known.checked(0, &known.honest.log, &known.notes), Ok(known.end.clone()));
        known
    }

    /// The check from a line on; `bytes` stand in its place and behind it.
    fn checked(&self, line: usize, bytes: &[u8], notes: &Notes) -> Verdict {
        self.checked_with(line, bytes, notes, &self.honest.expected)
    }

    fn checked_with(&self, line: usize, bytes: &[u8], notes: &Notes, expected: &Expected) -> Verdict {
        let verifier = Verifier::within(Stream::Auth, self.before[line].clone(), 0, expected.first_key);
        let mut check = Check::new(verifier, expected);
        let found = check.lines(bytes, notes, &mut |_, _| {}).map_err(|error| match error {
            VerifyError::Broken(broken) => (LOG.to_owned(), broken),
            VerifyError::Notes(broken) => (NOTES.to_owned(), broken),
            VerifyError::Read(error) => panic!("{error}"),
        })?;
        check.end(&found.sound).map_err(|broken| (LOG.to_owned(), broken))?;
        Ok(found.sound)
    }

    /// The line that a byte of the log is in.
    fn line_at(&self, byte: usize) -> usize {
        self.offsets.partition_point(|offset| *offset <= byte) - 1
    }

    /// The log from the line on that `byte` is in, with a bit of it flipped.
    fn flipped(&self, byte: usize, bit: u32) -> (usize, Vec<u8>) {
        let line = self.line_at(byte);
        let offset = self.offsets[line];
        let mut bytes = self.honest.log[offset..].to_vec();
        bytes[byte - offset] ^= 1 << bit;
        (line, bytes)
    }

    /// A flipped bit is found in its line. Two lines that contradict each other are named by the first of them, so what is
    /// changed in `prev` is named by the line before; and of a last line that is none any more its loss is said.
    fn flip(&self, byte: usize, bit: u32) -> Class {
        let (line, bytes) = self.flipped(byte, bit);
        let what = format!("bit {bit} of byte {byte}, line {}", line + 1);
        let (file, broken) =
            self.checked(line, &bytes, &self.notes).map(|_| panic!("{what}: not noticed")).unwrap_err();
        let here = line as u64 + 1;
        let in_prev = byte - self.offsets[line] + 66 >= self.lines[line].len();
        let last = line + 1 == self.lines.len() && broken.class == Class::Truncated;
        assert_eq!(file, LOG, "{what}: {broken}");
        assert!(broken.line == here || (in_prev || last) && broken.line + 1 == here, "{what}: {broken}");
        broken.class
    }

    /// The same in the checkpoints: named by a line of the note or of the one behind it, or what it signs is not there; and
    /// the last one may be no note any more, which is said as well.
    fn flip_note(&self, byte: usize, bit: u32) -> Option<Class> {
        let mut bytes = self.honest.notes.clone();
        bytes[byte] ^= 1 << bit;
        let what = format!("bit {bit} of byte {byte} of the checkpoints");
        let number = |byte: usize| self.honest.notes[..byte].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let at = self.notes.entries.partition_point(|entry| entry.line <= number(byte)) - 1;
        let from = self.notes.entries[at].line;
        let until = self.notes.entries.get(at + 2).map_or(u64::MAX, |entry| entry.line);
        let last = at + 1 == self.notes.entries.len();
        let (file, broken) = match notes::parse(&bytes, &[]) {
            Err(broken) => (NOTES.to_owned(), broken),
            Ok(notes) if notes.rest.is_some() => {
                assert!(last, "{what}: taken for a torn end");
                return None;
            }
            Ok(notes) => self.checked(0, &self.honest.log, &notes).map(|_| panic!("{what}: not noticed")).unwrap_err(),
        };
        if file == NOTES {
            assert!((from..until).contains(&broken.line), "{what}: {broken}");
        } else {
            assert_eq!(broken, Broken { line: self.lines.len() as u64, class: Class::Truncated }, "{what}");
        }
        Some(broken.class)
    }

    fn bits(&self) -> usize {
        self.honest.log.len() * 8
    }

    fn flip_bit(&self, bit: usize) -> Class {
        self.flip(bit / 8, u32::try_from(bit % 8).unwrap())
    }

    fn flip_note_bit(&self, bit: usize) -> Option<Class> {
        self.flip_note(bit / 8, u32::try_from(bit % 8).unwrap())
    }

    fn class(&self, from: usize, lines: &[Vec<u8>]) -> (u64, Class) {
        let (file, broken) = self.checked(from, &join(lines), &self.notes).map(|_| panic!("not noticed")).unwrap_err();
        assert_eq!(file, LOG);
        (broken.line, broken.class)
    }

    fn cut(&self, at: usize) {
        let line = self.line_at(at);
        let (_, broken) = self.checked(line, &self.honest.log[self.offsets[line]..at], &self.notes).unwrap_err();
        // All of a line but its newline is a line still.
        let last = line + usize::from(at == self.offsets[line] + self.lines[line].len());
        assert_eq!(broken, Broken { line: (last as u64).max(1), class: Class::Truncated }, "cut at {at}");
    }

    /// Exchanges, leaves out and doubles the lines from `a` on, up to each later one.
    fn pairs(&self, a: usize) {
        let (rest, here) = (&self.lines[a..], a as u64 + 1);
        for b in 1..rest.len() {
            let mut swapped = rest.to_vec();
            swapped.swap(0, b);
            assert_eq!(self.class(a, &swapped), (here, Class::Reordered), "{a} and {b} behind it");
            assert_eq!(self.class(a, &rest[b..]), (here, Class::Deleted), "{b} from {a} on");
            let mut doubled = rest.to_vec();
            doubled.insert(b, rest[0].clone());
            assert_eq!(self.class(a, &doubled), (here + b as u64, Class::Inserted), "{a} again {b} behind it");
        }
    }

    /// An older copy of everything, where one checkpoint or one receipt was kept elsewhere.
    fn rolled_back(&self, lines: usize) {
        let old = join(&self.lines[..lines]);
        let none = Notes::default();
        assert!(self.checked(0, &old, &none).is_ok());
        let last = self.lines.len() - 1;
        let receipt = Receipt { seq: Seq(last as u64), leaf: leaf(&self.lines[last]) };
        let with_receipt = Expected { receipts: vec![receipt], ..self.honest.expected.clone() };
        let newest = self.notes.entries.last().unwrap().clone();
        let with_note = Expected { checkpoints: vec![newest], ..self.honest.expected.clone() };
        for expected in [with_receipt, with_note] {
            let (_, broken) = self.checked_with(0, &old, &none, &expected).unwrap_err();
            assert_eq!(broken, Broken { line: lines as u64, class: Class::RolledBack });
            assert!(self.checked_with(0, &self.honest.log, &none, &expected).is_ok());
        }
    }
}

/// A sequence that is the same each time.
fn random(seed: u64) -> impl Iterator<Item = usize> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    })
}

#[test]
fn check_that_goes_on_from_a_line_says_what_the_check_of_the_file_says() {
    let known = Known::new(12);
    for bit in random(5).map(|bit| bit % known.bits()).take(80) {
        let (line, bytes) = known.flipped(bit / 8, u32::try_from(bit % 8).unwrap());
        let (file, broken) = known.checked(line, &bytes, &known.notes).unwrap_err();
        let whole = [&known.honest.log[..known.offsets[line]], bytes.as_slice()].concat();
        assert_eq!(known.honest.verdict(&whole, Some(&known.honest.notes)), Err(Fault { file, broken }));
    }
}

#[test]
fn flipped_bits_are_named_by_line_and_class() {
    let known = Known::new(100);
    let classes: BTreeSet<_> = random(1).map(|bit| known.flip_bit(bit % known.bits()).name()).take(3_000).collect();
    assert!(classes.len() >= 6, "{classes:?}");
    for bit in random(2).take(100) {
        let _ = known.flip_note_bit(bit % (known.honest.notes.len() * 8));
    }
    random(3).take(300).for_each(|at| known.cut(at % known.honest.log.len()));
    random(4).take(3).for_each(|line| known.pairs(line % (known.lines.len() - 1)));
    random(5).take(3).for_each(|lines| known.rolled_back(2 + lines % (known.lines.len() - 2)));
}

/// Does `work` for each number below `count`, on two threads.
fn each<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let half = |from: usize| (from..count).step_by(2).map(&work).collect::<Vec<T>>();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        let mut done = half(0);
        done.extend(other.join().unwrap());
        done
    })
}

fn counted(classes: impl IntoIterator<Item = &'static str>) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    classes.into_iter().for_each(|class| *counts.entry(class).or_default() += 1);
    counts
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_every_bit_of_a_hundred_records() {
    let known = Known::new(100);
    let classes = each(known.bits(), |bit| known.flip_bit(bit).name());
    println!("{} bits of lines: {:?}", known.bits(), counted(classes));
    let bits = known.honest.notes.len() * 8;
    let classes = each(bits, |bit| known.flip_note_bit(bit).map_or("cut-short", Class::name));
    println!("{bits} bits of checkpoints: {:?}", counted(classes));
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_every_offset_every_pair_and_every_splice() {
    let (known, other) = (Known::new(100), honest(100));
    let count = known.lines.len();
    each(known.honest.log.len(), |at| known.cut(at));
    each(count - 1, |line| known.pairs(line));
    each(count - 2, |lines| known.rolled_back(lines + 2));
    for at in 2..count - 17 {
        let (line, class) = known.class(at, &other.lines()[at..]);
        assert_eq!((line, class), (at as u64 + 1, Class::Spliced));
    }
    println!("{} offsets, {} pairs of lines, {} splices", known.honest.log.len(), count * (count - 1) / 2, count - 19);
}
