//! The walls as the tables of `docs/CONFINEMENT.md`, from the JSON.

use serde_json::Value;
use std::fmt::Write;

/// Sets that are shown once, and what for.
const SHARED: [(&str, &str); 3] = [
    ("base", "Every role but broker and the launcher: to live, to talk on descriptors it was given, to die properly"),
    ("tokio", "Roles that run tokio, on one thread"),
    ("streams", "Roles that talk on connected streams"),
];

/// Everything.
pub fn report(report: &Value) -> String {
    let mut out = String::from("### Floor\n\n| layout | Landlock ABI at least | kernel |\n|---|---|---|\n");
    for floor in list(report, "/floor") {
        let abi = at(floor, "/landlockAbi");
        let _ = writeln!(out, "| {} | {abi} | {} |", text(floor, "/layout"), text(floor, "/kernel"));
    }
    let roles = list(report, "/roles");
    for (set, what) in SHARED {
        let _ = writeln!(out, "\n### Shared rules: {set}\n\n{what}.\n");
        let having = |role: &&Value| list(role, "/seccomp/rules").iter().any(|rule| text(rule, "/set") == set);
        let first = roles.iter().find(having).map_or(&Value::Null, |role| at(role, "/seccomp/rules"));
        rules(&mut out, first, set, true);
    }
    out.push_str("\nAnswered `ENOSYS` in every role:\n\n");
    rules(&mut out, at(report, "/absent"), "own", false);
    for role in roles {
        one(&mut out, role);
    }
    out
}

fn one(out: &mut String, role: &Value) {
    let _ = writeln!(out, "\n### {}\n", text(role, "/role"));
    let list_of = list(role, "/seccomp/rules");
    if text(role, "/seccomp/default") == "kill" {
        let shared = SHARED.iter().filter(|(set, _)| list_of.iter().any(|rule| text(rule, "/set") == *set));
        let names: Vec<&str> = shared.map(|(set, _)| *set).collect();
        let _ = writeln!(
            out,
            "{} system calls and forms of calls; any other kills the process. Shared: {}.\n",
            list_of.len(),
            names.join(", ")
        );
        rules(out, at(role, "/seccomp/rules"), "own", true);
    } else {
        out.push_str("Inherited by other programs, so it lists what kills; x32 numbers are answered `ENOSYS`.\n\n");
        rules(out, at(role, "/seccomp/rules"), "own", false);
    }
    if !list(role, "/seccomp/soft").is_empty() {
        out.push_str("\nAnswered `EACCES`:\n\n");
        rules(out, at(role, "/seccomp/soft"), "own", false);
    }
    landlock(out, at(role, "/landlock"));
    out.push_str("\n| limit | at most | why |\n|---|---|---|\n");
    for limit in list(role, "/limits") {
        let value = at(limit, "/value");
        let _ = writeln!(out, "| `{}` | {value} | {} |", text(limit, "/resource"), text(limit, "/why"));
    }
}

/// The rules of one set.
fn rules(out: &mut String, rules: &Value, set: &str, with_kept: bool) {
    let all = list(rules, "");
    if all.iter().all(|rule| text(rule, "/set") != set) {
        out.push_str("None of its own.\n");
        return;
    }
    let kept = if with_kept { (" kept though no test makes it, because |", "---|") } else { ("", "") };
    let _ = writeln!(out, "| call | with | why |{}\n|---|---|---|{}", kept.0, kept.1);
    for rule in all.iter().filter(|rule| text(rule, "/set") == set) {
        let args: Vec<&str> = list(rule, "/args").iter().map(|arg| text(arg, "/means")).collect();
        let args = args.join("; ").replace('|', "\\|");
        let _ = write!(out, "| `{}` | {args} | {} |", text(rule, "/call"), text(rule, "/why"));
        let _ = if with_kept { writeln!(out, " {} |", text(rule, "/kept")) } else { writeln!(out) };
    }
}

fn landlock(out: &mut String, landlock: &Value) {
    if landlock.is_null() {
        out.push_str("\nNo Landlock domain: what broker starts would inherit it.\n");
        return;
    }
    let rights = |key: &str| words(list(landlock, key));
    let files = if rights("/files").is_empty() {
        "not ruled, since a process in such a domain may not mount".to_owned()
    } else {
        rights("/files")
    };
    let (tcp, scopes) = (rights("/tcp"), rights("/scopes"));
    let _ = writeln!(out, "\nLandlock rules files ({files}), TCP ({tcp}) and scopes ({scopes}).\n");
    let grants = list(landlock, "/grants");
    for grant in grants {
        let (resource, access, why) = (text(grant, "/resource"), text(grant, "/access"), text(grant, "/why"));
        let rights = words(list(grant, "/rights"));
        let _ = writeln!(out, "- beneath `{resource}` it grants {access} ({rights}): {why}");
    }
    let connect = text(landlock, "/connect");
    if !connect.is_empty() {
        let _ = writeln!(out, "- it grants `ConnectTcp`: {connect}");
    } else if grants.is_empty() {
        out.push_str("- it grants nothing\n");
    }
}

fn words(list: &[Value]) -> String {
    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    at(value, pointer).as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    at(value, pointer).as_str().unwrap_or_default()
}
