"""The figures of a training, as a table and as curves. `history` holds a row for each epoch."""

from pathlib import Path
from typing import Any

import pipeline


def write_history(history: list[dict[str, Any]], path: Path) -> None:
    lines = [",".join(map(str, line)) for line in (history[0], *(row.values() for row in history))]
    pipeline.write_atomically(path, lambda part: part.write_text("\n".join(lines) + "\n"))


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flat
    for panel, title in zip(panels, ("loss", "accuracy", "auc", "learning_rate"), strict=True):
        for name in (name for name in history[0] if name.endswith(title)):
            values = [row[name] for row in history]
            panel.plot([row["epoch"] for row in history], values, marker=".", label=name.replace("_", " "))
        panel.set(xlabel="epoch", yscale="log" if title == "learning_rate" else "linear")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    pipeline.write_atomically(path, lambda part: figure.savefig(part, dpi=110))
