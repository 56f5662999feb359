//! The house: which crate may use what, and generated files that must be true.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::platform::project;

/// Dependencies that only one crate of ours may have.
const ONLY_IN: [(&str, &str); 3] =
    [("bollard", "mini-docker"), ("rusqlite", "mini-controller"), ("axum", "mini-controller")];
/// Which of our crates a crate may depend on.
const EDGES: [(&str, &[&str]); 11] = [
    ("mini-core", &[]),
    ("mini-api", &["mini-core"]),
    ("mini-controller", &["mini-core", "mini-api"]),
    ("mini-docker", &["mini-core"]),
    ("mini-proxy", &["mini-core"]),
    ("mini", &["mini-core", "mini-api"]),
    ("minid", &["mini-core", "mini-api", "mini-controller", "mini-docker", "mini-proxy"]),
    ("mini-static", &[]),
    ("mini-fixture", &[]),
    ("mini-bench", &["mini-core", "mini-api", "mini-controller"]),
    ("mini-proxy-bench", &["mini-core"]),
];

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let said = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(project())
        .output()
        .expect("cargo runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).expect("JSON")
}

/// Each crate of ours with the names of its ordinary dependencies.
fn ours(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap())
        .collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|p| members.contains(p["id"].as_str().unwrap()))
        .map(|p| {
            let dependencies = p["dependencies"].as_array().unwrap().iter();
            let ordinary = dependencies.filter(|d| d["kind"].is_null());
            let names = ordinary.map(|d| d["name"].as_str().unwrap().to_owned()).collect();
            (p["name"].as_str().unwrap().to_owned(), names)
        })
        .collect()
}

#[test]
fn no_crate_depends_on_what_it_must_not() {
    let ours = ours(&metadata());
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    for (name, dependencies) in &ours {
        let allowed = allowed.get(name.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{name} is not in the house's plan"));
        for dependency in dependencies {
            if ours.contains_key(dependency) {
                assert!(allowed.contains(&dependency.as_str()), "{name} -> {dependency}");
            }
            for (library, home) in ONLY_IN {
                assert!(dependency != library || name == home, "{name} -> {library}");
            }
        }
    }
    for library in ["tokio", "hyper", "http", "rustix", "getrandom"] {
        assert!(
            !ours["mini-core"].contains(library),
            "mini-core -> {library}: the domain does no I/O"
        );
    }
    for library in ["rusqlite", "bollard", "axum", "mini-controller", "mini-proxy", "mini-docker"] {
        assert!(
            !ours["mini"].contains(library),
            "mini -> {library}: the CLI holds nothing of the server"
        );
    }
}

#[test]
fn the_checked_in_api_description_is_what_the_handlers_say() {
    let path = project().join("docs/openapi.json");
    let checked_in: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("docs/openapi.json"))
            .expect("JSON");
    let said =
        Command::new(env!("CARGO_BIN_EXE_minid")).arg("openapi").output().expect("minid runs");
    let generated: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(checked_in, generated, "`make openapi` writes it anew");
}
