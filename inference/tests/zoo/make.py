"""Makes the zoo: small models as their users export them, and what onnxruntime says of the same windows.

    pip install -r requirements.txt
    python make.py [NAME ...]     # without names: all of them

Each model becomes NAME.onnx beside this file, and an entry of expected.json. The windows are in rows.f32 (one row of 8 values each) and
series.f32 (60 rows of 8), little-endian. The seeds are fixed; other versions of the packages give other weights, so all of it
is made in one run. A name that begins with `no-` is a model that must be refused, for the reason that is given with it.
"""

import json
import math
import sys
import warnings
from pathlib import Path

import torch  # first: its mathematical library does not load after that of others

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent
INPUTS, STEPS = 8, 60
OPSETS = {"": 17, "ai.onnx.ml": 3}


def plant(rows, seed):
    """Eight signals that hang together, with noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(rows)
    phase = rng.uniform(0, 6.28, INPUTS)
    base = np.stack([np.sin(t / (7 + 3 * i) + phase[i]) for i in range(INPUTS)], axis=1)
    return (base + 0.15 * rng.standard_normal((rows, INPUTS))).astype(np.float32)


def make_rows():
    rng = np.random.default_rng(5)
    rows = plant(64, 5)
    rows[48:] += rng.standard_normal((16, INPUTS)).astype(np.float32) * 1.5  # some that are not normal
    return rows.reshape(64, INPUTS)


def make_series():
    rng = np.random.default_rng(6)
    data = plant(STEPS * 24, 6).reshape(24, STEPS, INPUTS).copy()
    for i in range(18, 24):
        data[i, 20:, i % INPUTS] += rng.uniform(1, 4)
    return data


ROWS, SERIES = make_rows(), make_series()
TRAIN = plant(600, 1)
LABELS = (TRAIN[:, 0] + TRAIN[:, 3] > 0.4).astype(np.int64)
THREE = np.digitize(TRAIN[:, 1], [-0.4, 0.4])
TARGET = (TRAIN[:, 2] * 2 + TRAIN[:, 5]).astype(np.float32)


# --- scikit-learn and its like: the graph is told row by row -------------------------------------------------


def skl(model, score, options=None, **more):
    from skl2onnx import to_onnx

    return to_onnx(model, TRAIN[:1], target_opset=OPSETS, options=options, **more), score, "rows"


def scaled(*steps):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), *steps)


def iforest():
    from sklearn.ensemble import IsolationForest

    return skl(IsolationForest(n_estimators=20, max_samples=64, random_state=0).fit(TRAIN), "scores")


def scaler_iforest():
    from sklearn.ensemble import IsolationForest

    return skl(scaled(IsolationForest(n_estimators=10, max_samples=32, random_state=0)).fit(TRAIN), "scores")


def iforest_one_ensemble(trees=100, samples=64):
    """An isolation forest as one operator: each leaf weighs its share of the path, so the sum is the exponent of the score."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=trees, max_samples=samples, random_state=0).fit(TRAIN)

    def path(n):  # the mean path in a tree of n samples
        if n <= 2:
            return float(max(n - 1, 0))
        return 2 * (math.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n

    share = 1 / (trees * path(samples))
    columns = {key: [] for key in ["treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids"]}
    leaves = {key: [] for key in ["treeids", "nodeids", "ids", "weights"]}
    for number, (tree, features) in enumerate(zip(model.estimators_, model.estimators_features_)):
        tree = tree.tree_
        depth = np.zeros(tree.node_count)
        for node in range(tree.node_count):
            left, right = tree.children_left[node], tree.children_right[node]
            is_leaf = left < 0
            value = np.float32(tree.threshold[node])
            if value > tree.threshold[node]:  # never above the threshold in double precision
                value = np.nextafter(value, np.float32(-np.inf))
            row = [number, node, 0 if is_leaf else int(features[tree.feature[node]]), 0.0 if is_leaf else float(value),
                   "LEAF" if is_leaf else "BRANCH_LEQ", 0 if is_leaf else int(left), 0 if is_leaf else int(right)]
            for column, cell in zip(columns.values(), row):
                column.append(cell)
            if is_leaf:
                weight = (depth[node] + path(int(tree.n_node_samples[node]))) * share
                for column, cell in zip(leaves.values(), [number, node, 0, float(weight)]):
                    column.append(cell)
            else:
                depth[left] = depth[right] = depth[node] + 1
    ensemble = helper.make_node("TreeEnsembleRegressor", ["window"], ["exponent"], domain="ai.onnx.ml", n_targets=1,
                                aggregate_function="SUM", post_transform="NONE",
                                **{f"nodes_{key}": column for key, column in columns.items()},
                                **{f"target_{key}": column for key, column in leaves.items()})
    weights = [numpy_helper.from_array(np.array([-math.log(2)], np.float32), "minus_ln2")]
    nodes = [ensemble, helper.make_node("Mul", ["exponent", "minus_ln2"], ["power"]),
             helper.make_node("Exp", ["power"], ["score"])]
    return by_hand(nodes, weights), "score", "rows"


def ocsvm():
    from sklearn.svm import OneClassSVM

    return skl(OneClassSVM(nu=0.05).fit(TRAIN), "scores")


def scaler_ocsvm():
    from sklearn.svm import OneClassSVM

    return skl(scaled(OneClassSVM(nu=0.05, kernel="poly", degree=3, coef0=1.0)).fit(TRAIN), "scores")


def sgd_ocsvm():
    from sklearn.linear_model import SGDOneClassSVM

    return skl(SGDOneClassSVM(random_state=0).fit(TRAIN), "scores")


def svr():
    from sklearn.svm import SVR

    return skl(SVR().fit(TRAIN[:200], TARGET[:200]), "variable")


def svc():
    from sklearn.svm import SVC

    return skl(SVC().fit(TRAIN[:200], LABELS[:200]), "probabilities[1]", options={"zipmap": False})


def svc_probability():
    from sklearn.svm import SVC

    return skl(SVC(probability=True, random_state=0).fit(TRAIN[:200], LABELS[:200]), "probabilities[1]", options={"zipmap": False})


def scaler_pca():
    from sklearn.decomposition import PCA

    return skl(scaled(PCA(3)).fit(TRAIN), "variable[1]")


def imputer_scaler_mlp():
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    mlp = MLPRegressor(hidden_layer_sizes=(16, 4, 16), max_iter=60, random_state=0)
    return skl(make_pipeline(SimpleImputer(), StandardScaler(), mlp).fit(TRAIN, TARGET), "variable")


def kmeans():
    from sklearn.cluster import KMeans

    return skl(KMeans(5, n_init=2, random_state=0).fit(TRAIN), "scores[2]")


def lof():
    from sklearn.neighbors import LocalOutlierFactor

    return skl(LocalOutlierFactor(10, novelty=True).fit(TRAIN[:150]), "scores")


def lof_cdist():
    from sklearn.neighbors import LocalOutlierFactor

    model = LocalOutlierFactor(10, novelty=True).fit(TRAIN[:150])
    return skl(model, "scores", options={LocalOutlierFactor: {"optim": "cdist"}})


def gmm():
    from sklearn.mixture import GaussianMixture

    return skl(GaussianMixture(3, random_state=0).fit(TRAIN), "score_samples", options={"score_samples": True})


def rf_reg():
    from sklearn.ensemble import RandomForestRegressor

    return skl(RandomForestRegressor(20, max_depth=5, random_state=0).fit(TRAIN, TARGET), "variable")


def rf_cls():
    from sklearn.ensemble import RandomForestClassifier

    return skl(RandomForestClassifier(20, max_depth=5, random_state=0).fit(TRAIN, LABELS), "probabilities[1]",
               options={"zipmap": False})


def rf_cls_label():
    from sklearn.ensemble import RandomForestClassifier

    return skl(RandomForestClassifier(20, max_depth=5, random_state=0).fit(TRAIN, LABELS), "label", options={"zipmap": False})


def rf_three_classes_zipmap():
    from sklearn.ensemble import RandomForestClassifier

    return skl(RandomForestClassifier(10, max_depth=4, random_state=0).fit(TRAIN, THREE), "output_probability[2]")


def gb_reg():
    from sklearn.ensemble import GradientBoostingRegressor

    return skl(GradientBoostingRegressor(n_estimators=20, random_state=0).fit(TRAIN, TARGET), "variable")


def gb_cls():
    from sklearn.ensemble import GradientBoostingClassifier

    return skl(GradientBoostingClassifier(n_estimators=20, random_state=0).fit(TRAIN, LABELS), "probabilities[1]",
               options={"zipmap": False})


def logistic():
    from sklearn.linear_model import LogisticRegression

    return skl(scaled(LogisticRegression()).fit(TRAIN, LABELS), "probabilities[1]", options={"zipmap": False})


def logistic_text_labels():
    from sklearn.linear_model import LogisticRegression

    labels = np.array(["good", "bad"])[LABELS]
    return skl(LogisticRegression().fit(TRAIN, labels), "probabilities[1]", options={"zipmap": False})


def ridge():
    from sklearn.linear_model import Ridge

    return skl(scaled(Ridge()).fit(TRAIN, TARGET), "variable")


def boosted(convert, model, score):
    from onnxmltools.convert.common.data_types import FloatTensorType

    return convert(model, initial_types=[("window", FloatTensorType([None, INPUTS]))], target_opset=15), score, "rows"


def xgb_reg():
    from onnxmltools import convert_xgboost
    from xgboost import XGBRegressor

    return boosted(convert_xgboost, XGBRegressor(n_estimators=20, max_depth=4).fit(TRAIN, TARGET), "variable")


def xgb_cls():
    from onnxmltools import convert_xgboost
    from xgboost import XGBClassifier

    return boosted(convert_xgboost, XGBClassifier(n_estimators=20, max_depth=3).fit(TRAIN, LABELS), "probabilities[1]")


def xgb_three_classes():
    from onnxmltools import convert_xgboost
    from xgboost import XGBClassifier

    return boosted(convert_xgboost, XGBClassifier(n_estimators=8, max_depth=3).fit(TRAIN, THREE), "probabilities[2]")


def lgb_reg():
    from lightgbm import LGBMRegressor
    from onnxmltools import convert_lightgbm

    return boosted(convert_lightgbm, LGBMRegressor(n_estimators=20, verbose=-1).fit(TRAIN, TARGET), "variable")


def lgb_cls():
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm

    return boosted(convert_lightgbm, LGBMClassifier(n_estimators=20, num_leaves=8, verbose=-1).fit(TRAIN, LABELS),
                   "probabilities[1]")


# --- PyTorch: the score is part of the graph -------------------------------------------------------------------


def networks():
    from torch import nn

    class Scored(nn.Module):
        """Mean squared error of a reconstruction, over all and for each input."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, window):
            error = (window - self.inner(window)) ** 2
            return error.mean(dim=(1, 2)), error.mean(dim=1)

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(480, 24), nn.ReLU(), nn.Linear(24, 6), nn.Tanh(),
                                     nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 480))

        def forward(self, x):
            return self.net(x).reshape(-1, STEPS, INPUTS)

    class ConvAe(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(8, 16, 7, 2, 3), nn.ReLU(), nn.Conv1d(16, 8, 7, 2, 3), nn.ReLU(),
                                     nn.ConvTranspose1d(8, 8, 7, 2, 3, 1), nn.ReLU(),
                                     nn.ConvTranspose1d(8, 16, 7, 2, 3, 1), nn.ReLU(), nn.ConvTranspose1d(16, 8, 7, 1, 3))

        def forward(self, x):
            return self.net(x.transpose(1, 2)).transpose(1, 2)

    class Tcn(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv1d(8 if i == 0 else 12, 12, 3, dilation=2 ** i) for i in range(4)])
            self.out = nn.Conv1d(12, 8, 1)

        def forward(self, x):
            y = x.transpose(1, 2)
            for i, conv in enumerate(self.convs):
                z = torch.relu(conv(nn.functional.pad(y, (2 * 2 ** i, 0))))
                y = z if i == 0 else y + z
            return self.out(y).transpose(1, 2)

    class Recurrent(nn.Module):
        """Says the next row from all before."""

        def __init__(self, kind, layers=1, both=False, hidden=32):
            super().__init__()
            self.rnn = kind(INPUTS, hidden, layers, batch_first=True, bidirectional=both)
            self.out = nn.Linear(hidden * (2 if both else 1), INPUTS)

        def forward(self, x):
            y = self.out(self.rnn(x)[0])
            return torch.cat([x[:, :1], y[:, :-1]], 1)

    class LstmAe(nn.Module):
        """`how` the code is given to each step of the decoder."""

        def __init__(self, how):
            super().__init__()
            self.how = how
            self.enc = nn.LSTM(INPUTS, 24, batch_first=True)
            self.dec = nn.LSTM(24, 24, batch_first=True)
            self.out = nn.Linear(24, INPUTS)

        def forward(self, x):
            z = self.enc(x)[1][0][-1].unsqueeze(1)
            z = z.repeat(1, STEPS, 1) if self.how == "repeat" else z.expand(-1, STEPS, -1)
            return self.out(self.dec(z)[0])

    class Vae(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc = nn.Sequential(nn.Flatten(), nn.Linear(480, 24), nn.ReLU())
            self.mu, self.var = nn.Linear(24, 4), nn.Linear(24, 4)
            self.dec = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 480))

        def forward(self, x):
            h = self.enc(x)
            mu, var = self.mu(h), self.var(h)
            divergence = -0.5 * (1 + var - mu ** 2 - var.exp()).sum(1, keepdim=True)
            return self.dec(mu).reshape(-1, STEPS, INPUTS) + 0.01 * divergence.unsqueeze(2)

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.into = nn.Linear(INPUTS, 16)
            self.place = nn.Parameter(torch.randn(1, STEPS, 16) * 0.1)
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.out = nn.Linear(16, INPUTS)

        def forward(self, x):
            return self.out(self.layer(self.into(x) + self.place))

    return {
        "dense_ae": lambda: Scored(Dense()),
        "conv_ae": lambda: Scored(ConvAe()),
        "tcn": lambda: Scored(Tcn()),
        "lstm": lambda: Scored(Recurrent(nn.LSTM)),
        "lstm_two_layers": lambda: Scored(Recurrent(nn.LSTM, 2, hidden=16)),
        "gru": lambda: Scored(Recurrent(nn.GRU)),
        "bilstm": lambda: Scored(Recurrent(nn.LSTM, both=True, hidden=16)),
        "bigru": lambda: Scored(Recurrent(nn.GRU, both=True, hidden=16)),
        "rnn": lambda: Scored(Recurrent(nn.RNN, hidden=16)),
        "lstm_ae_repeat": lambda: Scored(LstmAe("repeat")),
        "lstm_ae_expand": lambda: Scored(LstmAe("expand")),
        "vae": lambda: Scored(Vae()),
        "transformer": lambda: Scored(Transformer()),
    }


def torch_model(name, dynamo):
    import logging

    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = networks()[name]()
    data = torch.from_numpy(plant(1200, 2).reshape(20, STEPS, INPUTS))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(25):  # some training, so that weights are not noise
        optimiser.zero_grad()
        model(data)[0].mean().backward()
        optimiser.step()
    model.eval()
    path = HERE / "export.tmp"
    names = {"input_names": ["window"], "output_names": ["score", "contribution"]}
    if dynamo:
        shapes = {"window": {0: torch.export.Dim("batch")}} if dynamo == "open" else None
        program = torch.onnx.export(model, (data[:2] if shapes else data[:1],), dynamo=True, opset_version=18, dynamic_shapes=shapes,
                                    verbose=False, **names)
        program.save(str(path))
    else:
        torch.onnx.export(model, (data[:1],), str(path), dynamo=False, opset_version=17, dynamic_axes={"window": {0: "batch"}}, **names)
    proto = onnx.load(str(path))
    for file in HERE.glob("export.tmp*"):
        file.unlink()
    return strip(proto), "score", "series"


def strip(proto):
    """What no runtime reads, such as where in the source a node comes from, is the larger part of a small file."""
    proto.doc_string = ""
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]
    del proto.functions[:]
    return proto


# --- graphs by hand, and those that must be refused ---------------------------------------------------------------


def by_hand(nodes, weights=(), opsets=None, kind=TensorProto.FLOAT, inputs=INPUTS):
    graph = helper.make_graph(nodes, "graph", [helper.make_tensor_value_info("window", kind, [None, inputs])],
                              [helper.make_tensor_value_info("score", TensorProto.FLOAT, None)], list(weights))
    opsets = [helper.make_opsetid(domain, version) for domain, version in (opsets or OPSETS).items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def quantised():
    from onnxruntime.quantization import quantize_dynamic

    source, target = HERE / "export.tmp.a", HERE / "export.tmp.b"
    onnx.save(imputer_scaler_mlp()[0], source)
    quantize_dynamic(str(source), str(target))
    proto = onnx.load(str(target))
    source.unlink(), target.unlink()
    return proto, "variable", "rows"


def loop():
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["sum", "window"], ["sum_out"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, None)])
    weights = [numpy_helper.from_array(np.array(3), "times"), numpy_helper.from_array(np.array(True), "yes")]
    return by_hand([helper.make_node("Loop", ["times", "yes", "window"], ["score"], body=body)], weights), "score[0]", "rows"


def custom_domain():
    return by_hand([helper.make_node("Wavelet", ["window"], ["score"], domain="my.company")], opsets={"": 17, "my.company": 1}), "score", "rows"


def external():
    weight = numpy_helper.from_array(np.ones((INPUTS, 1), np.float32), "weight")
    proto = by_hand([helper.make_node("MatMul", ["window", "weight"], ["score"])], [weight])
    tensor = proto.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="weights.bin")
    return proto, "score", "rows"


def double():
    from skl2onnx import to_onnx
    from sklearn.decomposition import PCA

    return to_onnx(PCA(2).fit(TRAIN), TRAIN[:1].astype(np.float64), target_opset=OPSETS), "variable[0]", "rows"


def texts():
    weights = [helper.make_tensor("texts", TensorProto.STRING, [2], [b"good", b"bad"])]
    nodes = [helper.make_node("ArgMax", ["window"], ["place"], axis=1),
             helper.make_node("LabelEncoder", ["place"], ["text"], domain="ai.onnx.ml", keys_int64s=[0, 1], values_strings=["a", "b"]),
             helper.make_node("LabelEncoder", ["text"], ["score"], domain="ai.onnx.ml", keys_strings=["a", "b"], values_floats=[0.0, 1.0])]
    return by_hand(nodes, weights), "score", "rows"


def random():
    nodes = [helper.make_node("RandomNormalLike", ["window"], ["noise"]), helper.make_node("Add", ["window", "noise"], ["sum"]),
             helper.make_node("ReduceMean", ["sum"], ["score"], axes=[1])]
    return by_hand(nodes), "score", "rows"


def tree_nodes(**change):
    attributes = {"n_targets": 1, "nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4], "nodes_featureids": [0, 1, 0, 0, 0],
                  "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"], "nodes_values": [0.5, 0.1, 0.0, 0.0, 0.0],
                  "nodes_truenodeids": [1, 3, 0, 0, 0], "nodes_falsenodeids": [2, 4, 0, 0, 0], "target_treeids": [0] * 3,
                  "target_nodeids": [2, 3, 4], "target_ids": [0] * 3, "target_weights": [1.0, 2.0, 3.0]}
    node = helper.make_node("TreeEnsembleRegressor", ["window"], ["score"], domain="ai.onnx.ml", **{**attributes, **change})
    return by_hand([node]), "score", "rows"


def svc_three_classes():
    from sklearn.svm import SVC

    model = SVC(probability=True, random_state=0, kernel="poly", coef0=1.0).fit(TRAIN[:200], THREE[:200])
    return skl(model, "probabilities[2]", options={"zipmap": False})


def svc_three_classes_raw():
    """What the machine says of each pair of classes, by one operator without a sigmoid."""
    from sklearn.svm import SVC

    model = SVC(decision_function_shape="ovo").fit(TRAIN[:200], THREE[:200])
    node = helper.make_node("SVMClassifier", ["window"], ["label", "score"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2],
                            coefficients=model.dual_coef_.reshape(-1).astype(np.float32).tolist(), kernel_type="RBF",
                            kernel_params=[float(model._gamma), 0.0, 3.0], rho=model.intercept_.astype(np.float32).tolist(),
                            support_vectors=model.support_vectors_.reshape(-1).astype(np.float32).tolist(),
                            vectors_per_class=model.n_support_.tolist())
    return by_hand([node]), "score[1]", "rows"


def tree_ensemble(**change):
    """The newer operator for trees, as its converters will write it; of the same forest as `iforest_one_ensemble`, in fewer trees."""
    proto, score, windows = iforest_one_ensemble(trees=30, samples=32)
    old = {a.name: helper.get_attribute_value(a) for a in proto.graph.node[0].attribute}
    keys = list(zip(old["nodes_treeids"], old["nodes_nodeids"]))
    branches = {key: i for i, key in enumerate(key for key, mode in zip(keys, old["nodes_modes"]) if mode != b"LEAF")}
    leaves = {key: i for i, key in enumerate(zip(old["target_treeids"], old["target_nodeids"]))}
    rows = {name: [] for name in ["featureids", "splits", "truenodeids", "trueleafs", "falsenodeids", "falseleafs"]}
    for i, (tree, node) in enumerate(keys):
        if (tree, node) not in branches:
            continue
        rows["featureids"].append(old["nodes_featureids"][i])
        rows["splits"].append(old["nodes_values"][i])
        for side in ["true", "false"]:
            child = (tree, old[f"nodes_{side}nodeids"][i])
            rows[f"{side}nodeids"].append(leaves[child] if child in leaves else branches[child])
            rows[f"{side}leafs"].append(int(child in leaves))
    splits = numpy_helper.from_array(np.array(rows.pop("splits"), np.float32))
    attributes = {"nodes_splits": splits, **{f"nodes_{name}": values for name, values in rows.items()},
                  "nodes_modes": numpy_helper.from_array(np.zeros(len(branches), np.uint8)),
                  "leaf_targetids": [0] * len(leaves), "n_targets": 1, "aggregate_function": 1, "post_transform": 0,
                  "leaf_weights": numpy_helper.from_array(np.array(old["target_weights"], np.float32)),
                  "tree_roots": [branches[(tree, 0)] for tree in range(30)]}
    proto.graph.node[0].CopyFrom(helper.make_node("TreeEnsemble", ["window"], ["exponent"], domain="ai.onnx.ml", **{**attributes, **change}))
    for opset in proto.opset_import:
        opset.version = 5 if opset.domain == "ai.onnx.ml" else 21
    return proto, score, windows


def peepholes():
    rng = np.random.default_rng(0)
    shapes = {"w": [1, 16, INPUTS], "r": [1, 16, 4], "b": [1, 32], "p": [1, 12]}
    weights = [numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()]
    weights.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    nodes = [helper.make_node("Unsqueeze", ["window", "first"], ["steps"]),
             helper.make_node("LSTM", ["steps", "w", "r", "b", "", "", "", "p"], ["score"], hidden_size=4, name="cell")]
    return by_hand(nodes, weights), "score[0]", "rows"


# Sizes that no list of constants in the file tells: each model is some hundred bytes, and asks for gigabytes.


def of_length(*nodes, **values):
    """A graph in which `length` is 32768 times 32768."""
    weights = {"side": np.array([1 << 15]), "zero": np.array(0), "one": np.array(1), "first": np.array([0]), "ones": np.array([1]), **values}
    used = {name for node in nodes for name in node.input} | {"side"}
    weights = [numpy_helper.from_array(value, name) for name, value in weights.items() if name in used]
    return by_hand([helper.make_node("Mul", ["side", "side"], ["length"]), *nodes], weights), "score[0]", "rows"


def grows(operator, inputs, before=(), **more):
    node = helper.make_node(operator, inputs, ["large"], name="grows", **more)
    return [*before, node, helper.make_node("ReduceMax", ["large"], ["score"], keepdims=0)]


def join(*parts):
    return helper.make_node("Concat", parts, ["shape"], axis=0)


def scalar():
    return helper.make_node("Squeeze", ["length"], ["scalar"])


def doubling():
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["x0"])]
    nodes += [helper.make_node("Concat", [f"x{i}"] * 2, [f"x{i + 1}"], axis=0, name=f"double{i}") for i in range(12)]
    return of_length(*nodes, helper.make_node("ReduceMax", ["x12"], ["score"], keepdims=0), size=np.array([1 << 20]))


def many():
    """No tensor is large; all are."""
    nodes, names = [], []
    for i in range(20):
        names.append(f"x{i}")
        nodes.append(helper.make_node("ConstantOfShape", ["size"], [names[-1]], name=f"part{i}",
                                      value=numpy_helper.from_array(np.array([i], np.float32))))
    return of_length(*nodes, helper.make_node("Max", names, ["most"]), helper.make_node("ReduceMax", ["most"], ["score"], keepdims=0),
                     size=np.array([1 << 20]))


def inner():
    small = helper.make_graph([helper.make_node("ReduceMax", ["window"], ["other"], keepdims=0)], "small", [],
                              [helper.make_tensor_value_info("other", TensorProto.FLOAT, [])])
    large = helper.make_graph(grows("ConstantOfShape", ["length"]), "large", [],
                              [helper.make_tensor_value_info("score", TensorProto.FLOAT, [])])
    large.node[-1].output[0] = large.output[0].name = "inner"
    nodes = [helper.make_node("ReduceMax", ["window"], ["most"], keepdims=0), helper.make_node("Greater", ["most", "limit"], ["is_high"]),
             helper.make_node("If", ["is_high"], ["score"], then_branch=large, else_branch=small)]
    return of_length(*nodes, limit=np.array(0.5, np.float32))


def from_values():
    return of_length(*grows("Range", ["zero", "count", "one"],
                            [helper.make_node("ReduceSum", ["window"], ["sum"], keepdims=0),
                             helper.make_node("Cast", ["sum"], ["count"], to=TensorProto.INT64)])[:-1],
                     helper.make_node("Cast", ["large"], ["floats"], to=TensorProto.FLOAT),
                     helper.make_node("ReduceMax", ["floats"], ["score"], keepdims=0))


MODELS = {
    "svc_three_classes": svc_three_classes, "svc_three_classes_raw": svc_three_classes_raw, "tree_ensemble": tree_ensemble,
    "iforest": iforest, "scaler_iforest": scaler_iforest, "iforest_one_ensemble": iforest_one_ensemble, "ocsvm": ocsvm,
    "scaler_ocsvm": scaler_ocsvm, "sgd_ocsvm": sgd_ocsvm, "svr": svr, "svc": svc,
    "svc_probability": svc_probability, "scaler_pca": scaler_pca,
    "imputer_scaler_mlp": imputer_scaler_mlp, "kmeans": kmeans, "lof": lof, "lof_cdist": lof_cdist, "gmm": gmm, "rf_reg": rf_reg,
    "rf_cls": rf_cls, "rf_cls_label": rf_cls_label, "rf_three_classes_zipmap": rf_three_classes_zipmap, "gb_reg": gb_reg,
    "gb_cls": gb_cls, "logistic": logistic, "logistic_text_labels": logistic_text_labels, "ridge": ridge, "xgb_reg": xgb_reg,
    "xgb_cls": xgb_cls, "xgb_three_classes": xgb_three_classes, "lgb_reg": lgb_reg, "lgb_cls": lgb_cls, "tree_by_hand": tree_nodes,
    **{f"{name}_script": (lambda name=name: torch_model(name, False))
       for name in ["dense_ae", "conv_ae", "tcn", "lstm", "lstm_two_layers", "gru", "bilstm", "bigru", "rnn", "lstm_ae_repeat",
                    "lstm_ae_expand", "vae", "transformer"]},
    **{f"{name}_dynamo": (lambda name=name: torch_model(name, "fixed"))
       for name in ["dense_ae", "conv_ae", "tcn", "lstm", "gru", "bilstm", "lstm_ae_repeat", "lstm_ae_expand", "vae", "transformer"]},
    **{f"{name}_dynamo_open": (lambda name=name: torch_model(name, "open")) for name in ["conv_ae", "lstm_ae_repeat"]},
}

# What is said of a size that the graph computes.
HUGE = ["grows", "too much memory", "one window at a time"]

# What the refusal must say: what it is, and the way out.
REFUSED = {
    "no-quantised": (quantised, ["DynamicQuantizeLinear", "single precision"]),
    "no-loop": (loop, ["Loop", "unroll"]),
    "no-custom-domain": (custom_domain, ["my.company.Wavelet", "standard operators"]),
    "no-external-data": (external, ["outside the model file", "save_as_external_data=False"]),
    "no-double": (double, ["not a float32 tensor", "single precision"]),
    "no-texts": (texts, ["LabelEncoder", "numbers as labels"]),
    "no-random": (random, ["RandomNormalLike", "evaluation mode"]),
    "no-tree-circle": (lambda: tree_nodes(nodes_truenodeids=[1, 0, 0, 0, 0]), ["TreeEnsembleRegressor", "the trees hold a circle"]),
    "no-tree-two-parents": (lambda: tree_nodes(nodes_falsenodeids=[2, 2, 0, 0, 0]), ["two parents"]),
    "no-tree-child": (lambda: tree_nodes(nodes_falsenodeids=[2, 9, 0, 0, 0]), ["child 9, which is not there"]),
    "no-tree-feature": (lambda: tree_nodes(nodes_featureids=[0, 8, 0, 0, 0]), ["feature 8; the input has 8"]),
    "no-tree-ensemble-circle": (lambda: tree_ensemble(tree_roots=[0, 0]), ["TreeEnsemble", "two parents, or is two roots"]),
    "no-tree-ensemble-membership": (lambda: tree_ensemble(membership_values=numpy_helper.from_array(np.array([1.0], np.float32))),
                                    ["TreeEnsemble", "membership_values", "target_opset"]),
    "no-peepholes": (peepholes, ["LSTM", "peepholes", "PyTorch"]),
    "no-size-expand": (lambda: of_length(*grows("Expand", ["window", "shape"], [join("length", "ones")])), HUGE),
    "no-size-tile": (lambda: of_length(*grows("Tile", ["window", "shape"], [join("length", "ones")])), HUGE),
    "no-size-constant-of-shape": (lambda: of_length(*grows("ConstantOfShape", ["length"])), HUGE),
    "no-size-pad": (lambda: of_length(*grows("Pad", ["window", "shape"], [join("first", "first", "length", "first")])), HUGE),
    "no-size-range": (lambda: of_length(*grows("Range", ["zero", "scalar", "one"], [scalar()])), HUGE),
    "no-size-one-hot": (lambda: of_length(*grows("OneHot", ["one", "scalar", "values"], [scalar()]), values=np.array([0.0, 1.0], np.float32)),
                        HUGE),
    "no-size-resize": (lambda: of_length(*grows("Resize", ["picture", "", "", "shape"],
                                                [helper.make_node("Unsqueeze", ["window", "front"], ["picture"]),
                                                 join("ones", "ones", "ones", "length")]), front=np.array([0, 1])), HUGE),
    "no-size-outer": (lambda: of_length(*grows("Add", ["column", "row"],
                                               [helper.make_node("Expand", ["ones", "tall"], ["column"]),
                                                helper.make_node("Expand", ["ones", "wide"], ["row"])]),
                                        tall=np.array([1 << 16, 1]), wide=np.array([1, 1 << 16])), HUGE),
    "no-size-gathered": (lambda: of_length(*grows("Expand", ["window", "shape"], [helper.make_node("Gather", ["table", "places"], ["shape"])]),
                                           table=np.maximum(np.arange(1 << 10) << 20, 1), places=np.array([1000, 0])), HUGE),
    "no-size-doubling": (doubling, ["double", "too much memory"]),
    "no-size-many": (many, ["too much memory"]),
    "no-size-inner": (inner, HUGE),
    "no-size-from-values": (from_values, ["grows", "known only when it runs", "fixed shapes"]),
    "no-tree-target": (lambda: tree_nodes(target_ids=[0, 1, 0]), ["target_ids has 1; expected 0 to 0"]),
}


def score_of(proto, name, windows):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output, _, place = name.partition("[")
    scores = []
    for window in windows:
        value = session.run([output], {session.get_inputs()[0].name: window[None]})[0]
        if isinstance(value, list):  # a dictionary of ZipMap
            value = np.array([[row[key] for key in sorted(row)] for row in value])
        value = np.asarray(value, np.float64).reshape(-1)
        scores.append(float(value[int(place[:-1])] if place else value.item()))
    return scores


def between(scores):
    """A threshold that some scores are above: half way between two of them."""
    distinct = sorted(set(scores))
    at = max(1, int(len(distinct) * 0.85))
    return (distinct[at - 1] + distinct[min(at, len(distinct) - 1)]) / 2


def main():
    ROWS.astype("<f4").tofile(HERE / "rows.f32")
    SERIES.astype("<f4").tofile(HERE / "series.f32")
    path = HERE / "expected.json"
    expected = json.loads(path.read_text()) if sys.argv[1:] and path.exists() else {}
    for name in sys.argv[1:] or [*MODELS, *REFUSED]:
        if name in MODELS:
            proto, score, windows = MODELS[name]()
            scores = score_of(proto, score, ROWS if windows == "rows" else SERIES)
            entry = {"threshold": between(scores), "scores": scores}
        else:
            (proto, score, windows), says = REFUSED[name][0](), REFUSED[name][1]
            entry = {"says": says}
        (HERE / f"{name}.onnx").write_bytes(proto.SerializeToString())
        expected[name] = {"score": score, "windows": windows, **entry}
        print(name, len(proto.SerializeToString()), flush=True)
    lines = [f"{json.dumps(name)}: {json.dumps(expected[name])}" for name in sorted(expected)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
