"""From files to verdicts: `score` is what deepfakes_images.py itself calls."""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from pipeline import PROCESS_DIED, FaceOptions, Item, find_files, run_jobs, show_progress, stamp_file
from weights import DEFAULT, Weights, find_weights
from weights.scoring.scores import Result, score_images, score_video


def score(
    paths: Iterable[str | Path | Item],
    weights: str | Path | Weights = DEFAULT,
    *,
    frames: int = 30,
    start: float = 0.0,
    end: float | None = None,
    everyone: bool = False,
    align: bool | None = None,
    jobs: int = 1,
    dask: str | None = None,
    known: Mapping[str, Result] = MappingProxyType({}),
    progress: bool = False,
) -> Iterator[Result]:
    """Yield the Result of each image and video among files and folders, images first.

    >>> for result in score(["video.mp4", "photos"], weights="Meso4_DF", frames=30):
    ...     print(result.item.path, result.score, result.verdict)

    A score says how real a face looks to the network: 1 = real, 0 = forged. `frames` are sampled of each
    video, evenly from `start` to `end` seconds; `everyone` scores all their faces instead of the largest. An
    image shows whether it is a face crop or a photograph; `align` True takes all for photographs, False for
    crops. Results `known` by their path, with the same weights and options, are returned where the file is
    the same. The Result of a file that cannot be read has the verdict "error" and says why.
    Raises FileNotFoundError or ValueError if the weights cannot be used, OSError or ImportError for Dask.
    """
    paths = list(paths)
    items = [path for path in paths if isinstance(path, Item)]
    items += find_files(path for path in paths if not isinstance(path, Item))[0]
    weights = weights if isinstance(weights, Weights) else find_weights(weights)
    options = FaceOptions(frames, start, end, everyone=everyone)
    stamps = {item: stamp_file(item.path) for item in items}
    old = {item: known[str(item.path)] for item in items if str(item.path) in known}
    same = {item: r for item, r in old.items() if not r.error and r.stamp == stamps[item]}
    images = [item for item in items if item.kind != "video" and item not in same]
    videos = [item for item in items if item.kind == "video" and item not in same]
    calls = [(item._replace(path=Path(os.path.abspath(item.path))),) for item in videos]
    alone = len(videos) == 1 and not dask and jobs == 1
    given = {"weights": weights, "options": options, "progress": progress and alone}
    found = chain(score_images(images, weights, align), run_jobs(score_video, calls, given, jobs, dask))
    ordered = sorted(items, key=lambda item: item.kind == "video")
    for item in show_progress(ordered, len(items), "file") if progress else ordered:
        result = same.get(item) or next(found) or Result(item, None, "error", PROCESS_DIED)
        yield result._replace(item=item._replace(kind=result.item.kind), stamp=stamps[item])
