"""What every training script needs: history to windows, and a model to a bundle."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


def read_export(path, tags):
    """Times in milliseconds and values of each tag (`device/tag`) of a file that `millrace buffer export` wrote; what is not good is NaN."""
    series = {tag: ([], []) for tag in tags}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            tag = f"{row['source']}/{row['n']}"
            # Samples from before the clock was set have times that count from the boot.
            if tag in series and row["clock"] != "unset":
                good = row["q"] == "" and row["v"] != ""
                series[tag][0].append(float(row["t"]))
                series[tag][1].append(float(row["v"]) if good else np.nan)
    missing = [tag for tag, (times, _) in series.items() if not times]
    if missing:
        raise SystemExit(f"{path} has no sample of {', '.join(missing)}")
    result = {}
    for tag, (times, values) in series.items():
        order = np.argsort(times, kind="stable")
        result[tag] = np.array(times)[order], np.array(values)[order]
    return result


def rows_on_grid(series, grid_ms, max_gap_ms):
    """Rows at the multiples of the grid, as the agent makes them with `fill = "hold"`: times, values, whether each cell is good,
    whether the row is a gap."""
    begin = max(times[0] for times, _ in series.values())
    end = min(times[-1] for times, _ in series.values())
    grid = np.arange(np.ceil(begin / grid_ms), np.floor(end / grid_ms) + 1) * grid_ms
    values, good, gap = [], [], np.zeros(len(grid), bool)
    for times, raw in series.values():
        is_good = ~np.isnan(raw)
        newest = np.searchsorted(times, grid, side="right") - 1
        good_times, good_values = times[is_good], raw[is_good]
        held = np.searchsorted(good_times, grid, side="right") - 1
        fresh = (held >= 0) & (grid - good_times[np.maximum(held, 0)] <= max_gap_ms)
        values.append(good_values[np.maximum(held, 0)])
        good.append(fresh & is_good[newest])
        gap |= ~fresh
    return grid, np.stack(values, 1).astype(np.float32), np.stack(good, 1), gap


def windows_of(series, grid_ms, length, max_gap_ms, min_good_share=0.9):
    """Every window that the agent would score: [windows, length, inputs], f32. None spans a gap."""
    _, values, good, gap = rows_on_grid(series, grid_ms, max_gap_ms)
    view = np.lib.stride_tricks.sliding_window_view
    usable = ~view(gap, length).any(1) & (view(good, length, 0).mean((1, 2)) >= min_good_share)
    windows = np.moveaxis(view(values, length, 0), 2, 1)[usable]
    return np.ascontiguousarray(windows)


def scores_of(model, windows):
    """Scores, and contributions or None, of onnxruntime, a window at a time."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    scores, contributions = [], []
    for window in windows:
        told = dict(zip(names, session.run(None, {"window": window[None]})))
        scores.append(float(np.ravel(told["score"])[0]))
        contributions.append(np.ravel(told["contribution"]).tolist() if "contribution" in told else None)
    return np.array(scores), contributions


def save_bundle(directory, model, calibration, *, name, version, roles, grid, max_gap, quantile, factor):
    """Writes model.onnx with what `millrace model new` wants to know of it, and golden.json: windows with the scores of onnxruntime, which
    the agent must come to as well before it uses the model. `calibration` are normal windows that the model was not trained with."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.checker.check_model(model)
    scores, contributions = scores_of(model, calibration)
    threshold = float(np.quantile(scores, quantile) * factor)
    facts = {
        "name": name,
        "version": version,
        "roles": ",".join(roles),
        "grid": grid,
        "max_gap": max_gap,
        "threshold": f"{threshold:.6g}",
    }
    onnx.helper.set_model_props(model, {f"millrace.{key}": value for key, value in facts.items()})
    onnx.save(model, directory / "model.onnx")
    chosen = np.argsort(scores)[np.linspace(0, len(scores) - 1, 16).astype(int)]
    golden = []
    for at in chosen:
        window = {"values": calibration[at].ravel().astype(float).tolist(), "score": scores[at]}
        if contributions[at] is not None:
            window["contribution"] = contributions[at]
        golden.append(window)
    (directory / "golden.json").write_text(json.dumps({"windows": golden}) + "\n")
    print(f"{directory}: threshold {threshold:.4g}; of {len(scores)} normal windows the median is {np.median(scores):.4g}, the largest {scores.max():.4g}")
