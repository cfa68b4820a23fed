"""The report: one HTML file with everything about what was scored, its pictures included."""

import base64
import io
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import VERSION, Face, Watch, compute_sha256, printable, write_atomically
from weights import Predict, Weights
from weights.scoring.evidence import describe_evidence, measure_evidence, paint_evidence, paint_normal
from weights.scoring.figures import draw_overview, draw_timeline
from weights.scoring.scores import Result, load_scored_faces
from weights.scoring.verdicts import UNCLEAR, VERDICT_COLORS, list_counting, list_people
from weights.scoring.words import LARGEST_ONLY, MEANING, describe_crop_errors, describe_errors

TEMPLATE = "report.html"
MOST_MAPS = 100  # of files: each map takes the time of 226 faces
MOST_PEOPLE = 20  # of a file, with a picture
THUMBNAIL = 144  # pixels
PACKAGES = ("ai-edge-litert", "numpy", "pillow", "av", "face_recognition", "dlib-bin")
WORDS = {
    "deepfake": "deepfake: it looks forged",
    "uncertain": "uncertain: the score decides nothing",
    "real": "real: no trace found of the forgeries that these weights know",
    "no face": "no face found",
    "error": "could not be scored",
}


def write_report(
    path: Path,
    results: Sequence[Result],
    weights: Weights,
    predict: Predict,
    settings: str,
    watch: Watch[Result] = iter,
) -> None:
    """Write the report on Results. `watch` wraps the iterator over them: a progress bar.

    It names each file's SHA-256. Files that have vanished since are reported without pictures. Raises OSError
    when `path` cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader

    ranked = sorted(results, key=lambda r: (r.score is None, r.score))
    scored = [r for r in ranked if r.score is not None]
    mapped = {id(r) for r in scored[:MOST_MAPS]}
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template(TEMPLATE)
    normal = paint_normal(weights.card)
    levels = dict.fromkeys("video" if r.kind == "video" else "face" for r in results if r.kind != "image")
    errors = [line for level in levels if (line := describe_errors(weights.card, level))]
    shown = "video" in levels and "calibration" in weights.card
    kinds = weights.card["calibration"]["video"].get("kinds", {}) if shown else {}
    write_atomically(
        path,
        lambda part: part.write_text(
            page.render(
                meaning=MEANING,
                words=WORDS,
                colors=VERDICT_COLORS,
                counts=Counter(r.verdict for r in ranked),
                total=len(ranked),
                overview=draw_scores(scored, weights) if len(scored) > 1 else "",
                entries=[describe(r, weights, predict, id(r) in mapped) for r in watch(ranked)],
                normal="" if normal is None else encode_thumbnail(normal),
                maps_left_out=max(0, len(scored) - MOST_MAPS),
                errors=errors,
                kinds=kinds,
                crop_errors=describe_crop_errors(weights, any(r.kind == "image" for r in results)),
                maps=bool(mapped),
                largest=LARGEST_ONLY in settings and "video" in levels,
                unclear=UNCLEAR,
                weights=weights,
                several=[(one, compute_sha256(one.path)) for one in weights.joined or (weights,)],
                settings=settings,
                versions=list_versions(),
                date=datetime.now().astimezone().isoformat(" ", "minutes"),
            ),
            encoding="utf-8",
            errors="backslashreplace",
        ),
    )


def describe(result: Result, weights: Weights, predict: Predict, mapped: bool) -> dict[str, Any]:
    """Return what the template says of a file."""
    pictures = list(picture_faces(result, weights))
    entry: dict[str, Any] = {
        "result": result,
        "path": printable(result.item.path),
        "digest": hash_file(result.item.path),
        "pictures": [(caption, encode_thumbnail(face)) for caption, face in pictures],
        "people": list(picture_people(result, weights)),
        "timeline": draw_scores_over_time(result, weights) if result.kind == "video" and result.faces else "",
        "map": "",
    }
    if mapped and pictures:
        _, face = pictures[0]
        patches = measure_evidence(face, predict)
        painted = paint_evidence(face, patches, weights.card)
        entry |= {"map": encode_thumbnail(painted), "evidence": describe_evidence(patches, weights.card)}
    return entry


def picture_faces(result: Result, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (caption, face) of the lowest, the median and the highest face, or of the one there is."""
    if result.score is None:
        return
    # None: the image itself
    faces: list[Face | None] = [*list_counting(result.faces, result.kind, weights.rule)] or [None]
    names = {0: "lowest"}
    if len(faces) > 2:
        names[len(faces) // 2] = "median"
    if len(faces) > 1:
        names[len(faces) - 1] = "highest"
    chosen = [faces[place] for place in names]
    loaded = load_scored_faces(result, chosen, weights.view)
    for name, face, image in zip(names.values(), chosen, loaded, strict=False):
        caption = f"{face.score:.3f}" if face else ""
        if len(chosen) > 1:
            caption = f"{name}: {caption}"
        if face and result.kind == "video":
            caption += f", at {face.time:.2f} s"
        if image is not None:
            yield caption, image


def picture_people(result: Result, weights: Weights) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield (picture of the lowest face, row of `list_people`) of each of several people.

    Of many people, only the lowest have a picture; "" stands for the others.
    """
    people = list_people(result.faces, result.kind, weights.rule)
    if len(people) < 2:
        return
    pictured = [row[0] for row in sorted(people, key=itemgetter(1))[:MOST_PEOPLE]]
    ranked = sorted(result.faces, key=attrgetter("score"), reverse=True)
    lowest = {face.person: face for face in ranked}
    faces = load_scored_faces(result, [lowest[person] for person in pictured], weights.view)
    loaded = dict(zip(pictured, faces, strict=True))
    for row in people:
        face = loaded.get(row[0])
        yield "" if face is None else encode_thumbnail(face), row


def draw_scores(scored: Sequence[Result], weights: Weights) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    draw_overview(figure.subplots(), scored, weights.rule)
    return encode_figure(figure, 90)


def draw_scores_over_time(result: Result, weights: Weights) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    panel = figure.subplots()
    draw_timeline(panel, result, weights.rule)
    panel.set_title("")
    return encode_figure(figure, 75)


def encode_figure(figure: Any, dpi: int) -> str:
    """Return a figure as a data URI: PNG of few colours."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi)
        image = Image.open(file).convert("RGB")
    return encode_image(image.quantize(128), "PNG", optimize=True)


def encode_thumbnail(face: np.ndarray) -> str:
    """Return a face as a data URI: JPEG."""
    image = Image.fromarray(face).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return encode_image(image, "JPEG", quality=82)


def encode_image(image: Image.Image, form: str, **options: Any) -> str:
    with io.BytesIO() as file:
        image.save(file, form, **options)
        content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{content}"


def hash_file(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would block
            return "none: not a regular file"
        return compute_sha256(path)
    except OSError:
        return "unknown: the file cannot be read"


def list_versions() -> dict[str, str]:
    """Return {package: version} of what takes part in scoring."""
    found = {"this program": VERSION, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
