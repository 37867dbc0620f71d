//! What came out, as a text that can be committed and compared.

use super::floor;
use super::place::LAYOUTS;
use confine::probe::probes;
use proto::control::Layout;
use proto::ids::Role;
use proto::probe::{Layers, Outcome};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// The whole wall, and each layer alone; `identity` is what uid and empty capability sets hold by themselves.
pub const LAYERS: [&str; 4] = ["sealed", "seccomp", "landlock", "identity"];

/// The roles, and broker at the end.
const COLUMNS: [Role; 8] = [
    Role::Auditd,
    Role::Vault,
    Role::Sandboxd,
    Role::Dialer,
    Role::Egress,
    Role::Gateway,
    Role::Launcher,
    Role::Broker,
];

/// What a layer of that name raises.
pub fn layers(name: &str) -> Layers {
    Layers { landlock: matches!(name, "sealed" | "landlock"), seccomp: matches!(name, "sealed" | "seccomp") }
}

/// Layout, layer, probe.
type Key = (String, String, String);
/// One cell with its place.
pub type Row = (Key, String, String);

/// The lines that a stage printed.
pub fn rows(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        let [layout, layer, probe, role, outcome] = words.as_slice() else { panic!("no row: {line}") };
        let key = ((*layout).to_owned(), (*layer).to_owned(), (*probe).to_owned());
        (key, (*role).to_owned(), (*outcome).to_owned())
    };
    text.lines().map(row).collect()
}

/// Cells by layout, layer and probe, and by role.
#[derive(Default)]
pub struct Table(BTreeMap<Key, BTreeMap<String, String>>);

impl Table {
    /// Adds cells.
    pub fn extend(&mut self, rows: Vec<Row>) {
        for (key, role, outcome) in rows {
            self.0.entry(key).or_default().insert(role, outcome);
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Cells.
    pub fn cells(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("matrix.tsv")
    }

    /// The committed table.
    pub fn read() -> Self {
        let text = std::fs::read_to_string(Self::path()).unwrap_or_default();
        let mut table = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')).skip(1) {
            let mut words = line.split('\t').map(str::to_owned);
            let mut word = || words.next().unwrap_or_default();
            let key = (word(), word(), word());
            table.0.insert(key, COLUMNS.iter().map(|role| (role.to_string(), word())).collect());
        }
        table
    }

    /// Writes the table, in the probes' order.
    pub fn write(&self) {
        let mut text = String::from(
            "# Confinement matrix, written by `cargo xtask matrix --bless` and compared by `cargo xtask test`.\n\
             # KILL: SIGSYS. ALLOW: got through. -: the role holds no such thing. Else the errno.\n",
        );
        text.push_str("layout\tlayer\tprobe");
        for role in COLUMNS {
            write!(text, "\t{role}").unwrap();
        }
        for layout in LAYOUTS {
            for layer in LAYERS {
                for probe in probes() {
                    write!(text, "\n{}\t{layer}\t{}", layout.name(), probe.name).unwrap();
                    for role in COLUMNS {
                        write!(text, "\t{}", self.cell(layout, layer, probe.name, role)).unwrap();
                    }
                }
            }
        }
        text.push('\n');
        std::fs::write(Self::path(), text).unwrap();
        println!("written: {}", Self::path().display());
    }

    fn cell(&self, layout: Layout, layer: &str, probe: &str, role: Role) -> &str {
        // Broker has one layer alone, since its children must be free to raise theirs.
        if role == Role::Broker && layer != "sealed" {
            return "-";
        }
        let key = (layout.name().to_owned(), layer.to_owned(), probe.to_owned());
        self.0.get(&key).and_then(|cells| cells.get(role.name())).map_or("?", String::as_str)
    }

    /// Finds cells that no table may hold, however it is written.
    pub fn check_floors(&self, faults: &mut Vec<String>) {
        let unknown = floor::names().filter(|name| probes().all(|probe| probe.name != *name));
        faults.extend(unknown.map(|name| format!("the floor names {name}, which is no probe")));
        let strays = probes().filter(|probe| probe.nobody != floor::must_kill(probe.name, Role::Broker));
        faults.extend(strays.map(|probe| format!("{}: broker's floor and its probes differ", probe.name)));
        for ((layout, layer, name), cells) in &self.0 {
            let probe = probes().find(|probe| probe.name == name).unwrap();
            for (role, outcome) in cells {
                let place = format!("{layout} {layer} {name} {role}: {outcome}");
                let known = Role::from_name(role).unwrap();
                let excused = probe.excuse(known, layout == "single-uid").is_some();
                if layer == "sealed" && outcome == "ALLOW" && !excused {
                    faults.push(format!("HOLE: {place}"));
                }
                let floor = matches!(layer.as_str(), "sealed" | "seccomp") && floor::must_kill(name, known);
                if floor && outcome != "KILL" {
                    faults.push(format!("weaker than its floor, KILL: {place}"));
                }
                // 25 is SIGXFSZ, for a role that may let no file grow.
                if outcome == "silent" || outcome.starts_with("signal-") && outcome != "signal-25" {
                    faults.push(format!("no outcome: {place}"));
                }
            }
        }
    }

    /// Compares with the committed table. A cell may differ only where the unconfined twin shows that this kernel lacks the
    /// thing, and then it must show the same.
    pub fn compare(
        &self,
        committed: &Self,
        twins: &BTreeMap<&'static str, Outcome>,
        layouts: &[Layout],
        faults: &mut Vec<String>,
    ) {
        for layout in layouts {
            for layer in LAYERS {
                for (probe, role) in probes().flat_map(|probe| COLUMNS.map(|role| (probe, role))) {
                    let found = self.cell(*layout, layer, probe.name, role);
                    let wanted = committed.cell(*layout, layer, probe.name, role);
                    let lacking = twins.get(probe.name).filter(|twin| **twin != Outcome::Allowed);
                    if found != wanted && lacking.is_none_or(|twin| twin.to_string() != found) {
                        let place = format!("{} {layer} {} {role}", layout.name(), probe.name);
                        faults.push(format!("{place}: {found} instead of {wanted}"));
                    }
                }
            }
        }
        let known: usize = layouts.len() * LAYERS.len() * probes().count();
        let stale = committed.0.len().saturating_sub(LAYOUTS.len() * LAYERS.len() * probes().count());
        if stale > 0 || self.len() != known {
            faults.push(format!("rows: {} instead of {known}, {stale} too many committed", self.len()));
        }
    }
}
