"""Writes bundles: model.onnx, golden.json with the scores of onnxruntime, model.toml with the digests."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

OPSET = 17


def save_model(graph, path):
    """Saves a graph as an ONNX file that does not depend on the day or the machine."""
    model = onnx.helper.make_model(
        graph,
        producer_name="millrace-models",
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    Path(path).write_bytes(model.SerializeToString(deterministic=True))


def run(path, windows):
    """Scores and contributions of onnxruntime for windows [n, len, inputs], one at a time."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results = [session.run(["score", "contribution"], {"window": w[None]}) for w in windows]
    return np.array([r[0].item() for r in results]), np.array([r[1].ravel() for r in results])


def save_golden(path, windows, scores, contributions):
    """Saves windows in the units of the inputs with what the model says about them."""
    rows = [
        {
            "values": [float(v) for v in window.ravel()],
            "score": float(score),
            "contribution": [float(c) for c in contribution],
        }
        for window, score, contribution in zip(windows, scores, contributions)
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    Path(path).write_text('{"windows": [\n' + lines + "\n]}\n")


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fill_manifest(directory, **values):
    """Puts values and digests into model.toml.in and saves it as model.toml."""
    directory = Path(directory)
    text = (directory / "model.toml.in").read_text()
    values["model_sha256"] = sha256(directory / "model.onnx")
    values["golden_sha256"] = sha256(directory / "golden.json")
    for key, value in values.items():
        text = text.replace("{" + key + "}", str(value))
    (directory / "model.toml").write_text(text)
