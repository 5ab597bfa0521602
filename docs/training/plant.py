"""A plant to try the recipe on: a pump that is polled each second.

    python plant.py DIRECTORY

history.csv is what `millrace buffer export` would have written after three hours of normal operation, with lost polls as they
happen; fault.csv has a row a second with a label, and a worn bearing from minute 5 to minute 8.
"""

import sys
from pathlib import Path

import numpy as np

TAGS = ["pressure", "flow", "motor_current", "vibration", "bearing_temp"]
NOISE = np.array([0.03, 0.6, 0.15, 0.08, 0.25])
BEGIN_MS = 1_763_690_000_000


def pump(seconds, rng, fault=(0, 0)):
    """Rows of the five values, one a second."""
    heat, rows = 50.2, np.empty((seconds, len(TAGS)))
    for t in range(seconds):
        load = 0.7 + 0.2 * np.sin(2 * np.pi * t / 60 + 0.4 * np.sin(t / 97))
        worn = 1.0 if fault[0] <= t < fault[1] else 0.0
        heat += (46 + 6 * load + 2.5 * worn - heat) / 10
        rows[t] = [
            6.2 - 1.6 * load - 0.3 * worn,
            60 * load * (1 - 0.05 * worn),
            8 + 14 * load + 0.8 * worn * np.sin(5.7 * t),
            (1.2 + load) * (1 + 0.6 * worn),
            heat,
        ]
    return rows + rng.standard_normal(rows.shape) * NOISE


def main(directory):
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    with open(directory / "history.csv", "w") as file:
        file.write("source,seq,n,t,v,x,q,r,st,stream,clock,boot\n")
        seq = 0
        for t, row in enumerate(pump(3 * 3600, rng)):
            lost = 4000 <= t < 4020 or rng.random() < 0.001
            for tag, value in zip(TAGS, row):
                seq += 1
                state = ",,bad,timeout" if lost else f"{value:.6g},,,"
                file.write(f"pump,{seq},{tag},{BEGIN_MS + t * 1000},{state},,6f0c,,\n")
    with open(directory / "fault.csv", "w") as file:
        file.write("time," + ",".join(TAGS) + ",label\n")
        for t, row in enumerate(pump(900, rng, fault=(300, 480))):
            values = ",".join(f"{value:.6g}" for value in row)
            file.write(f"{BEGIN_MS + 86_400_000 + t * 1000},{values},{int(300 <= t < 480)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
