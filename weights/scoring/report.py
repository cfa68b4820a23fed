"""The report: one HTML file with everything about what was scored, its pictures included."""

import base64
import io
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import distributions
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipeline import LABELS, VERSION, Face, Watch, compute_sha256, printable, write_atomically
from weights import Weights, load_predictor
from weights.scoring import figures, summary
from weights.scoring.scores import Result, read_pictures, see_face
from weights.scoring.verdicts import UNCLEAR, Person, judge_face, list_counting, list_people

MOST_MAPS = 100  # of files: each map takes the time of 226 faces
MOST_PEOPLE = 20  # of a file, with a picture
THUMBNAIL, OVERVIEW = 144, 200  # pixels: side of a face, longer side of a whole frame
PACKAGES = ("ai-edge-litert", "numpy", "pillow", "av", "face_recognition", "dlib-bin")


def write_report(
    path: Path,
    results: Sequence[Result],
    weights: Weights,
    outcome: dict[str, Any],
    explain: bool = False,
    watch: Watch[Result] = iter,
) -> None:
    """Write the report on Results. `watch` wraps the iterator over them: a progress bar.

    With `explain`, maps of evidence are measured for the 100 lowest files. Files that have vanished since are
    reported without pictures. Raises OSError when `path` cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader

    ranked = sorted(results, key=lambda r: (r.score is None, r.score))
    scored = [r for r in ranked if r.score is not None]
    mapped = {id(r) for r in scored[:MOST_MAPS]} if explain and "maps" in weights.card else set()
    kinds = {kind: f"{noun}s" for kind, noun in summary.NOUNS.items() if f"{kind}s" in outcome}
    notes = [summary.describe_errors(weights.card, kind) for kind in kinds if kind != "image"]
    notes += [summary.describe_crop_errors(weights)] * ("image" in kinds)
    accuracies = {noun: outcome[f"{kind}s"]["accuracy"].get("image") for kind, noun in kinds.items()}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        meaning=summary.MEANING,
        colors=figures.COLORS,
        counts=Counter(r.verdict for r in ranked),
        entries=[describe(r, weights, id(r) in mapped) for r in watch(ranked)],
        roc=draw(figures.draw_roc(scored)) if {r.item.label for r in scored} >= set(LABELS) else "",
        confusion={x: Counter(r.verdict for r in scored if r.item.label == x) for x in LABELS},
        accuracies={noun: summary.format_accuracy(found) for noun, found in accuracies.items() if found},
        notes=[note for note in notes if note],
        knowledge=summary.describe_knowledge(weights.card),
        kinds=summary.list_kinds(weights.card),
        largest=summary.LARGEST_ONLY if summary.is_largest_only(outcome) else "",
        explained=bool(mapped),
        weights=weights,
        digest=compute_sha256(weights.path),
        settings=outcome["settings"],
        versions=list_versions(),
        date=datetime.now().astimezone().isoformat(" ", "minutes"),
    )
    write_atomically(path, lambda part: part.write_text(page, encoding="utf-8", errors="backslashreplace"))


def describe(result: Result, weights: Weights, mapped: bool) -> dict[str, Any]:
    """Return what the template says of a file; what is missing is not shown."""
    path, pictures = result.item.path, list[tuple[str, str]]()
    entry: dict[str, Any] = {"result": result, "path": printable(path), "pictures": pictures}
    entry |= {"sentence": describe_verdict(result, weights), "digest": hash_file(path)}
    if result.score is None:
        return entry
    counting = list_counting(result.faces, result.item.kind, weights.rule)
    chosen: list[Face | None] = [*dict.fromkeys((counting[0], counting[-1]))] if counting else [None]
    for name, face, picture in zip(
        ("lowest", "highest"), chosen, read_pictures(result, chosen), strict=False
    ):
        seen = see_face(result, face, picture, weights.view)
        if seen is None or picture is None:
            continue
        when = f", at {face.time:.2f} s" if face and result.item.kind == "video" else ""
        caption = f"{name if len(chosen) > 1 else 'face'}: {(face or result).score:.3f}{when}"
        pictures.append((caption, encode_picture(seen)))
        if name == "lowest":
            entry["frame"] = encode_picture(mark_face(picture, face), OVERVIEW)
        if name == "lowest" and mapped:
            patches, maps = figures.measure_evidence(seen, load_predictor(weights)), weights.card["maps"]
            if text := figures.describe_evidence(patches, maps):
                painted = figures.paint_evidence(seen, patches, maps["limit"])
                pictures.append((text, encode_picture(painted)))
    entry["people"] = list(picture_people(result, weights))
    if result.item.kind == "video":
        entry["timeline"] = draw(figures.draw_timeline(result, weights.rule))
        entry["timeline_text"] = figures.describe_timeline(result, weights.rule)
    return entry


def describe_verdict(result: Result, weights: Weights) -> str:
    """Return one sentence on a verdict: `looks forged in 19 of 30 frames`."""
    if result.verdict == "no face":
        return "No face was found."
    if result.verdict == "error":
        return f"Could not be read: {result.error}."
    where = ""
    if result.item.kind == "video":
        forged = {f.frame for f in result.faces if judge_face(f, "video", weights.rule) == "deepfake"}
        where = f" in {len(forged)} of {result.frames} frames"
    if result.verdict == "deepfake":
        return f"Looks forged{where}."
    if result.verdict == "uncertain":
        unclear = UNCLEAR.get(result.item.kind, "-")
        if result.warning.startswith(unclear):
            return f"Undecided: {result.warning}."
        return f"Undecided; looks forged{where}." if where else "Undecided."
    missed = " and ".join(summary.list_missed(weights.card))
    often = f" Often missed: {missed}." if missed else ""
    return f"No trace was found of a forgery that these weights know.{often}"


def mark_face(picture: np.ndarray, face: Face | None) -> np.ndarray:
    """Return a picture with the face boxed: a crop alone does not show which clip it is from."""
    image = Image.fromarray(picture)
    if face:
        ImageDraw.Draw(image).rectangle(face.box, outline="#ffd400", width=max(3, image.width // 100))
    return np.asarray(image)


def picture_people(result: Result, weights: Weights) -> Iterator[tuple[str, Person]]:
    """Yield (picture of the lowest face, Person) of each of several people.

    Of many people, only the lowest have a picture; "" stands for the others.
    """
    people = list_people(result.faces, result.item.kind, weights.rule)
    if len(people) < 2:
        return
    lowest = {face.person: face for face in sorted(result.faces, key=lambda face: -face.score)}
    shown = [lowest[person.number] for person in sorted(people, key=attrgetter("score"))[:MOST_PEOPLE]]
    pictures = dict(zip((face.person for face in shown), read_pictures(result, shown), strict=True))
    for person in people:
        number = person.number
        face = see_face(result, lowest[number], pictures.get(number), weights.view)
        yield "" if face is None else encode_picture(face), person


def encode_picture(picture: np.ndarray, side: int = THUMBNAIL) -> str:
    """Return a picture, its longer side made `side` pixels, as a data URI: JPEG."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=82)
        return encode("jpeg", file.getvalue())


def draw(figure: Any) -> str:
    return encode("svg+xml", figures.save_svg(figure))


def encode(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def hash_file(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would block
            return "none: not a regular file"
        return compute_sha256(path)
    except OSError:
        return "unknown: the file cannot be read"


def list_versions() -> dict[str, str]:
    """Return {package: version} of what takes part in scoring."""
    found = {package.name: package.version for package in distributions() if package.name in PACKAGES}
    return {"this program": VERSION, "Python": platform.python_version()} | found
