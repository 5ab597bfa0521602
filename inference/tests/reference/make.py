"""Scores of the built-in detectors by numpy and scipy, which the tests compare with: detectors.json.

Run by hand: python make.py, with numpy 2 and scipy 1.
"""

import json
from pathlib import Path

import numpy as np
import scipy.stats

HERE = Path(__file__).resolve().parent


def data(seed, rows, inputs):
    """Two hidden causes, noise, levels and spreads as of a plant; a step in the last rows. As f32, as windows hold it."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(rows, 2))
    mixed = causes @ rng.normal(size=(2, inputs)) + 0.2 * rng.normal(size=(rows, inputs))
    values = mixed * 10.0 ** rng.uniform(-2, 3, inputs) + rng.uniform(-500, 500, inputs)
    values[-10:, 0] += 4 * values[:-10, 0].std()
    return values.astype(np.float32)


def windows(values, length):
    """Row after row, each window in one line."""
    stacked = [values[i : i + length].ravel() for i in range(len(values) - length + 1)]
    return np.array(stacked, dtype=np.float64)


def pca(values, length, train, variance=0.85, confidence=0.999):
    all_windows = windows(values, length)
    fit, rest = all_windows[:train], all_windows[train:]
    mean, deviation = fit.mean(0), fit.std(0)
    scaled = (fit - mean) / deviation
    eigenvalues, vectors = np.linalg.eigh(np.cov(scaled.T))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    share = np.cumsum(eigenvalues / eigenvalues.sum())
    m = int(np.searchsorted(share, variance, side="right")) + 1
    f = scipy.stats.f.ppf(confidence, m, train - m)
    t2_limit = m * (train - 1) * (train + 1) / (train * (train - m)) * f
    left = eigenvalues[m:]
    theta = [(left**i).sum() for i in (1, 2, 3)]
    h = 1 - 2 * theta[0] * theta[2] / (3 * theta[1] ** 2)
    c = scipy.stats.norm.ppf(confidence)
    q_limit = theta[0] * (
        1 + c * h * np.sqrt(2 * theta[1]) / theta[0] + theta[1] * h * (h - 1) / theta[0] ** 2
    ) ** (1 / h)
    scaled = (rest - mean) / deviation
    along = scaled @ vectors[:, :m]
    t2 = (along**2 / eigenvalues[:m]).sum(1)
    q = ((scaled - along @ vectors[:, :m].T) ** 2).sum(1)
    return {
        "len": length,
        "train": train,
        "rows": values.tolist(),
        "components": m,
        "t2_limit": t2_limit,
        "q_limit": q_limit,
        "t2": t2.tolist(),
        "q": q.tolist(),
    }


def control(values, length, train, lam=0.2, slack=0.5):
    """EWMA in its standard errors, CUSUM in deviations; the larger of both inputs each."""
    rows = values.astype(np.float64)
    # The training takes the rows of its first `train` windows once each.
    fit = rows[: train + length - 1]
    mean, deviation = fit.mean(0), fit.std(0)
    z = (rows - mean) / deviation
    weights = lam * (1 - lam) ** np.arange(length)[::-1]
    ewma, cusum = [], []
    for end in range(train + length, len(rows) + 1):
        window = z[end - length : end]
        average = np.abs(weights @ window) / np.sqrt((weights**2).sum())
        up, down = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
        for row in window:
            up = np.maximum(0, up + row - slack)
            down = np.maximum(0, down - row - slack)
        ewma.append(average.max())
        cusum.append(np.maximum(up, down).max())
    return {"len": length, "train": train, "rows": values.tolist(), "ewma": ewma, "cusum": cusum}


if __name__ == "__main__":
    reference = {
        "pca": [
            pca(data(1, 160, 6), 1, 130),
            pca(data(2, 120, 3), 3, 90),
        ],
        "control": control(data(3, 100, 2), 8, 60),
    }
    (HERE / "detectors.json").write_text(json.dumps(reference, separators=(",", ":")) + "\n")
