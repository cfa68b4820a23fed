"""Find, check, load and write weights and their cards.

A score says how real a face looks: 1 = real, 0 = forged (deepfake or Face2Face). Weights, resampling
filter and thresholds belong together: the card, a JSON file beside the weights, names them. `.tflite`
weights are run by LiteRT, so that TensorFlow is imported only for Keras weights.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import pipeline
from pipeline import CROP_ZOOM, View

# uint8 faces (N, 256, 256, 3) -> float32 scores (N, 1), or of joined experts (N, 1 + experts), theirs last
Predict = Callable[[np.ndarray], np.ndarray]
WEIGHTS_FOLDER = Path(__file__).parent
DEFAULT = "Meso4"  # weights
RATES = ("real", "forged", "real_called_deepfake", "forged_called_real", "uncertain")  # in a card
SMALLEST_ZOOM = 0.5  # that weights may look at
REPLACED = {"Meso4_DF_F2F": "Meso4"}  # {old name of weights: their successor's}


class Bounds(NamedTuple):
    """Between which scores a verdict is uncertain."""

    lower: float  # below: deepfake
    upper: float  # above: real
    spread: float  # standard deviation of the logits of real ones' scores


class Rule(NamedTuple):
    """How scores become verdicts: what the weights' card says, or what the user sets."""

    threshold: float = 0.5  # where there are no bounds, a score below it is called a deepfake
    face: Bounds | None = None  # for a single face of a photograph; None: not calibrated
    video: Bounds | None = None  # for the mean of a person's faces in a video
    min_size: float = 0.0  # pixels of Pose.size: smaller faces were not calibrated on
    min_sharpness: float = 0.0  # likewise, see pipeline.measure_sharpness

    def bounds_of(self, kind: str) -> Bounds | None:
        """Return the Bounds for a "video" or "photo"; None for face crops, judged as published."""
        return {"video": self.video, "photo": self.face}.get(kind)


def read_rule(card: dict[str, Any]) -> Rule:
    """Return the Rule of a card. Raises KeyError, TypeError or ValueError if the card lacks what is used."""
    rule = Rule(float(card["threshold"]))
    if found := card.get("calibration"):
        levels = [found["face"], found["video"]]
        face, video = (Bounds(*(float(level[name]) for name in Bounds._fields)) for level in levels)
        [float(level[name]) for level in levels for name in RATES]
        for kind in found.get("kinds", {}).values():
            sum(int(kind[verdict]) for verdict in ("deepfake", "uncertain", "real"))
        rule = Rule(rule.threshold, face, video, float(found["min_size"]), float(found["min_sharpness"]))
    bounds = [score for one in (rule.face, rule.video) if one for score in (one.lower, one.upper)]
    for score in (rule.threshold, *bounds):
        if not 0 <= score <= 1:
            raise ValueError(f"threshold {score:g}, must be from 0 to 1")
    return rule


class Weights(NamedTuple):
    """A weights file with what belongs to it."""

    path: Path
    network: str  # "Meso4", "MesoInception4", or "" where no card tells
    view: View  # how it looks at a face
    rule: Rule = Rule()  # how scores become verdicts
    card: dict[str, Any] = {}  # noqa: RUF012  (all that the card holds, {} without one; never changed)


def find_weights(name: str | Path, endings: Sequence[str] = (".tflite", ".weights.h5", ".h5")) -> Weights:
    """Return the Weights called `name`: a file, here or in weights/, its suffix given or not.

    Without suffix, the first of `endings` that exists. The card beside it says how it is used, and its
    SHA-256. A plain `.h5` or `.hdf5` (such as the authors') has no card and is used as published: nearest
    neighbour, threshold 0.5. Raises FileNotFoundError, or ValueError if file and card do not fit.
    """
    ends = ("",) if str(name).endswith((".tflite", ".h5", ".hdf5")) else endings
    tried = [Path(folder, f"{name}{end}") for folder in ("", WEIGHTS_FOLDER) for end in ends]
    path = next((Path(os.path.abspath(path)) for path in tried if os.path.isfile(path)), None)
    if path is None:
        if os.path.isfile(name):
            raise ValueError(f"{name}: weights must be a .tflite, .weights.h5, .h5 or .hdf5 file, named so")
        if new := REPLACED.get(str(name)):
            raise FileNotFoundError(f"{name}: {new} replaced it: --weights {new}")
        ours = ", ".join(sorted(card.stem for card in WEIGHTS_FOLDER.glob("*.json")))
        where = f"here or in {WEIGHTS_FOLDER}, which has {ours}: weights/README.md says where to get others"
        raise FileNotFoundError(f"{name}: no such weights, {where}")
    card_path = path.with_name(f"{name_stem(path)}.json")
    plain = not path.name.endswith((".tflite", ".weights.h5"))
    if plain or (path.suffix == ".h5" and not card_path.is_file()):
        return Weights(path, "", View())
    if not card_path.is_file():
        raise FileNotFoundError(f"{path}: its card {card_path.name} is missing: copy it along")
    try:
        card = json.loads(card_path.read_bytes())
        weights = Weights(path, str(card["network"]), read_view(card), read_rule(card), card)
        digest = card["sha256"][path.name]
        ", ".join([*card.get("forgeries", ()), *card.get("experts", ())])  # names
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else pipeline.describe_error(error)
        raise ValueError(f"{card_path}: not a card of {path.name} ({reason}): get both again") from error
    if compute_sha256(path) != digest:
        raise ValueError(f"{path}: damaged, or not the file of {card_path.name}: get both again")
    return weights


def read_view(card: dict[str, Any]) -> View:
    """Return the View of a card. Raises KeyError, TypeError or ValueError if it has none that can be used."""
    view = View(str(card["resampling"]), float(card.get("zoom", CROP_ZOOM)), card.get("mirrored", False))
    if view.resampling not in pipeline.RESAMPLING:
        raise ValueError(f"resampling {view.resampling!r}, must be one of {[*pipeline.RESAMPLING]}")
    if not isinstance(view.mirrored, bool):
        raise ValueError(f"mirrored {view.mirrored!r}, must be true or false")
    if not SMALLEST_ZOOM <= view.zoom <= CROP_ZOOM:
        raise ValueError(f"zoom {view.zoom}, must be from {SMALLEST_ZOOM} to {CROP_ZOOM}")
    return view


def find_keras_weights(name: str | Path) -> Weights:
    """Return the Weights called `name` that Keras can train on. Raises as `find_weights`."""
    weights = find_weights(name, (".weights.h5", ".h5"))
    if weights.path.suffix == ".tflite":
        raise ValueError(f"{weights.path}: must be Keras weights, .weights.h5, .h5 or .hdf5")
    return weights


def name_stem(path: Path) -> str:
    """Return the name of a weights file without its suffix: what files made from it are called."""
    return re.sub(r"\.(tflite|weights\.h5|h5|hdf5)$", "", path.name)


_one_at_a_time = threading.RLock()  # LiteRT is not thread-safe; a Dask worker may use several threads


def load_predictor(weights: Weights, threads: int = 0) -> Predict:
    """Return the function that scores faces, see Predict: 1 = real, 0 = forged. ValueError: a damaged file.

    `.tflite` runs in LiteRT with `threads` threads (0: one per core), others in Keras, which starts slowly.
    """
    with _one_at_a_time:
        predict = _load(weights.path, threads or os.cpu_count() or 1)
    return average_mirrored(predict) if weights.view.mirrored else predict


def average_mirrored(predict: Predict) -> Predict:
    """Return what scores faces by the mean of their score and that of their mirror image."""
    return lambda faces: (predict(faces) + predict(faces[:, :, ::-1])) / 2


@functools.lru_cache(maxsize=1)  # a process that scores many videos loads its weights once
def _load(path: Path, threads: int) -> Predict:
    if path.suffix == ".tflite":
        return _load_litert(path, threads)
    with silence_native_stderr():
        from classifiers import load_classifier
    classifier = load_classifier(path)
    return lambda faces: classifier.predict(faces, max(1, len(faces)))


def _load_litert(path: Path, threads: int) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        (faces_in,), (scores_out,) = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: LiteRT cannot read it ({pipeline.describe_error(error)})") from error
    found = np.dtype(faces_in["dtype"]).name, faces_in["shape"][1:].tolist(), len(scores_out["shape"])
    if found != ("uint8", [pipeline.IMAGE_SIZE, pipeline.IMAGE_SIZE, 3], 2):
        raise ValueError(f"{path}: takes faces as {found[0]} {found[1]}: must be uint8 [256, 256, 3]")
    shape = None

    def predict(faces: np.ndarray) -> np.ndarray:
        nonlocal shape
        if not len(faces):
            return np.empty((0, 1), np.float32)
        with _one_at_a_time:
            try:
                if faces.shape != shape:
                    shape = None  # until it has room: a lack of memory must not spoil the next faces
                    interpreter.resize_tensor_input(faces_in["index"], faces.shape)
                    with silence_native_stderr():
                        interpreter.allocate_tensors()
                    shape = faces.shape
                interpreter.set_tensor(faces_in["index"], faces)
                interpreter.invoke()
            except RuntimeError as error:
                reason = pipeline.describe_error(error)
                raise ValueError(f"{path}: LiteRT cannot run it ({reason})") from error
            return interpreter.get_tensor(scores_out["index"])

    return predict


def write_weights(classifier: Any, stem: str | Path, card: dict[str, Any]) -> None:
    """Write a set of weights: `stem`.weights.h5 for Keras, `stem`.tflite for LiteRT and `stem`.json.

    The last is `card` (at least resampling and threshold) with network, label order, SHA-256 of both files.
    """
    h5, tflite = Path(f"{stem}.weights.h5"), Path(f"{stem}.tflite")

    def save(part: Path) -> None:
        part.write_bytes(bytes(1_000_000))  # on a full disk HDF5 would crash the process
        classifier.save(part)

    pipeline.write_atomically(h5, save)
    with silence_native_stderr():
        pipeline.write_atomically(tflite, classifier.export)
    card = {
        "network": classifier.model.name,
        "labels": list(pipeline.LABELS),
        "score": "how real a face looks: 1 = real, 0 = deepfake/f2f; below the threshold = deepfake",
        **card,
        "sha256": {path.name: compute_sha256(path) for path in (h5, tflite)},
    }
    write_card(Path(f"{stem}.json"), card)


def write_card(path: Path, card: dict[str, Any]) -> None:
    pipeline.write_atomically(path, lambda part: part.write_text(json.dumps(card, indent=1) + "\n"))


def compute_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Discard what TensorFlow and LiteRT write to stderr, unless TF_CPP_MIN_LOG_LEVEL is set."""
    with contextlib.ExitStack() as stack, open(os.devnull, "wb") as sink:
        with contextlib.suppress(OSError):  # it is closed
            if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3":
                stderr = os.dup(2)
                stack.callback(os.close, stderr)
                stack.callback(os.dup2, stderr, 2)
                os.dup2(sink.fileno(), 2)
        yield
