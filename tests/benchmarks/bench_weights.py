"""Print the tables of accuracy: how well weights tell the faces of a validation set, side by side.

    python3 tests/benchmarks/bench_weights.py DATA/validation Meso4_DF weights/authors/Meso4_DF.h5

For each data set (the first part of names `<dataset>-<video>-<frame>.jpg`) and each kind of forgery in it,
per image and, where videos have several images, per video, four numbers: the share of forged (df) and of real
faces told right, their mean (balanced accuracy), and the area under the ROC curve; in brackets the share that
is uncertain, if the weights' card says what is. "mean" is over the data sets. Filter, zoom and thresholds are
those that belong to the weights.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pipeline
from weights import find_weights, load_predictor
from weights.scoring.metrics import evaluate_by_dataset
from weights.scoring.scores import score_crops

FIGURES = ("accuracy_df", "accuracy_real", "balanced_accuracy", "auc")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="holds df/ and real/")
    parser.add_argument("weights", nargs="+", help="names or files, as deepfakes_images.py takes them")
    arguments = parser.parse_args()
    images = pipeline.find_images([arguments.data])
    results = {name: evaluate_sources(images, name) for name in arguments.weights}
    names = [name.replace("weights/authors/", "authors' ").removesuffix(".h5") for name in results]
    print(f"| dataset, level | count | {' | '.join(names)} |")
    print(f"|---|---|{'---|' * len(names)}")
    first = next(iter(results.values()))
    for dataset, levels in first.items():
        for level in ("image", "video"):
            if level == "image" or levels["video"]["count"] < levels["image"]["count"]:
                cells = [format_cell(found[dataset][level]) for found in results.values()]
                print(f"| {dataset}, {level} | {levels[level]['count']} | {' | '.join(cells)} |")


def format_cell(found):
    uncertain = f" ({found['uncertain']:.3f})" if "uncertain" in found else ""
    return " ".join(f"{found[key]:.3f}" for key in FIGURES) + uncertain


def evaluate_sources(images, name):
    """Return {dataset: {"image": figures, "video": figures}}, with "mean" over the datasets."""
    weights = find_weights(name)
    predict = load_predictor(weights)
    scores = list(score_crops(images, predict, weights.view, weights.rule.threshold))
    found = evaluate_by_dataset(scores, weights.rule)
    everything, mean = found.pop("all"), found.pop("mean")
    datasets = {score.item.dataset for score in scores} & set(found)
    for level, figures in mean.items():
        for key in ("accuracy_df", "accuracy_real"):
            figures[key] = np.mean([found[dataset][level][key] for dataset in datasets])
        figures["count"] = everything[level]["count"]
    return found | {"mean": mean}


if __name__ == "__main__":
    main()
