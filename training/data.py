"""Faces to train on: found, checked, decoded once, drawn in a reproducible order, made into batches.

Everything random is drawn with NumPy from (seed, epoch), ahead of the epoch: the same on every
machine, and an epoch begun again after a kill is the same epoch.
"""

import collections
import contextlib
import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

import pipeline
from pipeline import Item
from training import augmentation

SIDE = pipeline.IMAGE_SIZE
PARTS = ("training", "validation")
IN_MEMORY = 0.25  # of the memory may hold a set of decoded faces; a larger set lies on disk
UNEQUAL = 3  # a class so many times as large as the other is worth a word


class FaceSet(NamedTuple):
    """Decoded faces. The three are parallel."""

    images: list[Item]
    faces: np.ndarray  # uint8 (N, 256, 256, 3) RGB, in memory or mapped from disk
    labels: np.ndarray  # float32 (N, 1): 1 = real, 0 = forged, or between: soft labels


def list_images(folder: str | Path) -> tuple[list[Item], dict[str, str]]:
    """Return (Items of `folder`/<df,real>, {folder name: label} where the name is an alias).

    A video is a subfolder of its class, or what a file's name says, see `pipeline.parse_labels`. Folders
    `training` and `validation` beside each other show together which names tell of data sets. Raises
    FileNotFoundError without the folder, ValueError, naming what was found, when a class is empty or
    something lies beside the two classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: it must hold {' and '.join(pipeline.LABELS)}")
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    classes = {e: pipeline.LABEL_ALIASES.get(e.name.lower()) if e.is_dir() else None for e in entries}
    stray = [entry.name for entry, label in classes.items() if label is None]
    if stray:
        raise ValueError(
            f"{folder}: must hold folders named {' and '.join(pipeline.LABELS)} only, not "
            f"{', '.join(stray[:5])}{', ...' if len(stray) > 5 else ''}"
        )
    images = []
    beside = [folder.parent / part for part in PARTS if folder.name in PARTS and part != folder.name]
    for image in pipeline.find_images([*entries, *filter(Path.is_dir, beside)]):
        if image.path.is_relative_to(folder):
            entry = folder / image.path.relative_to(folder).parts[0]
            images.append(_name_video(image, entry, str(classes[entry])))
    for label in pipeline.LABELS:
        if not any(image.label == label for image in images):
            raise ValueError(_explain_emptiness(folder, label, [e for e in entries if classes[e] == label]))
    return images, {e.name: label for e, label in classes.items() if label and label != e.name}


def _name_video(image: Item, folder: Path, label: str) -> Item:
    """Return the Item of an image in a class's folder: persons of a video are one video."""
    own = image.path.parent
    own = own.parent if pipeline.PERSON_NAME.fullmatch(own.name) else own
    video = image.video if own == folder else own.relative_to(folder).as_posix()
    return image._replace(label=label, video=video)


def _explain_emptiness(folder: Path, label: str, entries: Sequence[Path]) -> str:
    """Return why there is no image of a class: perhaps its videos lie there."""
    videos, _ = pipeline.find_videos(entries)
    if not videos:
        return f"{folder}: no image of class {label}: {folder / label} must hold some"
    where = videos[0][0].parent
    return (
        f"{where}: must hold faces, not videos ({len(videos)} there): move the videos to another folder, say "
        f"videos/{label}, then: python3 extract_faces.py videos/{label} --output {folder / label}"
    )


def suggest_balance(images: Sequence[Item]) -> str:
    """Return a line about classes of very unequal size, "" where they are not."""
    few, many = sorted(pipeline.LABELS, key=lambda label: sum(image.label == label for image in images))
    count = {label: sum(image.label == label for image in images) for label in (few, many)}
    if count[many] <= UNEQUAL * count[few]:
        return ""
    return f"{count[many]} faces of class {many}, {count[few]} of {few}: --balance draws them evenly"


def list_sources(image: Item) -> set[str]:
    """Return the names of the video that a face was cut from and of those that it was made of, by its name.

    ffpp-face2face_055_147-12.png was made of the videos ffpp-055 and ffpp-147.
    """
    kind, origin = pipeline.split_video(image)
    if not kind:
        return {image.video}
    parts = image.video.removeprefix(f"{image.dataset}-").split("_")
    others = [f"{image.dataset}-{part}" for part in parts[2:]] if len(parts) == 3 else []
    return {image.video, origin, *others}


def find_leaks(training: Sequence[Item], validation: Sequence[Item]) -> list[str]:
    """Return the names of videos that have images, or forgeries made of them, in both lists, sorted."""
    known = {image.video for image in (*training, *validation)}

    def named(images: Iterable[Item]) -> set[str]:
        return set().union(*(list_sources(image) for image in images if image.video != str(image.path)))

    return sorted(named(training) & named(validation) & known)


def find_copies(training: FaceSet, validation: FaceSet) -> tuple[int, int]:
    """Return how many different faces, pixel by pixel, are in (training and validation, both classes)."""
    places: dict[bytes, set[tuple[int, str]]] = collections.defaultdict(set)
    for part, face_set in enumerate((training, validation)):
        for image, face in zip(face_set.images, face_set.faces, strict=True):
            places[hashlib.blake2b(face, digest_size=16).digest()].add((part, image.label))
    found = [tuple(len(set(values)) > 1 for values in zip(*own, strict=True)) for own in places.values()]
    return sum(parts for parts, _ in found), sum(classes for _, classes in found)


def group_videos(images: Sequence[Item]) -> dict[str, str]:
    """Return {video: name of its group}: a forgery is in one group with those videos it was made of."""
    group = {image.video: image.video for image in images}

    def find(video: str) -> str:
        while group[video] != video:
            video = group[video]
        return video

    for image in images:
        for source in list_sources(image) & group.keys():  # what is no video here joins nothing
            first, second = sorted((find(source), find(image.video)))
            group[second] = first
    return {video: find(video) for video in group}


def split_by_video(images: Sequence[Item], fraction: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Return (training, validation): whole videos, about `fraction` of each dataset's into the second.

    Videos of one name stay together, whatever their class, and forgeries with the videos they were made of.
    Raises ValueError when a class of either would be empty.
    """
    groups = group_videos(images)
    classes = collections.defaultdict(set)
    for image in images:
        classes[image.dataset, groups[image.video]].add(image.label)
    strata = collections.defaultdict(list)
    for (dataset, group), labels in sorted(classes.items()):
        strata[dataset, tuple(sorted(labels))].append(group)
    chosen = set()
    for (dataset, _), own in sorted(strata.items()):
        order = np.random.default_rng(seed).permutation(len(own))
        count = round(fraction * len(own))
        if len(own) > 1:
            count = min(max(count, 1), len(own) - 1)
        chosen |= {(dataset, own[i]) for i in order[:count]}
    validation = [image for image in images if (image.dataset, groups[image.video]) in chosen]
    training = [image for image in images if (image.dataset, groups[image.video]) not in chosen]
    for label in pipeline.LABELS:
        if not all(any(i.label == label for i in part) for part in (training, validation)):
            raise ValueError(f"class {label} has too few videos to split: make a validation folder")
    return training, validation


def load_faces(
    images: Sequence[Item], view: pipeline.View, scratch: str | Path, watch: pipeline.Watch[Item] = iter
) -> tuple[FaceSet, list[tuple[Path, str]]]:
    """Return (FaceSet of the images that can be read, [(path, reason)] of the others).

    Decoded once, as `pipeline.load_face` does for scoring. Kept in memory, or, when they would take
    too much of it, in an unnamed file in the folder `scratch`. `watch` wraps the iterator over
    images: a progress bar.
    """
    shape = (len(images), SIDE, SIDE, 3)
    on_disk = np.prod(shape) > IN_MEMORY * measure_memory()
    faces = np.empty((0 if on_disk else len(images), SIDE, SIDE, 3), np.uint8)
    kept: list[Item] = []
    failed: list[tuple[Path, str]] = []
    with tempfile.TemporaryFile(dir=scratch) if on_disk else contextlib.nullcontext() as file:
        for image, face in zip(watch(images), pipeline.load_faces(images, view), strict=True):
            if isinstance(face, Exception):
                failed.append((image.path, pipeline.describe_error(face)))
                continue
            if file:
                file.write(face.tobytes())  # not through the map: there, a full disk is a crash
            else:
                faces[len(kept)] = face
            kept.append(image)
        if file and kept:
            file.flush()
            faces = np.memmap(file, np.uint8, "r", shape=(len(kept), *shape[1:]))
    labels = np.array([[image.label == "real"] for image in kept], np.float32).reshape(-1, 1)
    return FaceSet(kept, faces[: len(kept)], labels), failed


def read_soft_labels(table: Path, folder: Path, images: Iterable[Item]) -> dict[Path, float]:
    """Return {path of an image: score in [0, 1]} of those in a CSV table with the columns path and score.

    Paths are relative to `folder`, to one of those it lies in, or to wherever it lay before: then what
    follows its name in them counts. Rows without a score, and those of faces in videos, are passed over.
    Raises ValueError, naming the table.
    """
    scores: dict[str, float] = {}
    try:
        with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            if not {"path", "score"} <= set(rows.fieldnames or ()):
                raise ValueError("must be a CSV table with the columns path and score")
            for row in rows:
                if row["score"] and row.get("kind") != "face":
                    scores[_find_path(row["path"] or "", folder)] = _read_score(row["score"], rows.line_num)
    except (OSError, csv.Error, ValueError) as error:
        raise ValueError(f"{table}: {pipeline.describe_error(error)}") from error
    return {i.path: scores[real] for i in images if (real := os.path.realpath(i.path)) in scores}


def _find_path(name: str, folder: Path) -> str:
    places = [place / name for place in (folder, *folder.parents)]
    places.append(folder / name.replace("\\", "/").rpartition(f"{folder.name}/")[2])
    return os.path.realpath(next((place for place in places if place.exists()), places[-1]))


def _read_score(text: str, line: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not 0 <= score <= 1:
        raise ValueError(f"line {line}: score must be from 0 (forged) to 1 (real), not {text}")
    return score


def soften_labels(face_set: FaceSet, scores: Mapping[Path, float]) -> FaceSet:
    """Return the FaceSet with the `scores` of `read_soft_labels` as labels where there are any."""
    labels = face_set.labels.copy()
    for index, image in enumerate(face_set.images):
        labels[index] = scores.get(image.path, labels[index])
    return face_set._replace(labels=labels)


def measure_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's."""
    machine = psutil.virtual_memory().total
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no container, or one without limit ("max")
        return machine


def count_faces(images: Iterable[Item]) -> dict[str, dict[str, int]]:
    """Return {"dataset label": {"images": n, "videos": m}}, sorted; a set without datasets has "" there."""
    videos = collections.defaultdict(list)  # of each image
    for image in images:
        videos[f"{image.dataset} {image.label}".strip()].append(image.video)
    return {name: {"images": len(v), "videos": len(set(v))} for name, v in sorted(videos.items())}


def fingerprint(images: Iterable[Item], soft_labels: np.ndarray | None = None) -> str:
    """Return a short digest of which faces these are, in order: classes, videos, file names, soft labels."""
    # a video called by the path of its only image changes its name when the faces are moved
    names = "\n".join(f"{i.label}/{'' if i.video == str(i.path) else i.video}/{i.path.name}" for i in images)
    digest = hashlib.sha256(names.encode(errors="surrogateescape"))
    if soft_labels is not None:
        digest.update(soft_labels.tobytes())
    return digest.hexdigest()[:16]


def make_batches(
    face_set: FaceSet,
    order: np.ndarray,
    changes: np.ndarray,
    side: int = SIDE,
    degrade: float = 0.0,
    threads: int = max(1, (os.cpu_count() or 1) // 4),
) -> Any:
    """Return a tf.data.Dataset of (faces float32 (n, side, side, 3) in [0, 1], labels float32 (n, 1)).

    Each row of `order` is a batch. Gathering and augmenting run in parallel, ahead of the network. They are
    quick: more `threads` would take the network's (measured on 2 cores).
    """
    import tensorflow as tf

    batch_size = order.shape[1]
    change_faces = tf.function(augmentation.augment, jit_compile=True)  # one fused loop: five times as fast
    first = augmentation.CHANGES + augmentation.MOVES

    def read(chosen: np.ndarray, change: np.ndarray) -> np.ndarray:
        batch = face_set.faces[chosen]
        return augmentation.degrade_batch(batch, change[:, first:], degrade) if degrade else batch

    def load(chosen: Any, change: Any) -> tuple[Any, Any]:
        batch = tf.numpy_function(read, [chosen, change], tf.uint8)
        batch = tf.ensure_shape(batch, (batch_size, SIDE, SIDE, 3))
        return change_faces(batch, change, side, degrade), tf.gather(face_set.labels, chosen)

    batches = tf.data.Dataset.from_tensor_slices((order, changes))
    return batches.map(load, num_parallel_calls=threads, deterministic=True).prefetch(1)


HELD_OUT = "held_out.json"


def write_held_out(output: Path, folder: Path, images: Iterable[Item]) -> None:
    """Keep in a training's output which images of `folder`/training it does not train on."""
    names = [image.path.relative_to(folder / "training").as_posix() for image in images]
    pipeline.write_atomically(output / HELD_OUT, lambda path: path.write_text(json.dumps(names, indent=1)))


def read_held_out(output: Path, folder: Path) -> list[Item]:
    """Return the Items that `write_held_out` kept, [] if it did not. Raises ValueError if they are gone."""
    path = output / HELD_OUT
    if not path.is_file():
        return []
    try:
        names = set(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({pipeline.describe_error(error)})") from error
    images, _ = list_images(folder / "training")
    found = [image for image in images if image.path.relative_to(folder / "training").as_posix() in names]
    if len(found) != len(names):
        raise ValueError(
            f"{path}: {len(names) - len(found)} of {len(names)} images are gone from {folder}/training"
        )
    return found
