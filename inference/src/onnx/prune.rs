//! What of a graph the outputs need: the rest neither has to run nor has to be supported.
//!
//! Exporters add outputs that nobody asks for here, such as labels that are texts, or probabilities in a dictionary.

use std::collections::HashSet;

use tract_onnx::pb;

/// Keeps the outputs of these names, and the nodes and weights that they hang on.
pub(super) fn prune(graph: &mut pb::GraphProto, outputs: &[&str]) {
    graph
        .output
        .retain(|output| outputs.contains(&output.name.as_str()));
    let mut needed: HashSet<String> = outputs.iter().map(|name| (*name).to_owned()).collect();
    let mut keeps = vec![false; graph.node.len()];
    // From behind, as nodes are sorted by the standard; again where a file has them in another order.
    loop {
        let before = needed.len();
        for (node, keeps) in graph.node.iter().zip(&mut keeps).rev() {
            if !*keeps && node.output.iter().any(|name| needed.contains(name)) {
                *keeps = true;
                uses(node, 0, &mut needed);
            }
        }
        if needed.len() == before {
            break;
        }
    }
    let mut keeps = keeps.into_iter();
    graph.node.retain(|_| keeps.next().unwrap_or(true));
    graph
        .initializer
        .retain(|tensor| needed.contains(&tensor.name));
}

/// Graphs within graphs that are deeper are refused later.
const DEPTH_MAX: usize = 16;

/// The names that a node asks for, itself or in inner graphs.
fn uses(node: &pb::NodeProto, depth: usize, needed: &mut HashSet<String>) {
    needed.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
    if depth == DEPTH_MAX {
        return;
    }
    for graph in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
        needed.extend(graph.output.iter().map(|output| output.name.clone()));
        for inner in &graph.node {
            uses(inner, depth + 1, needed);
        }
    }
}
