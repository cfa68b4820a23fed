"""Which faces an epoch is made of: data sets, classes, kinds of forgery and videos drawn evenly, in pairs."""

import bisect
import collections
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline import Item, split_video
from training import augmentation

NO_SHARES: Mapping[str, float] = {}


def draw_epoch(
    images: Sequence[Item],
    batch_size: int,
    balance: bool,
    seed: int,
    epoch: int,
    pairs: bool = False,
    degraded: bool = False,
    shares: Mapping[str, float] = NO_SHARES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (which faces, int (steps, batch_size); how to change them, float32 (steps, batch_size, n)).

    Without `balance` every face once, a few twice to fill the last batch; with it, as many draws by
    `weigh_faces`, which takes the `shares`; with `pairs`, by `draw_pairs`. The n numbers are uniform in
    [-1, 1]: `augmentation.CHANGES`, and for faces to be `degraded` `augmentation.NUMBERS` more.
    """
    random = np.random.default_rng((seed, epoch))
    steps = -(-len(images) // batch_size)
    size = steps * batch_size
    places = None
    if pairs:
        order, places = draw_pairs(images, steps, batch_size, random, shares)
    elif balance:
        order = random.choice(len(images), size, p=weigh_faces(images, shares))
    else:
        order = np.resize(random.permutation(len(images)), size)
    numbers = augmentation.CHANGES + augmentation.NUMBERS * degraded
    changes = random.uniform(-1, 1, (steps, batch_size, numbers)).astype(np.float32)
    if places is not None:
        changes = np.take_along_axis(changes, places[..., None], 1)
    return order.reshape(steps, batch_size), changes


def weigh_faces(images: Sequence[Item], shares: Mapping[str, float] = NO_SHARES) -> np.ndarray:
    """Return each image's chance to be drawn, float64 (N,), summing to 1.

    Even over the data sets, in a data set over the two classes, in a class over the kinds of
    forgery, in a kind over its videos. So a data set tells nothing of the class. `shares`:
    {data set: how often it is drawn, where the others are drawn once}.
    """
    keys = [(i.dataset, i.label, split_video(i)[0], i.video) for i in images]
    chances = np.ones(len(images))
    members = collections.Counter(keys)
    for depth in range(4):
        # of each prefix of the keys, how many different next parts there are
        parts = collections.Counter(key[:depth] for key in {key[: depth + 1] for key in keys})
        chances /= [parts[key[:depth]] for key in keys]
    chances *= [
        shares.get(image.dataset, 1.0) / members[key] for image, key in zip(images, keys, strict=True)
    ]
    return chances / chances.sum()


def pair_faces(images: Sequence[Item]) -> np.ndarray:
    """Return of each forged image the index of the real one it was made from, int (N,); -1 without.

    Of that video, the image of the same frame, or of the nearest.
    """
    named: dict[tuple[str, str], int] = {}  # {(video, frame as text): index}
    # {video: (frame as number, index), sorted}
    numbered: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    for index, image in enumerate(images):
        if image.label == "real":
            text, number = parse_frame_name(image)
            named.setdefault((image.video, text), index)
            bisect.insort(numbered[image.video], (number, index))
    partners = np.full(len(images), -1)
    for index, image in enumerate(images):
        origin = split_video(image)[1]
        if origin in numbered:
            text, number = parse_frame_name(image)
            partners[index] = named.get((origin, text), _find_nearest(numbered[origin], number))
    return partners


def _find_nearest(frames: Sequence[tuple[int, int]], number: int) -> int:
    """Return of (number, index), sorted, the index with the nearest number; of two, the lower one's."""
    place = bisect.bisect_left(frames, (number,))
    return min(frames[max(place - 1, 0) : place + 1], key=lambda frame: abs(frame[0] - number))[1]


def parse_frame_name(image: Item) -> tuple[str, int]:
    """Return what the name says of the frame, as text and as its first number (0 without)."""
    frame = image.path.stem.rpartition("-")[2]
    number = re.search(r"\d+", frame)
    return frame, int(number[0]) if number else 0


def draw_pairs(
    images: Sequence[Item],
    steps: int,
    batch_size: int,
    random: np.random.Generator,
    shares: Mapping[str, float] = NO_SHARES,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (which faces, whose numbers), both int (steps, batch_size).

    Faces are drawn by `weigh_faces`, but a forged face with an original comes with it, the two in one
    batch. The second says whose random numbers in the batch change a face: its own, or its
    partner's. Both classes of a data set are drawn nearly equally often: where all its forged faces have
    originals, other real faces are not drawn at all.
    """
    chances, partners = weigh_faces(images, shares), pair_faces(images)
    paired = partners >= 0
    brought = np.bincount(partners[paired], chances[paired], minlength=len(images))
    # what a real face lacks beyond the draws that its forgeries bring; together as much as its class lacks
    lacking = np.maximum(chances - brought, 0)
    labels = np.array([image.label for image in images])
    datasets = np.array([image.dataset for image in images])
    for dataset in sorted(set(datasets)):
        real = (datasets == dataset) & (labels == "real")
        if lacking[real].sum() > 0:
            left = max(0.0, (chances[real] - brought[real]).sum())
            chances[real] = lacking[real] * (left / lacking[real].sum())
        else:
            chances[real] = 0
    chances /= chances.sum()
    order = np.empty((steps, batch_size), int)
    places = np.tile(np.arange(batch_size), (steps, 1))
    for step in range(steps):
        place = 0
        for index in random.choice(len(images), batch_size, p=chances):
            if place == batch_size:
                break
            order[step, place] = index
            if partners[index] >= 0 and place + 1 < batch_size:
                order[step, place + 1] = partners[index]
                places[step, place + 1] = place
                place += 1
            place += 1
    return order, places
