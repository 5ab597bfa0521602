//! The reference page of the configuration, rendered from the tables that the reader uses.

use std::fmt::Write;

use super::bootstrap::{BOOTSTRAP, CLAIM};
use super::buffer::BUFFER;
use super::device::DEVICE;
use super::gateway::GATEWAY;
use super::keys::{Absent, KeyDoc, Kind, SectionDoc};
use super::line::LINE;
use super::local::LOCAL;
use super::model::MODEL;
use super::tag::TAG;
use super::units::{show_duration, show_size};
use super::uplink::UPLINK;

/// Every table and what it is for, in the order of the page.
const SECTIONS: [(&SectionDoc, &str); 10] = [
    (&GATEWAY, "Who this gateway is and where it keeps its data."),
    (
        &BUFFER,
        "How much the store-and-forward buffer keeps, and how safely.",
    ),
    (
        &LINE,
        "A serial bus. Its devices have `driver = \"modbus-rtu\"` and its name as their address; one arbiter \
          gives them turns.",
    ),
    (
        &DEVICE,
        "One addressable thing: a Modbus unit or an OPC UA server.",
    ),
    (
        &TAG,
        "A point of the device above it. A `tags_file` is a CSV with these keys as its columns.",
    ),
    (&MODEL, "A model bundle that scores windows of tags."),
    (
        &UPLINK,
        "A connection to a cloud core over MQTT; up to eight, each with its own place in the store. One that is \
         removed or renamed gives up its place.",
    ),
    (
        &BOOTSTRAP,
        "The first contact with a cloud core: a key in, credentials and configuration out. Read from \
          local files only.",
    ),
    (
        &CLAIM,
        "A file of its own, not part of the configuration: what an installer brings instead of `[bootstrap]`. These keys \
         stand at its top; see [install](install.md).",
    ),
    (
        &LOCAL,
        "What the cloud may do. Read from local files only: in the cloud's configuration it is ignored.",
    ),
];

const INTRODUCTION: &str = "\
# Configuration

Rendered from the program's own tables of keys; a test keeps it so.

Millrace reads TOML: `/etc/millrace/millrace.toml` and `/etc/millrace/conf.d/*.toml` in name order. `--config`
names another file, or a directory with `millrace.toml` and `conf.d`, or with any `*.toml`; `conf.d` goes with a main
file of the name `millrace.toml` only. Relative paths are relative to the file that names them.

`millrace check` reports every problem at once, each with its file, line and column, and exits with 2; notes
that stop nothing are warnings. An unknown key is an error that names the nearest known one.

**Layers.** Built-in defaults < cloud (`<data_dir>/config/cloud.toml`) < local files. `[gateway]` and `[buffer]` merge
by key, and of two local files the later one wins. `[[line]]`, `[[device]]`, `[[model]]` and `[[uplink]]` merge by name: of a local
and a cloud table of one name the local one holds, and that is reported. `[bootstrap]` and `[local]` are ignored in the
cloud layer. The cloud layer may name only files below the data directory.

**Units.** Durations are strings: `100ms`, `1s`, `10m`, `24h`, `30d`. Sizes too: `512MB` (powers of ten), `4GiB`
(powers of two).

**Secrets** are never written here. A key that ends in `_file` and holds a secret names a file of mode 0600,
`credential:NAME` (a systemd credential) or `env:NAME` (an environment variable).

**Names** have letters, digits, `.`, `_` and `-`; devices, models and tags may be divided by `/`. Devices and models share
one space of names. The full name of a tag is `device/tag`.
";

/// The page as Markdown.
pub(crate) fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (section, doc) in SECTIONS {
        // Writing into a String cannot fail.
        let _ = write!(page, "\n## `{}`\n\n{}\n\n", section.heading, doc);
        page.push_str("| key | takes | where it is not written | meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} |",
                key.name,
                cell(&takes(&key.kind)),
                cell(&absent(key.default)),
                cell(&meaning(key))
            );
        }
    }
    page
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn takes(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Integer { min, max } => format!("whole number, {min} to {max}"),
        Kind::Number => "number".to_owned(),
        Kind::Duration { min, max } => {
            format!(
                "duration, {} to {}",
                show_duration(*min),
                show_duration(*max)
            )
        }
        Kind::Size { min, max } => format!("size, {} to {}", show_size(*min), show_size(*max)),
        Kind::Choice(words) => choice(words),
        Kind::File => "path".to_owned(),
        Kind::Secret => "path, `env:NAME` or `credential:NAME`".to_owned(),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Form(words) => (*words).to_owned(),
        Kind::Later => "nothing yet: refused in this version".to_owned(),
        Kind::Tables => "tables".to_owned(),
    }
}

fn choice(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

fn absent(absent: Absent) -> String {
    match absent {
        Absent::Required => "**must be written**".to_owned(),
        Absent::Nothing => "nothing".to_owned(),
        Absent::Default(value) => format!("`{value}`"),
        Absent::Means(words) => words.to_owned(),
    }
}

fn meaning(key: &KeyDoc) -> String {
    match key.only {
        [] => key.doc.to_owned(),
        drivers => format!("({}) {}", drivers.join(", "), key.doc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

    /// `MILLRACE_WRITE_DOCS=1 cargo test -p millrace-agent reference` writes the page anew.
    #[test]
    fn page_is_what_the_reader_knows() {
        if std::env::var_os("MILLRACE_WRITE_DOCS").is_some() {
            std::fs::write(PAGE, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(PAGE).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/configuration.md is stale: run MILLRACE_WRITE_DOCS=1 cargo test -p millrace-agent reference"
        );
    }

    #[test]
    fn every_default_can_be_read() {
        for key in SECTIONS.iter().flat_map(|(section, _)| section.keys) {
            let Absent::Default(text) = key.default else {
                continue;
            };
            let reads = match &key.kind {
                Kind::Duration { min, max } => super::super::units::parse_duration(text)
                    .is_some_and(|duration| (*min..=*max).contains(&duration)),
                Kind::Size { min, max } => super::super::units::parse_size(text)
                    .is_some_and(|size| (*min..=*max).contains(&size)),
                Kind::Integer { min, max } => {
                    text.parse().is_ok_and(|n: i64| (*min..=*max).contains(&n))
                }
                Kind::Number => text.parse::<f64>().is_ok(),
                Kind::Bool => text.parse::<bool>().is_ok(),
                Kind::Choice(words) => words.contains(&text),
                _ => false,
            };
            assert!(reads, "{} = {text}", key.name);
        }
    }
}
