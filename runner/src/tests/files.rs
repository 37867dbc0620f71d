use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

struct Here {
    dir: tempfile::TempDir,
    workspace: Workspace,
}

fn here() -> Here {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("workspace")).unwrap();
    std::fs::write(dir.path().join("secret"), "outside").unwrap();
    let fd = open(dir.path().join("workspace"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    Here { workspace: Workspace(fd), dir }
}

impl Here {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("workspace").join(name)
    }

    fn ask(&self, verb: &FileVerb) -> (Result<FileReply, Refusal>, Vec<u8>) {
        let mut out = Out(Vec::new());
        let outcome = self.workspace.serve(verb, &mut out);
        let (mut frames, mut data) = (Frames::default(), Vec::new());
        frames.push(&out.0);
        while let Some(FromFiles::Data(bytes)) = frames.take::<FromFiles>().unwrap() {
            data.extend_from_slice(&bytes);
        }
        (outcome, data)
    }

    fn rule(&self, verb: &FileVerb) -> String {
        self.ask(verb).0.unwrap_err().rule.to_string()
    }
}

fn name(path: &str) -> BoundedStr<1024> {
    BoundedStr::new(path).unwrap()
}

fn read(path: &str) -> FileVerb {
    FileVerb::Read { path: name(path), offset: 0, limit: u64::MAX }
}

fn write(path: &str, text: &str) -> FileVerb {
    FileVerb::Write { path: name(path), bytes: BoundedBytes::new(text).unwrap(), append: false }
}

fn edit(path: &str, old: &str, new: &str, all: bool) -> FileVerb {
    FileVerb::Edit { path: name(path), old: BoundedStr::new(old).unwrap(), new: BoundedStr::new(new).unwrap(), all }
}

fn patch(text: &str) -> FileVerb {
    FileVerb::Patch { patch: BoundedStr::new(text).unwrap() }
}

fn every(path: &str) -> [FileVerb; 6] {
    [
        read(path),
        write(path, "x"),
        FileVerb::Write { path: name(path), bytes: BoundedBytes::new("x").unwrap(), append: true },
        edit(path, "outside", "x", false),
        FileVerb::List { path: name(path) },
        patch(&format!("*** Begin Patch\n*** Update File: {path}\n-outside\n+x\n*** End Patch")),
    ]
}

#[test]
fn no_verb_leads_out_of_the_workspace_by_whatever_path() {
    let here = here();
    symlink("../secret", here.path("link")).unwrap();
    symlink("..", here.path("up")).unwrap();
    symlink("/", here.path("root")).unwrap();
    symlink("/proc/self/cwd", here.path("magic")).unwrap();
    let secret = here.dir.path().join("secret");
    let absolute = secret.to_str().unwrap();
    for path in [
        "../secret",
        "link",
        "up/secret",
        "a/../../secret",
        "root/etc/passwd",
        "magic/../secret",
        absolute,
        "/workspace/../secret",
        "/workspace/link",
        "/workspacesecret",
        "..",
        "up",
        "root",
        "a\0b",
        "//etc/passwd",
    ] {
        for verb in every(path) {
            let rule = here.rule(&verb);
            assert!(rule.starts_with("file."), "{path:?}: {verb:?}: {rule}");
        }
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "outside");
    assert!(std::fs::symlink_metadata(here.path("link")).unwrap().is_symlink());
    // The twin: the same verbs on a file that is inside.
    for verb in [write("in", "outside"), read("in"), edit("in", "outside", "x", false), read("/workspace/in")] {
        here.ask(&verb).0.unwrap();
    }
}

#[test]
fn file_that_is_no_file_is_refused_and_nobody_waits_for_it() {
    let here = here();
    std::fs::create_dir(here.path("directory")).unwrap();
    rustix::fs::mknodat(&here.workspace.0, "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
    for path in ["directory", "fifo"] {
        for verb in [read(path), write(path, "x"), edit(path, "a", "b", true)] {
            assert_eq!(here.rule(&verb), "file.not_a_file", "{path}: {verb:?}");
        }
    }
    assert_eq!(here.rule(&read("nothing")), "file.missing");
    assert_eq!(here.rule(&FileVerb::List { path: name("nothing") }), "file.missing");
}

#[test]
fn write_makes_directories_keeps_the_mode_and_breaks_hard_links() {
    let here = here();
    assert_eq!(here.ask(&write("a/b/c.txt", "one")).0, Ok(FileReply::Written));
    std::fs::set_permissions(here.path("a/b/c.txt"), PermissionsExt::from_mode(0o750)).unwrap();
    std::fs::hard_link(here.path("a/b/c.txt"), here.path("other")).unwrap();
    here.ask(&write("a/b/c.txt", "two")).0.unwrap();
    assert_eq!(std::fs::metadata(here.path("a/b/c.txt")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read_to_string(here.path("other")).unwrap(), "one");
    let more = FileVerb::Write { path: name("a/b/c.txt"), bytes: BoundedBytes::new(" three").unwrap(), append: true };
    here.ask(&more).0.unwrap();
    let (reply, bytes) = here.ask(&read("a/b/c.txt"));
    assert_eq!((reply, bytes.as_slice()), (Ok(FileReply::Read { size: 9 }), &b"two three"[..]));
    let part = FileVerb::Read { path: name("a/b/c.txt"), offset: 4, limit: 3 };
    assert_eq!(here.ask(&part).1, b"thr");
    let left: Vec<_> = Path::new(&here.path("a/b")).read_dir().unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is left beside it");
}

#[test]
fn edit_wants_its_text_once_unless_all_is_said() {
    let here = here();
    here.ask(&write("f", "one two two")).0.unwrap();
    assert_eq!(here.rule(&edit("f", "three", "x", false)), "edit.no_match");
    assert_eq!(here.rule(&edit("f", "two", "x", false)), "edit.ambiguous");
    assert_eq!(here.rule(&edit("f", "", "x", true)), "edit.nothing");
    assert_eq!(here.ask(&edit("f", "two", "2", true)).0, Ok(changed(2, ["M f".to_owned()])));
    assert_eq!(here.ask(&edit("f", "one", "1", false)).0, Ok(changed(1, ["M f".to_owned()])));
    assert_eq!(here.ask(&read("f")).1, b"1 2 2");
    std::fs::write(here.path("binary"), [0xff, 0xfe]).unwrap();
    assert_eq!(here.rule(&edit("binary", "a", "b", false)), "file.not_text");
}

#[test]
fn patch_adds_deletes_updates_and_moves() {
    let here = here();
    here.ask(&write("old.py", "def f():\n    return 1\n\ndef g():\n    return 1\n")).0.unwrap();
    here.ask(&write("gone", "x")).0.unwrap();
    here.ask(&write("here", "a\nb\n")).0.unwrap();
    let text = "*** Begin Patch\n*** Update File: old.py\n@@ def g():\n-    return 1\n+    return 2\n*** Add File: n/new\n+one\n\
                +two\n*** Delete File: gone\n*** Update File: here\n*** Move to: there\n a\n-b\n+c\n*** End Patch\n";
    let files = ["M old.py", "A n/new", "D gone", "M here", "R there"].map(str::to_owned);
    assert_eq!(here.ask(&patch(text)).0, Ok(changed(4, files)));
    assert_eq!(here.ask(&read("old.py")).1, b"def f():\n    return 1\n\ndef g():\n    return 2\n");
    assert_eq!(here.ask(&read("n/new")).1, b"one\ntwo\n");
    assert_eq!(here.ask(&read("there")).1, b"a\nc\n");
    assert!(!here.path("gone").exists() && !here.path("here").exists());
}

#[test]
fn patch_that_does_not_fit_changes_nothing() {
    let here = here();
    here.ask(&write("f", "a\nb\n")).0.unwrap();
    let body = |body: &str| patch(&format!("*** Begin Patch\n{body}\n*** End Patch"));
    for (verb, rule) in [
        (body("*** Update File: f\n-a\n+x\n*** Update File: g\n-a\n+x"), "file.missing"),
        (body("*** Add File: new\n+x\n*** Update File: f\n-c\n+x"), "patch.no_match"),
        (body("*** Add File: new\n+x\n*** Delete File: g"), "file.missing"),
        (body("*** Add File: f\n+x"), "patch.exists"),
        (body("*** Add File: new\n+x\n*** Add File: new\n+y"), "patch.malformed"),
        (body("*** Add File: new\nx"), "patch.malformed"),
        (body("x"), "patch.malformed"),
        (body(""), "patch.malformed"),
        (patch("*** Begin Patch"), "patch.malformed"),
        (patch(""), "patch.malformed"),
    ] {
        assert_eq!(here.rule(&verb), rule, "{verb:?}");
        assert!(!here.path("new").exists());
        assert_eq!(here.ask(&read("f")).1, b"a\nb\n");
    }
}

#[test]
fn listing_says_what_there_is_and_that_there_is_more() {
    let here = here();
    here.ask(&write("b", "12345")).0.unwrap();
    std::fs::create_dir(here.path("a")).unwrap();
    symlink("/etc", here.path("c")).unwrap();
    let (reply, _) = here.ask(&FileVerb::List { path: name("") });
    let Ok(FileReply::Listed { entries, more: false }) = reply else { panic!("{reply:?}") };
    let found: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.kind, entry.size)).collect();
    let directory = (&b"a"[..], EntryKind::Directory, 0);
    assert_eq!(found, [directory, (&b"b"[..], EntryKind::File, 5), (&b"c"[..], EntryKind::Link, 0)]);
    for number in 0..1_100 {
        std::fs::write(here.path(&format!("a/{number:0200}")), "").unwrap();
    }
    let (reply, _) = here.ask(&FileVerb::List { path: name("a") });
    let Ok(reply @ FileReply::Listed { more: true, .. }) = reply else { panic!("{reply:?}") };
    assert!(frame(&reply).unwrap().len() < 60_000);
}

#[test]
fn grep_finds_lines_beneath_and_follows_no_link() {
    let here = here();
    here.ask(&write("a/one.txt", "needle here\nnothing\n")).0.unwrap();
    here.ask(&write("two.txt", "a needle\n")).0.unwrap();
    std::fs::write(here.path("binary"), b"\0needle\n").unwrap();
    symlink(here.dir.path(), here.path("up")).unwrap();
    std::fs::write(here.dir.path().join("secret"), "needle outside").unwrap();
    let grep =
        |pattern: &str, path: &str| FileVerb::Grep { pattern: BoundedStr::new(pattern).unwrap(), path: name(path) };
    let (reply, found) = here.ask(&grep("ne+dle", ""));
    assert_eq!(reply, Ok(FileReply::Found { lines: 2, more: false }));
    assert_eq!(found, b"a/one.txt:1:needle here\ntwo.txt:1:a needle\n");
    assert_eq!(here.ask(&grep("needle$", "two.txt")).1, b"two.txt:1:a needle\n");
    assert_eq!(here.rule(&grep("(", "")), "grep.pattern");
    assert_eq!(here.rule(&grep("needle", "up")), "file.link");
    assert_eq!(here.rule(&grep("a{1000}{1000}", "")), "grep.pattern");
    here.ask(&write("many", &"needle\n".repeat(2_000))).0.unwrap();
    assert_eq!(here.ask(&grep("needle", "many")).0, Ok(FileReply::Found { lines: 1_000, more: true }));
}

/// Thousands of links of either kind, circles and chains among them: each verb ends, within what it may say, and leads nowhere.
#[test]
fn workspace_full_of_links_is_served_within_bounds_and_leads_nowhere() {
    let here = here();
    std::fs::create_dir(here.path("soft")).unwrap();
    std::fs::create_dir(here.path("hard")).unwrap();
    here.ask(&write("real", "needle\n")).0.unwrap();
    for number in 0..3_000 {
        let target = match number % 4 {
            0 => "../../secret".to_owned(),
            1 => format!("{number}"),
            2 => format!("{}", number - 1),
            _ => "/proc/self/root".to_owned(),
        };
        symlink(target, here.path(&format!("soft/{number}"))).unwrap();
        std::fs::hard_link(here.path("real"), here.path(&format!("hard/{number}"))).unwrap();
    }
    for number in 0..8 {
        for verb in every(&format!("soft/{number}")) {
            let rule = here.rule(&verb);
            assert!(
                ["file.link", "patch.failed", "file.missing"].contains(&rule.as_str()),
                "{number}: {rule} {verb:?}"
            );
        }
    }
    assert_eq!(std::fs::read_to_string(here.dir.path().join("secret")).unwrap(), "outside");
    for directory in ["soft", "hard"] {
        let (reply, _) = here.ask(&FileVerb::List { path: name(directory) });
        assert!(matches!(reply, Ok(FileReply::Listed { more: true, .. })), "{directory}: {reply:?}");
    }
    let grep = |path: &str| FileVerb::Grep { pattern: BoundedStr::new("needle|outside").unwrap(), path: name(path) };
    assert_eq!(here.ask(&grep("soft")).0, Ok(FileReply::Found { lines: 0, more: false }));
    assert_eq!(here.ask(&grep("hard")).0, Ok(FileReply::Found { lines: 1_000, more: true }));
    // What is written gets a file of its own; the others keep theirs.
    here.ask(&write("hard/7", "mine\n")).0.unwrap();
    assert_eq!(here.ask(&read("hard/8")).1, b"needle\n");
}
