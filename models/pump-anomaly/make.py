"""Makes the pump-anomaly bundle: simulates the pump of README.md, fits a PCA, writes the ONNX graph.

Run: pip install -r ../requirements.txt && python make.py
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import bundle  # noqa: E402

SEED = 20261121
ROLES = ["pressure", "flow", "motor_current", "vibration", "bearing_temp"]
NOISE = np.array([0.03, 0.6, 0.15, 0.08, 0.25])
POLL_S = 0.2
GRID_S = 0.25
LEN = 20
COMPONENTS = 6
# The score that begins an event: what no more than 1 of 1000 normal windows reaches, and a third more.
QUANTILE, FACTOR = 0.999, 4 / 3


def simulate(rng, seconds, period=60.0, swing=0.2, fault=None):
    """Polls of the pump: times and values [polls, 5]. `fault` is (begin, end) in seconds."""
    times = np.arange(0.0, seconds, POLL_S)
    heat = 46.0 + 6.0 * 0.7
    values = np.empty((len(times), 5))
    for i, t in enumerate(times):
        load = 0.7 + swing * np.sin(2 * np.pi * t / period)
        f = severity(t, fault)
        heat += (46.0 + 6.0 * load + 2.5 * f - heat) * POLL_S / 10.0
        values[i] = [
            6.2 - 1.6 * load - 0.8 * f,
            60.0 * load * (1.0 - 0.12 * f),
            8.0 + 14.0 * load + 2.0 * f * np.sin(2 * np.pi * 0.9 * t),
            (1.2 + 1.0 * load) * (1.0 + 2.0 * f),
            heat,
        ]
    return times, values + rng.normal(0.0, 1.0, values.shape) * NOISE


def severity(t, fault):
    """0 to 1 within 2 s of the fault's begin, back to 0 within 2 s of its end."""
    if fault is None:
        return 0.0
    begin, end = fault
    return float(np.clip((t - begin) / 2.0, 0.0, 1.0) - np.clip((t - end) / 2.0, 0.0, 1.0))


def windows_of(times, values, offset=0.0):
    """Windows [n, LEN, 5] on the grid, each row the newest poll, as the agent holds them."""
    grid = np.arange(times[0] + GRID_S + offset, times[-1], GRID_S)
    rows = values[np.searchsorted(times, grid + 1e-9, side="right") - 1].astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(rows, LEN, axis=0)
    return np.ascontiguousarray(windows.transpose(0, 2, 1)), grid[LEN - 1 :]


def normal_windows(rng, runs):
    """Normal operation: load cycles around the nominal one, so that another pump is no anomaly."""
    parts = []
    for _ in range(runs):
        times, values = simulate(
            rng, 300.0, period=rng.uniform(45, 90), swing=rng.uniform(0.1, 0.25)
        )
        # The first half minute: the bearing still warms up to its cycle.
        parts.append(windows_of(times, values, rng.uniform(0, POLL_S))[0][120:])
    return np.concatenate(parts)


def fit(train):
    """PCA of the windows, each input in units of its own noise.

    In these units the common load is read from the inputs that tell it best, so that a fault of one input
    shows as that input's error and not as everybody else's.
    """
    mean, scale = train.mean((0, 1)), train.std((0, 1))
    for _ in range(10):
        flat = ((train - mean) / scale).reshape(len(train), -1)
        center = flat.mean(0)
        _, _, components = np.linalg.svd(flat - center, full_matrices=False)
        components = components[:COMPONENTS]
        error = (flat - center) - (flat - center) @ components.T @ components
        noise = np.sqrt((error.reshape(-1, LEN, 5) ** 2).mean((0, 1)))
        if np.abs(noise - 1.0).max() < 1e-3:
            break
        scale = scale * noise
    return mean, scale, center, components


def graph(mean, scale, center, components):
    """Window -> reconstruction error of each input, in standard deviations; score = their mean square root."""
    constants = {
        "mean": mean,
        "scale": scale,
        "center": center[None],
        "encode": components.T,
        "decode": components,
        "flat": np.array([1, LEN * 5], np.int64),
        "square": np.array([1, LEN, 5], np.int64),
    }
    nodes = [
        ("Sub", ["window", "mean"], "shifted", {}),
        ("Div", ["shifted", "scale"], "scaled", {}),
        ("Reshape", ["scaled", "flat"], "row", {}),
        ("Sub", ["row", "center"], "centred", {}),
        ("MatMul", ["centred", "encode"], "code", {}),
        ("MatMul", ["code", "decode"], "decoded", {}),
        ("Sub", ["centred", "decoded"], "error_row", {}),
        ("Reshape", ["error_row", "square"], "error", {}),
        ("Mul", ["error", "error"], "error_squared", {}),
        ("ReduceMean", ["error_squared"], "spe", {"axes": [1], "keepdims": 0}),
        ("Sqrt", ["spe"], "contribution", {}),
        ("ReduceMean", ["spe"], "spe_mean", {"axes": [1], "keepdims": 0}),
        ("Sqrt", ["spe_mean"], "score", {}),
    ]
    return helper.make_graph(
        [helper.make_node(op, ins, [out], name=out, **attrs) for op, ins, out, attrs in nodes],
        "pump-anomaly",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, LEN, 5])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("contribution", TensorProto.FLOAT, [1, 5]),
        ],
        [
            numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), k)
            for k, v in constants.items()
        ],
    )


def main():
    rng = np.random.default_rng(SEED)
    train = normal_windows(rng, 20).astype(np.float64)
    mean, scale, center, components = fit(train)
    bundle.save_model(graph(mean, scale, center, components), HERE / "model.onnx")

    calibration, _ = bundle.run(HERE / "model.onnx", normal_windows(rng, 10))
    threshold = round(float(np.quantile(calibration, QUANTILE)) * FACTOR, 2)
    print(f"threshold {threshold}: normal median {np.median(calibration):.3f}, max {calibration.max():.3f}")

    times, values = simulate(rng, 120.0, fault=(60.0, 75.0))
    windows, ends = windows_of(times, values)
    scores, contributions = bundle.run(HERE / "model.onnx", windows)
    for t in (40, 60, 61, 62, 65, 70, 75, 78, 80, 82, 85, 90, 100):
        i = int(np.searchsorted(ends, t))
        share = contributions[i] / contributions[i].sum()
        print(f"t={t:4} score {scores[i]:7.3f}", " ".join(f"{r} {s:.2f}" for r, s in zip(ROLES, share)))
    chosen = np.linspace(100, len(windows) - 1, 16).astype(int)
    bundle.save_golden(HERE / "golden.json", windows[chosen], scores[chosen], contributions[chosen])
    bundle.fill_manifest(HERE, threshold=threshold)


main()
