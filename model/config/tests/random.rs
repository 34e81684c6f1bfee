//! Whatever a file says, it is answered.

use edgemesh_config::{Environment, Problem, Role, changes, convert, fields, parse, resolve, show};
use proptest::prelude::*;

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Agent), Just(Role::Gateway)]
}

fn scalar() -> impl Strategy<Value = String> {
    let known = [
        "true",
        "yes",
        "0",
        "53",
        "-1",
        "65536",
        "1.25",
        "1e400",
        "~",
        "''",
        "'*'",
        "[]",
        "{}",
        "[~]",
        "/a",
        "off",
        "tcp",
        "10.0.0.1",
        "'::1'",
        "[10.0.0.1]",
        "['fd00::1']",
        "[10.0.0.0/8]",
        "[{nodeName: node-1}]",
        "debug",
        "EdgeMode",
        "[{nodeName: a, advertiseAddress: [192.0.2.1, '/ip4/1.1.1.1/tcp/1']}]",
        "'lo,eth0'",
        "&a b",
        "!t c",
        "\"\\u2028\"",
    ];
    prop_oneof![
        4 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => "[ -~]{0,12}".prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
    ]
}

/// Files of known keys with values that fit or not.
fn file() -> impl Strategy<Value = String> {
    let paths: Vec<_> = fields().map(|field| field.path).filter(|path| !path.contains("[]")).collect();
    proptest::collection::btree_map(proptest::sample::select(paths), scalar(), 0..5).prop_map(|keys| {
        let mut text = String::new();
        let mut open: Vec<&str> = Vec::new();
        for (path, value) in keys {
            let parts: Vec<_> = path.split('.').collect();
            let same = open.iter().zip(&parts[..parts.len() - 1]).take_while(|(a, b)| a == b).count();
            for (depth, part) in parts.iter().enumerate().skip(same) {
                let value = if depth + 1 == parts.len() { value.as_str() } else { "" };
                text.push_str(&format!("{}{part}: {value}\n", "  ".repeat(depth)));
            }
            open = parts[..parts.len() - 1].to_vec();
        }
        text
    })
}

fn try_out(role: Role, text: &str) {
    let environment = Environment {
        node_name: Some("node-1".to_owned()),
        namespace: None,
        in_cluster: text.len().is_multiple_of(2),
        kubernetes_service: Some(("10.96.0.1".to_owned(), 443)),
    };
    let parsed = match parse(role, text) {
        Ok(parsed) => parsed,
        Err(problems) => {
            assert!(problems.iter().any(Problem::is_error), "refused without a reason: {text:?}");
            assert!(convert(role, text).is_err());
            return;
        }
    };
    let converted = convert(role, text).expect("a file that can be read can be converted");
    let again =
        parse(role, &converted).unwrap_or_else(|problems| panic!("{problems:?} {text:?}\n{converted}"));
    match (resolve(&parsed.raw, &environment), resolve(&again.raw, &environment)) {
        (Ok(before), Ok(after)) => {
            let changed = changes(&before.settings, &after.settings);
            assert!(
                changed.running.is_empty() && changed.restart.is_empty(),
                "{changed:?} {text:?}\n{converted}"
            );
            let shown = show(&before.settings);
            let reread = parse(role, &shown).unwrap_or_else(|problems| panic!("{problems:?}\n{shown}"));
            assert_eq!(resolve(&reread.raw, &environment).expect("settings").settings, before.settings);
        }
        (Err(before), Err(after)) => assert_eq!(before, after),
        (before, after) => panic!("{before:?}\n{after:?}\n{text:?}\n{converted}"),
    }
}

proptest! {
    // A case that fails is printed whole; a file of seeds next to the test would tell nobody more.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(role in role(), text in "\\PC{0,200}") {
        try_out(role, &text);
    }

    #[test]
    fn text_that_looks_like_yaml_is_answered(role in role(), text in "([ a-z:{}\\[\\],&*!|>'\"#?\n\\-]|modules|: |\n  ){0,80}") {
        try_out(role, &text);
    }

    #[test]
    fn files_of_known_keys_are_answered(role in role(), text in file()) {
        try_out(role, &text);
    }
}
