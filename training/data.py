"""Faces to train on: found, checked, decoded once, drawn in a reproducible order, augmented.

Everything random is drawn with NumPy from (seed, epoch), ahead of the epoch: the same on every
machine, and an epoch begun again after a kill is the same epoch.
"""

import collections
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pipeline
from classifiers import PIXEL_SCALE
from pipeline import Item

SIDE = pipeline.IMAGE_SIZE
IN_MEMORY = 0.25  # of the memory may hold a set of decoded faces; a larger set lies on disk
# the authors' augmentation, their ImageDataGenerator's arguments
ZOOM = 0.2
ROTATION = 15.0  # degrees
BRIGHTNESS = 0.2
CHANNEL_SHIFT = 30 / 255


class FaceSet(NamedTuple):
    """Decoded faces. The three are parallel."""

    images: list[Item]
    faces: np.ndarray  # uint8 (N, 256, 256, 3) RGB, in memory or mapped from disk
    labels: np.ndarray  # float32 (N, 1): 1 = real, 0 = forged


def list_images(folder: str | Path) -> tuple[list[Item], dict[str, str]]:
    """Return (Items of `folder`/<df,real>, {folder name: label} where the name is an alias).

    A video is a subfolder of its class, or the first part of names `<dataset>-<video>-<frame>`.
    Raises FileNotFoundError without the folder, ValueError, naming what was found, when a class is
    empty or something lies beside the two classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    images, aliases, stray = [], {}, []
    for entry in sorted(folder.iterdir()):
        label = pipeline.LABEL_ALIASES.get(entry.name.lower()) if entry.is_dir() else None
        if entry.name.startswith("."):
            continue
        if label is None:
            stray.append(entry.name)
            continue
        if entry.name != label:
            aliases[entry.name] = label
        for image in pipeline.find_images([entry]):
            folder = image.path.parent
            folder = folder.parent if pipeline.PERSON_NAME.fullmatch(folder.name) else folder
            video = image.video if folder == entry else str(folder.relative_to(entry))
            images.append(image._replace(label=label, video=video))
    if stray:
        raise ValueError(
            f"{folder}: holds {', '.join(stray[:5])}{', ...' if len(stray) > 5 else ''} beside the classes: "
            f"wanted folders named {' and '.join(pipeline.LABELS)} only"
        )
    for label in pipeline.LABELS:
        if not any(image.label == label for image in images):
            raise ValueError(f"{folder}: no image of class {label}, wanted some in {folder / label}")
    return images, aliases


def find_leaks(training: Iterable[Item], validation: Iterable[Item]) -> list[str]:
    """Return the names of videos that have images in both lists, sorted."""

    def named(images: Iterable[Item]) -> set[str]:
        return {image.video for image in images if image.video != str(image.path)}

    return sorted(named(training) & named(validation))


def split_by_video(images: Sequence[Item], fraction: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Return (training, validation): whole videos, about `fraction` of each dataset's into the second.

    Videos of one name stay together, whatever their class. Raises ValueError when a class of either
    would be empty.
    """
    classes = collections.defaultdict(set)
    for image in images:
        classes[image.dataset, image.video].add(image.label)
    strata = collections.defaultdict(list)
    for (dataset, video), labels in sorted(classes.items()):
        strata[dataset, tuple(sorted(labels))].append(video)
    chosen = set()
    for (dataset, _), videos in sorted(strata.items()):
        order = np.random.default_rng(seed).permutation(len(videos))
        count = round(fraction * len(videos))
        if len(videos) > 1:
            count = min(max(count, 1), len(videos) - 1)
        chosen |= {(dataset, videos[i]) for i in order[:count]}
    validation = [image for image in images if (image.dataset, image.video) in chosen]
    training = [image for image in images if (image.dataset, image.video) not in chosen]
    for label in pipeline.LABELS:
        if not all(any(i.label == label for i in part) for part in (training, validation)):
            raise ValueError(f"class {label} has too few videos to split: give it a validation folder")
    return training, validation


def load_faces(
    images: Sequence[Item], resampling: str, scratch: str | Path, watch: pipeline.Watch[Item] = iter
) -> tuple[FaceSet, list[tuple[Path, str]]]:
    """Return (FaceSet of the images that can be read, [(path, reason)] of the others).

    Decoded once, as `pipeline.load_face` does for scoring. Kept in memory, or, when they would take
    too much of it, in an unnamed file in the folder `scratch`. `watch` wraps the iterator over
    images: a progress bar.
    """
    shape = (len(images), pipeline.IMAGE_SIZE, pipeline.IMAGE_SIZE, 3)
    if np.prod(shape) <= IN_MEMORY * measure_memory():
        faces = np.empty(shape, np.uint8)
    else:
        with tempfile.TemporaryFile(dir=scratch) as file:  # gone when the process is, killed or not
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)))  # else a full disk is a crash, later
            faces = np.memmap(file, np.uint8, "w+", shape=shape)
    kept: list[Item] = []
    failed: list[tuple[Path, str]] = []
    for image, face in zip(watch(images), pipeline.load_faces(images, resampling), strict=True):
        if isinstance(face, Exception):
            failed.append((image.path, pipeline.describe_error(face)))
        else:
            faces[len(kept)] = face
            kept.append(image)
    labels = np.array([[image.label == "real"] for image in kept], np.float32).reshape(-1, 1)
    return FaceSet(kept, faces[: len(kept)], labels), failed


def measure_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without limit ("max")
        return machine


def count_faces(images: Iterable[Item]) -> dict[str, dict[str, int]]:
    """Return {"dataset label": {"images": n, "videos": m}}, sorted; a set without datasets has "" there."""
    videos = collections.defaultdict(list)  # of each image
    for image in images:
        videos[f"{image.dataset} {image.label}".strip()].append(image.video)
    return {name: {"images": len(v), "videos": len(set(v))} for name, v in sorted(videos.items())}


def fingerprint(images: Iterable[Item]) -> str:
    """Return a short digest of which faces these are: classes, videos and file names, in order."""
    names = "\n".join(f"{i.label}/{i.video}/{i.path.name}" for i in images)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]


def weigh_faces(images: Sequence[Item]) -> np.ndarray:
    """Return each image's chance to be drawn, float64 (N,), summing to 1.

    Even over the classes, within a class over its datasets, within a dataset over its videos.
    """
    videos = collections.Counter((i.label, i.dataset, i.video) for i in images)
    datasets = collections.Counter(key[:2] for key in videos)
    classes = collections.Counter(key[:1] for key in datasets)
    keys = [(i.label, i.dataset, i.video) for i in images]
    chances = np.array([1 / (videos[k] * datasets[k[:2]] * classes[k[:1]]) for k in keys])
    return chances / chances.sum()


def draw_epoch(
    images: Sequence[Item], batch_size: int, balance: bool, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (which faces, int (steps, batch_size); how to change them, float32 (steps, batch_size, 8)).

    Without `balance` every face once, a few twice to fill the last batch; with it, as many draws by
    `weigh_faces`. The eight numbers are uniform in [-1, 1]; see `augment`.
    """
    random = np.random.default_rng((seed, epoch))
    steps = -(-len(images) // batch_size)
    size = steps * batch_size
    if balance:
        order = random.choice(len(images), size, p=weigh_faces(images))
    else:
        order = np.resize(random.permutation(len(images)), size)
    changes = random.uniform(-1, 1, (steps, batch_size, 8)).astype(np.float32)
    return order.reshape(steps, batch_size), changes


def make_batches(
    face_set: FaceSet,
    order: np.ndarray,
    changes: np.ndarray,
    replicas: int = 1,
    mine: slice = slice(0, 1),
    side: int = SIDE,
) -> Any:
    """Return a tf.data.Dataset of (faces float32 (n, side, side, 3) in [0, 1], labels float32 (n, 1)).

    Each row of `order` is a batch, cut into as many parts as there are replicas; delivered, one
    after the other, are the parts of the replicas `mine`. Gathering and augmenting run in parallel,
    ahead of the network.
    """
    import tensorflow as tf

    steps, batch_size = order.shape
    part = batch_size // replicas

    def take_mine(array: np.ndarray) -> np.ndarray:
        parts = array.reshape(steps, replicas, part, *array.shape[2:])[:, mine]
        return parts.reshape(-1, part, *array.shape[2:])

    change_faces = tf.function(augment, jit_compile=True)  # one fused loop: five times as fast

    def load(chosen: Any, change: Any) -> tuple[Any, Any]:
        batch = tf.numpy_function(lambda i: face_set.faces[i], [chosen], tf.uint8)
        batch = tf.ensure_shape(batch, (part, pipeline.IMAGE_SIZE, pipeline.IMAGE_SIZE, 3))
        return change_faces(batch, change, side), tf.gather(face_set.labels, chosen)

    batches = tf.data.Dataset.from_tensor_slices((take_mine(order), take_mine(changes)))
    # augmenting is quick: more threads would take the network's (measured on 2 cores)
    threads = max(1, (os.cpu_count() or 1) // 4)
    return batches.map(load, num_parallel_calls=threads, deterministic=True).prefetch(1)


def augment(faces: Any, changes: Any, side: int = SIDE) -> Any:
    """Return uint8 faces (N, 256, 256, 3) changed as the authors' training does: float32 in [0, 1].

    `changes`, float32 (N, 8) in [-1, 1]: rotation to 15 degrees; zoom to 0.2, across and along;
    flip where the fourth is negative; channel shift to 30 of 255, one for all channels; brightness
    times 0.8 to 1.2; and, where `side` is less than 256, which window (N, side, side, 3) is given.
    Bilinear; where a face does not fill its square any more, its edge is repeated.
    Changes of 0 give the pixels of `classifiers.scale_pixels`, bit for bit.
    """
    import tensorflow as tf

    rotation, zoom_x, zoom_y, flip, shift, brightness, across, down = (
        changes[:, i, None, None] for i in range(changes.shape[1])
    )
    zoom_x, zoom_y = 1 + ZOOM * zoom_x, 1 + ZOOM * zoom_y
    zoom_x = tf.where(flip < 0, -zoom_x, zoom_x)
    angle = rotation * np.float32(np.radians(ROTATION))
    cos, sin = tf.cos(angle), tf.sin(angle)
    # (x, y): where in the face the output pixel (column, row) looks
    last = SIDE - 1
    middle = (tf.range(side, dtype=tf.float32) - (side - 1) / 2)[None, None]
    column = middle + tf.round(across * (SIDE - side) / 2)
    row = tf.transpose(middle, (0, 2, 1)) + tf.round(down * (SIDE - side) / 2)
    x = tf.clip_by_value(cos * zoom_x * column - sin * zoom_y * row + last / 2, 0, last)
    y = tf.clip_by_value(sin * zoom_x * column + cos * zoom_y * row + last / 2, 0, last)
    left, top = tf.minimum(tf.floor(x), last - 1), tf.minimum(tf.floor(y), last - 1)
    corner = tf.cast(top, tf.int32) * SIDE + tf.cast(left, tf.int32)
    pixels = tf.reshape(faces, (-1, SIDE * SIDE, 3))

    def look(offset: int) -> Any:
        return tf.cast(tf.gather(pixels, corner + offset, batch_dims=1), tf.float32)

    x, y = (x - left)[..., None], (y - top)[..., None]
    upper = look(0) * (1 - x) + look(1) * x
    lower = look(SIDE) * (1 - x) + look(SIDE + 1) * x
    values = (upper * (1 - y) + lower * y) * PIXEL_SCALE
    values = tf.clip_by_value(values + CHANNEL_SHIFT * shift[..., None], 0.0, 1.0)
    return tf.clip_by_value(values * (1 + BRIGHTNESS * brightness[..., None]), 0.0, 1.0)
