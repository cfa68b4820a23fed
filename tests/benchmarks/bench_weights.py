"""Measure how well weights tell the faces of a validation set: writes the table that the READMEs show.

    python3 tests/benchmarks/bench_weights.py DATA/validation Meso4_DF weights/authors/Meso4_DF.h5

For each set of weights, data set (`DATA/validation/<df,real>/<data set>/<video>/`) and kind of forgery in
it, per image and, where videos have several images, per video: the share of forged (df) and of real faces
judged right, their mean, the area under the ROC curve, and the share that is uncertain. Filter, zoom and
thresholds are those that belong to the weights. The rows go to weights/results.csv, or to the file that
--output names; the rows of other weights there stay.
"""

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pipeline
from weights import find_weights, name_stem
from weights.scoring import score
from weights.scoring.metrics import evaluate_by_dataset

FIGURES = ("accuracy_df", "accuracy_real", "balanced_accuracy", "auc", "uncertain")


def main():
    parser = pipeline.make_parser(__doc__)
    parser.add_argument("data", type=Path, help="holds df/ and real/")
    parser.add_argument("weights", nargs="+", help="names or files, as deepfakes_images.py takes them")
    parser.add_argument("--output", type=Path, default=ROOT / "weights/results.csv", metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.weights:
        weights = find_weights(name)
        shown = ("authors' " if weights.path.parent.name == "authors" else "") + name_stem(weights.path)
        found = evaluate_by_dataset(list(score([arguments.data], weights, align=False)), weights.rule)
        for dataset, levels in found.items():
            for level, figures in levels.items():
                if level == "image" or dataset == "mean" or figures["count"] < levels["image"]["count"]:
                    numbers = {key: f"{figures[key]:.3f}" for key in FIGURES if key in figures}
                    count = figures.get("count", "")
                    rows.append({"weights": shown, "set": dataset, "level": level, "count": count} | numbers)
    anew = {row["weights"] for row in rows}
    if arguments.output.exists():
        with arguments.output.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["weights"] not in anew] + rows
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("weights", "set", "level", "count", *FIGURES))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
