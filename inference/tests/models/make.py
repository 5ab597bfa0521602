"""Makes the small ONNX files of the tests: one that works, and one for each way of not working.

Run with the requirements of models/requirements.txt.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
FLOAT = TensorProto.FLOAT


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def save(name, nodes, inputs, outputs, constants=None, domains=()):
    initializers = [
        numpy_helper.from_array(array, key) for key, array in (constants or {}).items()
    ]
    graph = helper.make_graph(
        [
            helper.make_node(op, ins, outs, name=f"{name}_{i}", **attributes)
            for i, (op, ins, outs, attributes) in enumerate(nodes)
        ],
        name,
        inputs,
        outputs,
        initializers,
    )
    opsets = [helper.make_opsetid("", 17)] + [helper.make_opsetid(d, 3) for d in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


WINDOW = value("window", ["N", 3, 2])
SCORE = value("score", ["N"])
CONTRIBUTION = value("contribution", ["N", 2])
MEAN_OF_ROWS = [
    ("Abs", ["window"], ["abs"], {}),
    ("ReduceMean", ["abs"], ["contribution"], {"axes": [1], "keepdims": 0}),
    ("ReduceSum", ["contribution", "axes"], ["score"], {"keepdims": 0}),
]
AXES = {"axes": np.array([1], np.int64)}

# Score: sum over the inputs of their mean magnitude.
save("magnitude", MEAN_OF_ROWS, [WINDOW], [SCORE, CONTRIBUTION], AXES)

# The same, for windows with the inputs first, and for flat windows; score: weighted by place.
WEIGHTS = {"w": np.array([1, 10, 100, 1000, 10000, 100000], np.float32).reshape(6, 1), **AXES}
FLATTEN = [
    ("Flatten", ["window"], ["flat"], {"axis": 1}),
    ("MatMul", ["flat", "w"], ["sum"], {}),
    ("Squeeze", ["sum", "axes"], ["score"], {}),
]
save("inputs_first", FLATTEN, [value("window", ["N", 2, 3])], [SCORE], WEIGHTS)
save("flat", FLATTEN[1:], [value("flat", ["N", 6])], [SCORE], WEIGHTS)

# A recurrent layer: a detector that kept its state would give the same window two scores.
rng = np.random.default_rng(7)
save(
    "recurrent",
    [
        ("Transpose", ["window"], ["steps"], {"perm": [1, 0, 2]}),
        ("LSTM", ["steps", "W", "R", "B"], ["", "h"], {"hidden_size": 4}),
        ("ReduceSum", ["h", "axes"], ["score"], {"keepdims": 0}),
    ],
    [value("window", [1, 3, 2])],
    [value("score", [1])],
    {
        "W": rng.normal(0, 1, (1, 16, 2)).astype(np.float32),
        "R": rng.normal(0, 1, (1, 16, 4)).astype(np.float32),
        "B": rng.normal(0, 1, (1, 32)).astype(np.float32),
        "axes": np.array([0, 2], np.int64),
    },
)

# Not a number for windows with a negative sum.
save(
    "root",
    [
        ("ReduceSum", ["window", "all"], ["sum"], {"keepdims": 0}),
        ("Sqrt", ["sum"], ["score"], {}),
    ],
    [WINDOW],
    [SCORE],
    {"all": np.array([1, 2], np.int64)},
)

# Operators that do not run: scikit-learn's scaler and a quantised step.
save(
    "operators",
    [
        ("Scaler", ["window"], ["scaled"], {"domain": "ai.onnx.ml", "offset": [0.0], "scale": [1.0]}),
        ("QuantizeLinear", ["scaled", "step"], ["small"], {}),
        ("DequantizeLinear", ["small", "step"], ["large"], {}),
        ("ReduceMean", ["large"], ["score"], {"axes": [1, 2], "keepdims": 0}),
    ],
    [WINDOW],
    [SCORE],
    {"step": np.array(0.1, np.float32)},
    ["ai.onnx.ml"],
)

# Contributions by row instead of by input.
save(
    "by_row",
    [
        ("ReduceMean", ["window"], ["contribution"], {"axes": [2], "keepdims": 0}),
        ("ReduceMean", ["contribution"], ["score"], {"axes": [1], "keepdims": 0}),
    ],
    [WINDOW],
    [SCORE, value("contribution", ["N", 3])],
)

# A shape that contradicts itself, which only the engine finds.
save(
    "contradiction",
    [
        ("Reshape", ["window", "shape"], ["row"], {}),
        ("ReduceMean", ["row"], ["score"], {"axes": [1], "keepdims": 0}),
    ],
    [WINDOW],
    [SCORE],
    {"shape": np.array([1, 7], np.int64)},
)

save(
    "double",
    [("ReduceMean", ["window"], ["score"], {"axes": [1, 2], "keepdims": 0})],
    [value("window", ["N", 3, 2], TensorProto.DOUBLE)],
    [value("score", ["N"], TensorProto.DOUBLE)],
)

save(
    "two_inputs",
    [
        ("Add", ["window", "other"], ["sum"], {}),
        ("ReduceMean", ["sum"], ["score"], {"axes": [1, 2], "keepdims": 0}),
    ],
    [WINDOW, value("other", ["N", 3, 2])],
    [SCORE],
)

# Weights in a file beside the model.
external = numpy_helper.from_array(np.ones((3, 2), np.float32), "weights")
external.ClearField("raw_data")
external.data_location = TensorProto.EXTERNAL
external.external_data.add(key="location", value="weights.bin")
model = helper.make_model(
    helper.make_graph(
        [
            helper.make_node("Mul", ["window", "weights"], ["product"]),
            helper.make_node("ReduceMean", ["product"], ["score"], axes=[1, 2], keepdims=0),
        ],
        "external",
        [WINDOW],
        [SCORE],
        [external],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
)
(HERE / "external.onnx").write_bytes(model.SerializeToString(deterministic=True))

# Forecasts. Each column goes on along the line through its newest two rows.
save(
    "line",
    [
        ("Transpose", ["window"], ["columns"], {"perm": [0, 2, 1]}),
        ("MatMul", ["columns", "w"], ["next"], {}),
        ("Squeeze", ["next", "last"], ["predicted"], {}),
    ],
    [WINDOW],
    [value("predicted", ["N", 2])],
    {"w": np.array([[0], [-1], [2]], np.float32), "last": np.array([2], np.int64)},
)

# A recurrent layer that predicts two rows of both columns; and golden windows of it, with what onnxruntime predicts.
save(
    "forecast",
    [
        ("Transpose", ["window"], ["steps"], {"perm": [1, 0, 2]}),
        ("GRU", ["steps", "W", "R", "B"], ["", "h"], {"hidden_size": 5, "linear_before_reset": 1}),
        ("Reshape", ["h", "flat"], ["state"], {}),
        ("Gemm", ["state", "out", "bias"], ["rows"], {}),
        ("Reshape", ["rows", "shape"], ["predicted"], {}),
    ],
    [value("window", [1, 3, 2])],
    [value("predicted", [1, 2, 2])],
    {
        "W": rng.normal(0, 0.5, (1, 15, 2)).astype(np.float32),
        "R": rng.normal(0, 0.5, (1, 15, 5)).astype(np.float32),
        "B": rng.normal(0, 0.5, (1, 30)).astype(np.float32),
        "flat": np.array([1, 5], np.int64),
        "out": rng.normal(0, 1, (5, 4)).astype(np.float32),
        "bias": rng.normal(0, 1, 4).astype(np.float32),
        "shape": np.array([1, 2, 2], np.int64),
    },
)
SIGMA = np.array([0.5, 2.0])
session = onnxruntime.InferenceSession(HERE / "forecast.onnx", providers=["CPUExecutionProvider"])
windows = []
for rows in rng.normal(0, 1, (20, 5, 2)).astype(np.float32):
    predicted = session.run(["predicted"], {"window": rows[None, :3]})[0][0, -1].astype(float)
    score = np.max(np.abs(rows[-1].astype(float) - predicted) / SIGMA)
    windows.append(
        {"values": rows.flatten().tolist(), "score": score, "predicted": predicted.tolist()}
    )
(HERE / "forecast.json").write_text(json.dumps({"windows": windows}) + "\n")
