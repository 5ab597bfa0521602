"""Makes the nab-machine-temperature bundle from the first week of a recorded series, and evaluates it.

Run: pip install -r ../requirements.txt && python make.py
"""

import csv
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import bundle  # noqa: E402

DATA = HERE.parent.parent / "tests/data/nab/machine_temperature_system_failure.csv"
# The labelled windows of the benchmark (combined_windows.json).
LABELS = [
    ("2013-12-10T06:25", "2013-12-12T05:35"),
    ("2013-12-15T17:50", "2013-12-17T17:00"),
    ("2014-01-27T14:20", "2014-01-29T13:30"),
    ("2014-02-07T14:55", "2014-02-09T14:05"),
]
TRAIN_ROWS = 2000
LEN = 288
COMPONENTS = 1
QUANTILE, FACTOR = 0.999, 2.0
# As in model.toml.in.
ON, OFF, OFF_RATIO = 6, 36, 0.9


def read():
    with open(DATA, newline="") as file:
        rows = list(csv.DictReader(file))
    return (
        np.array([np.datetime64(row["timestamp"]) for row in rows]),
        np.array([float(row["value"]) for row in rows]),
    )


def fit(days):
    """PCA of days; error and distance along the component are both in units of their spread in training."""
    center = days.mean(0)
    _, singular, components = np.linalg.svd(days - center, full_matrices=False)
    components, singular = components[:COMPONENTS], singular[:COMPONENTS]
    error = (days - center) - (days - center) @ components.T @ components
    residual = np.sqrt((error**2).mean())
    spread = singular / np.sqrt(len(days))
    return center, components, spread, residual


def graph(center, components, spread, residual):
    constants = {
        "center": center[None].astype(np.float32),
        "encode": components.T.astype(np.float32),
        "decode": components.astype(np.float32),
        "spread": spread.astype(np.float32),
        "residual": np.array([residual], np.float32),
        "flat": np.array([1, LEN], np.int64),
        "wide": np.array([1, 1], np.int64),
    }
    nodes = [
        ("Reshape", ["window", "flat"], "row", {}),
        ("Sub", ["row", "center"], "centred", {}),
        ("MatMul", ["centred", "encode"], "code", {}),
        ("MatMul", ["code", "decode"], "decoded", {}),
        ("Sub", ["centred", "decoded"], "error", {}),
        ("Div", ["error", "residual"], "error_scaled", {}),
        ("Mul", ["error_scaled", "error_scaled"], "error_squared", {}),
        ("ReduceMean", ["error_squared"], "spe", {"axes": [1], "keepdims": 0}),
        ("Div", ["code", "spread"], "code_scaled", {}),
        ("Mul", ["code_scaled", "code_scaled"], "code_squared", {}),
        ("ReduceMean", ["code_squared"], "t2", {"axes": [1], "keepdims": 0}),
        ("Add", ["spe", "t2"], "sum", {}),
        ("Sqrt", ["sum"], "score", {}),
        ("Reshape", ["score", "wide"], "contribution", {}),
    ]
    return helper.make_graph(
        [helper.make_node(op, ins, [out], name=out, **attrs) for op, ins, out, attrs in nodes],
        "nab-machine-temperature",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, LEN, 1])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("contribution", TensorProto.FLOAT, [1, 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def events(scores, threshold):
    """Begin and end of events, as indexes of windows, by the decision of the agent."""
    found, above, below, open_at = [], 0, 0, None
    for i, score in enumerate(scores):
        if open_at is None:
            above = above + 1 if score > threshold else 0
            if above == ON:
                open_at, below = i, 0
        else:
            below = below + 1 if score < threshold * OFF_RATIO else 0
            if below == OFF:
                found.append((open_at, i))
                open_at, above = None, 0
    return found + ([(open_at, len(scores) - 1)] if open_at is not None else [])


def evaluate(times, scores, threshold):
    labels = [(np.datetime64(a), np.datetime64(b)) for a, b in LABELS]
    labelled = np.zeros(len(times), bool)
    for begin, end in labels:
        labelled |= (times >= begin) & (times <= end)
    tested = np.arange(len(times)) >= TRAIN_ROWS - LEN + 1
    above = scores > threshold
    far = (above & ~labelled & tested).sum() / (~labelled & tested).sum()
    mar = (~above & labelled & tested).sum() / (labelled & tested).sum()
    print(f"threshold {threshold}; windows: false alarms {far:.2%}, missed {mar:.2%}")
    for begin, end in events(scores, threshold):
        hit = any(times[begin] <= b and times[end] >= a for a, b in labels)
        print(f"event {times[begin]} to {times[end]}: {'labelled' if hit else 'false alarm'}")


def main():
    times, values = read()
    windows = np.lib.stride_tricks.sliding_window_view(values, LEN)
    center, components, spread, residual = fit(windows[: TRAIN_ROWS - LEN + 1])
    bundle.save_model(graph(center, components, spread, residual), HERE / "model.onnx")

    windows = windows.astype(np.float32)[:, :, None]
    scores, contributions = bundle.run(HERE / "model.onnx", windows)
    training = scores[: TRAIN_ROWS - LEN + 1]
    threshold = round(float(np.quantile(training, QUANTILE)) * FACTOR, 2)
    evaluate(times[LEN - 1 :], scores, threshold)

    chosen = np.linspace(0, len(windows) - 1, 8).astype(int)
    bundle.save_golden(HERE / "golden.json", windows[chosen], scores[chosen], contributions[chosen])
    bundle.fill_manifest(HERE, threshold=threshold)


main()
