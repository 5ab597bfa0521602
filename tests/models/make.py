"""Makes the bundles of this directory: models that misbehave in ways that a gateway must bear.

Run by hand with onnx==1.23.2, numpy==2.4.6: python make.py. The models are small and use standard operators only.

burning   takes a good deal of processor time for each window: a chain of products of large matrices
"""

import hashlib
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
ROWS, SIZE, PRODUCTS = 4, 640, 6

MANIFEST = """# Made by ../make.py: change that one.
name = "{name}"
version = "{version}"
created = "2026-11-22T00:00:00Z"

[model]
file = "model.onnx"
sha256 = "{sha256}"
opset = 17
input = "window"
layout = "NTF"
dtype = "f32"

[[input]]
role = "level"
fill = "hold"

[window]
len = {rows}
stride = 1
grid = "{grid}"
max_gap = "2s"
min_good_share = 0.5

[output]
score = "score"

[threshold]
method = "fixed"
value = 1e6

[decision]
smoothing = 1
on = 1
off = {{ ratio = 0.9, k = 1 }}
cooldown = "0s"
"""


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def save(name, version, grid, nodes, constants):
    window = helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, ROWS, 1])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, name, [window], [score], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    place = HERE / name
    place.mkdir(exist_ok=True)
    (place / "model.onnx").write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    text = MANIFEST.format(name=name, version=version, sha256=sha256, rows=ROWS, grid=grid)
    (place / "model.toml").write_text(text)


def mean(out):
    return helper.make_node("ReduceMean", ["window"], [out], axes=[0, 1, 2], keepdims=0)


def burning():
    nodes = [
        mean("mean"),
        helper.make_node("Reshape", ["mean", "one"], ["level"]),
        # Rows that depend on the window, so that nothing can be worked out in advance.
        helper.make_node("Mul", ["level", "tiny"], ["small"]),
        helper.make_node("Expand", ["small", "square"], ["m0"]),
    ]
    for i in range(PRODUCTS):
        nodes.append(helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]))
    nodes += [
        helper.make_node("ReduceMean", [f"m{PRODUCTS}"], ["left"], axes=[0, 1], keepdims=0),
        helper.make_node("Reshape", ["left", "one"], ["rest"]),
        helper.make_node("Add", ["level", "rest"], ["score"]),
    ]
    constants = [
        constant("one", np.array([1], np.int64)),
        constant("tiny", np.array([1e-9], np.float32)),
        constant("square", np.array([SIZE, SIZE], np.int64)),
    ]
    save("burning", "1.0.0", "100ms", nodes, constants)


burning()
