//! Which operators a model may use.
//!
//! An allow list, because tract accepts more than it computes rightly: quantised graphs that give other
//! numbers, a tree-ensemble evaluator that trusts the indexes of the file, random numbers. What is not
//! on the list is refused by name, with the export option that avoids it.

use std::collections::BTreeMap;
use std::fmt;

use tract_onnx::pb;

/// Graphs within graphs (`If`, `Scan`); deeper nesting comes from no exporter.
const GRAPH_DEPTH_MAX: usize = 8;

/// Operators of the standard domain that run and compute what they should. Sorted.
#[rustfmt::skip] // one a line would be a page of names
const SUPPORTED: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat",
    "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace",
    "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten",
    "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish",
    "Hardmax", "Identity", "If", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max",
    "MaxPool", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pad",
    "Pow", "RNN", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape",
    "Resize", "Round", "Scan", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid",
    "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth",
    "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK",
    "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
];

/// Operators of `ai.onnx.ml`, all our own. Sorted.
#[rustfmt::skip]
const CLASSIC: &[&str] = &[
    "ArrayFeatureExtractor", "Binarizer", "Imputer", "LabelEncoder", "LinearClassifier",
    "LinearRegressor", "Normalizer", "SVMClassifier", "SVMRegressor", "Scaler",
    "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "ZipMap",
];

/// Whether an operator runs here.
fn is_supported(domain: &str, operator: &str) -> bool {
    match domain {
        "" | "ai.onnx" => SUPPORTED.binary_search(&operator).is_ok(),
        "ai.onnx.ml" => CLASSIC.binary_search(&operator).is_ok(),
        "com.microsoft" => operator == "CDist",
        _ => false,
    }
}

/// An operator that a model uses and that does not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedOperator {
    /// Its name, with its domain where that is not the standard one.
    pub operator: String,
    /// The first node that uses it.
    pub node: String,
    /// How the model can be exported without it.
    pub hint: &'static str,
}

impl fmt::Display for RefusedOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (node {:?})\n  hint: {}",
            self.operator, self.node, self.hint
        )
    }
}

/// Every operator of the graph that does not run here, each once, by name.
pub(super) fn refused(graph: &pb::GraphProto) -> Vec<RefusedOperator> {
    let mut refused = BTreeMap::new();
    visit(graph, 0, &mut refused);
    refused
        .into_iter()
        .map(|(operator, (node, hint))| RefusedOperator {
            operator,
            node,
            hint,
        })
        .collect()
}

fn visit(
    graph: &pb::GraphProto,
    depth: usize,
    refused: &mut BTreeMap<String, (String, &'static str)>,
) {
    for node in &graph.node {
        let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
        if !is_supported(&node.domain, &node.op_type) {
            let operator = if standard {
                node.op_type.clone()
            } else {
                format!("{}.{}", node.domain, node.op_type)
            };
            refused
                .entry(operator)
                .or_insert_with(|| (node.name.clone(), hint(&node.domain, &node.op_type)));
        }
        for inner in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
            if depth < GRAPH_DEPTH_MAX {
                visit(inner, depth + 1, refused);
            } else {
                let hint = "graphs are nested too deep; export the model without control flow";
                refused
                    .entry(node.op_type.clone())
                    .or_insert_with(|| (node.name.clone(), hint));
            }
        }
    }
}

fn hint(domain: &str, operator: &str) -> &'static str {
    match operator {
        "OneHotEncoder" | "DictVectorizer" | "FeatureVectorizer" | "CategoryMapper"
        | "StringNormalizer" => {
            "inputs are numbers here; leave the encoding of categories and texts out of the pipeline"
        }
        "Loop" => "unroll the loop: export with a fixed number of steps",
        "Multinomial" | "RandomNormal" | "RandomNormalLike" | "RandomUniform"
        | "RandomUniformLike" | "Bernoulli" => {
            "a score must not be random: export the model in evaluation mode"
        }
        _ if is_quantised(operator) => "export the model in single precision, not quantised",
        _ if domain == "com.microsoft" => {
            "export without the optimisations of onnxruntime, which replace standard operators"
        }
        _ => "export with standard operators of opset 17",
    }
}

fn is_quantised(operator: &str) -> bool {
    [
        "QLinear",
        "QGemm",
        "Quantize",
        "Dequantize",
        "DynamicQuantize",
    ]
    .iter()
    .any(|start| operator.starts_with(start))
        || operator.ends_with("Integer")
        || operator.ends_with("NBits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(operators: &[(&str, &str)]) -> pb::GraphProto {
        pb::GraphProto {
            node: operators
                .iter()
                .map(|(domain, operator)| pb::NodeProto {
                    domain: (*domain).to_owned(),
                    op_type: (*operator).to_owned(),
                    name: format!("n_{operator}"),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn supported_is_sorted() {
        for list in [SUPPORTED, CLASSIC] {
            assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn refuses_each_unknown_operator_once_by_name() {
        let refused = refused(&graph(&[
            ("", "MatMul"),
            ("ai.onnx.ml", "Scaler"),
            ("ai.onnx.ml", "OneHotEncoder"),
            ("ai.onnx.ml", "OneHotEncoder"),
            ("", "DequantizeLinear"),
            ("com.microsoft", "FusedMatMul"),
        ]));
        let names: Vec<_> = refused.iter().map(|r| r.operator.as_str()).collect();
        assert_eq!(
            names,
            [
                "DequantizeLinear",
                "ai.onnx.ml.OneHotEncoder",
                "com.microsoft.FusedMatMul"
            ]
        );
        assert!(refused[0].hint.contains("single precision"));
        assert!(refused[1].hint.contains("categories"));
    }

    #[test]
    fn looks_into_inner_graphs() {
        let mut outer = graph(&[("", "If")]);
        outer.node[0].attribute.push(pb::AttributeProto {
            g: Some(graph(&[("", "RandomNormal")])),
            ..Default::default()
        });
        assert_eq!(refused(&outer)[0].operator, "RandomNormal");
    }
}
