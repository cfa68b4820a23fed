"""What a network looks for."""

from pathlib import Path

import numpy as np

from pipeline import write_atomically


def plot_activations(means: dict[str, tuple[np.ndarray, ...]], path: Path) -> None:
    """Draw mean activations, {"real": (first, last), "df": (first, last)}: maps (height, width, channels)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.45 * len(means)), layout="constrained")
    rows = figure.subplots(len(means), 4, squeeze=False)
    for layer in (0, 1):
        # the border, where the convolution meets zeros, would outshine all else
        limit = max(float(np.percentile(maps[layer].mean(axis=2), 99.5)) for maps in means.values())
        for row, (label, maps) in zip(rows, means.items(), strict=True):
            strongest = maps[layer][:, :, maps[layer].mean(axis=(0, 1)).argmax()]
            name = ("first", "last")[layer]
            row[2 * layer].imshow(maps[layer].mean(axis=2), cmap="magma", vmin=0, vmax=limit)
            row[2 * layer].set_title(f"{label}: {name} layer, mean", fontsize=8)
            row[2 * layer + 1].imshow(strongest, cmap="magma")
            row[2 * layer + 1].set_title(f"{label}: {name} layer, strongest channel", fontsize=8)
    for panel in rows.flat:
        panel.axis("off")
    write_atomically(path, lambda part: figure.savefig(part, dpi=100))


def plot_units(images: np.ndarray, weights: np.ndarray, path: Path) -> None:
    """Draw what excites each hidden unit most, uint8 (units, 256, 256, 3), those for "forged" first.

    `weights`, float (units,): of the units in the score.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.9 * -(-len(images) // 8)), layout="constrained")
    panels = figure.subplots(-(-len(images) // 8), 8, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, unit in zip(panels.flat, np.argsort(weights), strict=False):
        panel.imshow(images[unit])
        meaning = "real" if weights[unit] > 0 else "forged"
        panel.set_title(f"unit {unit}: {weights[unit]:+.2f}\n{meaning}", fontsize=8)
    write_atomically(path, lambda part: figure.savefig(part, dpi=80))
