//! The files of a stream: `<stream>.jsonl`, then `<stream>.<seq>.jsonl` for each after a rotation, `<seq>` the position of
//! its first line in twelve digits; each with its `.checkpoints`. auditd may not rename, so the oldest has the short name.

use proto::audit::Stream;

/// One file of a stream.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Segment {
    /// Position of its first line.
    pub first: u64,
    base: String,
}

impl Segment {
    /// The file whose first line is at `first`.
    #[must_use]
    pub fn new(stream: Stream, first: u64) -> Self {
        let base = if first == 0 { stream.name().to_owned() } else { format!("{}.{first:012}", stream.name()) };
        Self { first, base }
    }

    /// Reads a file name; none for any that is not a log of this stream in its one form.
    #[must_use]
    pub fn parse(stream: Stream, name: &str) -> Option<Self> {
        let middle = name.strip_prefix(stream.name())?.strip_suffix(".jsonl")?;
        let first = if middle.is_empty() { 0 } else { middle.strip_prefix('.')?.parse().ok()? };
        let segment = Self::new(stream, first);
        (segment.log() == name).then_some(segment)
    }

    /// The stream's files among `names`, oldest first.
    pub fn all<'n>(stream: Stream, names: impl IntoIterator<Item = &'n str>) -> Vec<Self> {
        let mut found: Vec<_> = names.into_iter().filter_map(|name| Self::parse(stream, name)).collect();
        found.sort();
        found
    }

    /// Name of the file of lines.
    #[must_use]
    pub fn log(&self) -> String {
        format!("{}.jsonl", self.base)
    }

    /// Name of the file of checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> String {
        format!("{}.checkpoints", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_stream_are_recognised_and_put_in_order() {
        let names = ["auth-audit.000000000900.jsonl", "auth-audit.jsonl", "auth-audit.checkpoints", "signing.key"];
        let found = Segment::all(Stream::Auth, names);
        assert_eq!(found.iter().map(|segment| segment.first).collect::<Vec<_>>(), [0, 900]);
        assert_eq!(found[1].checkpoints(), "auth-audit.000000000900.checkpoints");
        for other in [
            "auth-audit.900.jsonl",
            "auth-audit.+00000000900.jsonl",
            "auth-audit.x.jsonl",
            "auth-audit.000000000000.jsonl",
            "auth-auditjsonl",
        ] {
            assert_eq!(Segment::parse(Stream::Auth, other), None, "{other}");
        }
        assert!(Segment::all(Stream::Secret, names).is_empty());
    }
}
