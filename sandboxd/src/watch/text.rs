//! What a command writes, looked through as it passes: for words that stand only where no container reaches, and for what
//! reads like an escape. The latter is said by honest texts too, so it is suspicious and nothing more.
//!
//! Hostile: every byte. A word may come in pieces; it is found across them, and one run names each text once.

use memchr::memmem::Finder;
use std::collections::BTreeSet;

/// Texts of escapes, in lower case; each with what it is about.
const TEXTS: &[(&str, &str)] = &[
    ("/proc/1/root", "the host's files by way of a process"),
    ("release_agent", "a program run by a control group"),
    ("notify_on_release", "a program run by a control group"),
    ("/proc/sys/kernel/core_pattern", "a program run by a crash"),
    ("nsenter", "another process's namespaces"),
    ("docker.sock", "the engine's socket"),
    ("containerd.sock", "the engine's socket"),
    ("/dev/vda", "a disk of the host"),
    ("/dev/sda", "a disk of the host"),
    ("/dev/mem", "the machine's memory"),
    ("/proc/kcore", "the machine's memory"),
    ("/proc/sysrq-trigger", "the kernel's emergency keys"),
    ("insmod", "a kernel module"),
    ("modprobe", "a kernel module"),
    ("open_by_handle_at", "a file by its number"),
    ("169.254.169.254", "a cloud's keys"),
    ("cdk evaluate", "a tool that looks for ways out"),
    ("deepce", "a tool that looks for ways out"),
    ("amicontained", "a tool that looks for ways out"),
    ("uid=0(root)", "root"),
];
/// Bytes of the last output that are kept as evidence.
const KEPT: usize = 16 << 10;
/// Longest thing that is looked for.
const LONGEST: usize = 64;

/// What was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hit {
    /// The canary.
    Canary,
    /// A text, and what it is about.
    Text(&'static str, &'static str),
}

/// Texts in a command, before it runs.
#[must_use]
pub fn in_command(command: &str) -> Option<(&'static str, &'static str)> {
    let command = command.to_ascii_lowercase();
    TEXTS.iter().copied().find(|(text, _)| command.contains(text))
}

/// What looks through the output of runs.
#[derive(Debug)]
pub struct Searcher {
    canary: Option<Finder<'static>>,
    texts: Vec<(Finder<'static>, &'static (&'static str, &'static str))>,
}

impl Searcher {
    /// With the word that no container can know; none where there is none.
    #[must_use]
    pub fn new(canary: Option<&str>) -> Self {
        // A short one would be met by chance.
        let canary = canary.filter(|word| (32..=LONGEST).contains(&word.len()));
        Self {
            canary: canary.map(|word| Finder::new(word.as_bytes()).into_owned()),
            texts: TEXTS.iter().map(|text| (Finder::new(text.0).into_owned(), text)).collect(),
        }
    }

    /// The word; for trying out whether it is found.
    #[must_use]
    pub fn canary(&self) -> Option<&str> {
        self.canary.as_ref().and_then(|finder| std::str::from_utf8(finder.needle()).ok())
    }

    /// Takes the canary out of a text that is to be kept.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        self.canary().map_or_else(|| text.to_owned(), |word| text.replace(word, "[canary]"))
    }
}

/// One run's output.
#[derive(Debug, Default)]
pub struct Output {
    /// The end of each stream, for what begins there.
    ends: [Vec<u8>; 2],
    named: BTreeSet<&'static str>,
    last: Vec<u8>,
    canary: bool,
}

impl Output {
    /// Looks through the next piece of a stream.
    pub fn pass(&mut self, searcher: &Searcher, is_error: bool, piece: &[u8]) -> Vec<Hit> {
        self.keep(piece);
        let [out, err] = &mut self.ends;
        let end = if is_error { err } else { out };
        end.extend(piece.iter().map(u8::to_ascii_lowercase));
        let mut hits = Vec::new();
        if !self.canary && searcher.canary.as_ref().is_some_and(|canary| canary.find(end).is_some()) {
            self.canary = true;
            hits.push(Hit::Canary);
        }
        for (finder, (text, about)) in &searcher.texts {
            if !self.named.contains(text) && finder.find(end).is_some() {
                self.named.insert(text);
                hits.push(Hit::Text(text, about));
            }
        }
        end.drain(..end.len().saturating_sub(LONGEST - 1));
        hits
    }

    fn keep(&mut self, piece: &[u8]) {
        let piece = piece.get(piece.len().saturating_sub(KEPT)..).unwrap_or_default();
        self.last.extend_from_slice(piece);
        if self.last.len() > 2 * KEPT {
            self.last.drain(..self.last.len() - KEPT);
        }
    }

    /// The end of the output.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        self.last.get(self.last.len().saturating_sub(KEPT)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn hits(pieces: &[&[u8]]) -> Vec<Hit> {
        let (searcher, mut output) = (Searcher::new(Some(WORD)), Output::default());
        pieces.iter().flat_map(|piece| output.pass(&searcher, false, piece)).collect()
    }

    #[test]
    fn canary_is_found_wherever_it_is_cut_in_any_case_and_once() {
        for at in 0..=WORD.len() {
            let (one, two) = WORD.split_at(at);
            assert_eq!(hits(&[b"x", one.as_bytes(), two.as_bytes(), b"y", WORD.as_bytes()]), [Hit::Canary], "{at}");
        }
        assert_eq!(hits(&[WORD.to_ascii_uppercase().as_bytes()]), [Hit::Canary]);
        let bytes: Vec<&[u8]> = WORD.as_bytes().chunks(1).collect();
        assert_eq!(hits(&bytes), [Hit::Canary]);
        assert!(hits(&[WORD.get(1..).unwrap().as_bytes()]).is_empty());
    }

    #[test]
    fn streams_are_two() {
        let (searcher, mut output) = (Searcher::new(Some(WORD)), Output::default());
        let (one, two) = WORD.split_at(20);
        assert!(output.pass(&searcher, false, one.as_bytes()).is_empty());
        assert!(output.pass(&searcher, true, two.as_bytes()).is_empty());
        assert_eq!(output.pass(&searcher, false, two.as_bytes()), [Hit::Canary]);
    }

    #[test]
    fn short_canary_is_none() {
        let (searcher, mut output) = (Searcher::new(Some("abc")), Output::default());
        assert!(output.pass(&searcher, false, b"abcabc").is_empty());
    }

    #[test]
    fn every_text_fits_is_found_in_output_and_in_commands_and_named_once() {
        for (text, about) in TEXTS {
            assert!(text.len() < LONGEST && *text == text.to_ascii_lowercase());
            let found = hits(&[format!("a {text} b {text}").as_bytes(), text.as_bytes()]);
            assert!(found.contains(&Hit::Text(text, about)), "{text}");
            assert!(in_command(&text.to_ascii_uppercase()).is_some());
        }
        assert!(hits(&[b"drwxr-xr-x 2 root root 4096 src\n"]).is_empty() && in_command("cargo build").is_none());
    }

    #[test]
    fn end_of_the_output_is_kept_and_no_more() {
        let (searcher, mut output) = (Searcher::new(None), Output::default());
        for number in 0..10_000 {
            output.pass(&searcher, false, format!("line {number}\n").as_bytes());
        }
        assert_eq!(output.last().len(), KEPT);
        assert!(output.last().ends_with(b"line 9999\n"));
        assert_eq!(Searcher::new(Some(WORD)).scrub(&format!("a{WORD}b")), "a[canary]b");
    }
}
