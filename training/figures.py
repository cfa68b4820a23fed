"""The figures of a training: a line for each epoch, a table, and curves."""

import csv
from pathlib import Path
from typing import Any

import pipeline

History = list[dict[str, Any]]  # the figures of each epoch
CURVES = {
    "Loss": {"loss": "training", "validation_loss": "validation"},
    "Accuracy": {
        "accuracy": "training",
        "validation_accuracy": "validation",
        "validation_balanced_accuracy": "validation, balanced",
    },
    "AUC": {"validation_auc": "validation, mean over data sets"},
    "Learning rate": {"learning_rate": "at the epoch's start"},
}


def format_epoch(row: dict[str, Any], epochs: int, speed: float) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.3f}; "
        f"validation: loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.3f}, "
        f"balanced {row['validation_balanced_accuracy']:.3f}, AUC {row['validation_auc']:.4f}; "
        f"{speed:.0f} images/s"
    )


def write_history(path: Path, history: History) -> None:
    def write(part: Path) -> None:
        with open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, history[0])
            writer.writeheader()
            writer.writerows(history)

    pipeline.write_atomically(path, write)


def draw_curves(history: History, path: Path) -> None:
    """Draw the epochs' figures (dicts as in history.csv): loss, accuracy, AUC, learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for panel, (title, names) in zip(figure.subplots(2, 2, sharex=True).flat, CURVES.items(), strict=True):
        for name, label in names.items():
            panel.plot(epochs, [row[name] for row in history], marker=".", label=label)
        panel.set(title=title, xlabel="epoch")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
        if title == "Learning rate":
            panel.set_yscale("log")
    pipeline.write_atomically(path, lambda part: figure.savefig(part, dpi=110))
