//! Commands that wait for the operator's word. Each is told of once when it begins to wait, and once when it does so no more.
//! Strangers and devices that wait are in the log, which is followed; a question is not, until it is answered.

use crate::CliError;
use crate::approvals;
use crate::door::Door;
use crate::paint::Paint;
use command::show::visible;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What waits, by what names it.
type Waits = BTreeMap<String, String>;

/// What is known to wait.
pub struct Waiting {
    dir: PathBuf,
    paint: Paint,
    door: Option<Door>,
    known: Waits,
}

impl Waiting {
    /// Nothing is known yet, so that what waits already is told of first.
    pub fn new(dir: &Path, paint: Paint) -> Self {
        Self { dir: dir.to_owned(), paint, door: None, known: Waits::new() }
    }

    /// Looks: lines about what has changed. Nothing where Moltbot is not there; what waits then is told of when it is.
    pub fn look(&mut self) -> Vec<String> {
        let door = match self.door.take() {
            Some(door) => Ok(door),
            None => Door::open(&self.dir),
        };
        let Ok(mut door) = door else { return Vec::new() };
        let Ok(now) = waits(&mut door) else { return Vec::new() };
        self.door = Some(door);
        let lines = news(&self.known, &now)
            .into_iter()
            .map(|(begins, line)| if begins { self.paint.warn(&line) } else { self.paint.dim(&line) });
        let lines = lines.collect();
        self.known = now;
        lines
    }
}

fn waits(door: &mut Door) -> Result<Waits, CliError> {
    let mut waits = Waits::new();
    for row in approvals::waiting(door)? {
        let (id, command, session) = (row.id, visible(&row.command), visible(&row.session.0));
        waits.insert(id.to_string(), format!("waits for your word: `{command}` of {session}; approvals show {id}"));
    }
    Ok(waits)
}

/// What begins to wait, and what waits no more, each as a line.
fn news(before: &Waits, now: &Waits) -> Vec<(bool, String)> {
    let begins =
        now.iter().filter(|(what, _)| !before.contains_key(*what)).map(|(what, how)| (true, format!("{what} {how}")));
    let ends =
        before.keys().filter(|what| !now.contains_key(*what)).map(|what| (false, format!("{what} waits no more")));
    begins.chain(ends).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_told_of_once_and_its_end_too() {
        let of = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "waits".to_owned())).collect::<Waits>();
        assert_eq!(news(&of(&[]), &of(&["a"])), [(true, "a waits".to_owned())]);
        assert!(news(&of(&["a"]), &of(&["a"])).is_empty());
        assert_eq!(
            news(&of(&["a"]), &of(&["b"])),
            [(true, "b waits".to_owned()), (false, "a waits no more".to_owned())]
        );
    }
}
