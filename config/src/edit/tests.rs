use super::*;
use serde_json::json;

const TEXT: &str = "{
  // where it listens
  gateway: {
    port: 18789, // the usual one
    auth: { token: '${MOLTBOT_GATEWAY_TOKEN}' },
  },
  egress: { allow: ['a.example:443'] },
}
";

#[test]
fn set_changes_the_value_and_leaves_everything_else() {
    assert_eq!(set(TEXT, "gateway.port", &json!(1)).unwrap(), TEXT.replace("18789", "1"));
    let listed = set(TEXT, "egress.allow[0]", &json!("b.example:443")).unwrap();
    assert_eq!(listed, TEXT.replace("'a.example:443'", "\"b.example:443\""));
}

#[test]
fn set_makes_what_is_not_there() {
    for (path, value) in [
        ("logging.level", json!("debug")),
        ("gateway.tailscale.mode", json!("serve")),
        ("egress.allow[1]", json!("c.example:443")),
        ("channels.telegram.groups[\"-100.5\"].enabled", json!(false)),
    ] {
        let text = set(TEXT, path, &value).unwrap();
        let read = crate::source::read(&text, std::path::Path::new("x"), &|_| Some("t".to_owned())).unwrap();
        let mut found = &read.value;
        for step in parse_path(path).unwrap() {
            found = match step {
                Step::Key(key) => &found[key],
                Step::Index(at) => &found[at],
            };
        }
        assert_eq!(*found, value, "{text}");
        assert!(text.contains("// the usual one") && text.contains("${MOLTBOT_GATEWAY_TOKEN}"), "{text}");
    }
    let made = set("", "gateway.port", &json!(5)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&made).unwrap(), json!({ "gateway": { "port": 5 } }));
}

#[test]
fn unset_takes_out_and_says_what_is_not_there() {
    let text = unset(TEXT, "gateway.auth").unwrap();
    assert!(!text.contains("auth") && text.contains("// the usual one"), "{text}");
    assert!(!unset(TEXT, "egress.allow[0]").unwrap().contains("a.example"));
    for path in ["gateway.bind", "egress.allow[3]", "nothing.at.all"] {
        assert_eq!(unset(TEXT, path), Err(EditError::NotSet(path.to_owned())));
    }
}

#[test]
fn patch_merges_and_null_removes() {
    let text = patch(TEXT, &json!({ "gateway": { "port": 2, "auth": null }, "logging": { "keepDays": 30 } })).unwrap();
    let read = crate::source::read(&text, std::path::Path::new("x"), &|_| None).unwrap();
    let expected =
        json!({ "gateway": { "port": 2 }, "egress": { "allow": ["a.example:443"] }, "logging": { "keepDays": 30 } });
    assert_eq!(read.value, expected);
    assert!(text.contains("// where it listens"));
}

#[test]
fn what_is_no_path_or_no_object_is_refused() {
    for path in ["", ".", "a..b", "a[", "a[x]", "a[\"b]", "a]b["] {
        assert!(matches!(set(TEXT, path, &json!(1)), Err(EditError::Path(_) | EditError::NoObject(_))), "{path}");
    }
    assert!(matches!(set(TEXT, "gateway.port.x", &json!(1)), Err(EditError::NoObject(_))));
    assert!(matches!(set("[]", "a", &json!(1)), Err(EditError::NoObject(_))));
    assert!(matches!(set("{", "a", &json!(1)), Err(EditError::Text(_))));
    assert!(matches!(patch(TEXT, &json!([])), Err(EditError::NoObject(_))));
}
