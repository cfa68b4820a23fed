"""Make forged faces out of real ones, to train on beside real forgeries; see blending.py.

    python3 training/blend_faces.py data/training

Each face of real/ named <dataset>-<video>-<frame> gives df/<dataset>-blended_<video>-<frame>.png: two of
three blended with themselves, the third with the face of another video of its data set. --pairs draws them
together with their originals. Faces in which no landmarks are found are counted and left out.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root

import numpy as np
from PIL import Image
from tqdm import tqdm

import pipeline
from pipeline import Item, fail
from training import blending

MARGIN = 40  # pixels repeated around a face, which fills its crop, to find its landmarks
FEATURES = ("chin", "left_eyebrow", "right_eyebrow", "nose_bridge", "nose_tip", "left_eye", "right_eye")
OTHERS = 3  # every third face is blended with another's


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    real, forged = arguments.folder / "real", arguments.folder / "df"
    images = [image for image in pipeline.find_images([real]) if image.dataset]
    if not images:
        return fail(2, f"{real}: must hold faces named <dataset>-<video>-<frame>")
    if forged.exists() and not forged.is_dir():
        return fail(2, f"{forged}: must be a folder")
    found: list[tuple[Item, np.ndarray]] = []
    damaged = 0
    for image in tqdm(images, unit="face", disable=None, leave=False):
        try:
            points = locate_landmarks(read_face(image))
        except (OSError, ValueError, MemoryError) as error:
            damaged += 1
            print(
                f"skipped {pipeline.printable(image.path)}: {pipeline.describe_error(error)}", file=sys.stderr
            )
            continue
        if points is not None:
            found.append((image, points))
    try:
        forged.mkdir(exist_ok=True)
        for index in tqdm(range(len(found)), unit="blend", disable=None, leave=False):
            image = found[index][0]
            blended = blend_face(found, index, arguments.seed)
            write = functools.partial(pipeline.write_crop, blended, zoom=pipeline.read_zoom(image.path))
            pipeline.write_atomically(forged / name_blend(image), write)
    except (OSError, ValueError) as error:
        return fail(1, error)
    missing = len(images) - len(found) - damaged
    print(f"wrote {len(found)} blended faces to {forged}; no landmarks in {missing}")
    return 1 if damaged else 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = pipeline.make_parser(__doc__, "FOLDER [options]")
    # fmt: off
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds real/, and df/ for the blends")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="(default: %(default)s)")
    # fmt: on
    return pipeline.parse(parser, argv)


def name_blend(image: Item) -> str:
    dataset, _, rest = image.path.stem.partition("-")
    return f"{dataset}-blended_{rest}.png"


def blend_face(found: Sequence[tuple[Item, np.ndarray]], index: int, seed: int) -> np.ndarray:
    """Return the blend, uint8 (height, width, 3), of one of the faces with landmarks."""
    random = np.random.default_rng((seed, index))
    image, points = found[index]
    face = read_face(image)
    if index % OTHERS == 0:
        pool = [i for i, (other, _) in enumerate(found) if other.dataset == image.dataset]
        chosen = blending.choose_donor([found[i][1] for i in pool], pool.index(index), random)
        donor, donor_points = found[pool[chosen]]
        if donor.video != image.video:
            return blending.blend_other(face, points, read_face(donor), donor_points, random)
    return blending.blend_self(face, points, random)


def read_face(image: Item) -> np.ndarray:
    return pipeline.read_image(image.path)


def locate_landmarks(face: np.ndarray) -> np.ndarray | None:
    """Return the 68 landmarks of the largest face in a crop, float (68, 2) as (x, y); None without a face."""
    scale = pipeline.IMAGE_SIZE / max(face.shape[:2])
    small = Image.fromarray(face).resize([round(length * scale) for length in face.shape[1::-1]])
    padded = np.pad(np.asarray(small), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
    boxes = pipeline.detect_faces(padded, "hog", upsample=0)
    if not boxes:
        return None
    named = pipeline.find_landmarks(padded, max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1])))
    upper, lower = named["top_lip"], named["bottom_lip"]  # both from corner to corner and back
    points = [point for feature in FEATURES for point in named[feature]]
    points += [*upper[:7], *lower[1:6], *upper[:6:-1], *lower[10:7:-1]]
    return (np.array(points, float) - MARGIN) / scale


if __name__ == "__main__":
    pipeline.run(main)
