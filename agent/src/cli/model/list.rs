//! `millrace model list`: what is on the shelves.

use std::process::ExitCode;

use crate::cli::client::{Client, block_on};
use crate::cli::table::Table;
use crate::cli::{Failure, Global, output, show};
use crate::shelf::{VersionRow, versions};

/// From the running agent, else from the shelves themselves.
pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let client = Client::new(global);
    let rows: Vec<VersionRow> = match block_on(client.fetch_if_running("/v1/models"))? {
        Some(rows) => rows,
        None => {
            let loaded = crate::config::load(global.config.as_deref(), global.data_dir.as_deref())
                .map_err(|problems| Failure::usage(problems.to_string()))?;
            versions(&loaded.config).map_err(Failure::new)?
        }
    };
    if global.json {
        output::json(&rows)?;
    } else {
        output::text(&render(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(rows: &[VersionRow]) -> String {
    if rows.is_empty() {
        return "No version is on a shelf. `millrace model install` puts one there; the bundle of a [[model]] comes by itself.\n".into();
    }
    let mut table = Table::new([
        "MODEL",
        "VERSION",
        "STATE",
        "SIGNATURE",
        ">P50",
        ">P99",
        ">MEMORY",
        "DIGEST",
        "FROM",
    ]);
    for row in rows {
        let version = &row.version;
        table.row([
            row.model.clone(),
            version.version.clone(),
            row.state.clone(),
            version.signature.clone(),
            micros(version.probe.p50_us),
            micros(version.probe.p99_us),
            show::bytes(version.probe.memory_bytes),
            short(&version.digest),
            version.from.clone(),
        ]);
    }
    let mut text = table.render("");
    for row in rows {
        if let Some(problem) = &row.problem {
            let sentence = format!(
                "version {} of {} cannot run: {problem}",
                row.version.version, row.model
            );
            text.push_str(&show::bullet("! ", &sentence));
        }
    }
    text
}

/// How long a window takes: `41 µs`, `2.5 ms`.
pub(super) fn micros(us: f64) -> String {
    match us < 1e3 {
        true => format!("{us:.0} µs"),
        false => show::millis(us / 1e3),
    }
}

/// Enough of a digest to tell one from another.
pub(super) fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shelf::Version;
    use crate::shelf::examine::Probe;

    #[test]
    fn versions_in_a_table_and_problems_below() {
        let version = |number: &str, signature: &str| Version {
            digest: number.repeat(20),
            version: number.to_owned(),
            sha256: "ab".repeat(32),
            signature: signature.to_owned(),
            from: "uplink cloud".to_owned(),
            probe: Probe {
                windows: 200,
                p50_us: 41.2,
                p99_us: 260.0,
                memory_bytes: 3_500_000,
            },
        };
        let row = |version, state: &str, problem: Option<&str>| VersionRow {
            model: "pump".to_owned(),
            version,
            state: state.to_owned(),
            comparison: None,
            problem: problem.map(str::to_owned),
        };
        let rows = [
            row(
                version("1.0.0", "unsigned"),
                "previous",
                Some("1.0.0.tar does not exist"),
            ),
            row(version("1.1.0", "ed25519:0123456789abcdef"), "active", None),
        ];
        insta::assert_snapshot!(render(&rows));
    }
}
