//! A secret in every form that somebody may print it in, made by other code than what looks for them, and where a process's
//! memory holds one.

use std::collections::HashSet;
use std::os::unix::fs::FileExt as _;

/// The secret in every form.
///
/// # Panics
/// Where it is no text.
#[must_use]
pub fn forms(key: &str) -> Vec<String> {
    let json = serde_json::to_string(key).unwrap();
    let json = json[1..json.len() - 1].to_owned();
    let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let percent = |byte: u8| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let mut forms = vec![
        key.to_owned(),
        hex.clone(),
        hex.to_uppercase(),
        key.bytes().map(percent).collect(),
        key.bytes().map(percent).collect::<String>().replace("%5C", "%5c").replace("%2B", "%2b").replace("%2F", "%2f"),
        key.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        json.clone(),
        json.replace('/', "\\/"),
        key.bytes().map(|byte| format!("\\u{byte:04x}")).collect(),
    ];
    for before in 0..3 {
        let standard = base64(&[&b"ab"[..before], key.as_bytes(), b"end"].concat());
        forms.push(standard.replace('+', "-").replace('/', "_"));
        forms.push(standard);
    }
    forms
}

/// Base64 without padding.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        (0..=group.len()).for_each(|at| out.push(char::from(ALPHABET[(word >> (18 - 6 * at) & 63) as usize])));
    }
    out
}

/// Looks for parts of a secret, 16 bytes each, in all its forms at once.
pub struct Search {
    windows: HashSet<[u8; WINDOW]>,
    /// The first two bytes of each.
    first: Vec<bool>,
}

const WINDOW: usize = 16;

impl Search {
    /// For every form of the secret, and for every 16 bytes of each.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let mut search = Self { windows: HashSet::new(), first: vec![false; 1 << 16] };
        for form in forms(key) {
            for window in form.as_bytes().windows(WINDOW) {
                search.first[usize::from(window[0]) << 8 | usize::from(window[1])] = true;
                search.windows.insert(window.try_into().unwrap());
            }
        }
        search
    }

    /// The first of them in `bytes`.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<String> {
        let found = bytes.windows(WINDOW).find(|window| {
            self.first[usize::from(window[0]) << 8 | usize::from(window[1])] && self.windows.contains(*window)
        });
        found.map(|found| String::from_utf8_lossy(found).into_owned())
    }

    /// The first of them in memory that the process may write to; root is asked for.
    ///
    /// # Panics
    /// Where its memory cannot be read.
    #[must_use]
    pub fn find_in(&self, pid: u32) -> Option<String> {
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let writable =
            maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|it| it.starts_with("rw")));
        let mut read = 0;
        let found = writable.into_iter().find_map(|line| {
            let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            memory.read_exact_at(&mut bytes, from).ok()?;
            read += bytes.len();
            self.find(&bytes)
        });
        assert!(found.is_some() || read > 1 << 16, "next to nothing of the memory of {pid} could be read");
        found
    }
}
