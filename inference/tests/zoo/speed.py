"""What one window costs in onnxruntime, on one thread; and the bundles that `examples/speed.rs` takes.

    python speed.py DIRECTORY [NAME ...]

The call from Python costs some microseconds of it; the first line says how many, from a graph of one operator.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

HERE = Path(__file__).parent
RUNS = 3000


def measure(model, name, shape):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    size = int(np.prod(shape))
    window = np.sin(np.arange(size, dtype=np.float32) * 0.37).reshape(shape).astype(np.float32)
    feed, output = {session.get_inputs()[0].name: window}, [session.get_outputs()[0].name if name is None else name.partition("[")[0]]
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        session.run(output, feed)
        times.append(time.perf_counter() - begun)
    times.sort()
    return times[0] * 1e6, times[RUNS // 2] * 1e6


def bundle(directory, name, entry, model):
    target = directory / name
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.onnx").write_bytes(model)
    is_row = entry["windows"] == "rows"
    manifest = f"""name = "{name}"
version = "1.0.0"
[model]
file = "model.onnx"
sha256 = "{hashlib.sha256(model).hexdigest()}"
layout = "{'NF' if is_row else 'NTF'}"
[window]
len = {1 if is_row else 60}
grid = "1s"
max_gap = "2s"
[output]
score = "{entry['score']}"
[threshold]
method = "fixed"
value = 10.0
"""
    roles = "".join(f'[[input]]\nrole = "in{i}"\n' for i in range(8))
    (target / "model.toml").write_text(manifest + roles)


def main():
    identity = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g",
                                 [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
                                 [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])])
    model = helper.make_model(identity, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
    print("call alone: %.1f us fastest %.1f us median" % measure(model, None, (1, 8)))
    for name, entry in json.loads((HERE / "expected.json").read_text()).items():
        if "says" in entry or (sys.argv[2:] and name not in sys.argv[2:]):
            continue
        model = (HERE / f"{name}.onnx").read_bytes()
        bundle(Path(sys.argv[1]), name, entry, model)
        shape = (1, 8) if entry["windows"] == "rows" else (1, 60, 8)
        print("%-28s %8.1f us fastest %8.1f us median" % (name, *measure(model, entry["score"], shape)), flush=True)


if __name__ == "__main__":
    main()
