"""An isolation forest of scikit-learn as a bundle.

    python train_sklearn.py HISTORY.csv DIRECTORY [VERSION]

Exporters write forests as one operator, which is slow everywhere. Here the trees become tables, and a window walks down all of
them at once by looking up its next node: eight steps of standard operators.
"""

import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import IsolationForest

import recipe

DEVICE = "pump"
ROLES = ["pressure", "flow", "motor_current", "vibration", "bearing_temp"]
LENGTH, GRID_MS, MAX_GAP_MS = 30, 1000, 5000
TREES, SAMPLES = 100, 256


def features_of(windows):
    """What the forest sees of a window: of each input its last value, mean, deviation and change."""
    mean = windows.mean(1)
    deviation = np.sqrt(((windows - mean[:, None]) ** 2).mean(1))
    last = windows[:, -1]
    return np.concatenate([last, mean, deviation, last - windows[:, 0]], 1).astype(np.float32)


def path_left(count):
    """Mean length of the rest of a path through a leaf of so many samples."""
    if count <= 1:
        return 0.0
    if count == 2:
        return 1.0
    return 2.0 * (np.log(count - 1.0) + np.euler_gamma) - 2.0 * (count - 1.0) / count


def tables_of(forest):
    """All nodes of all trees in one numbering: feature, limit, left, right, length of the path. A leaf leads to itself."""
    feature, limit, left, right, length, roots = [], [], [], [], [], []
    for estimator in forest.estimators_:
        tree, base = estimator.tree_, len(feature)
        roots.append(base)
        depth = {0: 0}
        for node in range(tree.node_count):
            is_leaf = tree.children_left[node] < 0
            below = (node, node) if is_leaf else (tree.children_left[node], tree.children_right[node])
            for child in below:
                depth.setdefault(int(child), depth[node] + 1)
            feature.append(0 if is_leaf else int(tree.feature[node]))
            # The tree compares with 64 bits; rounded down, 32 bits give the same answer for every 32-bit value.
            wide = 0.0 if is_leaf else tree.threshold[node]
            narrow = np.float32(wide)
            limit.append(np.nextafter(narrow, np.float32(-np.inf)) if narrow > wide else narrow)
            left.append(base + int(below[0]))
            right.append(base + int(below[1]))
            length.append(depth[node] + path_left(tree.n_node_samples[node]) if is_leaf else 0.0)
    steps = max(estimator.tree_.max_depth for estimator in forest.estimators_)
    tables = {
        "feature": np.array(feature, np.int64),
        "limit": np.array(limit, np.float32),
        "left": np.array(left, np.int64),
        "right": np.array(right, np.int64),
        "length": np.array(length, np.float32),
        "roots": np.array(roots, np.int64),
    }
    return tables, steps


def export(forest):
    """Window -> score, with the features inside."""
    tables, steps = tables_of(forest)
    tables |= {
        "first_row": np.array([0], np.int64),
        "last_row": np.array([LENGTH - 1], np.int64),
        "flat": np.array([-1], np.int64),
        "exponent": np.array(-1.0 / path_left(SAMPLES), np.float32),
        "two": np.array(2.0, np.float32),
    }
    nodes = []

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    mean = node("ReduceMean", ["window"], "mean", axes=[1], keepdims=1)
    off = node("Sub", ["window", mean], "off")
    variance = node("ReduceMean", [node("Mul", [off, off], "square")], "variance", axes=[1], keepdims=1)
    deviation = node("Sqrt", [variance], "deviation")
    last = node("Gather", ["window", "last_row"], "last", axis=1)
    first = node("Gather", ["window", "first_row"], "first", axis=1)
    change = node("Sub", [last, first], "change")
    wide = node("Concat", [last, mean, deviation, change], "wide", axis=2)
    features = node("Reshape", [wide, "flat"], "features")
    at = "roots"
    for step in range(steps):
        value = node("Gather", [features, node("Gather", ["feature", at], f"feature_{step}")], f"value_{step}")
        below = node("LessOrEqual", [value, node("Gather", ["limit", at], f"limit_{step}")], f"below_{step}")
        down = [node("Gather", [side, at], f"{side}_{step}") for side in ("left", "right")]
        at = node("Where", [below, *down], f"node_{step}")
    mean_length = node("ReduceMean", [node("Gather", ["length", at], "lengths")], "mean_length", axes=[0], keepdims=1)
    node("Pow", ["two", node("Mul", [mean_length, "exponent"], "power")], "score")
    graph = helper.make_graph(
        nodes,
        "isolation-forest",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, LENGTH, len(ROLES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(table, name) for name, table in tables.items()],
    )
    return helper.make_model(graph, producer_name="train_sklearn.py", opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main(history, directory, version="1.0.0"):
    series = recipe.read_export(history, [f"{DEVICE}/{role}" for role in ROLES])
    windows = recipe.windows_of(series, GRID_MS, LENGTH, MAX_GAP_MS)
    # The last third was not seen in training: the threshold comes from there.
    train, calibration = np.split(windows, [2 * len(windows) // 3])
    forest = IsolationForest(n_estimators=TREES, max_samples=SAMPLES, random_state=0).fit(features_of(train))
    model = export(forest)
    told, _ = recipe.scores_of(model, calibration[:500])
    meant = -forest.score_samples(features_of(calibration[:500]))
    print(f"largest difference to scikit-learn: {np.abs(told - meant).max():.1e}")
    recipe.save_bundle(
        directory, model, calibration, name="pump-forest", version=version, roles=ROLES,
        grid=f"{GRID_MS}ms", max_gap=f"{MAX_GAP_MS}ms", quantile=0.999, factor=1.05,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
