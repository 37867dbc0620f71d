//! The parser of `moltbot.json` and what rewrites one, under texts that are nearly configurations: none makes it panic, a refusal
//! names a place, what loads is read the same when it is written out, and no secret is in what a role is given.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use config::Config;
use std::path::Path;

const FILE: &str = "/etc/moltbot.json";
/// Whole configurations to begin with: the Phase 1 guide's, and what has a bit of everything.
const SEEDS: [&str; 4] = [
    include_str!("../../docs/security/secure-config-template.json"),
    "{ /* c */ gateway: { port: 0x4D2, bind: 'loopback', auth: { mode: 'token', token: '${GATEWAY_TOKEN}' }, }, // d\n operator: { group: 'g' } }",
    "{ agents: { defaults: { model: 'p/m', sandbox: { mode: 'all', docker: { memory: '64m', cpus: .5, network: 'none' } } } },
       models: { providers: { p: { baseUrl: 'https://p.example', apiKey: 'vault:p.key', models: [{ id: 'm' }] } } } }",
    "{ channels: { defaults: { dmPolicy: 'allowlist' }, telegram: { botToken: '1:aaaaaaaaaaaaaaaaaaaa', allowFrom: [1, '*'] } },
       tools: { exec: { ask: 'off' }, elevated: { enabled: false, allowFrom: { irc: ['a'] } } }, egress: { allow: ['a.example:443'] },
       logging: { redactPatterns: ['a+'], keepDays: 3 }, session: { dmScope: 'per-peer' }, commands: { native: 'auto' } }",
];
/// What is put between: signs of the language, values at its bounds, words that mean something.
const BITS: [&str; 32] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "'",
    "\"",
    "/*",
    "*/",
    "//",
    "\\u0000",
    "\\",
    "\n",
    "null",
    "true",
    "-1",
    "1e999",
    "0x",
    "NaN",
    "18446744073709551616",
    "'*'",
    "${",
    "${HOME}",
    "$${A}",
    "$include: 'x'",
    "'vault:'",
    "__proto__: {}",
    "\u{feff}",
    "\u{1f600}",
    "'open'",
    "dmPolicy: 'open',",
];

/// SplitMix64 (Steele, Lea, Flood 2014): the same texts for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }
}

/// A seed with up to three wounds, most of them small: a third of a configuration is none.
fn text(dice: &mut Dice) -> String {
    let mut text: Vec<char> = SEEDS[dice.below(SEEDS.len())].chars().collect();
    for _ in 0..=dice.below(3) {
        let at = dice.below(text.len() + 1);
        let end = (at + [0, 1, 1, 2, 8, 40][dice.below(6)]).min(text.len());
        match dice.below(5) {
            0 => drop(text.drain(at..end)),
            1 => drop(text.splice(at..at, BITS[dice.below(BITS.len())].chars())),
            2 => drop(text.splice(at..end, BITS[dice.below(BITS.len())].chars())),
            3 => {
                let piece: Vec<char> = text[at..end].to_vec();
                let to = dice.below(text.len() + 1);
                drop(text.splice(to..to, piece));
            }
            _ => {
                let other: Vec<char> = SEEDS[dice.below(SEEDS.len())].chars().collect();
                let from = dice.below(other.len());
                let until = (from + dice.below(20)).min(other.len());
                drop(text.splice(at..end, other[from..until].iter().copied()));
            }
        }
    }
    text.into_iter().collect()
}

fn env(name: &str) -> Option<String> {
    (name == "GATEWAY_TOKEN").then(|| "tok-0123456789abcdefghijklmnopqrstuvwxyz".to_owned())
}

/// How many loaded.
fn run(seed: u64, count: usize) -> usize {
    let mut dice = Dice(seed);
    let mut loaded = 0;
    for number in 0..count {
        let text = text(&mut dice);
        match Config::parse(&text, Path::new(FILE), &env) {
            Err(error) => assert!(error.to_string().starts_with('/'), "{number} of {seed}: {error}\n{text}"),
            Ok(config) => {
                loaded += 1;
                let written = config.redacted_json();
                assert!(!written.contains("tok-0123456789"), "{number} of {seed}: {written}\n{text}");
                let again = Config::parse(&written, Path::new(FILE), &env);
                let again = again.unwrap_or_else(|error| panic!("{number} of {seed}: {error}\n{text}\n{written}"));
                assert_eq!(again.redacted_json(), written, "{number} of {seed}: {text}");
            }
        }
        if let Ok(config) = Config::understand(&text, Path::new(FILE), &env) {
            let _ = config::rules::findings(&config);
        }
        let _ = config::migrate::migrate(&text, Path::new(FILE));
    }
    loaded
}

#[test]
fn text_that_is_nearly_a_configuration_is_refused_with_its_place_or_reads_as_itself() {
    for seed in SEEDS {
        Config::parse(seed, Path::new(FILE), &env).unwrap_or_else(|error| panic!("{error}"));
    }
    let loaded = run(1, 1_500);
    assert!(loaded > 50, "only {loaded} of them loaded");
}

#[test]
#[ignore = "takes minutes: cargo xtask torture config"]
fn torture_texts_that_are_nearly_configurations() {
    let seed = std::process::id().into();
    println!("seed {seed}: {} of a million loaded", run(seed, 1_000_000));
}

#[test]
fn depth_is_refused_and_not_followed_to_the_end_of_the_stack() {
    for (open, close) in [("[", "]"), ("{a:", "}")] {
        let deep = format!("{{ meta: {}1{} }}", open.repeat(50_000), close.repeat(50_000));
        assert!(Config::parse(&deep, Path::new(FILE), &|_| None).is_err());
        assert!(config::migrate::migrate(&deep, Path::new(FILE)).is_err());
    }
}
