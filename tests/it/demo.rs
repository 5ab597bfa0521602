//! `millrace demo`: the verdict, as counted outside the agent.

use anyhow::{Context, Result};
use millrace_tests::agent::Gateway;

#[test]
fn the_demo_misses_nothing_and_finds_its_fault() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let gateway = Gateway::new(directory.path());
    let verdict = gateway.json(&["demo", "--seconds", "20"])?;
    let number = |key: &str| {
        verdict[key]
            .as_u64()
            .with_context(|| format!("{key} in {verdict}"))
    };
    assert!(number("served")? > 0, "{verdict}");
    assert_eq!(number("missing")?, 0, "{verdict}");
    assert_eq!(number("delivered")?, number("served")?, "{verdict}");
    assert!(number("broker_cut_ms")? > 0, "{verdict}");
    number("duplicated")?;
    let events = &verdict["events"];
    let begun = events.as_array().map_or_else(
        || events.as_u64().unwrap_or_default(),
        |rows| rows.len() as u64,
    );
    assert!(begun >= 1, "{verdict}");
    let left: Vec<_> = std::fs::read_dir(directory.path())?.collect();
    assert!(left.is_empty(), "the demo left {left:?}");
    Ok(())
}
