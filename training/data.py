"""Faces to train on: listed, checked, split, decoded once, drawn, made into batches."""

import hashlib
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pipeline
from pipeline import Item
from training.recipe import Recipe
from weights import Predict
from weights.scoring.metrics import group_by, parse_forgery

SIDE = pipeline.IMAGE_SIZE
BATCH = 32  # faces that are scored at once


class FaceSet(NamedTuple):
    """Decoded faces. The first three are parallel."""

    items: list[Item]
    faces: np.ndarray  # uint8 (N, 256, 256, 3) RGB, mapped from disk
    labels: np.ndarray  # float32 (N, 1): 1 = real, 0 = forged
    remarks: list[str]  # warnings to print


def list_faces(folder: Path) -> list[Item]:
    """Return the Items of the images in `folder`/<df,real>. OSError, ValueError: it is not such a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: it must hold df/ and real/")
    visible = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if stray := [e.name for e in visible if e.name.lower() not in pipeline.LABEL_NAMES or e.is_file()]:
        raise ValueError(f"{folder}: must hold folders named df and real only, not {', '.join(stray[:5])}")
    return [item for item in pipeline.find_files([folder])[0] if item.kind != "video"]


def find_parts(folder: Path, split_by_video: float) -> tuple[list[Item], list[Item]]:
    """Return (Items of training, Items of validation)."""
    training, validation = list_faces(folder / "training"), folder / "validation"
    if split_by_video:
        return split_videos(training, split_by_video)
    if not validation.is_dir():
        raise FileNotFoundError(f"{validation}: no such folder: make it, or use --split-by-video 0.1")
    return training, list_faces(validation)


def name_videos(item: Item) -> list[str]:
    """Return `<data set>/<video>`s of a face, its own first: ffpp/face2face_055_147, ffpp/055, ffpp/147."""
    if item.video == str(item.path):  # of no known video
        return [item.name]
    parts = item.video.split("_")[1:] if parse_forgery(item)[0] else []
    origins = parts[:2] if len(parts) == 2 else parts[:1]
    return [f"{item.dataset}/{video}".lstrip("/") for video in (item.video, *origins)]


def group_videos(items: Iterable[Item]) -> list[str]:
    """Return the group of each item's video, named after one of them: that of a forgery is its originals'."""
    named = [name_videos(item) for item in items]
    group = {video: video for video, *_ in named}

    def find(video: str) -> str:
        while group[video] != video:
            video = group[video]
        return video

    for video, *origins in named:
        for origin in group.keys() & set(origins):
            first, second = sorted((find(origin), find(video)))
            group[second] = first
    return [find(video) for video, *_ in named]


def find_leaks(training: Sequence[Item], validation: Sequence[Item]) -> list[str]:
    """Return a remark if videos, or forgeries of them, are in both parts: that makes figures too good."""
    both = [[item for item in part if item.video != str(item.path)] for part in (training, validation)]
    groups = group_videos([*both[0], *both[1]])
    leaks = sorted({*groups[: len(both[0])]} & {*groups[len(both[0]) :]})
    shown = f"{len(leaks)} in all: {', '.join(leaks[:5])}"
    return [f"videos, or forgeries of them, are in both training and validation, {shown}"] if leaks else []


def split_videos(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Return (training, validation): in the second, of each data set and label, a share of the groups.

    Those whose names have the lowest hashes, at least one, but not the last of its data set and label.
    """
    groups = group_videos(items)
    strata = defaultdict(set)  # groups of each data set and label
    for item, group in zip(items, groups, strict=True):
        strata[item.dataset, item.label].add(group)
    held_out: set[str] = set()
    for own in strata.values():
        ranked = sorted(own, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
        held_out.update(ranked[: min(max(1, round(share * len(own))), len(own) - 1)])
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item, group in zip(items, groups, strict=True):
        parts[group in held_out].append(item)
    return parts


def load_faces(items: Sequence[Item], view: pipeline.View, scratch: Path) -> FaceSet:
    """Return the FaceSet of the images that can be read, kept in `scratch`. ValueError: a class has none."""

    def load(item: Item) -> np.ndarray | Exception:
        try:
            return pipeline.load_face(item.path, view)
        except (OSError, ValueError, MemoryError) as error:
            return error

    kept, remarks = list[Item](), list[str]()
    with tempfile.TemporaryFile(dir=scratch) as file:
        found = pipeline.show_progress(pipeline.map_ahead(load, items), len(items), "image")
        for item, face in zip(items, found, strict=True):
            if isinstance(face, Exception):
                remarks.append(f"skipped {item.path}: {pipeline.describe_error(face)}")
            else:
                file.write(face.tobytes())  # not through the map: there, a full disk is a crash
                kept.append(item)
        file.flush()
        faces = np.memmap(file, np.uint8, "r", shape=(len(kept), SIDE, SIDE, 3)) if kept else np.empty(0)
    for label in pipeline.LABELS:
        if not any(item.label == label for item in kept):
            cure = "; ".join(remarks[:3]) or "extract_faces.py cuts faces out of more videos"
            raise ValueError(f"no image of class {label} can be read: {cure}")
    labels = np.array([[item.label == "real"] for item in kept], np.float32)
    return FaceSet(kept, faces, labels, remarks)


def score_faces(predict: Predict, faces: np.ndarray) -> np.ndarray:
    """Return the scores, float32 (N,), of faces, uint8 (N, 256, 256, 3), behind a bar of progress."""
    batches = (faces[start : start + BATCH] for start in range(0, len(faces), BATCH))
    scores = (score for batch in batches for score in predict(batch)[:, 0])
    return np.fromiter(pipeline.show_progress(scores, len(faces), "face"), np.float32)


def draw_epoch(items: Sequence[Item], recipe: Recipe, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (which faces, seeds of how to change them), both int (steps, batch size).

    Every face once, a few twice to fill the last batch; balanced or in pairs: as many draws.
    """
    random = np.random.default_rng((recipe.seed, epoch))
    shape = (-(-len(items) // recipe.batch_size), recipe.batch_size)
    seeds = random.integers(2**63, size=shape)
    if recipe.pairs:
        return draw_pairs(items, seeds, recipe.balance or {}, random)
    if recipe.balance is not None:
        return random.choice(len(items), shape, p=weigh_faces(items, recipe.balance)), seeds
    return np.resize(random.permutation(len(items)), shape), seeds


def weigh_faces(items: Sequence[Item], shares: Mapping[str, float]) -> np.ndarray:
    """Return each image's chance to be drawn, float64 (N,), summing to 1.

    Even over data sets, in each over its classes, then kinds of forgery, then videos, so that a data set does
    not give away the class. `shares` are the weights of data sets, else 1. ValueError: they name another.
    """
    datasets = {item.dataset for item in items}
    if unknown := sorted(shares.keys() - datasets):
        raise ValueError(f"--balance {unknown[0]}: must be one of {', '.join(sorted(datasets))}")
    keys = [(i.dataset, i.label, parse_forgery(i)[0], i.video) for i in items]
    members = Counter(keys)
    chances = np.array([shares.get(key[0], 1.0) / members[key] for key in keys])
    for depth in range(4):
        # of each prefix of the keys, how many different next parts there are
        parts = Counter(key[:depth] for key in {key[: depth + 1] for key in keys})
        chances /= [parts[key[:depth]] for key in keys]
    return chances / chances.sum()


def pair_faces(items: Sequence[Item]) -> np.ndarray:
    """Return for each forged image the index of its original, same or nearest frame, int (N,); else -1."""
    frames = [int((re.findall(r"\d+", i.path.stem.rpartition("-")[2]) or [0])[0]) for i in items]
    originals = [index for index, item in enumerate(items) if item.label == "real"]
    real = group_by(originals, lambda i: (items[i].dataset, items[i].video))
    partners = np.full(len(items), -1)
    for index, item in enumerate(items):
        own = real.get((item.dataset, parse_forgery(item)[1]), ())
        _, partners[index] = min(((abs(frames[i] - frames[index]), i) for i in own), default=(0, -1))
    return partners


def draw_pairs(
    items: Sequence[Item], seeds: np.ndarray, shares: Mapping[str, float], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return (which faces, their seeds), both int (steps, batch size).

    Drawn by `weigh_faces`, but a forged face brings its original along, in the same batch, with the same
    seed, in place of a draw of an original: where those have too few draws, some forged faces come alone.
    """
    chances, partners = weigh_faces(items, shares), pair_faces(items)
    forged = partners >= 0
    origins = np.isin(np.arange(len(items)), partners[forged])
    _, datasets = np.unique([item.dataset for item in items], return_inverse=True)
    # of each face's data set: the chance of forged faces with an original, and that of such originals
    brought, wanted = (np.bincount(datasets, chances * own)[datasets] + 1e-12 for own in (forged, origins))
    accompanied = forged * np.minimum(1, wanted / brought)  # chance that a forged face brings its original
    chances *= 1 - origins * np.minimum(1, brought / wanted)
    chances /= chances.sum()
    seeds = seeds.copy()
    order, batch_size = np.empty_like(seeds), len(seeds[0])
    for step in range(len(order)):
        drawn = random.choice(len(items), batch_size, p=chances)
        brings = random.random(batch_size) < accompanied[drawn]
        places = np.repeat(np.arange(batch_size), 1 + brings)[:batch_size]  # of a pair twice the same
        comes_along = np.diff(places, prepend=-1) == 0
        order[step] = np.where(comes_along, partners[drawn[places]], drawn[places])
        seeds[step] = seeds[step, places]
    return order, seeds


def make_batches(face_set: FaceSet, order: np.ndarray, seeds: np.ndarray, degrade: float = 0.0) -> Any:
    """Return a tf.data.Dataset of (faces float32 (n, 256, 256, 3) in [0, 1], labels float32 (n, 1)).

    A batch is a row of `order`. They are made in parallel, ahead of the network.
    """
    import tensorflow as tf

    from training import augmentation

    shape = augmentation.draw_numbers(seeds[0]).shape
    change_faces = tf.function(augmentation.augment, jit_compile=True)  # one fused loop: five times as fast

    def read(chosen: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = face_set.faces[chosen]
        batch = augmentation.degrade(batch, seeds, degrade) if degrade else batch
        return batch, augmentation.draw_numbers(seeds)

    def load(chosen: Any, seeds: Any) -> tuple[Any, Any]:
        batch, numbers = tf.numpy_function(read, [chosen, seeds], (tf.uint8, tf.float32))
        batch = tf.ensure_shape(batch, (len(order[0]), SIDE, SIDE, 3))
        numbers = tf.ensure_shape(numbers, shape)
        return change_faces(batch, numbers, degrade), tf.gather(face_set.labels, chosen)

    batches, options = tf.data.Dataset.from_tensor_slices((order, seeds)), tf.data.Options()
    options.autotune.enabled = False  # an epoch would wait for its thread to wake, up to a minute
    threads = max(1, (os.cpu_count() or 1) // 4)  # more would take the network's
    return batches.map(load, num_parallel_calls=threads, deterministic=True).prefetch(1).with_options(options)
