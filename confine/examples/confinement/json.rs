//! The walls as JSON. Its keys are an interface: `moltbot confine-report --json` shows them as they are.

use confine::names::name;
use confine::policy::{ABSENT, Arg, BASE, Policy, Ports, Rule, STREAMS, TOKIO};
use confine::walls::{NEWEST, granted, handled, lowest};
use proto::control::Layout;
use serde_json::{Value, json};

/// Everything.
pub fn report(walls: &[&Policy]) -> Value {
    json!({
        "landlockAbi": NEWEST,
        "floor": [floor(Layout::SplitUid), floor(Layout::SingleUid)],
        "absent": rules(ABSENT),
        "roles": walls.iter().map(|wall| role(wall)).collect::<Vec<_>>(),
    })
}

/// As text in which a rule is a line, so that a change of one shows as such.
pub fn lines(value: &Value, depth: usize) -> String {
    const WIDTH: usize = 400;
    let whole = value.to_string();
    let (indent, end) = ("  ".repeat(depth + 1), "  ".repeat(depth));
    let inner = |items: Vec<String>| items.join(&format!(",\n{indent}"));
    match value {
        _ if depth > 0 && whole.len() <= WIDTH => whole,
        Value::Array(items) => {
            let items = inner(items.iter().map(|item| lines(item, depth + 1)).collect());
            format!("[\n{indent}{items}\n{end}]")
        }
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| format!("{key:?}: {}", lines(value, depth + 1));
            format!("{{\n{indent}{}\n{end}}}", inner(fields.iter().map(field).collect()))
        }
        _ => whole,
    }
}

fn floor(layout: Layout) -> Value {
    let (abi, kernel) = lowest(layout);
    json!({ "layout": layout.name(), "landlockAbi": abi, "kernel": kernel })
}

fn role(wall: &Policy) -> Value {
    let handled = handled(wall, NEWEST);
    // Broker's children inherit what it enters, and the launcher must mount: no domain.
    let domain = wall.role != proto::ids::Role::Broker;
    json!({
        "role": wall.role.name(),
        "seccomp": {
            "default": if wall.default_allow { "allow" } else { "kill" },
            "rules": wall.rules.iter().flat_map(|set| rules(set)).collect::<Vec<_>>(),
            "soft": rules(wall.soft),
        },
        "landlock": domain.then(|| json!({
            "files": handled.files,
            "tcp": handled.net,
            "scopes": handled.scopes,
            "grants": wall.grants.iter().map(|grant| json!({
                "resource": format!("{:?}", grant.resource),
                "access": grant.access.name(),
                "rights": granted(grant.access, NEWEST),
                "why": grant.why,
            })).collect::<Vec<_>>(),
            "connect": match wall.ports {
                Ports::None => None,
                Ports::Named { why } => Some(why),
            },
        })),
        "limits": wall.limits.iter().map(|limit| json!({
            "resource": format!("{:?}", limit.resource),
            "value": limit.value,
            "why": limit.why,
        })).chain([json!({
            "resource": "RLIMIT_CORE", "value": 0, "why": "no copy of the memory on a disk",
        })]).collect::<Vec<_>>(),
    })
}

/// The sets that several roles share.
fn set(rules: &[Rule]) -> &'static str {
    let shared = [("base", BASE), ("tokio", TOKIO), ("streams", STREAMS)];
    shared.iter().find(|(_, set)| *set == rules).map_or("own", |(name, _)| name)
}

fn rules(rules: &[Rule]) -> Vec<Value> {
    let set = set(rules);
    rules.iter().map(|it| rule(set, it)).collect()
}

fn rule(set: &str, rule: &Rule) -> Value {
    json!({
        "set": set,
        "call": name(rule.nr).map_or_else(|| rule.nr.to_string(), str::to_owned),
        "args": rule.args.iter().map(arg).collect::<Vec<_>>(),
        "why": rule.why,
        "kept": rule.kept,
    })
}

fn arg(arg: &Arg) -> Value {
    json!({
        "index": arg.index,
        "mask": format!("{:#x}", arg.mask),
        "value": format!("{:#x}", arg.value),
        "means": arg.means,
    })
}
