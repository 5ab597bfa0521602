"""onnxruntime on one thread, asked line by line: `MODEL SCORE WINDOWS ROWS INPUTS COUNT FLAT` gives `MEDIAN_US FASTEST_US`.

Needs onnxruntime and numpy (inference/tests/zoo/requirements.txt). WINDOWS are little-endian f32, one window after the other; FLAT is
1 where the model takes rows and inputs as one dimension. Times are CPU time of this thread, the call from Python included;
`call` measures that alone, with a graph that does nothing.
"""

import sys
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def nothing():
    """A graph that hands its input on."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", value[:1], value[1:])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def measure(session, output, windows, count):
    name = session.get_inputs()[0].name
    for window in windows[:50]:
        session.run(output, {name: window})
    times = []
    for at in range(count):
        feed = {name: windows[at % len(windows)]}
        begun = time.thread_time_ns()
        session.run(output, feed)
        times.append(time.thread_time_ns() - begun)
    times.sort()
    return times[count // 2] / 1e3, times[0] / 1e3


def main():
    sessions = {"call": session_of(nothing())}
    for line in sys.stdin:
        model, *rest = line.split()
        if model == "call":
            told = measure(sessions[model], ["y"], [np.zeros(1, np.float32)], int(rest[0]))
        else:
            score, path, rows, inputs, count, flat = rest
            shape = (1, int(rows) * int(inputs)) if flat == "1" else (1, int(rows), int(inputs))
            windows = [w.reshape(shape) for w in np.fromfile(path, np.float32).reshape(-1, int(rows) * int(inputs))]
            if model not in sessions:
                sessions[model] = session_of(model)
            told = measure(sessions[model], [score], windows, int(count))
        print(*told, flush=True)


main()
