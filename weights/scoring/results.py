"""Results as CSV and JSON, and from JSON back."""

import csv
import json
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline import (
    LARGEST_IMAGE,
    SMALLEST_IMAGE,
    Face,
    Item,
    Pose,
    describe_error,
    printable,
    write_atomically,
)
from weights import Rule
from weights.scoring.scores import Result
from weights.scoring.verdicts import VERDICT_COLORS, describe_face

LARGEST = LARGEST_IMAGE // SMALLEST_IMAGE  # pixels: of a side of a picture
BOX = ("left", "top", "right", "bottom")
# and, of several weights, "score NAME" for each
COLUMNS = ("path", "score", "verdict", "label", "error", "kind", "frames", "frame", "time", "person",
           *BOX, *Pose._fields, "settings", "sharpness", "warning")  # fmt: skip


def list_rows(results: Iterable[Result], rule: Rule) -> Iterator[dict[str, Any]]:
    """Yield a dict per Result and, after a video or photograph, one per face, of kind "face"."""
    for r in results:
        score = None if r.score is None else round(r.score, 6)
        row = {"path": str(r.item.path), "score": score, "verdict": r.verdict, "label": r.item.label,
               "error": r.error, "kind": r.kind}  # fmt: skip
        parts: dict[str, Any] = {f"score {name}": round(part, 6) for name, part in r.parts}
        if parts:
            parts["decided_by"] = min(r.parts, key=itemgetter(1))[0]
        if r.kind != "image":
            parts["frames"] = r.frames
        parts |= {"warning": r.warning, "note": r.note}
        yield row | parts
        for face in r.faces:
            yield {
                "path": row["path"],
                "score": round(face.score, 6),
                "kind": "face",
                "frame": face.frame,
                "time": round(face.time, 6),
                "person": face.person,
                **dict(zip(BOX, face.box, strict=True)),
                **{name: round(value, 4) for name, value in face.pose._asdict().items()},
                "sharpness": round(face.sharpness, 4),
                "warning": describe_face(face, rule),
            }


def write_csv(path: Path, results: Iterable[Result], rule: Rule, settings: str) -> None:
    """Write the rows of `list_rows`, each with the settings that the score depends on, in words."""
    rows = list(list_rows(results, rule))
    columns = list(dict.fromkeys((*COLUMNS, *(name for row in rows for name in row))))

    def write(part: Path) -> None:
        with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in rows:  # a spreadsheet would run a path that begins like a formula
                path = f"./{row['path']}" if row["path"][0] in "=+-@" else row["path"]
                writer.writerow(row | {"path": path, "settings": settings})

    write_atomically(path, write)


def write_json(path: Path, results: Iterable[Result], rule: Rule, summary: dict[str, Any]) -> None:
    """Write {"summary": summary, "items": the rows of `list_rows`}; the summary holds the settings."""
    content = {"summary": summary, "items": list(list_rows(results, rule))}
    write_atomically(
        path, lambda part: part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    )


def read_json(path: Path) -> tuple[dict[str, Result], str]:
    """Return ({path: Result}, settings) as `write_json` wrote them. Raises ValueError for any other file."""
    try:
        content = json.loads(path.read_bytes())
        results: dict[str, Result] = {}
        faces: dict[str, list[Face]] = {}
        for row in content["items"]:
            name = str(row["path"])
            if row["kind"] == "face":
                if name not in faces:
                    raise ValueError(f"a face of {name} comes before {name} itself")
                faces[name].append(_read_face(row))
            elif name in results:
                raise ValueError(f"{name} is there twice")
            else:
                results[name], faces[name] = _read_result(row), []
        for name, result in results.items():
            if result.kind != "image" and (result.score is None) != (not faces[name]):
                raise ValueError(f"{name}: a score must come with faces, and faces with a score")
            if len({face.frame for face in faces[name]}) > max(1, result.frames):
                raise ValueError(f"{name}: faces in more than {result.frames} frames")
            results[name] = result._replace(faces=tuple(faces[name]))
        return results, content["summary"]["settings"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else describe_error(error)
        raise ValueError(f"{path}: not a table of scores as --json writes it ({reason})") from error


def _read_result(row: dict[str, Any]) -> Result:
    """Return the Result of an image, video or photograph, without its faces."""
    score = None if row["score"] is None else _read_number(row["score"], 0, 1)
    verdict, kind = row["verdict"], row["kind"]
    if kind not in ("image", "video", "photo") or verdict not in VERDICT_COLORS:
        raise ValueError(f"kind {kind!r}, verdict {verdict!r}")
    if (score is None) != (verdict in ("no face", "error")) or (verdict == "error" and not row["error"]):
        raise ValueError(f"{row['path']}: score {score}, verdict {verdict!r}, error {row['error']!r}")
    parts = tuple(
        (key.removeprefix("score "), _read_number(value, 0, 1))
        for key, value in row.items()
        if key.startswith("score ")
    )
    frames = int(_read_number(row.get("frames", 0), 0))
    item = Item(Path(str(row["path"])), str(row["label"]), "", "")
    # warnings are made anew, see weights.verdicts.decide
    return Result(
        item, score, verdict, str(row["error"]), kind, frames, (), parts, "", printable(row.get("note", ""))
    )


def _read_face(row: dict[str, Any]) -> Face:
    frame, person = (int(_read_number(row[name], 0)) for name in ("frame", "person"))
    box = tuple(int(_read_number(row[name], -LARGEST, LARGEST)) for name in BOX)
    x, y = (_read_number(row[name], -LARGEST, LARGEST) for name in ("x", "y"))
    pose = Pose(x, y, _read_number(row["size"], 0, LARGEST), _read_number(row["angle"], -360, 360))
    score = _read_number(row["score"], 0, 1)
    sharpness = _read_number(row.get("sharpness", 0), 0)
    return Face(frame, _read_number(row["time"], 0), box, pose, person, sharpness, score=score)


def _read_number(value: Any, least: float, most: float = 1e9) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{value!r} must be a number from {least:g} to {most:g}")
    return float(value)
