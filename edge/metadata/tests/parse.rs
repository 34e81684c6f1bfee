//! Manifests in, objects and problems with their lines out.

use std::fmt::Write;

use edgemesh_metadata::parse_manifests;

/// `Kind namespace/name` per object; `line object: message` per problem, with `!` where the text is broken.
#[track_caller]
fn check(name: &str, text: &str, expected: &str) {
    let (objects, problems) = parse_manifests(name, text.as_bytes());
    let mut out = String::new();
    for object in objects {
        writeln!(out, "{} {}", object.kind(), object.key()).expect("text");
    }
    for problem in problems {
        let mark = if problem.broken { "!" } else { "" };
        writeln!(out, "{mark}{} {}: {}", problem.line, problem.object, problem.message).expect("text");
    }
    assert_eq!(out.trim_end(), expected.trim(), "\n--- actual ---\n{out}");
}

#[test]
fn documents_lists_and_unknown_kinds_with_their_lines() {
    check(
        "a.yaml",
        r#"# a comment

apiVersion: v1
kind: Service
metadata: {name: a, uid: ignored}
spec: {clusterIP: 10.96.0.1, unknownField: [1, 2], ports: null}
--- # the next
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
- apiVersion: v1
  kind: ServiceList
  items:
  - {metadata: {name: b}}
...
%YAML 1.2
---
{apiVersion: v1, kind: NodeList, items: null}
---
just text
--- {apiVersion: v1, kind: Node, metadata: {name: n}}
"#,
        r#"
Service a
Namespace shop
Service b
Node n
3 Service a: fields that the API does not define: spec.unknownField
8 Deployment shop/web: kind apps/v1/Deployment is not read by the mesh
13 ConfigMap c: kind v1/ConfigMap is not read by the mesh
27 document: the document has no `kind`
"#,
    );
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    check(
        "a.yml",
        r#"apiVersion: v1
kind: Service
metadata: {name: a
---
{apiVersion: v1, kind: Service, metadata: {name: b}}
---
apiVersion: v1
kind: Service
metadata:
  name: c
  name: d
---
{apiVersion: v1, kind: Service, metadata: {name: e}, spec: {ports: [{port: "80"}]}}
---
{apiVersion: v1, kind: Service, metadata: {}}
---
{apiVersion: v1, kind: Service, metadata: {name: f}}
"#,
        r#"
Service b
Service f
!4 document: is no YAML: did not find expected ',' or '}', while parsing a flow mapping
!10 document: is no YAML: metadata: the key "name" is there twice
!13 Service e: invalid type: string "80", expected u16
!15 Service: metadata.name is missing
"#,
    );
}

#[test]
fn json_of_one_or_more_values() {
    check(
        "a.json",
        "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"a\"}}\n{\"apiVersion\":\"v1\",\n\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\"}}\n\n{\"kind\": \"Secret\",\"metadata\":{\"name\":\"s\"}}\n{\"kind\":",
        r#"
Service a
Pod p
5 Secret s: kind /Secret of type "" is not read by the mesh
!6 document: is no JSON: EOF while parsing a value
"#,
    );
}

#[test]
fn anchors_merge_keys_and_tags_are_understood() {
    let text = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: p, labels: &labels {app: web, tier: front}}
- apiVersion: v1
  kind: Service
  metadata: {name: !ours s}
  spec:
    selector:
      <<: *labels
      tier: back
"#;
    let (objects, problems) = parse_manifests("a.yaml", text.as_bytes());
    assert_eq!(problems, []);
    let edgemesh_api::Object::Service(service) = &objects[1] else { panic!("a Service") };
    assert_eq!(&*service.spec.selector["app"], "web");
    assert_eq!(&*service.spec.selector["tier"], "back");
}

#[test]
fn alias_bombs_are_refused() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{items}]").expect("text");
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 100_000].join(","));
    for bomb in [laughs, long] {
        let (objects, problems) = parse_manifests("a.yaml", bomb.as_bytes());
        assert!(objects.is_empty());
        assert!(problems[0].broken && problems[0].message.contains("repe"), "{problems:?}");
    }
}

#[test]
fn dense_texts_without_aliases_are_no_bombs() {
    for text in [
        format!("[{}1]", "1,".repeat(100_000)),
        format!("{{{}}}", (0..50_000).fold(String::new(), |text, number| text + &format!("{number:x}g,"))),
        "-\n".repeat(100_000),
        "- {}\n".repeat(100_000),
    ] {
        let (_, problems) = parse_manifests("a.yaml", text.as_bytes());
        assert_eq!(problems[0].message, "the document has no `kind`");
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (name, open) in [("a.yaml", "["), ("a.yaml", "- "), ("a.json", "["), ("a.json", "{\"a\":")] {
        let (objects, problems) = parse_manifests(name, open.repeat(10_000).as_bytes());
        assert!(objects.is_empty());
        assert!(problems[0].broken, "{problems:?}");
    }
}

#[test]
fn any_cut_of_a_manifest_is_safe() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ä"}}]}
---
apiVersion: v1
kind: Service
metadata: {name: &n "s", labels: {a: *n, b: "\x41"}}
spec:
  clusterIP: >-
    10.96.0.1
"#;
    let whole = parse_manifests("a.yaml", text.as_bytes()).0.len();
    assert_eq!(whole, 2);
    for cut in 0..text.len() {
        for name in ["a.yaml", "a.json"] {
            assert!(parse_manifests(name, &text.as_bytes()[..cut]).0.len() <= whole);
            let mut flipped = text.as_bytes().to_vec();
            flipped[cut] ^= 1 << (cut % 8);
            parse_manifests(name, &flipped);
        }
    }
}

#[test]
fn problems_are_bounded() {
    let text = "---\nkind: Foreign\n".repeat(10_000) + "---\n[";
    let (_, problems) = parse_manifests("a.yaml", text.as_bytes());
    assert!(problems.len() < 300);
    assert!(problems.iter().any(|problem| problem.broken), "the broken end is known");
}

#[test]
fn a_large_document_is_refused_and_the_next_is_read() {
    let large = format!(
        "a: [{}1]\n---\n{{apiVersion: v1, kind: Node, metadata: {{name: n}}}}\n",
        "1,".repeat(2 << 20)
    );
    let (objects, problems) = parse_manifests("a.yaml", large.as_bytes());
    assert_eq!((objects.len(), problems.len()), (1, 1));
    assert!(problems[0].broken && problems[0].message.contains("split it"), "{problems:?}");
}
