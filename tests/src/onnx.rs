//! ONNX files made by hand, for models that no exporter would write.
//!
//! A file is a protocol buffer; what is written here is the little of it that the tests need.

/// A graph with one float input `window` and one float output `score`.
#[derive(Debug, Default)]
pub struct Graph {
    body: Vec<u8>,
    nodes: usize,
}

// Numbers of fields in onnx.proto3.
const MODEL_IR_VERSION: u64 = 1;
const MODEL_GRAPH: u64 = 7;
const MODEL_OPSET: u64 = 8;
const GRAPH_NODE: u64 = 1;
const GRAPH_NAME: u64 = 2;
const GRAPH_INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;

const NODE_ATTRIBUTE: u64 = 5;

const FLOAT: u64 = 1;
const INT64: u64 = 7;
const OPSET: u64 = 17;
const IR_VERSION: u64 = 8;
const ATTRIBUTE_GRAPH: u64 = 5;
const ATTRIBUTE_INTEGERS: u64 = 7;

impl Graph {
    /// Adds a node without attributes.
    #[must_use]
    pub fn node(self, operator: &str, inputs: &[&str], output: &str) -> Self {
        self.add(operator, inputs, output, &[])
    }

    /// Adds a node with a list of whole numbers for an attribute.
    #[must_use]
    pub fn node_with(
        self,
        operator: &str,
        (name, values): (&str, &[u64]),
        inputs: &[&str],
        output: &str,
    ) -> Self {
        let mut attribute = Vec::new();
        bytes(&mut attribute, 1, name.as_bytes());
        for value in values {
            number(&mut attribute, 8, *value);
        }
        number(&mut attribute, 20, ATTRIBUTE_INTEGERS);
        self.add(operator, inputs, output, &[attribute])
    }

    /// Adds the choice between two graphs, each of which gives one float `output` and may use what this one has.
    #[must_use]
    pub fn choice(self, condition: &str, yes: Graph, no: Graph, output: &str) -> Self {
        let branch = |name: &str, graph: Graph| {
            let mut body = graph.body;
            bytes(&mut body, GRAPH_NAME, name.as_bytes());
            bytes(&mut body, GRAPH_OUTPUT, &value(name, &[1]));
            let mut attribute = Vec::new();
            bytes(&mut attribute, 1, name.as_bytes());
            bytes(&mut attribute, 6, &body);
            number(&mut attribute, 20, ATTRIBUTE_GRAPH);
            attribute
        };
        let branches = [branch("then_branch", yes), branch("else_branch", no)];
        self.add("If", &[condition], output, &branches)
    }

    fn add(
        mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[Vec<u8>],
    ) -> Self {
        let mut node = Vec::new();
        for input in inputs {
            bytes(&mut node, 1, input.as_bytes());
        }
        bytes(&mut node, 2, output.as_bytes());
        bytes(&mut node, 3, format!("n{}", self.nodes).as_bytes());
        bytes(&mut node, 4, operator.as_bytes());
        for attribute in attributes {
            bytes(&mut node, NODE_ATTRIBUTE, attribute);
        }
        self.nodes += 1;
        bytes(&mut self.body, GRAPH_NODE, &node);
        self
    }

    /// Adds a constant list of whole numbers.
    #[must_use]
    pub fn integers(mut self, name: &str, values: &[i64]) -> Self {
        let raw: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.constant(name, &[values.len() as u64], INT64, &raw);
        self
    }

    /// Adds a constant that is this number everywhere.
    #[must_use]
    pub fn filled(mut self, name: &str, shape: &[u64], number: f32) -> Self {
        let count: u64 = shape.iter().product();
        let raw: Vec<u8> = (0..count).flat_map(|_| number.to_le_bytes()).collect();
        self.constant(name, shape, FLOAT, &raw);
        self
    }

    fn constant(&mut self, name: &str, shape: &[u64], kind: u64, raw: &[u8]) {
        let mut tensor = Vec::new();
        for size in shape {
            number(&mut tensor, 1, *size);
        }
        number(&mut tensor, 2, kind);
        bytes(&mut tensor, 8, name.as_bytes());
        bytes(&mut tensor, 9, raw);
        bytes(&mut self.body, GRAPH_INITIALIZER, &tensor);
    }

    /// The file, for a window of this shape.
    #[must_use]
    pub fn file(mut self, window: &[u64]) -> Vec<u8> {
        bytes(&mut self.body, GRAPH_NAME, b"test");
        bytes(&mut self.body, GRAPH_INPUT, &value("window", window));
        bytes(&mut self.body, GRAPH_OUTPUT, &value("score", &[1]));
        let mut opset = Vec::new();
        number(&mut opset, 2, OPSET);
        let mut model = Vec::new();
        number(&mut model, MODEL_IR_VERSION, IR_VERSION);
        bytes(&mut model, MODEL_GRAPH, &self.body);
        bytes(&mut model, MODEL_OPSET, &opset);
        model
    }
}

fn value(name: &str, shape: &[u64]) -> Vec<u8> {
    let mut dimensions = Vec::new();
    for size in shape {
        let mut dimension = Vec::new();
        number(&mut dimension, 1, *size);
        bytes(&mut dimensions, 1, &dimension);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, FLOAT);
    bytes(&mut tensor, 2, &dimensions);
    let mut kind = Vec::new();
    bytes(&mut kind, 1, &tensor);
    let mut value = Vec::new();
    bytes(&mut value, 1, name.as_bytes());
    bytes(&mut value, 2, &kind);
    value
}

fn number(to: &mut Vec<u8>, field: u64, value: u64) {
    variable(to, field << 3);
    variable(to, value);
}

fn bytes(to: &mut Vec<u8>, field: u64, value: &[u8]) {
    variable(to, (field << 3) | 2);
    variable(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn variable(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}
