use super::*;
use serde_json::json;

fn values(text: &str) -> Value {
    read(text, Path::new("moltbot.json"), &|name| (name == "A_1").then(|| "one".to_owned())).unwrap().value
}

#[test]
fn json5_is_read_as_its_specification_says() {
    let text =
        "{ a: +1, 'b': -0x10, c: .5, d: 5., e: 1e2, f: \"x\\\n y\", \"g\": [1, 2,], /* h */ i: null, j: 'it\\'s' }";
    let expected =
        json!({ "a": 1, "b": -16, "c": 0.5, "d": 5.0, "e": 100.0, "f": "x y", "g": [1, 2], "i": null, "j": "it's" });
    assert_eq!(values(text), expected);
    for text in ["{ a: NaN }", "{ a: 99999999999999999999999e999 }", "{ a: 0xFFFFFFFFFFFFFFFFFF }"] {
        assert!(read(text, Path::new("x"), &|_| None).is_err(), "{text}");
    }
}

#[test]
fn variables_are_put_in_by_upstreams_rules() {
    let text = "{ a: '${A_1}', b: 'x${A_1}y${A_1}', c: '$${A_1}', d: '${lower}', e: '$A_1', f: '${', g: '${A_1' }";
    let expected =
        json!({ "a": "one", "b": "xoneyone", "c": "${A_1}", "d": "${lower}", "e": "$A_1", "f": "${", "g": "${A_1" });
    assert_eq!(values(text), expected);
    let empty = read("{ x: { y: ['${B}'] } }", Path::new("m"), &|_| Some(String::new())).unwrap_err();
    assert!(empty.to_string().contains("x.y[0]: the environment has no B"), "{empty}");
    assert!(is_reference("${A_1}") && !is_reference("x${A_1}") && !is_reference("${a}") && !is_reference("${A}${B}"));
}

#[test]
fn included_files_are_merged_and_the_files_own_keys_win() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("more")).unwrap();
    write("more/hosts.json5", "{ egress: { allow: ['a:1'] }, gateway: { port: 1 } }");
    write("deep.json", "{ $include: 'more/hosts.json5', gateway: { prt: 2 } }");
    let main = dir.path().join("moltbot.json");
    let text = "{ $include: ['more/hosts.json5', './deep.json'], egress: { allow: ['b:2'] }, gateway: { port: 3 } }";
    let source = read(text, &main, &|_| None).unwrap();
    let expected = json!({ "egress": { "allow": ["a:1", "a:1", "b:2"] }, "gateway": { "port": 3, "prt": 2 } });
    assert_eq!(source.value, expected);
    // What is wrong in an included file is found there.
    assert_eq!(source.place("gateway.prt").file, dir.path().join("deep.json"));
    assert_eq!(source.place("gateway.port").file, main);
    let section = read("{ egress: { $include: 'section.json' } }", &main, &|_| None);
    assert!(section.unwrap_err().to_string().contains("no such file"));
}

#[test]
fn includes_stay_in_the_directory_and_end() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(outer.path().join("outside.json"), "{}").unwrap();
    std::os::unix::fs::symlink(outer.path().join("outside.json"), dir.join("link.json")).unwrap();
    std::os::unix::fs::symlink(outer.path(), dir.join("up")).unwrap();
    std::fs::write(dir.join("me.json"), "{ $include: 'me.json' }").unwrap();
    std::fs::write(dir.join("good.json"), "{}").unwrap();
    let ask = |name: &str| {
        let text = serde_json::json!({ "$include": name }).to_string();
        read(&text, &dir.join("moltbot.json"), &|_| None).map_err(|error| error.to_string())
    };
    assert!(ask("good.json").is_ok());
    let absolute = outer.path().join("outside.json");
    for (name, why) in [
        ("../outside.json", "beside"),
        (absolute.to_str().unwrap(), "beside"),
        ("link.json", "link"),
        ("up/outside.json", "link"),
        ("me.json", "includes itself"),
        ("absent.json", "no such file"),
    ] {
        let error = ask(name).unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    for bracket in ["[", "{a:"] {
        assert!(read(&bracket.repeat(50_000), Path::new("x"), &|_| None).is_err());
    }
}
