//! The dependency direction of ARCHITECTURE.md, and what must not stand in the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use cargo_metadata::{DependencyKind, MetadataCommand};
use millrace_tests::checkout;

const MIDDLE: [&str; 4] = [
    "millrace-drivers",
    "millrace-buffer",
    "millrace-inference",
    "millrace-uplink",
];

/// What each room may import. `tags <- {drivers, buffer, inference, uplink} <- agent <- tests, bench`, `{drivers, inference} <- fuzz`.
fn permitted(room: &str) -> BTreeSet<&'static str> {
    let mut permitted = BTreeSet::new();
    if room != "millrace-tags" {
        permitted.insert("millrace-tags");
    }
    if ["millrace-agent", "millrace-tests", "millrace-bench"].contains(&room) {
        permitted.extend(MIDDLE);
    }
    if ["millrace-tests", "millrace-bench"].contains(&room) {
        permitted.insert("millrace-agent");
    }
    if room == "millrace-fuzz" {
        permitted.extend(["millrace-drivers", "millrace-inference"]);
    }
    if room == "millrace-bench" {
        // A load run starts the same processes as a test.
        permitted.insert("millrace-tests");
    }
    permitted
}

#[test]
fn imports_run_one_way() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(checkout().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()?;
    let rooms: BTreeMap<&str, _> = metadata
        .packages
        .iter()
        .map(|package| (package.name.as_str(), package))
        .collect();
    let expected: BTreeSet<&str> = MIDDLE
        .into_iter()
        .chain([
            "millrace-tags",
            "millrace-agent",
            "millrace-tests",
            "millrace-bench",
            "millrace-fuzz",
        ])
        .collect();
    assert_eq!(
        rooms.keys().copied().collect::<BTreeSet<_>>(),
        expected,
        "a room without a place in the house"
    );
    for (room, package) in rooms {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.name.starts_with("millrace-"))
        {
            assert_ne!(
                dependency.kind,
                DependencyKind::Build,
                "{room} builds with {}",
                dependency.name
            );
            assert!(
                permitted(room).contains(dependency.name.as_str()),
                "{room} must not depend on {}",
                dependency.name
            );
        }
    }
    Ok(())
}

#[test]
fn only_the_agent_reads_arguments_and_environment() -> Result<()> {
    let forbidden = [
        "std::env::args",
        "std::env::var",
        "env::args(",
        "env::var(",
        "env::var_os(",
    ];
    for room in ["tags", "drivers", "buffer", "inference", "uplink"] {
        for (path, line, text) in lines_of(&checkout().join(room).join("src"))? {
            let is_test = path.ends_with("tests.rs");
            assert!(
                is_test || !forbidden.iter().any(|word| text.contains(word)),
                "{}:{line}: only the agent reads arguments and environment: {text}",
                path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn sources_are_finished_and_know_no_machine() -> Result<()> {
    // Put together here so that this file does not contain them.
    let forbidden = [
        format!("todo{}", "!("),
        format!("unimplemented{}", "!("),
        format!("/{}/", "work"),
        format!("/{}/", "farm"),
        format!("/{}/", "root"),
        format!("/tmp/{}/", "t"),
    ];
    for room in [
        "tags",
        "drivers",
        "buffer",
        "inference",
        "uplink",
        "agent",
        "tests",
        "bench",
        "docs",
        "packaging",
    ] {
        for (path, line, text) in lines_of(&checkout().join(room))? {
            for word in &forbidden {
                assert!(
                    !text.contains(word),
                    "{}:{line} contains {word}: {text}",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// All lines of the text files below a directory.
fn lines_of(directory: &Path) -> Result<Vec<(PathBuf, usize, String)>> {
    let mut lines = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let extension = path
                .extension()
                .and_then(|extension| extension.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                let is_foreign = path.ends_with("target") || path.ends_with("node_modules");
                if extension != "egg-info" && !is_foreign {
                    open.push(path);
                }
            } else if ["rs", "toml", "md", "py", "js", "sh", "service", "conf"].contains(&extension)
            {
                let text = std::fs::read_to_string(&path)?;
                lines.extend(
                    text.lines()
                        .enumerate()
                        .map(|(at, line)| (path.clone(), at + 1, line.to_owned())),
                );
            }
        }
    }
    Ok(lines)
}

/// A path in backticks, such as `buffer/src/lib.rs`, must exist: a map with wrong names is worse than none.
#[test]
fn documents_name_files_that_exist() -> Result<()> {
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(checkout().join(document))?;
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = quoted.contains('/')
                && !quoted.contains([' ', '<', '*'])
                && !quoted.starts_with('/');
            let room = quoted.split('/').next().unwrap_or_default();
            if is_path && checkout().join(room).is_dir() && room != "target" {
                assert!(
                    checkout().join(quoted).exists(),
                    "{document} names {quoted}, which does not exist"
                );
            }
        }
    }
    Ok(())
}
