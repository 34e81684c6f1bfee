//! How answers are cut into objects while they arrive.

use edgemesh_reflector::{MAX_OBJECT, Members, SplitError, Splitter};
use proptest::prelude::*;

/// Pushes pieces; the items, and what the end says.
fn cut<'a>(
    mut splitter: Splitter,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<String>, Result<Members, SplitError>) {
    let mut items = Vec::new();
    for piece in pieces {
        let mut take = |item: &[u8]| items.push(String::from_utf8_lossy(item).into_owned());
        if let Err(error) = splitter.push(piece, &mut take) {
            return (items, Err(error));
        }
    }
    (items, splitter.finish())
}

/// The text in one piece, in two at every position, and byte by byte, says the same.
#[track_caller]
fn everywhere(new: fn() -> Splitter, text: &str, items: &[&str]) -> Members {
    let bytes = text.as_bytes();
    let (whole, end) = cut(new(), [bytes]);
    assert_eq!(whole, items);
    let members = end.expect("complete");
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(cut(new(), [first, second]), (whole.clone(), Ok(members.clone())), "cut at {at}");
    }
    assert_eq!(cut(new(), bytes.chunks(1)), (whole, Ok(members.clone())), "byte by byte");
    members
}

#[track_caller]
fn refused(new: fn() -> Splitter, text: &str, error: SplitError) {
    let bytes = text.as_bytes();
    assert_eq!(cut(new(), [bytes]).1, Err(error), "{text}");
    assert_eq!(cut(new(), bytes.chunks(1)).1, Err(error), "byte by byte: {text}");
}

#[test]
fn lists_are_cut_into_their_items() {
    for (text, items) in [
        (r#"{"items":[]}"#, &[][..]),
        (r#"{"items":null}"#, &[]),
        (r#" { "items" : [ { } , {"a" : [ ] } ] } "#, &["{ }", r#"{"a" : [ ] }"#]),
        (
            r#"{"items":[{"a":{"items":[1,2]}},{"b":"}]{["}],"metadata":{}}"#,
            &[r#"{"a":{"items":[1,2]}}"#, r#"{"b":"}]{["}"#],
        ),
        (r#"{"items":[{"a":"\\\"}\\"},{"\"":"]"}]}"#, &[r#"{"a":"\\\"}\\"}"#, r#"{"\"":"]"}"#]),
        (r#"{"items":[{"ü":"日本\u00e9🦀"}]}"#, &[r#"{"ü":"日本\u00e9🦀"}"#]),
        (
            r#"{"items":[1,-2.5e+3,true,null,"x",[[]],{}]}"#,
            &["1", "-2.5e+3", "true", "null", r#""x""#, "[[]]", "{}"],
        ),
        (r#"{"items":[1 , null ]}"#, &["1", "null"]),
        ("{\"items\":[{}\r\n,\t{}]}\n\n", &["{}", "{}"]),
    ] {
        assert!(everywhere(Splitter::list, text, items).items, "{text}");
    }
}

#[test]
fn members_beside_the_items_are_kept_wherever_they_stand() {
    for text in [
        r#"{"kind":"XList","apiVersion":"v1","metadata":{"resourceVersion":"5","continue":""},"items":[{}]}"#,
        r#"{"items":[{}],"kind":"XList","x":[[{"items":[3]}]],"metadata":{"resourceVersion":"5","continue":""}}"#,
    ] {
        let members = everywhere(Splitter::list, text, &["{}"]);
        assert_eq!(members.kind, br#""XList""#);
        assert_eq!(members.metadata, br#"{"resourceVersion":"5","continue":""}"#);
    }
}

#[test]
fn a_status_has_no_items() {
    let text = r#"{"kind":"Status","code":410 ,"reason":"Expired","message":"a \"b\"","details":{"causes":[]},"status":"Failure"}"#;
    let members = everywhere(Splitter::list, text, &[]);
    assert!(!members.items);
    assert_eq!(members.code, b"410");
    assert_eq!(members.reason, br#""Expired""#);
    assert_eq!(members.message, br#""a \"b\"""#);
    assert_eq!(members.details, br#"{"causes":[]}"#);
    assert!(!everywhere(Splitter::list, "{}", &[]).items);
}

#[test]
fn streams_are_cut_into_their_objects() {
    for (text, items) in [
        ("", &[][..]),
        ("\n \r\n", &[]),
        ("{}{}", &["{}", "{}"]),
        (
            "{\"type\":\"ADDED\",\"object\":{\"a\":\"}{\"}}\n\n{\"type\":\"\"}\n",
            &[r#"{"type":"ADDED","object":{"a":"}{"}}"#, r#"{"type":""}"#],
        ),
        (r#"{"items":[{}]}"#, &[r#"{"items":[{}]}"#]),
    ] {
        everywhere(Splitter::stream, text, items);
    }
}

#[test]
fn what_is_no_json_is_named() {
    for html in ["<!DOCTYPE html><html></html>", "404 page not found", "[]", "null", "\u{feff}{}", "OK"] {
        refused(Splitter::list, html, SplitError::NotJson);
        refused(Splitter::stream, html, SplitError::NotJson);
    }
    refused(Splitter::stream, "{} [", SplitError::NotJson);
    for malformed in [
        "{} {",
        "{}x",
        "{1:2}",
        r#"{"a" 1}"#,
        r#"{"a":1 2}"#,
        r#"{"a":1"b"}"#,
        r#"{"a":nul{}}"#,
        r#"{"a":}"#,
        r#"{"a":x}"#,
        r#"{"items":[}"#,
        r#"{"items":[{}{}]}"#,
        r#"{"items":[,]}"#,
        r#"{"items":{"a":1}}"#,
        r#"{"items":"x"}"#,
        r#"{"items":0}"#,
        r#"{"items":nul}"#,
        r#"{"items":[]]}"#,
    ] {
        refused(Splitter::list, malformed, SplitError::Malformed);
    }
}

#[test]
fn what_ends_early_is_truncated_wherever_it_ends() {
    let list = r#"{"kind":"XList","items":[{"a":[1,"x\\"]},{}],"metadata":{"a":1}}"#;
    for end in 0..list.len() {
        let (items, end_of) = cut(Splitter::list(), [&list.as_bytes()[..end]]);
        assert_eq!(end_of, Err(SplitError::Truncated), "ends at {end}");
        assert!(items.len() <= 2);
    }
    let event = r#"{"type":"ADDED","object":{}}"#;
    for end in 1..event.len() {
        assert_eq!(cut(Splitter::stream(), [&event.as_bytes()[..end]]).1, Err(SplitError::Truncated));
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{{\"items\":[{}{}]}}", "[".repeat(depth), "]".repeat(depth));
    assert!(cut(Splitter::list(), [nested(128).as_bytes()]).1.is_ok());
    refused(Splitter::list, &nested(129), SplitError::TooDeep);
    refused(Splitter::stream, &"{\"a\":".repeat(129), SplitError::TooDeep);
}

#[test]
fn an_object_is_bounded_and_a_text_is_not() {
    let piece = vec![b'x'; 64 << 10];
    let mut splitter = Splitter::list();
    let mut items = 0;
    splitter.push(b"{\"items\":[", &mut |_| items += 1).expect("a list");
    for _ in 0..4 {
        splitter.push(b"\"", &mut |_| items += 1).expect("a string begins");
        for _ in 0..MAX_OBJECT / piece.len() - 1 {
            splitter.push(&piece, &mut |_| items += 1).expect("within the bound");
        }
        splitter.push(b"\",", &mut |_| items += 1).expect("and ends");
    }
    assert_eq!(items, 4);
    let mut splitter = Splitter::stream();
    splitter.push(b"{\"a\":\"", &mut |_| ()).expect("an object begins");
    let pushes = (0..=MAX_OBJECT / piece.len()).map(|_| splitter.push(&piece, &mut |_| ()));
    assert_eq!(pushes.filter_map(Result::err).next(), Some(SplitError::TooLarge));
}

#[test]
fn a_member_beside_the_items_is_bounded_more_closely() {
    let text = format!(r#"{{"metadata":"{}","items":[]}}"#, "x".repeat(64 << 10));
    refused(Splitter::list, &text, SplitError::TooLarge);
}

/// JSON values as texts.
fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f32>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("text")),
    ];
    scalar.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(" , "))),
            prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|all| {
                let pairs = all
                    .iter()
                    .map(|(name, value)| format!("{}:{value}", serde_json::to_string(name).expect("text")));
                format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// The text in pieces that end at these positions.
fn pieces<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    ends.push(text.len());
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter().map(|end| &text[std::mem::replace(&mut start, end)..end]).collect()
}

proptest! {
    #[test]
    fn any_list_in_any_pieces_yields_its_items(
        items in prop::collection::vec(value(), 0..8),
        before in value(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let text = format!(r#"{{"x":{before},"items":[{}],"metadata":{{}}}}"#, items.join(","));
        let (found, end) = cut(Splitter::list(), pieces(text.as_bytes(), &cuts));
        prop_assert_eq!(found, items);
        let members = end.expect("a list");
        prop_assert_eq!((members.items, members.metadata), (true, b"{}".to_vec()));
    }

    #[test]
    fn any_bytes_in_any_pieces_do_no_harm(
        bytes in prop::collection::vec(prop_oneof![
            any::<u8>(),
            prop::sample::select(br#"{}[]",:\ x1{"items"#.to_vec()),
        ], 0..200),
        prefix in prop::sample::select(vec!["", "{", r#"{"items":["#, r#"{"items":[{"#, r#"{"a":"#]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let text = [prefix.as_bytes(), &bytes].concat();
        for new in [Splitter::list, Splitter::stream] {
            let whole = cut(new(), [&text[..]]);
            prop_assert_eq!(cut(new(), pieces(&text, &cuts)), whole);
        }
    }
}
