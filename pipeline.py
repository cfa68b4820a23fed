"""From image files to scores: what the scripts share.

A score is P(real): 1 = real, 0 = forged (deepfake or Face2Face). Faces travel as uint8 RGB.
Nothing here imports TensorFlow: `.tflite` weights are run by LiteRT.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import warnings
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL import ImageFile as PillowFile

LABELS = ("df", "real")  # the order is the meaning: score 0 and score 1
LABEL_ALIASES = {
    **dict.fromkeys(("df", "fake", "forged", "deepfake"), "df"),
    **dict.fromkeys(("real", "original"), "real"),
}
IMAGE_SIZE = 256  # pixels, both ways: what the networks take
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
SMALLEST_FACE = 16  # pixels: below, nothing is left of a face to score
LARGEST_IMAGE = 100_000_000  # pixels: 300 MB once decoded
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,  # antialiased where it shrinks
    "bicubic": Image.Resampling.BICUBIC,  # likewise
}
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # read_image has its own limit

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
# what a face's file name tells of its video: `<video>-000123.png`, as extract_faces.py writes them, or
# `<source>-<video>-<frame>.jpg`, as in the face sets that the networks are trained on
FRAME_NAMES = (
    re.compile(r"(?P<source>)(?P<video>.+)-\d{6}"),
    re.compile(r"(?P<source>[^-]+)-(?P<video>.+)-[^-]+"),
)


class ImageFile(NamedTuple):
    """An image to score or to train on."""

    path: Path  # as found from the argument given
    label: str  # "df", "real", or "" when no folder name tells
    source: str  # the set it comes from, or ""
    video: str  # what it was cut from: images of one video share it


class Weights(NamedTuple):
    """A weights file with what belongs to it."""

    path: Path
    network: str  # "Meso4", "MesoInception4", or "" where no card tells
    resampling: str  # key of RESAMPLING
    threshold: float  # a score below it is a deepfake


class Score(NamedTuple):
    """What was found of one image. `verdict`: "real", "deepfake" or "error"."""

    image: ImageFile
    score: float | None  # P(real), None when there is none
    verdict: str
    error: str  # the reason, or ""


# --- images ---------------------------------------------------------------------------------------


def find_images(arguments):
    """Return the ImageFiles among files and folders: recursive, sorted, each file once.

    A file named as such is taken whatever its suffix; in folders, hidden files and other suffixes
    are passed over. Links are followed, a folder is entered once. What does not exist, and a folder
    that cannot be entered, is returned too, so that reading it reports it.
    """
    images, files_seen, folders_seen = [], set(), set()

    def add(path, names):
        real = os.path.realpath(path)
        if real not in files_seen:
            files_seen.add(real)
            images.append(describe_image(path, names))

    for argument in arguments:
        top = Path(argument)
        if not os.path.isdir(top):
            add(top, top.parts[:-1])
            continue
        above = top.parts or (top.resolve().name,)
        unreadable = []
        for folder, subfolders, files in os.walk(top, onerror=unreadable.append, followlinks=True):
            real = os.path.realpath(folder)
            if real in folders_seen:
                subfolders.clear()
                continue
            folders_seen.add(real)
            subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
            names = (*above, *Path(folder).relative_to(top).parts)
            for file in sorted(files):
                if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith("."):
                    add(Path(folder) / file, names)
        for error in unreadable:
            add(Path(error.filename), ())
    return images


def describe_image(path, folder_names):
    """Return the ImageFile of `path`, its label read from the names of the folders it lies in.

    The video is the subfolder below the label's folder, or else the first part of a name like
    `<video>-000123.png` or `<source>-<video>-<frame>.jpg`, or else the image itself.
    """
    labels = [LABEL_ALIASES.get(name.lower(), "") for name in folder_names]
    label = next(filter(None, reversed(labels)), "")
    name = next(filter(None, (pattern.fullmatch(path.stem) for pattern in FRAME_NAMES)), None)
    if label and not labels[-1]:
        return ImageFile(path, label, name["source"] if name else "", str(path.parent))
    if name:
        video = "-".join(filter(None, (name["source"], name["video"])))
        return ImageFile(path, label, name["source"], video)
    return ImageFile(path, label, "", str(path))


def read_image(path):
    """Return the image as uint8 (height, width, 3) RGB, upright (EXIF), of an animation the first frame.

    16-bit grey is scaled to 8, alpha dropped. Raises OSError or ValueError, in one line, when the
    file is missing, damaged, no image, or smaller or larger than a face crop can be.
    """
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        os.scandir(path).close()  # says why it could not be entered
    if not stat.S_ISREG(kind):
        raise ValueError("not a regular file")  # opening a pipe would wait for ever
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            if min(width, height) < SMALLEST_FACE:
                raise ValueError(f"{width}x{height} pixels, wanted at least {SMALLEST_FACE} both ways")
            if width * height > LARGEST_IMAGE:
                raise ValueError(f"{width}x{height} pixels, wanted at most {LARGEST_IMAGE:,} in all")
            if opened.mode == "F":
                raise ValueError("float pixels, of unknown range: save the image with 8 bits")
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip, not scale
            grey = np.asarray(image, np.float64) * (255 / 65535)
            return np.stack([np.clip(grey, 0, 255).round().astype(np.uint8)] * 3, axis=-1)
        palette = image.mode == "P"  # its transparency goes with the alpha channel
        return np.asarray((image.convert("RGBA") if palette else image).convert("RGB"))
    except Image.UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise ValueError("empty file" if empty else "not an image") from None
    except (Image.DecompressionBombError, SyntaxError, EOFError, IndexError, KeyError) as error:
        raise ValueError(f"damaged image ({error})") from error


def resize_face(image, resampling):
    """Return `image` as uint8 (256, 256, 3), resampled by the filter named (a key of RESAMPLING)."""
    if image.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return image
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return np.asarray(Image.fromarray(image).resize(size, RESAMPLING[resampling]))


def load_face(path, resampling):
    """Return the face crop in a file as uint8 (256, 256, 3) RGB: what is scored and trained on."""
    return resize_face(read_image(path), resampling)


def load_faces(images, resampling, ahead=64):
    """Yield for each ImageFile, in order, its face (see `load_face`) or the error that it raised.

    Files are decoded in threads, at most `ahead` beyond what has been taken.
    """

    def load(image):
        try:
            return load_face(image.path, resampling)
        except (OSError, ValueError, MemoryError) as error:
            return error

    pending = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for image in images:
            pending.append(pool.submit(load, image))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# --- faces ----------------------------------------------------------------------------------------


def read_frames(path, count):
    """Yield (index, frame) of `count` frames of a video, evenly spread, uint8 (height, width, 3) RGB.

    Decodes once, forward; yields all frames where there are no more than `count`. The frames are
    counted, since headers lie. Raises OSError or ValueError when the file is missing or no video.
    """
    import av
    import imageio.v3 as iio

    try:
        with av.open(os.fspath(path)) as container:
            total = sum(packet.size > 0 for packet in container.demux(video=0))
        wanted = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
        for index, frame in enumerate(iio.imiter(path, plugin="pyav", thread_type="FRAME")):
            if index in wanted:
                yield index, frame
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"no video that can be read ({describe_error(error)})") from error


def find_landmarks(frame):
    """Return the 68 landmarks of the largest face in a uint8 RGB frame (see `measure_pose`), or None."""
    faces = _import_face_recognition().face_landmarks(frame)
    return max(faces, key=lambda face: np.ptp(face["chin"], axis=0).prod(), default=None)


def _import_face_recognition():
    tolerant = PillowFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its models announce pkg_resources' end
            import face_recognition
    except SystemExit as error:  # it calls quit() when it cannot import its models
        raise ImportError("face_recognition found no models: pip install -r requirements.txt") from error
    finally:
        # it has Pillow fill truncated images with grey, everywhere; here they are errors
        PillowFile.LOAD_TRUNCATED_IMAGES = tolerant
    return face_recognition


class Pose(NamedTuple):
    """Where a face is, in pixels of the full frame."""

    x: float  # centre: between the nose tip and the nose bridge
    y: float
    size: float  # 2.2 x the larger of eye distance and eyes-to-mouth distance
    angle: float  # degrees in (-180, 180] by which to turn the head clockwise to have it upright


def measure_pose(landmarks):
    """Return the Pose of a face from its 68 landmarks, as face_recognition names them: {feature: (x, y)s}.

    As the authors' code measures it, but over the full circle: theirs has no angle past 90 degrees.
    """
    mean = {name: np.mean(points, axis=0) for name, points in landmarks.items()}
    left_eye, right_eye = mean["left_eye"], mean["right_eye"]
    eyes = (left_eye + right_eye) / 2
    mouth = (mean["top_lip"] + mean["bottom_lip"]) / 2
    x, y = (mean["nose_tip"] + mean["nose_bridge"]) / 2
    down = mouth - eyes
    size = 2.2 * max(np.linalg.norm(right_eye - left_eye), np.linalg.norm(down))
    return Pose(float(x), float(y), float(size), float(np.degrees(np.arctan2(down[0], down[1]))))


def align_face(frame, pose, zoom=1.3):
    """Cut the face out upright: uint8 (side, side, 3) RGB, side = zoom x size, mirrored beyond the frame.

    At native resolution, in one bicubic resampling.
    """
    side = max(1, round(zoom * pose.size))
    angle = np.radians(pose.angle)
    cos, sin = np.cos(angle), np.sin(angle)
    reach = int(side * 0.71) + 3  # half the diagonal, and the filter's margin
    left, top = int(pose.x) - reach, int(pose.y) - reach
    bottom, right = top + 2 * reach, left + 2 * reach
    height, width = frame.shape[:2]
    beyond = [(max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)), (0, 0)]
    if max(map(max, beyond)):
        frame = np.pad(frame, beyond, "reflect" if min(height, width) > 1 else "edge")
    left, top = left + beyond[1][0], top + beyond[0][0]
    patch = Image.fromarray(frame[top : top + 2 * reach, left : left + 2 * reach])
    # the centre of the crop is where the pose is; Pillow maps pixel centres, hence the halves
    x = pose.x + 0.5 - (int(pose.x) - reach)
    y = pose.y + 0.5 - (int(pose.y) - reach)
    half = side / 2
    matrix = (cos, sin, x - half * (cos + sin), -sin, cos, y - half * (cos - sin))
    crop = patch.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(crop)


# --- weights --------------------------------------------------------------------------------------


def find_weights(name, endings=(".tflite", ".weights.h5", ".h5")):
    """Return the Weights called `name`: a file, here or in weights/, its suffix given or not.

    Without suffix, the first of `endings` that is there. The card beside the first two
    says how they are used, and their SHA-256; a plain `.h5` (such as the authors') has no card and
    is used as published: nearest-neighbour resizing, threshold 0.5. Raises FileNotFoundError, or
    ValueError when file and card do not belong together; one line each.
    """
    endings = ("",) if str(name).endswith((".tflite", ".h5")) else endings
    tried = [Path(folder, f"{name}{end}") for folder in ("", WEIGHTS_FOLDER) for end in endings]
    path = next((path for path in tried if os.path.isfile(path)), None)
    if path is None:
        raise FileNotFoundError(
            f"{name}: no such weights, here or in {WEIGHTS_FOLDER} (.tflite, .weights.h5 or .h5): "
            "weights/README.md says where to get weights"
        )
    stem = re.sub(r"\.(tflite|weights\.h5)$", "", path.name)
    card_path = path.with_name(f"{stem}.json")
    if stem == path.name or (path.suffix == ".h5" and not card_path.is_file()):
        return Weights(path, "", "nearest", 0.5)
    try:
        card = json.loads(card_path.read_bytes())
        weights = Weights(path, card["network"], card["resampling"], float(card["threshold"]))
        digest = card["sha256"][path.name]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: its card {card_path.name} is missing: copy it along") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{card_path}: not a card of {path.name} ({error!r}): get both again") from error
    if weights.resampling not in RESAMPLING:
        raise ValueError(f"{card_path}: resampling {weights.resampling!r}, wanted one of {[*RESAMPLING]}")
    if compute_sha256(path) != digest:
        raise ValueError(f"{path}: damaged, or not the file of {card_path.name}: get both again")
    return weights


def load_predictor(weights, load_keras, threads=None):
    """Return the function that scores faces: uint8 (N, 256, 256, 3) -> P(real), float32 (N,).

    `.tflite` runs in LiteRT; for other files `load_keras(path)` gives the classifier to use, so
    that TensorFlow is imported by those who need it only.
    """
    if weights.path.suffix == ".tflite":
        return _load_litert(weights.path, threads or os.cpu_count())
    classifier = load_keras(weights.path)
    return lambda faces: classifier.predict(faces)[:, 0]


def _load_litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    faces_in = interpreter.get_input_details()[0]["index"]
    scores_out = interpreter.get_output_details()[0]["index"]
    shape = None

    def predict(faces):
        nonlocal shape
        if not len(faces):
            return np.empty(0, np.float32)
        if faces.shape != shape:
            shape = faces.shape
            interpreter.resize_tensor_input(faces_in, shape)
            with hush_native():
                interpreter.allocate_tensors()
        interpreter.set_tensor(faces_in, faces)
        interpreter.invoke()
        return interpreter.get_tensor(scores_out)[:, 0]

    return predict


def write_weights(classifier, stem, card):
    """Write a set of weights: `stem`.weights.h5, `stem`.tflite and `stem`.json. Returns the card.

    The first is for Keras, to train on; the second for LiteRT, to score with. The third says how
    they are used: what `card` holds (at least resampling and threshold), the network, the label
    order and the SHA-256 of the two files.
    """
    stem = Path(stem)
    h5, tflite, json_path = (Path(f"{stem}{end}") for end in (".weights.h5", ".tflite", ".json"))
    check_room(stem.parent)
    write_whole(h5, classifier.save)
    with hush_native():
        write_whole(tflite, classifier.export)
    card = {
        "network": classifier.model.name,
        "labels": list(LABELS),
        "score": "P(real): 1 = real, 0 = deepfake/f2f; below the threshold = deepfake",
        **card,
        "sha256": {path.name: compute_sha256(path) for path in (h5, tflite)},
    }
    write_whole(json_path, lambda path: path.write_text(json.dumps(card, indent=1) + "\n"))
    return card


@contextlib.contextmanager
def hush_native():
    """Hold back what native code writes to stderr: TensorFlow and LiteRT greet at every start.

    Setting TF_CPP_MIN_LOG_LEVEL, which TensorFlow 2.21 heeds too late itself, lets all through.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed: nothing to hold back
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(sink)


def compute_sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_room(folder):
    """Raise OSError when a megabyte cannot be written to `folder`: HDF5 would crash the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1_000_000))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def write_whole(path, write):
    """Call write(temporary path of the same name), then rename it: a kill leaves no half file."""
    path = Path(os.path.realpath(path))  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        part = Path(folder, path.name)
        write(part)
        os.replace(part, path)


# --- scores ---------------------------------------------------------------------------------------


def score_images(images, predict, resampling, threshold, batch_size=32):
    """Yield the Score of each ImageFile, in order; decoding runs in threads beside the network."""
    waiting, faces = [], []

    def score_waiting():
        scores = iter(predict(np.stack(faces)) if faces else ())
        for image, reason in waiting:
            score = None if reason else float(next(scores))
            if score is None or np.isfinite(score):
                yield Score(image, score, judge(score, threshold), reason)
            else:
                yield Score(image, None, "error", f"the network gave {score}: these weights are no good")
        waiting.clear()
        faces.clear()

    for image, face in zip(images, load_faces(images, resampling, ahead=2 * batch_size), strict=True):
        if isinstance(face, Exception):
            waiting.append((image, describe_error(face)))
        else:
            waiting.append((image, ""))
            faces.append(face)
        if len(faces) == batch_size:
            yield from score_waiting()
    yield from score_waiting()


def judge(score, threshold):
    """Return the verdict on a score: "deepfake" below the threshold, else "real"; "error" on None."""
    if score is None:
        return "error"
    return "deepfake" if score < threshold else "real"


def describe_error(error):
    """Return why a file could not be used, in one line without its name."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())


def summarize(scores, threshold):
    """Return the outcome of many Scores: a dict of images, scored, skipped and, where some were
    scored, average_score in [0, 1], deepfake_percent and the verdict on the average."""
    values = [s.score for s in scores if s.score is not None]
    found = {"images": len(scores), "scored": len(values), "skipped": len(scores) - len(values)}
    average = float(np.mean(values)) if values else None
    deepfakes = sum(s.verdict == "deepfake" for s in scores)
    return found | {
        "average_score": average,
        "deepfake_percent": 100 * deepfakes / len(values) if values else None,
        "verdict": judge(average, threshold),
    }


def group_by_folder(scores):
    """Return {folder: its Scores}, in order of appearance; the folder as in the images' paths."""
    folders = defaultdict(list)
    for score in scores:
        folders[str(score.image.path.parent)].append(score)
    return folders


# --- figures of merit -----------------------------------------------------------------------------


def evaluate(labels, scores, threshold):
    """Return how well scores tell "real" from "df": a dict of fractions in [0, 1].

    `labels` are "df" or "real", `scores` P(real). Accuracy for each class and overall, balanced
    accuracy, and, where both classes occur, the area under the ROC curve and the equal error rate.
    """
    from sklearn import metrics

    real = np.array([label == "real" for label in labels])
    scores = np.asarray(scores)
    right = (scores >= threshold) == real
    found = {"count": len(scores), "accuracy": float(right.mean())}
    for label, chosen in (("df", ~real), ("real", real)):
        if chosen.any():
            found[f"accuracy_{label}"] = float(right[chosen].mean())
    if real.any() and not real.all():
        found["balanced_accuracy"] = (found["accuracy_df"] + found["accuracy_real"]) / 2
        found["auc"] = float(metrics.roc_auc_score(real, scores))
        false_real, true_real, _ = metrics.roc_curve(real, scores)
        # where as many real faces are taken for forged as forged ones for real
        found["eer"] = float(np.interp(0, false_real + true_real - 1, false_real))
    return found


def evaluate_scores(scores, threshold):
    """Return {"image": figures, "video": figures} of the labelled Scores (see `evaluate`), or {}."""
    levels = collect_labelled(scores)
    return {level: evaluate(labels, values, threshold) for level, (labels, values) in levels.items()}


def collect_labelled(scores):
    """Return {"image": (labels, scores), "video": (labels, scores)} of the labelled Scores.

    A video's score is the mean of its images' scores. Empty when no image has label and score.
    """
    known = [s for s in scores if s.image.label and s.score is not None]
    videos = defaultdict(list)
    for s in known:
        videos[s.image.label, s.image.video].append(s.score)
    if not known:
        return {}
    return {
        "image": ([s.image.label for s in known], [s.score for s in known]),
        "video": ([label for label, _ in videos], [float(np.mean(v)) for v in videos.values()]),
    }


# --- figures --------------------------------------------------------------------------------------

VERDICT_COLORS = {"real": "tab:blue", "deepfake": "tab:red"}
MOST_FACES = 32  # in a figure


def plot_scores(scores, threshold, path):
    """Draw the Scores: faces in order of score, histogram and, where labels exist, the ROC curve.

    Of more than 32 faces, as many are shown, evenly spaced in the order. Raises ValueError when
    there is no score to draw, OSError when `path` cannot be written.
    """
    from matplotlib.figure import Figure

    ranked = sorted((s for s in scores if s.score is not None), key=lambda s: s.score)
    if not ranked:
        raise ValueError("no score to draw")
    shown = [ranked[i] for i in np.linspace(0, len(ranked) - 1, min(len(ranked), MOST_FACES)).astype(int)]
    columns = min(8, max(4, len(shown)))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.75 * rows + 3.6), layout="constrained")
    upper, lower = figure.subfigures(2, height_ratios=(1.75 * rows, 3.6))
    few = "" if len(shown) == len(ranked) else f" ({len(shown)} of {len(ranked)} faces)"
    upper.suptitle(f"From forged (0) to real (1){few}", fontsize=11)
    cells = list(upper.subplots(rows, columns, squeeze=False).flat)
    draw_faces(cells, shown)
    labelled = {s.image.label for s in ranked} >= set(LABELS)
    panels = lower.subplots(1, 2 if labelled else 1, squeeze=False)[0]
    draw_histogram(panels[0], ranked, threshold)
    if labelled:
        draw_roc(panels[1], ranked)
    write_whole(path, lambda part: figure.savefig(part, dpi=120))


def draw_faces(cells, scores):
    """Draw the face, score and verdict of each Score into an axes of its own; leave the rest empty."""
    for cell in cells[len(scores) :]:
        cell.axis("off")
    faces = load_faces([s.image for s in scores], "bilinear")
    for cell, score, face in zip(cells, scores, faces, strict=False):
        draw_face(cell, score, face)


def draw_face(cell, score, face):
    color = VERDICT_COLORS[score.verdict]
    cell.set(xticks=[], yticks=[])
    for spine in cell.spines.values():
        spine.set(color=color, linewidth=3)
    cell.set_title(f"{score.score:.3f} {score.verdict}", fontsize=8, color=color)
    if score.image.label:
        cell.set_xlabel(f"labelled {score.image.label}", fontsize=7)
    if isinstance(face, np.ndarray):  # it may have vanished since it was scored
        cell.imshow(face)


def draw_histogram(panel, scores, threshold):
    groups = defaultdict(list)
    for s in scores:
        groups[s.image.label or s.verdict].append(s.score)
    labelled = any(s.image.label for s in scores)
    names = sorted(groups)
    colors = [VERDICT_COLORS.get({"df": "deepfake"}.get(name, name)) for name in names]
    panel.hist([groups[n] for n in names], bins=20, range=(0, 1), stacked=True, color=colors, label=names)
    panel.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(xlabel="score: 0 = deepfake/f2f, 1 = real", ylabel="images", title="Scores")
    panel.legend(title="label" if labelled else "verdict", fontsize=8)


def draw_roc(panel, scores):
    """Draw the ROC curves of the labelled Scores, per image and, where that differs, per video."""
    from sklearn import metrics

    levels = collect_labelled(scores)
    if len(levels["image"][0]) == len(levels["video"][0]):
        del levels["video"]
    for level, (labels, values) in levels.items():
        real = [label == "real" for label in labels]
        false_real, true_real, _ = metrics.roc_curve(real, values)
        panel.plot(false_real, true_real, label=f"{level}: AUC {metrics.auc(false_real, true_real):.3f}")
    panel.plot((0, 1), (0, 1), color="grey", linestyle=":")
    panel.set(xlabel="forged taken for real", ylabel="real taken for real", title="ROC", aspect="equal")
    panel.legend(fontsize=8, loc="lower right")
