"""Which faces an epoch is made of: drawn from (seed, epoch), so that a killed epoch can begin again."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline import Item, parse_forgery
from training.recipe import Recipe


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

    Even over data sets, in each over its classes, then kinds of forgery, then videos: a data set says nothing
    of the class. `shares` are the weights of data sets, otherwise 1. Raises ValueError if they name another
    data set, or leave nothing to draw.
    """
    datasets = {item.dataset for item in items}
    if unknown := sorted(shares.keys() - datasets):
        raise ValueError(f"--balance {unknown[0]}: must be one of {', '.join(sorted(datasets))}")
    if not any(shares.get(dataset, 1.0) for dataset in datasets):
        raise ValueError("--balance: must leave a data set to draw")
    keys = [(i.dataset, i.label, parse_forgery(i)[0], i.video) for i in items]
    members = Counter(keys)
    chances = np.array([shares.get(key[0], 1.0) / members[key] for key in keys])
    for depth in range(4):
        # of each prefix of the keys, how many different next parts there are
        parts = Counter(key[:depth] for key in {key[: depth + 1] for key in keys})
        chances /= [parts[key[:depth]] for key in keys]
    return chances / chances.sum()


def pair_faces(items: Sequence[Item]) -> np.ndarray:
    """Return of each forged image the index of its original of the same or nearest frame, int (N,), or -1."""
    frames = [item.path.stem.rpartition("-")[2] for item in items]
    numbers = [int((re.findall(r"\d+", frame) or [0])[0]) for frame in frames]
    real = defaultdict(list)  # {(data set, video): indices}
    for index, item in enumerate(items):
        if item.label == "real":
            real[item.dataset, item.video].append(index)
    partners = np.full(len(items), -1)
    for index, item in enumerate(items):
        own = real.get((item.dataset, parse_forgery(item)[1]), ())
        nearest = sorted((abs(numbers[i] - numbers[index]), frames[i] != frames[index], i) for i in own)
        partners[index] = nearest[0][-1] if nearest else -1
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
    accompanied = np.zeros(len(items))  # chance that a forged face brings its original
    datasets = np.array([item.dataset for item in items])
    for dataset in set(datasets[forged]):
        pairs, originals = forged & (datasets == dataset), origins & (datasets == dataset)
        brought, wanted = chances[pairs].sum(), chances[originals].sum()
        accompanied[pairs] = min(1, wanted / brought) if brought else 0
        chances[originals] *= max(0, 1 - brought / wanted) if wanted else 0
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
