"""The report: one HTML file with everything about what was scored, its pictures included."""

import base64
import contextlib
import io
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from pipeline import LABELS, VERSION, Box, Face, printable, show_progress, write_atomically
from weights import Rule, Weights, compute_sha256, load_predictor
from weights.scoring import figures, summary
from weights.scoring.scores import Result, read_pictures
from weights.scoring.verdicts import UNCLEAR, describe_times, judge_face, list_people

THUMBNAIL, OVERVIEW = 144, 200  # pixels: side of a face, longer side of a whole frame


def write_report(
    path: Path, results: Sequence[Result], weights: Weights, settings: str, explain: bool, progress: bool
) -> None:
    """Write the report on Results, with maps of evidence if `explain`. Files since gone have no pictures."""
    ranked = sorted(results, key=lambda r: (r.score is None, r.score))
    watched = show_progress(ranked, len(ranked), "file", desc="report") if progress else ranked
    explained = explain and "limit" in weights.card.get("maps", ())
    labelled = [result for result in results if result.item.label and result.score is not None]
    confusion = {x: Counter(r.verdict for r in labelled if r.item.label == x) for x in LABELS}
    source = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    page = Template(source, autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        summary=summary,
        outcome=summary.describe_outcome(results, weights, settings),
        colors=figures.COLORS,
        entries=[describe(result, weights, explained) for result in watched],
        explained=explained,
        confusion=confusion,
        roc=encode_figure(figures.draw_roc(labelled)) if all(confusion.values()) else "",
        weights=weights,
        digest=compute_sha256(weights.path),
        versions=f"this program {VERSION}, Python {platform.python_version()}",
        date=datetime.now().astimezone().isoformat(" ", "minutes"),
    )
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8", errors="backslashreplace"))


def describe(result: Result, weights: Weights, explain: bool) -> dict[str, Any]:
    """Return what the template says of a file; what is missing is not shown."""
    kind, rule, path = result.item.kind, weights.rule, result.item.path
    sentence = describe_verdict(result, rule)
    entry: dict[str, Any] = {"result": result, "path": printable(path), "sentence": sentence}
    with contextlib.suppress(OSError):
        if path.is_file():  # a pipe would block
            entry["digest"] = compute_sha256(path)
    if result.score is None:
        return entry
    people = list_people(result.faces, kind, rule)
    counting = [person for person in people if person.counts] or people
    faces = sorted((face for person in counting for face in person.faces), key=attrgetter("score"))
    shown: list[Face | None] = [*dict.fromkeys((faces[0], faces[-1]))] if faces else [None]
    found = read_pictures(result, {*shown, *(person.lowest for person in people)}, weights.view)
    entry["faces"] = [face for face in shown if face in found]
    entry["people"] = people if len(people) > 1 else ()
    entry["images"] = {face: encode_picture(seen) for face, (_, seen) in found.items()}
    if (lowest := shown[0]) in found:
        picture, seen = found[lowest]
        entry["frame"] = encode_picture(picture, OVERVIEW, lowest.box if lowest else None)
        if explain:
            patches, maps = figures.measure_evidence(seen, load_predictor(weights)), weights.card["maps"]
            if patches.max() > maps["usual"]:  # more than 95 % of real faces show
                entry["map"] = encode_picture(figures.paint_evidence(seen, patches, maps["limit"]))
    if kind == "video":
        entry["timeline"] = encode_figure(figures.draw_timeline(result, rule))
        entry["times"] = describe_times(result.faces, rule)
    return entry


def describe_verdict(result: Result, rule: Rule) -> str:
    """Return one sentence on a verdict: `Looks forged in 19 of 30 frames.`"""
    verdict, like = result.verdict, f", like {result.looks_like}" if result.looks_like else ""
    if verdict in ("no face", "error"):
        return f"Could not be read: {result.error}." if result.error else "No face was found."
    forged = {face.frame for face in result.faces if judge_face(face, result.item.kind, rule) == "deepfake"}
    where = f" in {len(forged)} of {result.frames} frames" * bool(forged and result.item.kind == "video")
    if verdict == "deepfake":
        return f"Looks forged{where}{like}."
    if verdict == "uncertain" and result.warning.startswith(UNCLEAR[result.item.kind]):
        return f"Undecided: {result.warning}."
    if verdict == "uncertain":
        return f"Undecided; looks forged{where}." if where else "Undecided."
    if where:
        return f"Real on average, but looks forged{where}."
    return "No trace was found of a forgery that these weights know."


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
    """Return a figure as a data URI: SVG, which stays sharp."""
    with io.BytesIO() as file, rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
        return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
