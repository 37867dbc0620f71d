//! Examples at the end of each command's help and manual page: what is typed, and what for. Each is parsed by a test.

use clap::Command;

/// A command's path, and its examples.
type Examples = (&'static str, &'static [(&'static str, &'static str)]);

const OF_EACH: [Examples; 101] = [
    (
        "up",
        &[
            ("up", "start in the background, and come back when it serves"),
            ("up --foreground --port 0", "as a service manager does"),
        ],
    ),
    ("down", &[("down", "drain and stop everything; the log ends last")]),
    ("status", &[("status", ""), ("status --json | jq .ready", "for a script")]),
    (
        "confine-report",
        &[("confine-report", "every role's wall, and what the kernel says of it"), ("confine-report --json", "")],
    ),
    (
        "chat",
        &[
            ("chat hello", "a message of the main conversation"),
            ("chat '/exec uname -a' --session agent:main:work", "a command in another one's sandbox"),
        ],
    ),
    ("gateway token", &[("gateway token --reveal", "for other clients; recorded")]),
    (
        "gateway password set",
        &[
            ("gateway password set", "it is asked for twice"),
            ("gateway password set < file", "from a file, without its last newline"),
        ],
    ),
    ("gateway password clear", &[("gateway password clear", "nobody logs in by a password any more")]),
    ("gateway call", &[("gateway call health", ""), ("gateway call sessions.list --params '{\"limit\":5}'", "")]),
    ("gateway test", &[("gateway test", "whether a start would succeed; nothing starts")]),
    ("gateway unlock", &[("gateway unlock", "let addresses in that were locked out")]),
    ("gateway restart", &[("gateway restart", ""), ("gateway restart sandboxd", "another role")]),
    (
        "logs",
        &[
            ("logs command -f", "follow what is being run"),
            ("logs auth --since 12h --grep '\"success\":false'", "failed logins of half a day"),
            ("logs system -n 20 --json", ""),
        ],
    ),
    (
        "logs verify",
        &[
            ("logs verify", "the log of this installation"),
            (
                "logs verify /mnt/copy --from-key 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                "a copy, from the first key that you noted",
            ),
        ],
    ),
    (
        "logs checkpoint",
        &[
            ("logs checkpoint > checkpoints.txt", "keep it on another machine"),
            ("logs checkpoint --qr", "or photograph it"),
        ],
    ),
    ("logs witness add", &[("logs witness add ours --url https://witness.example.org --key 'ours+5a6b7c8d+BJ2x'", "")]),
    ("logs witness list", &[("logs witness list", "")]),
    ("logs witness check", &[("logs witness check", "whether each has signed what the log says now")]),
    ("logs witness remove", &[("logs witness remove ours", "")]),
    ("logs prove", &[("logs prove 412 --stream command > proof.txt", "for somebody who has the key alone")]),
    ("logs check-proof", &[("logs check-proof proof.txt", "")]),
    ("logs prune", &[("logs prune --keep-days 90 --dry-run", "what would go"), ("logs prune --keep-days 90", "")]),
    ("logs export", &[("logs export command --to tiles", "for other readers of transparency logs")]),
    ("pairing list", &[("pairing list", "strangers that wait, with their codes")]),
    ("pairing approve", &[("pairing approve telegram 7KQ2M4XW", "the code that the sender reads to you")]),
    ("pairing revoke", &[("pairing revoke telegram 8734062810", "it is a stranger again")]),
    ("pairing mode", &[("pairing mode signal allowlist", "strangers get no code there")]),
    ("allowlist list", &[("allowlist list", "who may speak, on each channel")]),
    ("allowlist add", &[("allowlist add telegram 8734062810 --name Ann", "")]),
    ("allowlist remove", &[("allowlist remove telegram 8734062810", "")]),
    ("sessions list", &[("sessions list", "")]),
    ("sessions show", &[("sessions show agent:main:main", "what was said, unsealed")]),
    (
        "sessions reset",
        &[("sessions reset work", "close its transcript, and begin anew"), ("sessions reset --all", "")],
    ),
    ("sessions tainted", &[("sessions tainted", "which conversations strangers' words have reached")]),
    ("sessions untaint", &[("sessions untaint work", "they count no more there")]),
    ("sessions delete", &[("sessions delete --closed", "destroy the keys of every closed transcript")]),
    ("secrets list", &[("secrets list", "names, uses and ages; no value")]),
    (
        "secrets set",
        &[
            ("secrets set model.key", "the value is asked for"),
            ("secrets set model.key --policy policy.txt < key.txt", "from a file, with what may be done with it"),
        ],
    ),
    ("secrets rotate", &[("secrets rotate model.key", "a new version, under the same policy")]),
    ("secrets remove", &[("secrets remove model.key", "")]),
    ("secrets reveal", &[("secrets reveal wifi.password", "where its policy says `reveal yes`; recorded")]),
    (
        "secrets policy",
        &[("secrets policy model.key", "what may be done with it"), ("secrets policy model.key --file policy.txt", "")],
    ),
    ("secrets approve", &[("secrets approve bank.token", "one use, where its policy asks for a word of yours")]),
    ("secrets import", &[("secrets import ~/.clawdbot --dry-run", "what would move into the vault")]),
    ("secrets revoke", &[("secrets revoke", "end every lease and approval")]),
    ("secrets usage", &[("secrets usage", ""), ("secrets usage model.key --json", "")]),
    ("secrets touched", &[("secrets touched --since 12h", "what to renew after an incident")]),
    ("devices list", &[("devices list", "those that wait first")]),
    ("devices show", &[("devices show 3f9a", "the beginning of its name is enough")]),
    (
        "devices approve",
        &[("devices approve 3f9a", "what it asks for"), ("devices approve 3f9a --scopes read,write", "less than that")],
    ),
    ("devices deny", &[("devices deny 3f9a", "")]),
    ("devices revoke", &[("devices revoke 3f9a", "its connections end at once")]),
    ("devices rotate", &[("devices rotate 3f9a", "it gets another token, the old one is stale")]),
    (
        "sandbox explain",
        &[
            ("sandbox explain", "what holds for the main conversation"),
            ("sandbox explain agent:main:work", "and for another"),
            ("sandbox explain 'ls | sh'", "what a command would do, and whether it is asked about"),
        ],
    ),
    ("sandbox list", &[("sandbox list", "")]),
    ("sandbox logs", &[("sandbox logs agent:main:work", "what ran there, and what was noticed")]),
    ("sandbox kill", &[("sandbox kill agent:main:work", "its next command gets a fresh one")]),
    ("sandbox evidence", &[("sandbox evidence", "what was kept of sandboxes that were frozen")]),
    ("sandbox rules list", &[("sandbox rules list", "")]),
    (
        "sandbox rules test",
        &[
            ("sandbox rules test", "those in force"),
            ("sandbox rules test --file rules.json", "others, before they are"),
        ],
    ),
    (
        "sandbox rules propose",
        &[("sandbox rules propose 'cargo test'", "the narrowest rule, and what else it would have let run")],
    ),
    ("sandbox rules add", &[("sandbox rules add 'cargo test' --dry-run", "")]),
    ("approvals list", &[("approvals list", "")]),
    ("approvals show", &[("approvals show a-3", "all that a yes is bound to")]),
    (
        "approvals approve",
        &[
            ("approvals approve a-3", "once"),
            ("approvals approve a-3 --uses 5 --for 1h", "five times within the hour"),
            ("approvals approve a-3 --rule", "and write a rule for its like"),
        ],
    ),
    ("approvals deny", &[("approvals deny a-3", "")]),
    ("approvals watch", &[("approvals watch", "questions as they come")]),
    ("approvals grants", &[("approvals grants", "what may run again unasked")]),
    ("approvals revoke", &[("approvals revoke a-3", ""), ("approvals revoke", "all of them")]),
    (
        "vault rotate",
        &[
            ("vault rotate", "a new key for what is sealed from now on"),
            ("vault rotate --master", "another keys/secrets.key"),
        ],
    ),
    ("vault unlock", &[("vault unlock", "the passphrase is asked for")]),
    ("vault passphrase set", &[("vault passphrase set", "asked for twice; needed at every start from then on")]),
    ("vault passphrase remove", &[("vault passphrase remove", "the key alone opens the vault again")]),
    (
        "vault backup",
        &[(
            "vault backup --to vault.age --recipient age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq",
            "",
        )],
    ),
    (
        "vault restore",
        &[
            ("vault restore vault.age --identity key.txt --dry-run", "whether it could be done"),
            ("vault restore vault.age --identity key.txt", ""),
        ],
    ),
    (
        "vault accept-rollback",
        &[("vault accept-rollback", "the store or the log that was put back is the one; recorded")],
    ),
    ("config get", &[("config get gateway.port", ""), ("config get", "all that is in force, defaults included")]),
    (
        "config set",
        &[
            ("config set egress.allow '[\"api.example.org:443\"]'", ""),
            ("config set agents.defaults.sandbox.docker.memory 256m --dry-run", "what it would change, and the risk"),
        ],
    ),
    ("config unset", &[("config unset logging.keepDays", "")]),
    ("config patch", &[("config patch change.json5", ""), ("config patch - < change.json5", "")]),
    ("config edit", &[("config edit", "in $VISUAL or $EDITOR; checked before it counts")]),
    ("config validate", &[("config validate", ""), ("config validate other.json --json | jq .problems", "")]),
    ("config diff", &[("config diff", "what `config apply` would change")]),
    ("config apply", &[("config apply", "")]),
    ("config seal", &[("config seal", "move secrets out of the file")]),
    ("config schema", &[("config schema > moltbot.schema.json", "for an editor")]),
    ("config file", &[("config file", "")]),
    (
        "security audit",
        &[
            ("security audit --deep", ""),
            ("security audit --fix --dry-run", "what it would mend"),
            ("security audit --min-score 85 --json | jq .score", "in a script"),
            ("security audit --sarif > audit.sarif", ""),
        ],
    ),
    (
        "security migrate",
        &[("security migrate --dry-run", "the plan; nothing changes"), ("security migrate --from ~/.clawdbot", "")],
    ),
    ("doctor", &[("doctor", ""), ("doctor --fix --yes", "mend modes, and do not ask")]),
    ("explain blast-radius", &[("explain blast-radius gateway", "what an attacker has who has taken it")]),
    ("explain rule", &[("explain rule exec.denied", "who refuses by it, and where to look")]),
    (
        "why",
        &[
            ("why ~/.moltbot/keys/secrets.key", "which role may touch it"),
            ("why telegram:8734062810", "whether it may speak"),
            ("why 'curl https://example.com | sh'", "whether it runs"),
        ],
    ),
    ("incident report", &[("incident report --since 12h --out report.tar", "")]),
    ("lockdown status", &[("lockdown status", "")]),
    ("lockdown on", &[("lockdown on", "freeze everything")]),
    ("lockdown clear", &[("lockdown clear", "")]),
    ("drill run", &[("drill run", "")]),
    ("shell", &[("shell", ""), ("shell < commands.txt", "a script; it ends at the first that fails")]),
    ("man", &[("man /usr/local/share/man/man1", "")]),
    (
        "completion",
        &[
            ("completion bash > ~/.local/share/bash-completion/completions/moltbot", ""),
            ("completion fish > ~/.config/fish/completions/moltbot.fish", ""),
        ],
    ),
];

/// The command with the examples of itself and of all beneath it.
pub fn add(command: Command) -> Command {
    within(command, "")
}

fn within(command: Command, path: &str) -> Command {
    let of = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path} {name}") };
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = names.into_iter().fold(command, |command, name| {
        let path = of(&name);
        command.mut_subcommand(name, move |sub| within(sub, &path))
    });
    match OF_EACH.iter().find(|(whose, _)| *whose == path) {
        Some((_, examples)) => command.after_help(as_text(examples)),
        None => command,
    }
}

/// What for stands behind, in one column where that leaves room for it, else above.
fn as_text(examples: &[(&str, &str)]) -> String {
    let mut text = "Examples:".to_owned();
    let widest = examples.iter().map(|(typed, _)| typed.chars().count()).max().unwrap_or_default();
    for (typed, what_for) in examples {
        text += &match *what_for {
            "" => format!("\n  moltbot {typed}"),
            what_for if widest < 36 => format!("\n  moltbot {typed:<widest$}   {what_for}"),
            what_for => format!("\n  # {what_for}\n  moltbot {typed}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::command;

    fn leaves(command: &Command, path: &str, all: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            if !(sub.has_subcommands() && (sub.is_subcommand_required_set() || sub.is_arg_required_else_help_set())) {
                all.push(path.clone());
            }
            leaves(sub, &path, all);
        }
    }

    #[test]
    fn every_command_has_an_example_and_there_is_none_of_another() {
        let mut all = Vec::new();
        leaves(&command(), "", &mut all);
        for path in &all {
            assert!(OF_EACH.iter().any(|(whose, _)| whose == path), "{path} has none");
        }
        for (whose, examples) in OF_EACH {
            assert!(!examples.is_empty() && all.iter().any(|path| path == whose), "{whose}");
        }
    }

    #[test]
    fn every_example_is_understood_as_its_own_command() {
        for (whose, examples) in OF_EACH {
            for (typed, _) in examples {
                // What a shell would take for itself.
                let words = shlex::split(typed).unwrap();
                let end = words.iter().position(|word| matches!(word.as_str(), "|" | "<" | ">")).unwrap_or(words.len());
                let line = ["moltbot".to_owned()].into_iter().chain(words[..end].iter().cloned());
                let matches = command().try_get_matches_from(line).unwrap_or_else(|error| panic!("{typed}: {error}"));
                let (mut path, mut at) = (Vec::new(), &matches);
                while let Some((name, inner)) = at.subcommand() {
                    path.push(name);
                    at = inner;
                }
                assert_eq!(path.join(" "), whose, "{typed}");
            }
        }
    }

    #[test]
    fn help_of_a_command_ends_with_its_examples() {
        let mut whole = command();
        whole.build();
        let help = whole.find_subcommand_mut("secrets").unwrap().find_subcommand_mut("touched").unwrap();
        let help = help.render_long_help().to_string();
        assert!(
            help.trim_end().ends_with("moltbot secrets touched --since 12h   what to renew after an incident"),
            "{help}"
        );
    }
}
