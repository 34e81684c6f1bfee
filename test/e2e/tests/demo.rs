//! The one big scenario: everything the demo shows works.

use std::process::Command;

use edgemesh_e2e::program;
use serde_json::Value;

#[test]
fn every_row_of_the_demo_is_ok() {
    let output =
        Command::new(program("edgemesh")).args(["lab", "demo", "--json"]).output().expect("the demo starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let table: Value = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{}: {error}\n{said}{errors}", output.status));
    let rows = table["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed: Vec<&Value> = rows.iter().filter(|row| row["ok"] != true).collect();
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let ok = if row["ok"] == true { "ok" } else { "FAILED" };
        eprintln!("{:<30} {:<24} {:<10} {ok:<7} {}", word("case"), word("name"), word("path"), word("note"));
    }
    assert!(failed.is_empty(), "{} of {} rows failed\n{errors}", failed.len(), rows.len());
    assert!(output.status.success() && !rows.is_empty(), "{}\n{errors}", output.status);
}
