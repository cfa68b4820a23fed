"""Results as CSV and JSON, and from JSON back."""

import csv
import json
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline import Face, Item, Pose, describe_error, write_atomically
from weights.scores import Result
from weights.verdicts import VERDICT_COLORS, Rule, describe_face

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
            parts |= {"frames": r.frames, "note": r.note}
        if r.kind != "image" or r.remarks:
            parts["warning"] = r.remarks
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
            writer.writerows(row | {"settings": settings} for row in rows)

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
                faces[name].append(_read_face(row))
            elif row["kind"] in ("image", "video", "photo") and row["verdict"] in VERDICT_COLORS:
                score = None if row["score"] is None else _read_number(row["score"], 0, 1)
                item = Item(Path(name), str(row["label"]), "", "")
                frames = int(_read_number(row.get("frames", 0)))
                parts = tuple(
                    (key.removeprefix("score "), _read_number(value, 0, 1))
                    for key, value in row.items()
                    if key.startswith("score ")
                )
                # the warnings are made anew, see weights.verdicts.decide
                known = str(row["error"]), row["kind"], frames, (), parts, "", str(row.get("note", ""))
                results[name] = Result(item, score, row["verdict"], *known)
                faces[name] = []
            else:
                raise ValueError(f"kind {row['kind']!r}, verdict {row['verdict']!r}")
        found = {name: result._replace(faces=tuple(faces[name])) for name, result in results.items()}
        return found, content["summary"]["settings"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a table of scores as --json writes it ({describe_error(error)})"
        ) from error


def _read_face(row: dict[str, Any]) -> Face:
    frame, person = (int(_read_number(row[name], 0)) for name in ("frame", "person"))
    box = tuple(int(_read_number(row[name])) for name in BOX)
    pose = Pose(*(_read_number(row[name]) for name in Pose._fields))
    _read_number(pose.size, 0, 100_000)
    score = _read_number(row["score"], 0, 1)
    sharpness = _read_number(row.get("sharpness", 0), 0)
    return Face(frame, _read_number(row["time"], 0), box, pose, person, sharpness, score=score)


def _read_number(value: Any, least: float = -1e9, most: float = 1e9) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{value!r} must be a number from {least:g} to {most:g}")
    return float(value)
