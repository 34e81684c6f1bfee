//! Objects as typed lists and watches send them, and the fingerprints of their uids.

use edgemesh_api::{Kind, Object, ObjectMeta, Uid, decode_item, decode_value, label};

/// Decodes an object of a kind; its key, or what is wrong.
#[track_caller]
fn check(kind: Kind, json: &str, expected: &str) {
    let told = match decode_item(kind, json.as_bytes()) {
        Ok(object) => {
            assert_eq!(object.kind(), kind);
            object.key().to_string()
        }
        Err(error) => format!("! {error}"),
    };
    assert_eq!(told, expected, "{json}");
}

#[test]
fn ke_4086_the_kind_is_what_was_asked_for_whatever_the_object_says() {
    for words in [
        "",
        r#""kind":"Endpointslic","apiVersion":"discovery.k8s.io/v1","#,
        r#""kind":"Pod","apiVersion":"","#,
        r#""kind":null,"apiVersion":null,"#,
    ] {
        for kind in Kind::ALL {
            check(kind, &format!(r#"{{{words}"metadata":{{"name":"a","namespace":"x"}}}}"#), "x/a");
        }
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    check(Kind::Service, "{}", "! Service: metadata.name is missing");
    check(Kind::Service, r#"{"metadata":{"name":""}}"#, "! Service: metadata.name is missing");
    check(Kind::Node, "null", "! Node: invalid type: null, expected struct Node at line 1 column 4");
    check(
        Kind::Pod,
        "[1]",
        "! Pod: invalid type: integer `1`, expected struct ObjectMeta at line 1 column 2",
    );
    check(Kind::Service, "{", "! Service: EOF while parsing an object at line 1 column 1");
    check(
        Kind::Service,
        r#"{"metadata":{"name":"a"},"spec":{"ports":[{"port":70000}]}}"#,
        "! Service: invalid value: integer `70000`, expected u16 at line 1 column 55",
    );
}

#[test]
fn only_annotations_with_a_meaning_stay_by_either_way_of_decoding() {
    let json = r#"{"kind":"Endpoints","apiVersion":"v1","metadata":{"name":"a","annotations":{"edgemesh.kubeedge.io/peer-id":"12D3","endpoints.kubernetes.io/over-capacity":"truncated","kubectl.kubernetes.io/last-applied-configuration":"{}"}}}"#;
    let value = serde_json::from_str(json).expect("JSON");
    let item = decode_item(Kind::Endpoints, json.as_bytes()).expect("an object");
    assert_eq!(decode_value(value).as_ref(), Ok(&item));
    let kept: Vec<&str> = item.metadata().annotations.keys().map(|name| &**name).collect();
    assert_eq!(kept, [label::PEER_ID, label::OVER_CAPACITY]);
    assert_eq!(item.metadata().annotation(label::OVER_CAPACITY), Some("truncated"));
}

fn uid(json: &str) -> Uid {
    let Ok(Object::Service(service)) =
        decode_item(Kind::Service, format!(r#"{{"metadata":{{"name":"a"{json}}}}}"#).as_bytes())
    else {
        panic!("{json}")
    };
    service.metadata.uid
}

#[test]
fn uids_are_the_same_when_their_texts_are() {
    let text = r#","uid":"2f3a9c1e-0d52-4f5b-9c6b-6f2f0a1d7e11""#;
    assert_eq!(uid(text), uid(text));
    assert_eq!(uid(text), Uid::of("2f3a9c1e-0d52-4f5b-9c6b-6f2f0a1d7e11"));
    assert_ne!(uid(text), uid(r#","uid":"2f3a9c1e-0d52-4f5b-9c6b-6f2f0a1d7e12""#));
    assert_eq!(uid(r#","uid":"a\u002db""#), Uid::of("a-b"), "escaped texts too");
    for none in ["", r#","uid":"""#, r#","uid":null"#] {
        assert!(uid(none).is_none(), "{none}");
    }
    assert!(!uid(text).is_none());
}

#[test]
fn the_fingerprint_is_of_64_bits_as_fnv_defines_it() {
    // The published test vectors of FNV-1a (draft-eastlake-fnv, appendix C).
    for (text, hash) in
        [("a", "#af63dc4c8601ec8c"), ("foobar", "#85944171f73967e8"), ("b", "#af63df4c8601f1a5")]
    {
        assert_eq!(serde_json::to_string(&Uid::of(text)).expect("text"), format!("\"{hash}\""));
    }
}

#[test]
fn what_the_journal_stores_of_a_uid_is_the_uid() {
    for text in ["a", "2f3a9c1e-0d52-4f5b-9c6b-6f2f0a1d7e11", "#", "#zz", "#12345678901234567"] {
        let metadata = ObjectMeta { name: "a".into(), uid: Uid::of(text), ..ObjectMeta::default() };
        let stored = serde_json::to_string(&metadata).expect("text");
        let again: ObjectMeta = serde_json::from_str(&stored).expect("metadata");
        assert_eq!(again, metadata, "{stored}");
        assert!(!again.uid.is_none());
    }
    let none =
        serde_json::to_string(&ObjectMeta { name: "a".into(), ..ObjectMeta::default() }).expect("text");
    assert_eq!(none, r#"{"namespace":"","name":"a"}"#);
}
