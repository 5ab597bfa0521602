//! `millrace browse`: the nodes of an OPC UA server, for people or as tags.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};

use super::client::block_on;
use super::opcua::{Login, answer};
use super::table::Table;
use super::{Failure, Global, output, show};
use crate::report::{NodeTree, OpcuaQuestion};

/// Longest value in the tree; `millrace read` shows all of it.
const VALUE_COLUMNS: usize = 40;

/// Walk the nodes of an OPC UA server
///
/// Prints each node below the other with type, access, value and address. The server is an address, or a device of the
/// running agent, whose login is used then. What the server tells about itself (the node Server) is walked only when it
/// is asked for: `millrace browse opc.tcp://HOST i=2253`.
#[derive(Debug, Args)]
pub(crate) struct BrowseArgs {
    /// `opc.tcp://HOST:PORT[/PATH]`, or a device of the running agent
    server: String,
    /// From this node on, for example 'nsu=http://vendor.example/plant;s=Line1' [default: Objects]
    node: Option<String>,
    /// How many levels below it
    #[arg(long, value_name = "N", default_value_t = 20)]
    depth: usize,
    /// How many nodes at most
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    max: usize,
    /// Leave the values unread
    #[arg(long)]
    no_values: bool,
    /// Print the variables as a CSV of tags, for `tags_file` of a device
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    login: Login,
    /// How long the server may take for each answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl BrowseArgs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        if self.csv && global.json {
            return Err(Failure::usage("--csv and --json are two ways to print").into());
        }
        let tree = block_on(self.walk(global))?;
        if global.json {
            output::json(&tree)?;
        } else if self.csv {
            output::bytes(&tags(&tree)?)?;
        } else {
            output::text(&render(&tree))?;
        }
        for said in remarks(&tree) {
            eprintln!("{said}");
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn walk(&self, global: &Global) -> anyhow::Result<NodeTree> {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let spinner = ProgressBar::with_draw_target(None, target);
        spinner.set_message("connecting");
        let question = OpcuaQuestion::Browse {
            node: self.node.clone(),
            depth: self.depth,
            max: self.max,
            // Units are values.
            values: !self.no_values,
        };
        let progress = |nodes: usize| {
            spinner.set_message(format!("{} nodes", show::count(nodes as u64)));
            spinner.tick();
        };
        let answered = answer(
            &self.server,
            &self.login,
            self.timeout,
            question,
            global,
            progress,
        );
        let tree = answered.await;
        spinner.finish_and_clear();
        tree
    }
}

fn render(tree: &NodeTree) -> String {
    let mut table = Table::new(["NODE", "TYPE", "ACCESS", "VALUE", "ADDRESS"]);
    for node in &tree.nodes {
        let mut name = "  ".repeat(node.depth);
        name.push_str(&printable(&node.display_name));
        let value = match (&node.value, &node.bad) {
            (Some(value), _) => short(&printable(&show::value(value))),
            (None, Some(bad)) => bad.clone(),
            (None, None) => String::new(),
        };
        let value = match &node.unit {
            Some(unit) => format!("{value} {}", printable(unit)),
            None => value,
        };
        table.row([
            name,
            node.data_type.clone().unwrap_or_else(|| node.class.clone()),
            node.access.clone().unwrap_or_default(),
            value,
            printable(&node.address),
        ]);
    }
    table.render("")
}

/// Whatever a server says must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(VALUE_COLUMNS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn remarks(tree: &NodeTree) -> Vec<String> {
    let mut said = Vec::new();
    if tree.cut {
        let count = show::count(tree.nodes.len() as u64);
        said.push(format!(
            "these are {count} nodes and there are more; --max and --depth bound the walk"
        ));
    }
    for (address, why) in &tree.refused {
        said.push(format!("what is below {address} was refused: {why}"));
    }
    said
}

/// Each variable as a tag, named by the way to it; properties describe and are none.
fn tags(tree: &NodeTree) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["name", "address", "unit"])?;
    let mut way: Vec<String> = Vec::new();
    let mut taken = HashSet::new();
    for node in &tree.nodes {
        way.truncate(node.depth.saturating_sub(1));
        if node.depth > 0 {
            way.push(part(&node.browse_name));
        }
        if node.class != "variable" || node.property {
            continue;
        }
        let plain = match way.is_empty() {
            true => part(&node.browse_name),
            false => way.join("/"),
        };
        let name = unique(plain, &mut taken);
        let unit = node.unit.as_deref().unwrap_or_default();
        writer.write_record([&name, &node.address, unit])?;
    }
    Ok(writer.into_inner()?)
}

/// A browse name as a part of a tag's name: the namespace goes, and what names cannot have becomes `_`.
fn part(browse_name: &str) -> String {
    let bare = match browse_name.split_once(':') {
        Some((index, name)) if index.parse::<u16>().is_ok() => name,
        _ => browse_name,
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = bare
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    match name.as_str() {
        "" | "." | ".." => "_".to_owned(),
        _ => name,
    }
}

/// Names end before they are too long, from the front: what is nearest to the node says most.
fn unique(name: String, taken: &mut HashSet<String>) -> String {
    const ROOM_FOR_A_NUMBER: usize = 8;
    let most = crate::config::NAME_BYTES_MAX - ROOM_FOR_A_NUMBER;
    let mut name = name;
    while name.len() > most {
        name = match name.split_once('/') {
            Some((_, rest)) => rest.to_owned(),
            None => name[name.len() - most..].to_owned(),
        };
    }
    let mut free = name.clone();
    let mut count = 2;
    while !taken.insert(free.clone()) {
        free = name.clone();
        let _ = write!(free, "_{count}");
        count += 1;
    }
    free
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::NodeRow;

    fn node(depth: usize, name: &str, class: &str) -> NodeRow {
        NodeRow {
            depth,
            address: format!("nsu=urn:plant;s={name}"),
            browse_name: format!("2:{name}"),
            display_name: name.to_owned(),
            class: class.to_owned(),
            ..NodeRow::default()
        }
    }

    fn variable(depth: usize, name: &str, value: serde_json::Value) -> NodeRow {
        NodeRow {
            data_type: Some("Double".to_owned()),
            access: Some("rw".to_owned()),
            value: Some(value),
            ..node(depth, name, "variable")
        }
    }

    fn tree() -> NodeTree {
        let mut level = variable(2, "Level", json!(4.25));
        level.unit = Some("m".to_owned());
        let mut range = variable(3, "EURange", json!({"Low": 0.0, "High": 10.0}));
        range.property = true;
        let mut gone = variable(1, "Füllstand, alt", json!(null));
        (gone.value, gone.bad) = (None, Some("BadNodeIdUnknown".to_owned()));
        NodeTree {
            nodes: vec![
                node(0, "Plant", "object"),
                node(1, "Tank", "object"),
                level,
                range,
                variable(
                    2,
                    "Level",
                    json!("steer \u{1b}[2J the terminal, at some length of text"),
                ),
                node(1, "mix", "method"),
                gone,
            ],
            cut: true,
            refused: vec![("i=99".to_owned(), "BadUserAccessDenied".to_owned())],
        }
    }

    #[test]
    fn a_tree_has_types_values_and_addresses() {
        insta::assert_snapshot!(render(&tree()));
        insta::assert_snapshot!(remarks(&tree()).join("\n"));
    }

    #[test]
    fn a_subtree_becomes_tags() {
        let text = tags(&tree()).expect("CSV");
        insta::assert_snapshot!(String::from_utf8(text).expect("text"));
    }

    #[test]
    fn names_are_short_enough_and_given_once() {
        let mut taken = HashSet::new();
        let long = format!("{}/{}", "a".repeat(100), "b".repeat(60));
        assert_eq!(unique(long, &mut taken), "b".repeat(60));
        assert_eq!(unique("x".repeat(300), &mut taken).len(), 120);
        assert_eq!(unique("a/b".into(), &mut taken), "a/b");
        assert_eq!(unique("a/b".into(), &mut taken), "a/b_2");
    }
}
