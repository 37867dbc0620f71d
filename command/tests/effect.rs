//! What is planned against what real shells do: in a sandbox of bubblewrap whose every program is this test itself, which
//! writes down what it was called with.
//!
//! Parity: generated commands, bash on the text, dash on the plan's own text, and the plan: three times the same. The
//! corpus: of commands that are known to get past naive checks, nothing runs unasked but what reads and prints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use command::decide::{Facts, Place, Policy, Settings};
use command::parse::Join;
use command::plan::Plan;
use command::rules::Outcome;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

/// Where this program, under another name, writes what it was called with.
const LOG: &str = "/log/calls";
/// Which command is running.
const NUMBER: &str = "MOLTBOT_TEST_NUMBER";

fn main() {
    let mut args = std::env::args_os();
    let name = args.next().unwrap();
    if let (Ok(number), true) = (std::env::var(NUMBER), Path::new(LOG).exists()) {
        return called(&number, &name, args);
    }
    if Command::new("bwrap").arg("--version").output().is_err() {
        assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none(), "bwrap is not here");
        return eprintln!("SKIPPED: bwrap is not here");
    }
    // Whoever asks for the list of tests, or for one by its name, gets libtest's answer.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let said = |word: &str| words.iter().any(|said| said == word);
    let usual: &[(&str, fn())] = &[
        ("plan_has_the_arguments_that_bash_and_dash_hand_over", || parity(2_000)),
        ("corpus_of_bypasses_runs_nothing_unasked_but_what_reads", corpus),
    ];
    let long: &[(&str, fn())] = &[("torture_plan_has_the_arguments_of_bash_and_dash", || parity(100_000))];
    let tests = if said("--ignored") { long } else { usual };
    if said("--list") {
        return tests.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    let wanted: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}

fn called(number: &str, name: &std::ffi::OsStr, args: std::env::ArgsOs) {
    let words: Vec<_> = std::iter::once(name.to_owned()).chain(args).collect();
    let mut record = format!("{number}\0{}\0", words.len()).into_bytes();
    for word in words {
        record.extend_from_slice(word.as_bytes());
        record.push(0);
    }
    std::fs::File::options().append(true).open(LOG).unwrap().write_all(&record).unwrap();
}

/// Runs every text with the shell; says for each what it called, in no order.
fn run(shell: &str, texts: &[String]) -> BTreeMap<usize, Vec<Vec<String>>> {
    let dir = tempfile::tempdir().unwrap();
    let (programs, log) = (dir.path().join("bin"), dir.path().join("log"));
    std::fs::create_dir(&programs).unwrap();
    std::fs::create_dir(&log).unwrap();
    let this = programs.join("this");
    std::fs::copy(std::env::current_exe().unwrap(), &this).unwrap();
    let mut names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    for plan in texts.iter().filter_map(|text| Plan::of(text).ok()) {
        names.extend(plan.programs().filter_map(|program| program.path.strip_prefix("/usr/bin/").map(str::to_owned)));
    }
    names.sort();
    names.dedup();
    for name in names.iter().filter(|name| !name.contains('/')) {
        std::fs::hard_link(&this, programs.join(name)).unwrap();
    }
    std::fs::write(log.join("calls"), "").unwrap();
    let all: Vec<u8> = texts.iter().flat_map(|text| text.bytes().chain([0])).collect();
    std::fs::write(log.join("texts"), all).unwrap();
    // The driver is always bash: it counts, and hands each text over as it is.
    let driver = format!(
        "n=0; while IFS= read -r -d '' text; do export {NUMBER}=$n; /shell -c \"$text\" </dev/null >/dev/null 2>&1; n=$((n+1)); done </log/texts"
    );
    let status = Command::new("bwrap")
        .args([
            "--unshare-all",
            "--die-with-parent",
            "--clearenv",
            "--setenv",
            "PATH",
            "/usr/bin",
            "--setenv",
            "LANG",
            "C.UTF-8",
        ])
        .args(["--ro-bind", "/usr/lib", "/usr/lib", "--ro-bind-try", "/usr/lib64", "/usr/lib64"])
        .args(["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin"])
        .args(["--ro-bind", "/bin/bash", "/driver", "--ro-bind", &format!("/bin/{shell}"), "/shell"])
        .args(["--dev", "/dev", "--tmpfs", "/workspace", "--chdir", "/workspace"])
        .arg("--ro-bind")
        .arg(&programs)
        .arg("/usr/bin")
        .arg("--bind")
        .arg(&log)
        .arg("/log")
        .args(["/driver", "-c", &driver])
        .status()
        .unwrap();
    assert!(status.success());
    let mut calls: BTreeMap<usize, Vec<Vec<String>>> = BTreeMap::new();
    let text = std::fs::read(log.join("calls")).unwrap();
    let text = String::from_utf8(text).unwrap();
    let mut fields = text.split_terminator('\0').map(str::to_owned);
    while let Some(number) = fields.next() {
        let count = fields.next().unwrap().parse().unwrap();
        calls.entry(number.parse().unwrap()).or_default().push(fields.by_ref().take(count).collect());
    }
    calls.values_mut().for_each(|calls| calls.sort());
    calls
}

/// What a plan calls, where every program ends well. Programs are named as bash names them: as they were written.
fn expected(plan: &Plan) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for step in plan.steps.iter().filter(|step| step.join != Join::IfFailed) {
        for program in &step.programs {
            let words = std::iter::once(program.path.clone());
            calls.push(words.chain(program.args.iter().map(|arg| arg.text().to_owned())).collect());
        }
    }
    calls.sort();
    calls
}

const NAMES: [&str; 6] = ["p", "q-1", "ls", "cat", "x.y", "r_2"];
/// What words are made of: mostly what is literal, and some of everything else.
const PIECES: [&str; 64] = [
    "a", "b", "cd", "-x", "--long", "=", "a/b", "a.", ",", ":", "@", "%", "+", "^", "_", "é", "漢", "0", "1", "22",
    "'a b'", "''", "\"\"", "\"a  b\"", "'$x'", "'`id`'", "'\\'", "'\"'", "\"'\"", "\"\\\"\"", "\"\\\\\"", "\"\\x\"",
    "\"\\$\"", "\"a$\"", "\"\\\n\"", "'\n'", "\\ ", "\\'", "\\\"", "\\\\", "\\$", "\\;", "\\|", "\\&", "\\*", "\\#",
    "\\~", "\\\n", "\\n", "{}", "!", "#", "*", "?", "'*'", "]", "\t", "a#b", "a~b", "\\{", "\"~\"", "$", "~", "{a,b}",
];
const JOINS: [&str; 14] = [
    " | ",
    "|",
    " && ",
    "&&",
    " || ",
    " ; ",
    ";",
    "\n",
    " |\n",
    " &&\n\n",
    " 2>/dev/null | ",
    " >/dev/null 2>&1 && ",
    " # c 'd\n",
    " 2>&1; ",
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one<'s>(&mut self, of: &[&'s str]) -> &'s str {
        of[self.below(of.len())]
    }

    fn command(&mut self) -> String {
        let mut text = String::new();
        for at in 0..=self.below(3) {
            if at > 0 {
                text.push_str(self.one(&JOINS));
            }
            text.push_str(self.one(&NAMES));
            for _ in 0..self.below(5) {
                text.push(if self.below(9) == 0 { '\t' } else { ' ' });
                for _ in 0..=self.below(4) {
                    text.push_str(self.one(&PIECES));
                }
            }
        }
        text
    }
}

fn parity(wanted: usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut texts, mut plans, mut unclear) = (Vec::new(), Vec::new(), 0usize);
    while texts.len() < wanted {
        let text = random.command();
        match Plan::of(&text) {
            Ok(plan) => {
                texts.push(text);
                plans.push(plan);
            }
            Err(_) => unclear += 1,
        }
    }
    assert!(unclear < wanted * 4, "{unclear} were not understood for {wanted} that were");
    let by_bash = run("bash", &texts);
    // Every fourth is enough: what is in single quotes is simple.
    let by_dash = run("dash", &plans.iter().step_by(4).map(Plan::shell).collect::<Vec<_>>());
    for (at, plan) in plans.iter().enumerate() {
        let expected = expected(plan);
        let mut bash = by_bash.get(&at).cloned().unwrap_or_default();
        // bash hands over the name as it was written; where that is found is the sandbox's business.
        bash.iter_mut().for_each(|call| call[0] = format!("/usr/bin/{}", call[0].rsplit('/').next().unwrap()));
        bash.sort();
        assert_eq!(expected, bash, "bash, of {:?}", texts[at]);
        if at % 4 == 0 {
            assert_eq!(&expected, by_dash.get(&(at / 4)).unwrap(), "dash, of {:?}, of {:?}", plan.shell(), texts[at]);
        }
    }
    println!(
        "{wanted} commands with the same arguments in the plan, in bash and in dash; {unclear} others were not understood"
    );
}

/// What the corpus's commands may start without anybody being asked: programs that read and print, and cannot be made to do
/// anything else by the arguments that they have there.
const HARMLESS: [&str; 7] = ["echo", "printf", "ls", "cat", "head", "true", "sort"];

fn corpus() {
    let corpus: Vec<(String, String)> = serde_json::from_str(include_str!("bypasses.json")).unwrap();
    let policy = Policy::new(&Settings::default()).unwrap();
    let facts = Facts { session: "agent:main:main", place: Place::Docker, tainted: false };
    let (mut unasked, mut texts) = (Vec::new(), Vec::new());
    for (id, text) in &corpus {
        let decision = policy.decide(text, &facts);
        if decision.outcome == Outcome::Allow {
            unasked.push(id.as_str());
            texts.push(decision.plan.unwrap().shell());
        }
    }
    println!("{} commands, {} of them run unasked: {}", corpus.len(), unasked.len(), unasked.join(" "));
    let calls = run("dash", &texts);
    for (at, id) in unasked.iter().enumerate() {
        for call in calls.get(&at).unwrap() {
            let name = call[0].rsplit('/').next().unwrap();
            assert!(HARMLESS.contains(&name), "{id} ran {call:?}");
            let outside = |word: &&String| word.starts_with('/') || word.contains("..");
            assert!(name == "echo" || !call[1..].iter().any(|word| outside(&word)), "{id} ran {call:?}");
        }
    }
    // The twin: what was refused would have run something, had it been run as text.
    let all: Vec<String> = corpus.iter().map(|(_, text)| text.clone()).filter(|text| !text.contains('\0')).collect();
    let as_text = run("bash", &all);
    let ran =
        as_text.values().flatten().filter(|call| !HARMLESS.contains(&call[0].rsplit('/').next().unwrap())).count();
    assert!(ran >= 40, "as text only {ran} harmful programs ran, so this test sees nothing");
}
