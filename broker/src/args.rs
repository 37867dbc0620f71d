//! Two options and nothing else: `moltbot` is the command for people.

use confine::startup::StartError;
use std::ffi::OsString;
use std::path::PathBuf;

/// What broker was started with.
#[derive(Debug, Eq, PartialEq)]
pub struct Args {
    /// `--state-dir DIR`, absolute.
    pub state_dir: PathBuf,
    /// `--port N`; 0 lets the kernel choose.
    pub port: Option<u16>,
}

/// Reads the process's arguments.
///
/// # Errors
/// [`StartError`] that says what is wrong.
pub fn parse() -> Result<Args, StartError> {
    read(std::env::args_os().skip(1))
}

fn read(mut words: impl Iterator<Item = OsString>) -> Result<Args, StartError> {
    let (mut state_dir, mut port) = (None, None);
    while let Some(word) = words.next() {
        let mut value =
            || words.next().ok_or_else(|| StartError::permanent(format!("{} needs a value", word.display())));
        match word.to_str() {
            Some("--state-dir") => state_dir = Some(PathBuf::from(value()?)),
            Some("--port") => {
                let text = value()?;
                let parsed = text.to_str().and_then(|text| text.parse().ok());
                port = Some(
                    parsed.ok_or_else(|| StartError::permanent(format!("--port {}: not a port", text.display())))?,
                );
            }
            _ => return Err(StartError::permanent(format!("unknown argument {}; run `moltbot up`", word.display()))),
        }
    }
    let state_dir = state_dir.ok_or_else(|| StartError::permanent("--state-dir is missing; run `moltbot up`"))?;
    let state_dir = std::path::absolute(&state_dir).map_err(StartError::permanent)?;
    Ok(Args { state_dir, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Args, StartError> {
        read(text.split_whitespace().map(OsString::from))
    }

    #[test]
    fn both_options_are_read() {
        let args = words("--state-dir /s --port 0").unwrap();
        assert_eq!(args, Args { state_dir: PathBuf::from("/s"), port: Some(0) });
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "--port 70000 --state-dir /s", "--state-dir", "--state-dir /s --unsafe"] {
            assert!(words(text).is_err(), "{text}");
        }
    }
}
