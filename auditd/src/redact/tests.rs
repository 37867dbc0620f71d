//! What goes, what stays, and what is told of what went.

use super::*;
use proptest::prelude::*;

fn redactor() -> Redactor {
    Redactor::new(&[7; 32])
}

/// Built from parts, so that no scanner takes this file for a leak.
fn made(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn value_goes_and_the_words_around_it_stay() {
    let long = "0123456789abcdefghijABCDEFGHIJ0123456789abcdefghijABCDEFGHIJ";
    let hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for (rule, before, secret, after) in [
        ("anthropic-key", "key ", made(&["sk-", "ant-api03-", long]), " end"),
        ("openai-key", "", made(&["sk-", "proj-", long]), "\n"),
        ("github-token", "git clone https://", made(&["gh", "p_", &long[..36]]), "@github.com/a/b"),
        ("aws-key-id", "id=", made(&["AK", "IA", "ABCDEFGHIJKLMNOP"]), ","),
        ("slack-token", "'", made(&["xo", "xb-", "123456789012-", &long[..24]]), "'"),
        ("google-key", "?key=", made(&["AI", "za", &long[..35]]), "&x=1"),
        ("stripe-key", "", made(&["sk", "_live_", &long[..24]]), ""),
        ("digitalocean-token", "", made(&["dop", "_v1_", hex]), ""),
        ("telegram-token", "bot ", made(&["123456789", ":", &long[..35]]), "/getMe"),
        ("jwt", "t=", made(&["ey", "JhbGciOiJIUzI1NiJ9.", "eyJzdWIiOiIxIn0.", &long[..43]]), ";"),
        ("bearer-token", "-H 'X: Bearer ", long.to_owned(), "'"),
        ("password", "mysql --password ", "hunter22".to_owned(), " -h db"),
        ("password", "PGPASSWORD=", "hunter22".to_owned(), " psql"),
        ("password", "{\"password\": \"", "s3cr3t!".to_owned(), "\"}"),
        ("password", "postgres://app:", "pa55word".to_owned(), "@db:5432/x"),
        ("password", "curl -u admin:", "hunter22".to_owned(), " https://x"),
        ("assigned-secret", "export CLIENT_SECRET=", "q8WvT0zLm3".to_owned(), " && run"),
        ("assigned-secret", "access_token: \\\"", "a1b2c3d4e5f6a7b8".to_owned(), "\\\""),
        ("assigned-secret", "-H 'Authorization: Basic ", "dXNlcjpwYXNz".to_owned(), "'"),
    ] {
        let text = format!("{before}{secret}{after}");
        let fingerprint = redactor().fingerprint(&secret);
        assert_eq!(redactor().clean(&text), format!("{before}[redacted:{rule}:{fingerprint}]{after}"), "{rule}");
    }
}

#[test]
fn no_key_of_the_table_is_shorter_than_what_is_looked_at() {
    for shapes::Prefix(rule, prefix, _, least) in shapes::PREFIXES {
        assert!(prefix.len() + least >= shapes::SHORTEST, "{rule}");
    }
}

#[test]
fn private_key_goes_with_its_armour_whole_or_cut_off() {
    let key = made(&["-----BEGIN OPENSSH PRIV", "ATE KEY-----\nb3BlbnNzaC1r\n-----END OPENSSH PRIV", "ATE KEY-----"]);
    let clean = redactor().clean(&format!("cat <<E\n{key}\nE")).into_owned();
    assert!(clean.starts_with("cat <<E\n[redacted:private-key:") && clean.ends_with("]\nE"), "{clean}");
    let cut = key.split("-----END").next().unwrap();
    assert!(!redactor().clean(cut).contains("b3Blb"));
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----";
    assert_eq!(redactor().clean(public), public);
}

#[test]
fn ordinary_text_stays_as_it_is() {
    for text in [
        "ls -la /workspace && git status",
        "sk-",
        "ask-question about tasks",
        "checksum = \"b4c1e7a2f0d94c5e8f3b6a7d1c2e9f80b4c1e7a2f0d94c5e8f3b6a7d1c2e9f80\"",
        "password=$PASSWORD run",
        "password: <your password>",
        "token=${GITHUB_TOKEN}",
        "--token-file /run/token",
        "secret_name=database",
        "PASSWORD=xxxxxxxx",
        "https://example.org:8443/path?x=1@2",
        "time: 12:34:56, pid 5301, epoch 1",
        "authentication failure; logname= uid=0 euid=0 tty=ssh",
        "Failed password for invalid user admin from 192.0.2.7 port 22 ssh2",
        "max_tokens=4096",
        "docker run -u 1000:1000 image",
    ] {
        assert_eq!(redactor().clean(text), text);
    }
}

#[test]
fn file_of_hashes_and_versions_stays_as_it_is() {
    let text = include_str!("../../../Cargo.lock");
    assert!(text.lines().all(|line| redactor().clean(line) == line));
    assert_eq!(redactor().clean(text), text);
}

#[test]
fn equal_values_are_equal_under_one_key_and_not_under_another() {
    let (a, b) = ("PGPASSWORD=hunter22 psql", "mysql --password hunter22");
    let digits = |clean: &str| clean.rsplit_once("]").unwrap().0.rsplit_once(':').unwrap().1.to_owned();
    let (first, second) = (redactor().clean(a).into_owned(), redactor().clean(b).into_owned());
    assert_eq!(digits(&first), digits(&second));
    assert_ne!(digits(&first), digits(&Redactor::new(&[8; 32]).clean(a)));
    assert_ne!(digits(&first), digits(&redactor().clean("PGPASSWORD=hunter23 psql")));
}

#[test]
fn long_hostile_text_is_read_in_a_moment() {
    for piece in [":", "=", "a:", "a=", "-", "-a ", "--password ", "://a:", "-----BEGIN ", "eyJ", "password=", "-u a:"]
    {
        let text = piece.repeat(8192 / piece.len());
        let begun = std::time::Instant::now();
        let _ = redactor().clean(&text);
        assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{piece}: {:?}", begun.elapsed());
    }
}

proptest! {
    #[test]
    fn arbitrary_text_is_cleaned_without_a_panic_and_twice_is_once(text in any::<String>()) {
        let once = redactor().clean(&text).into_owned();
        prop_assert_eq!(redactor().clean(&once).into_owned(), once.clone());
    }

    #[test]
    fn planted_key_goes_wherever_it_stands(before in "[ -~]{0,30}[ =:'\"]", after in "[ '\"&|]?[ -~]{0,30}", body in "[a-zA-Z0-9]{40}") {
        let secret = made(&["gh", "p_", &body]);
        let clean = redactor().clean(&format!("{before}{secret}{after}")).into_owned();
        prop_assert!(!clean.contains(&body[..8]), "{}", clean);
    }
}

#[test]
fn replacement_stays_as_it_is_and_what_only_looks_like_one_does_not() {
    let once = redactor().clean("-u :a\u{180f}").into_owned();
    assert!(once.starts_with("-u :[redacted:password:"), "{once}");
    assert_eq!(redactor().clean(&once), once);
    let hidden = redactor().clean("[redacted:password:hunter22]").into_owned();
    assert!(!hidden.contains("hunter22"), "{hidden}");
}

/// Prints how much of a corpus is found: `REDACT_CORPUS` names files of JSON lines with `text` and `value`, `REDACT_PLAIN`
/// files of ordinary lines. With `REDACT_SHOW`, what is missed.
#[test]
#[ignore = "a measurement"]
fn share_of_a_corpus_that_is_found() {
    let files = |name| {
        std::env::var(name)
            .unwrap_or_default()
            .split(':')
            .map(str::to_owned)
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
    };
    let show = std::env::var_os("REDACT_SHOW").is_some();
    for file in files("REDACT_CORPUS") {
        let (mut all, mut found, mut whole, mut valued) = (0, 0, 0, 0);
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            let one: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = one["text"].as_str().unwrap();
            let clean = redactor().clean(text).into_owned();
            all += 1;
            found += usize::from(clean != text);
            if let Some(value) = one["value"].as_str() {
                valued += 1;
                let survives = value
                    .as_bytes()
                    .windows(8.min(value.len()))
                    .any(|w| clean.as_bytes().windows(w.len()).any(|c| c == w));
                whole += usize::from(!survives);
                if show && survives {
                    println!("LEAK {} {value:?}\n     {text:?}\n  -> {clean:?}", one["rule"]);
                }
            }
            if show && clean == text {
                println!("MISS {} {text:?}", one["rule"]);
            }
        }
        println!(
            "{file}: {found} of {all} found ({:.1} %), {whole} of {valued} leave no 8 characters ({:.1} %)",
            100.0 * found as f64 / all as f64,
            100.0 * whole as f64 / valued as f64
        );
    }
    for file in files("REDACT_PLAIN") {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        let flagged: Vec<_> = text.lines().filter(|line| redactor().clean(line) != *line).collect();
        println!(
            "{file}: {} of {} lines flagged ({:.3} %)",
            flagged.len(),
            text.lines().count(),
            100.0 * flagged.len() as f64 / text.lines().count() as f64
        );
        if show {
            flagged.iter().for_each(|line| println!("FLAG {}", redactor().clean(line)));
        }
    }
}
