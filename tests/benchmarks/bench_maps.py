"""Which way to hide a patch makes maps that find the forged part of a face more often.

    python3 tests/benchmarks/bench_maps.py FOLDER [--weights NAME]

FOLDER holds df/ and real/ with pairs of an untouched face and the forged one of the same frame, called
`<set>-<video>-<frame>` and `<set>-<kind>_<video>-<frame>`: the truth is where they differ. Without FOLDER:
the simulated forgeries of test_images. Of the forged faces that the weights call deepfake, prints how often
the strongest patch lies in the tenth of the face that differs most (by chance: 10 %), and the mean AUC of the
map over the patches of that tenth.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pipeline
from weights import evidence, find_weights, load_predictor
from weights.scoring.metrics import compute_auc

SHARE = 0.1  # of the patches: those that differ most


def blur_pixels(face):
    return np.asarray(Image.fromarray(face).filter(ImageFilter.GaussianBlur(12)))


WAYS = {"shuffled pixels": evidence.shuffle_pixels, "blurred copy": blur_pixels}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "test_images", metavar="FOLDER")
    parser.add_argument("--weights", default="Meso4_DF_F2F", metavar="NAME")
    parser.add_argument("--faces", type=int, default=100, help="at most (default: %(default)s)")
    arguments = parser.parse_args()
    weights = find_weights(arguments.weights)
    predict = load_predictor(weights)
    found = {way: [] for way in WAYS}
    count = 0
    for real, forged in load_pairs(arguments.folder, weights):
        if count < arguments.faces and predict(forged[None])[0] < weights.rule.threshold:
            count += 1
            truth = find_difference(real, forged)
            for way, hide in WAYS.items():
                patches = evidence.measure_evidence(forged, predict, hide).ravel()
                labels = ["real" if patch else "df" for patch in truth]
                found[way].append((truth[patches.argmax()], compute_auc(labels, patches)))
    print(f"{count} forged faces        found    AUC")
    for way, rows in found.items():
        print(f"{way:<24} {np.mean([hit for hit, _ in rows]):5.1%}  {np.mean([auc for _, auc in rows]):.3f}")


def load_pairs(folder, weights):
    """Yield (untouched face, forged face)."""
    images = pipeline.find_images([folder])
    real = {}  # by frame, where both have the same numbers, and by video
    for image in images:
        if image.label == "real":
            real[image.video, image.path.stem.rpartition("-")[2]] = real[image.video, ""] = image
    for image in images:
        video = pipeline.split_video(image)[1] or image.video.replace("/df/", "/real/")
        origin = real.get((video, image.path.stem.rpartition("-")[2]), real.get((video, "")))
        if image.label == "df" and origin:
            yield tuple(pipeline.load_faces([origin, image], weights.view))


def find_difference(real, forged):
    """Return which patches belong to the tenth in which the faces differ most, bool (225,)."""
    difference = np.abs(real.astype(float) - forged).mean(axis=-1)
    means = np.array([difference[patch].mean() for patch in evidence.PATCHES])
    return means >= np.quantile(means, 1 - SHARE)


if __name__ == "__main__":
    main()
