"""The report: one HTML file with everything about what was scored, its pictures included."""

import base64
import contextlib
import io
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import distributions
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from pipeline import LABELS, VERSION, Box, Face, compute_sha256, printable, show_progress, write_atomically
from weights import Weights, load_predictor
from weights.scoring import figures, summary
from weights.scoring.scores import Result, read_pictures, see_face
from weights.scoring.verdicts import UNCLEAR, judge_face, list_people

MOST_MAPS = 100  # of files: each map takes the time of 226 faces
MOST_PEOPLE = 20  # of a file, with a picture
OFTEN_MISSED = 0.3  # share of a kind's videos that passed as real
THUMBNAIL, OVERVIEW = 144, 200  # pixels: side of a face, longer side of a whole frame
PACKAGES = ("ai-edge-litert", "numpy", "pillow", "av", "face_recognition", "dlib-bin")


def write_report(
    path: Path, results: Sequence[Result], weights: Weights, settings: str, explain: bool, progress: bool
) -> None:
    """Write the report on Results.

    With `explain`, maps of evidence are measured for the 100 lowest files. Files that have vanished since are
    reported without pictures. Raises OSError when `path` cannot be written.
    """
    outcome = summary.describe_outcome(results, weights, settings)
    ranked = sorted(results, key=lambda r: (r.score is None, r.score))
    scored = [r for r in ranked if r.score is not None]
    mapped = {id(r) for r in scored[:MOST_MAPS]} if explain and "maps" in weights.card else set()
    kinds = {kind: f"{noun}s" for kind, noun in summary.NOUNS.items() if f"{kind}s" in outcome}
    notes = [summary.describe_errors(weights.card, kind) for kind in kinds]
    accuracies = {noun: outcome[f"{kind}s"]["accuracy"].get("image") for kind, noun in kinds.items()}
    watched = show_progress(ranked, len(ranked), "file", desc="report") if progress else ranked
    packages = {package.name: package.version for package in distributions() if package.name in PACKAGES}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        summary=summary,
        outcome=outcome,
        colors=figures.COLORS,
        entries=[describe(r, weights, id(r) in mapped) for r in watched],
        roc=encode_figure(figures.draw_roc(scored)) if {r.item.label for r in scored} >= set(LABELS) else "",
        confusion={x: Counter(r.verdict for r in scored if r.item.label == x) for x in LABELS},
        accuracies={noun: summary.format_accuracy(found) for noun, found in accuracies.items() if found},
        notes=list(filter(None, notes)),
        explained=bool(mapped),
        weights=weights,
        digest=compute_sha256(weights.path),
        versions={"this program": VERSION, "Python": platform.python_version()} | packages,
        date=datetime.now().astimezone().isoformat(" ", "minutes"),
    )
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8", errors="backslashreplace"))


def describe(result: Result, weights: Weights, mapped: bool) -> dict[str, Any]:
    """Return what the template says of a file; what is missing is not shown."""
    kind, rule, path = result.item.kind, weights.rule, result.item.path
    entry: dict[str, Any] = {"result": result, "path": printable(path), "digest": hash_file(path)}
    entry["sentence"] = describe_verdict(result, weights)
    if result.score is None:
        return entry
    people = list_people(result.faces, kind, rule)
    counting = [person for person in people if person.counts] or people
    faces = sorted((face for person in counting for face in person.faces), key=attrgetter("score"))
    ends: list[Face | None] = [*dict.fromkeys((faces[0], faces[-1]))] if faces else [None]
    several = people if len(people) > 1 else []
    wanted = [*ends, *(person.lowest for person in sorted(several, key=attrgetter("score"))[:MOST_PEOPLE])]
    pictures = zip(wanted, read_pictures(result, wanted), strict=True)
    frames = {face: picture for face, picture in pictures if picture is not None}
    seen = {face: see_face(result, face, picture, weights.view) for face, picture in frames.items()}
    images = {face: encode_picture(picture) for face, picture in seen.items()}
    entry["people"] = [(images.get(person.lowest), person) for person in several]
    entry["pictures"] = []
    for name, face in zip(("lowest", "highest"), ends, strict=False):
        when = f", at {face.time:.2f} s" if face and kind == "video" else ""
        caption = f"{name if len(ends) > 1 else 'face'}: {(face or result).score:.3f}{when}"
        entry["pictures"] += [(caption, images[face])] if face in images else []
    if (face := ends[0]) in frames:
        entry["frame"] = encode_picture(frames[face], OVERVIEW, face.box if face else None)
        if mapped:
            patches = figures.measure_evidence(seen[face], load_predictor(weights))
            maps = weights.card["maps"]
            if text := figures.describe_evidence(patches, maps):
                painted = figures.paint_evidence(seen[face], patches, maps["limit"])
                entry["pictures"].append((text, encode_picture(painted)))
    if kind == "video":
        entry["timeline"] = encode_figure(figures.draw_timeline(result, rule))
        entry["timeline_text"] = figures.describe_timeline(result, rule)
    return entry


def describe_verdict(result: Result, weights: Weights) -> str:
    """Return one sentence on a verdict: `Looks forged in 19 of 30 frames.`"""
    verdict, like = result.verdict, f", like {result.looks_like}" if result.looks_like else ""
    if verdict in ("no face", "error"):
        return f"Could not be read: {result.error}." if result.error else "No face was found."
    forged = {f.frame for f in result.faces if judge_face(f, result.item.kind, weights.rule) == "deepfake"}
    where = f" in {len(forged)} of {result.frames} frames" if result.item.kind == "video" else ""
    if verdict == "deepfake":
        return f"Looks forged{where}{like}."
    if verdict == "uncertain" and result.warning.startswith(UNCLEAR[result.item.kind]):
        return f"Undecided: {result.warning}."
    if verdict == "uncertain":
        return f"Undecided; looks forged{where}." if where else "Undecided."
    if where and forged:
        return f"Real on average, but looks forged{where}."
    kinds = summary.list_kinds(weights.card)
    missed = " and ".join(kind for kind, passed, number in kinds if passed >= OFTEN_MISSED * number)
    often = f" Often missed: {missed}." if missed else ""
    return f"No trace was found of a forgery that these weights know.{often}"


def encode_picture(picture: np.ndarray, side: int = THUMBNAIL, box: Box | None = None) -> str:
    """Return a picture, a box drawn on it, its longer side made `side` pixels, as a data URI: JPEG."""
    image = Image.fromarray(picture)
    if box:
        ImageDraw.Draw(image).rectangle(box, outline="#ffd400", width=max(3, image.width // 100))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=82)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def encode_figure(figure: Figure) -> str:
    """Return a figure as a data URI: SVG, which stays sharp; the same figure always gives the same bytes."""
    with io.BytesIO() as file, rc_context({"svg.fonttype": "none", "svg.hashsalt": "mesonet"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
        return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def hash_file(path: Path) -> str:
    with contextlib.suppress(OSError):
        if path.is_file():  # a pipe would block
            return compute_sha256(path)
    return "unknown: the file cannot be read"
