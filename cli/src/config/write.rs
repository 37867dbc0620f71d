//! Changes the file: what it becomes is checked, shown and weighed first, and what it was is kept beside it.

use super::risk::Delta;
use super::seal::{Sealed, in_clear, seal_text, without_secrets};
use super::{apply, is_taken, read, understand};
use crate::CliError;
use crate::args::{Args, How};
use crate::door::Door;
use crate::paint::Paint;
use config::Config;
use config::edit::EditError;
use proto::auth::LoginVerb;
use proto::bounded::BoundedStr;
use proto::secret::Secret;
use proto::vault::VaultVerb;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fsync, openat, renameat};
use rustix::termios::isatty;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Earlier texts that are kept: `.bak`, `.bak.1` and so on.
pub const BACKUPS: usize = 5;

/// Keys whose values the vault keeps: set here, they go there, and the file never has them.
pub const SECRETS: [&str; 2] = ["gateway.auth.token", "gateway.auth.password"];

/// Sets one of [`SECRETS`].
pub fn secret(dir: &Path, path: &str, value: &str, how: How, args: &Args) -> Result<(), CliError> {
    if config::is_reference(value) {
        return Err(CliError::failed("the vault keeps it, and not the environment; give the value itself"));
    }
    if how.dry_run {
        let text = format!("{path} would go into the vault; nothing was changed");
        return crate::secrets::say(args, &json!({ "ok": true, "dryRun": true }), &text);
    }
    let value = Secret::new(value.as_bytes().to_vec()).map_err(CliError::failed)?;
    let verb = match path {
        "gateway.auth.token" => {
            VaultVerb::PutSecret { name: BoundedStr::truncated("gateway.token"), value, rotate: true }
        }
        _ => VaultVerb::Login(LoginVerb::SetPassword { password: value }),
    };
    let mut door = super::seal::open(dir)?;
    crate::secrets::ask(&mut door, verb)?;
    if !args.json {
        eprintln!(
            "others on this machine can read arguments; next time: {}",
            match path {
                "gateway.auth.token" => "moltbot secrets rotate gateway.token",
                _ => "moltbot gateway password set",
            }
        );
    }
    let text = format!("{path} is in the vault and in force; connections that came in by the old one were closed");
    crate::secrets::say(args, &json!({ "ok": true, "kept": "vault" }), &text)
}

/// What an argument says: JSON5 where it is, else the text itself.
pub fn value(text: &str) -> Value {
    config::read_value(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Reads what is to be merged.
pub fn read_patch(file: &Path) -> Result<Value, CliError> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(config::MAX_FILE).read_to_string(&mut text)?;
    } else {
        text =
            std::fs::read_to_string(file).map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))?;
    }
    config::read_value(&text).ok_or_else(|| CliError::Failed(format!("{} is no JSON5", file.display())))
}

/// Changes the file by `edit`.
pub fn change(
    dir: &Path,
    file: &Path,
    how: How,
    args: &Args,
    edit: impl FnOnce(&str) -> Result<String, EditError>,
) -> Result<(), CliError> {
    let old = read(file)?;
    let new = edit(&old).map_err(CliError::failed)?;
    take(dir, file, &old, &new, how, args)
}

/// `config edit`
pub fn edit(dir: &Path, file: &Path, how: How, args: &Args) -> Result<(), CliError> {
    let old = read(file)?;
    let editor =
        ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|set| !set.is_empty()));
    let editor = editor.ok_or_else(|| CliError::failed("set VISUAL or EDITOR to the editor that you want"))?;
    // In the state directory: it is private, and the text may name what is.
    let draft = dir.join(format!(".moltbot.json.edit.{}", std::process::id()));
    let outcome = write_new(&draft, old.as_bytes(), None).and_then(|()| {
        loop {
            // An editor may come with options; they are words.
            let mut words = editor.split_whitespace();
            let mut command = std::process::Command::new(words.next().unwrap_or_default());
            let status = command.args(words).arg(&draft).status();
            let status = status.map_err(|error| CliError::Failed(format!("{editor}: {error}")))?;
            if !status.success() {
                return Err(CliError::Failed(format!("{editor} ended with {status}; nothing was changed")));
            }
            let new = std::fs::read_to_string(&draft)?;
            match understand(&new, file) {
                Ok(_) => return Ok(new),
                Err(error) if isatty(std::io::stdin()) && yes(&format!("{error}\nedit again?"), true)? => {}
                Err(error) => return Err(CliError::failed(error)),
            }
        }
    });
    let _ = std::fs::remove_file(&draft);
    take(dir, file, &old, &outcome?, how, args)
}

/// Takes a new text, if it loads and the operator wants what it does.
fn take(dir: &Path, file: &Path, old: &str, new: &str, how: How, args: &Args) -> Result<(), CliError> {
    is_taken(&understand(new, file).map_err(CliError::failed)?)?;
    // What is weighed and shown is what the file will say.
    let (hidden_old, hidden_new) = (without_secrets(old), without_secrets(new));
    let config = understand(&hidden_new, file).map_err(CliError::failed)?;
    // A file that does not load now can only get better; the defaults are what to hold it against.
    let was = understand(old, file).unwrap_or_else(|_| Config::default());
    let delta = Delta::between(&was, &config);
    let paint = Paint::new(args);
    if new == old {
        let text = "the file says so already";
        return crate::secrets::say(args, &json!({ "ok": true, "changed": false }), text);
    }
    let shown = format!("{}{}", lines(&hidden_old, &hidden_new, paint), delta.as_text(paint));
    if how.dry_run {
        if args.json {
            println!("{}", json!({ "ok": true, "dryRun": true, "text": hidden_new, "risk": delta.as_json() }));
        } else {
            print!("{shown}");
            println!("nothing was changed");
        }
        return Ok(());
    }
    if delta.needs_a_yes() && !how.yes {
        eprint!("{shown}");
        if !isatty(std::io::stdin()) {
            return Err(CliError::failed("this opens something; say --yes where it is meant"));
        }
        if !yes("do it?", false)? {
            return Err(CliError::failed("nothing was changed"));
        }
    } else if !args.json {
        print!("{shown}");
    }
    // A secret that is new in the file goes where it belongs first; one that stood there is moved at the next start.
    let known = in_clear(old, file);
    let fresh = in_clear(new, file).into_iter().any(|held| !known.contains(&held));
    let new = match Door::open(dir) {
        Ok(mut door) => seal_text(new, file, &mut door, &mut Sealed::default())?,
        Err(CliError::NotRunning(_)) if !fresh => new.to_owned(),
        Err(CliError::NotRunning(_)) => {
            return Err(CliError::failed("a secret goes into the vault: `moltbot up` first"));
        }
        Err(error) => return Err(error),
    };
    replace(file, old, &new)?;
    if !how.no_apply {
        match Door::open(dir) {
            Ok(mut door) => return apply(&mut door, args),
            Err(CliError::NotRunning(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let text = "written; in force from the next start, or by `moltbot config apply`";
    crate::secrets::say(args, &json!({ "ok": true, "changed": true, "applied": false }), text)
}

/// The lines that differ.
fn lines(old: &str, new: &str, paint: Paint) -> String {
    let mut text = String::new();
    for change in similar::TextDiff::from_lines(old, new).iter_all_changes() {
        let line = change.value().trim_end_matches('\n');
        text += &match change.tag() {
            similar::ChangeTag::Delete => paint.bad(&format!("- {line}")),
            similar::ChangeTag::Insert => paint.good(&format!("+ {line}")),
            similar::ChangeTag::Equal => continue,
        };
        text.push('\n');
    }
    text
}

/// Asks on the terminal.
pub fn yes(question: &str, default: bool) -> Result<bool, CliError> {
    eprint!("{question} {} ", if default { "[Y/n]" } else { "[y/N]" });
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(match answer.trim() {
        "" => default,
        other => other.eq_ignore_ascii_case("y") || other.eq_ignore_ascii_case("yes"),
    })
}

/// Replaces the file whole, and keeps what it was.
pub fn replace(file: &Path, old: &str, new: &str) -> Result<(), CliError> {
    let is_there = file.exists();
    // A first file is as the directory is: where root writes it, broker still has to read it.
    let directory = file.parent().unwrap_or(Path::new("."));
    let owner = std::fs::metadata(if is_there { file } else { directory }).ok().map(|found| (found.uid(), found.gid()));
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", file.display()));
    if is_there {
        let backup = |number: usize| match number {
            0 => file.with_added_extension("bak"),
            number => file.with_added_extension(format!("bak.{number}")),
        };
        for number in (1..BACKUPS).rev() {
            match std::fs::rename(backup(number - 1), backup(number)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        write_new(&backup(0), without_secrets(old).as_bytes(), owner)?;
    }
    let next = file.with_added_extension(format!("new.{}", std::process::id()));
    write_new(&next, new.as_bytes(), owner)?;
    renameat(rustix::fs::CWD, &next, rustix::fs::CWD, file).map_err(|errno| failed(errno.into()))?;
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Makes a file that is not there, for its owner alone.
fn write_new(file: &Path, bytes: &[u8], owner: Option<(u32, u32)>) -> Result<(), CliError> {
    let make = || -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(rustix::fs::CWD, file, flags, Mode::RUSR | Mode::WUSR)?;
        if let Some((uid, gid)) = owner {
            fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let mut file = std::fs::File::from(fd);
        file.write_all(bytes)?;
        fsync(&file)?;
        Ok(())
    };
    make().map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_file_and_every_later_one_is_whose_the_directory_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("moltbot.json");
        // Where this is not root there is one owner, and it stays.
        let owner = if rustix::process::geteuid().is_root() { 60_600 } else { rustix::process::geteuid().as_raw() };
        std::os::unix::fs::chown(dir.path(), Some(owner), None).unwrap();
        for (old, new) in [("{}\n", "{ gateway: {} }\n"), ("{ gateway: {} }\n", "{}\n")] {
            replace(&file, old, new).unwrap();
            let found = std::fs::metadata(&file).unwrap();
            assert_eq!((found.uid(), found.mode() & 0o777), (owner, 0o600));
            assert_eq!(std::fs::read_to_string(&file).unwrap(), new);
        }
        assert_eq!(std::fs::metadata(file.with_added_extension("bak")).unwrap().uid(), owner);
    }
}
