"""A convolutional autoencoder of PyTorch as a bundle.

    python train_torch.py HISTORY.csv DIRECTORY [VERSION]

Scaling, score and contributions are part of the graph: there is one truth, and the golden vectors prove all of it.
"""

import sys

import torch  # first: its mathematical library does not load after that of others

import numpy as np

import recipe

DEVICE = "pump"
ROLES = ["pressure", "flow", "motor_current", "vibration", "bearing_temp"]
LENGTH, GRID_MS, MAX_GAP_MS = 30, 1000, 5000
EPOCHS, BATCH = 30, 64


class Autoencoder(torch.nn.Module):
    def __init__(self, mean, scale):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))
        inputs = len(mean)
        self.net = torch.nn.Sequential(
            torch.nn.Conv1d(inputs, 16, 5, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv1d(16, 4, 5, padding=2, stride=2),
            torch.nn.ReLU(),
            torch.nn.ConvTranspose1d(4, 16, 4, padding=1, stride=2),
            torch.nn.ReLU(),
            torch.nn.Conv1d(16, inputs, 5, padding=2),
        )

    def error(self, window):
        """Absolute error of each cell, in standard deviations of its input."""
        scaled = ((window - self.mean) / self.scale).clamp(-8.0, 8.0).transpose(1, 2)
        return (scaled - self.net(scaled)).abs().transpose(1, 2)

    def forward(self, window):
        contribution = self.error(window).mean(1)
        return contribution.mean(1), contribution


def main(history, directory, version="1.0.0"):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    series = recipe.read_export(history, [f"{DEVICE}/{role}" for role in ROLES])
    windows = recipe.windows_of(series, GRID_MS, LENGTH, MAX_GAP_MS)
    # The last third is not seen in training: the threshold comes from there.
    train, calibration = np.split(windows, [2 * len(windows) // 3])
    model = Autoencoder(train.mean((0, 1)), train.std((0, 1)))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    data = torch.from_numpy(train)
    for epoch in range(EPOCHS):
        losses = []
        for batch in torch.randperm(len(data)).split(BATCH):
            loss = (model.error(data[batch]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    print(f"squared error after {EPOCHS} epochs: {np.mean(losses):.3f}")
    model.eval()
    exported = torch.onnx.export(
        model, (torch.zeros(1, LENGTH, len(ROLES)),), input_names=["window"],
        output_names=["score", "contribution"], opset_version=18, dynamo=True,
    )
    recipe.save_bundle(
        directory, exported.model_proto, calibration, name="pump-autoencoder", version=version, roles=ROLES,
        grid=f"{GRID_MS}ms", max_gap=f"{MAX_GAP_MS}ms", quantile=0.999, factor=4 / 3,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
