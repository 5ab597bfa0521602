"""An isolation forest of scikit-learn as a bundle.

    python train_sklearn.py HISTORY.csv DIRECTORY [VERSION]

skl2onnx writes an isolation forest as three operators a tree and more, which costs hundreds of microseconds a window. Here the whole
forest is one TreeEnsembleRegressor, whose leaves weigh their share of the path, so that the sum is the exponent of the score.
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


def ensemble_of(forest):
    """The attributes of one TreeEnsembleRegressor."""
    share = 1.0 / (len(forest.estimators_) * path_left(SAMPLES))
    nodes = {key: [] for key in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")}
    leaves = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}

    def append(columns, *cells):
        for column, cell in zip(columns.values(), cells):
            column.append(cell)

    for number, estimator in enumerate(forest.estimators_):
        tree = estimator.tree_
        depth = [0] * tree.node_count
        for node in range(tree.node_count):
            left, right = int(tree.children_left[node]), int(tree.children_right[node])
            if left < 0:
                append(nodes, number, node, 0, 0.0, "LEAF", 0, 0)
                path = depth[node] + path_left(tree.n_node_samples[node])
                append(leaves, number, node, 0, float(path * share))
                continue
            # scikit-learn compares with 64 bits; rounded down, 32 bits give the same answer for every 32-bit value.
            limit = np.float32(tree.threshold[node])
            if limit > tree.threshold[node]:
                limit = np.nextafter(limit, np.float32(-np.inf))
            append(nodes, number, node, int(tree.feature[node]), float(limit), "BRANCH_LEQ", left, right)
            depth[left] = depth[right] = depth[node] + 1
    attributes = {f"nodes_{key}": column for key, column in nodes.items()}
    return attributes | {f"target_{key}": column for key, column in leaves.items()}


def export(forest):
    """Window -> score, with the features inside."""
    constants = {
        "first_row": np.array([0], np.int64),
        "last_row": np.array([LENGTH - 1], np.int64),
        "flat": np.array([1, -1], np.int64),
        "minus_ln_2": np.array(-np.log(2.0), np.float32),
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
    path = node("TreeEnsembleRegressor", [features], "path", domain="ai.onnx.ml", n_targets=1,
                aggregate_function="SUM", post_transform="NONE", **ensemble_of(forest))
    node("Exp", [node("Mul", [path, "minus_ln_2"], "exponent")], "score")
    graph = helper.make_graph(
        nodes,
        "isolation-forest",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, LENGTH, len(ROLES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, producer_name="train_sklearn.py", opset_imports=opsets, ir_version=8)


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
