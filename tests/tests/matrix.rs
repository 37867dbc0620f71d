//! The confinement matrix: every role, every probe, inside the real sealed process, in both layouts; each layer alone as
//! well; and the same probes unconfined, so that a broken one cannot pass. `tests/matrix.tsv` is what must come out.
//!
//! The roles are test builds (feature `probes`), found in `MOLTBOT_PROBE_BIN_DIR`; those without it, in `MOLTBOT_BIN_DIR`,
//! must not have the probes. `cargo xtask matrix` builds both and runs this; with `--bless` it writes the table anew, which
//! writes no hole into it: an `ALLOW` behind a whole wall needs its reason beside the probe.
//!
//! No test harness: processes are forked here, which takes one thread. The set is made as broker makes it, by a second
//! process of this program under broker's identity and behind broker's own filter.

mod matrix {
    pub mod floor;
    pub mod place;
    pub mod release;
    pub mod role;
    pub mod stage;
    pub mod table;
    pub mod twins;
}

use matrix::place::{LAYOUTS, Place};
use matrix::table::{Row, Table};
use matrix::{release, stage, table, twins};
use proto::control::Layout;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;
use system_tests::{is_root, skip};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, layout, dir] = args.as_slice()
        && word == stage::WORD
    {
        let layout = LAYOUTS.into_iter().find(|it| it.name() == layout).unwrap();
        stage::run(layout, std::path::Path::new(dir));
        return ExitCode::SUCCESS;
    }
    let mut faults = Vec::new();
    let began = Instant::now();
    // First, while this process has no descriptors but those that the twins are to find.
    let twins = if is_root() {
        twins::run(&mut faults)
    } else {
        skip("the unconfined twins of the probes need root");
        twins::none()
    };
    println!("{} probes unconfined: {:.1} s", twins.len(), began.elapsed().as_secs_f32());
    release::lacks_probes(&mut faults);
    release::answer_no_probe(&mut faults);
    let layouts: &[Layout] = if is_root() { &LAYOUTS } else { &[Layout::SingleUid] };
    let stages: Vec<(Place, Child)> = layouts.iter().map(|layout| begin(*layout)).collect();
    let mut found = Table::default();
    for (place, child) in stages {
        let rows = end(child).unwrap_or_else(|| panic!("the stage of {} failed", place.layout.name()));
        found.extend(rows);
    }
    println!("{} cells in {} rows: {:.1} s", found.cells(), found.len(), began.elapsed().as_secs_f32());
    found.check_floors(&mut faults);
    if std::env::var_os("MOLTBOT_BLESS").is_some() {
        assert!(is_root(), "the table holds both layouts, so only root can write it");
        if faults.is_empty() {
            found.write();
        }
    } else {
        found.compare(&Table::read(), &twins, layouts, &mut faults);
    }
    sweep();
    for fault in &faults {
        println!("FAULT: {fault}");
    }
    println!("test matrix ... {}", if faults.is_empty() { "ok" } else { "FAILED" });
    ExitCode::from(u8::from(!faults.is_empty()))
}

/// Starts the second process of this program, as the user that this layout's broker starts as.
fn begin(layout: Layout) -> (Place, Child) {
    let place = Place::make(layout);
    let mut command = Command::new(place.own_program());
    if layout == Layout::SingleUid && is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, system_tests::USER);
        std::os::unix::process::CommandExt::gid(&mut command, system_tests::USER);
    }
    let child = command
        .args([stage::WORD, layout.name()])
        .arg(place.path())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    (place, child)
}

fn end(mut child: Child) -> Option<Vec<Row>> {
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    child.wait().ok()?.success().then(|| table::rows(&text))
}

/// Takes away what attempts left in /tmp: a single layer may let a process make a file there, and not remove it.
fn sweep() {
    for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"moltbot-probe.") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
