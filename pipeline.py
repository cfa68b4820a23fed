"""From image files to scores: what the scripts share.

A score is P(real): 1 = real, 0 = forged (deepfake or Face2Face). Faces travel as uint8 RGB.
Nothing here imports TensorFlow: `.tflite` weights are run by LiteRT.
"""

import argparse
import bisect
import contextlib
import csv
import fcntl
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from operator import attrgetter
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL import ImageFile as PillowFile

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoFrame, VideoStream
    from av.container import InputContainer, OutputContainer
    from matplotlib.axes import Axes

T = TypeVar("T")
FoundFile = tuple[Path, tuple[str, ...], tuple[str, ...]]  # see find_files
Box = tuple[int, ...]  # left, top, right, bottom, whole pixels
Watch = Callable[[Iterable[T]], Iterable[T]]  # wraps an iterator: a progress bar
Predict = Callable[[np.ndarray], np.ndarray]  # uint8 faces (N, 256, 256, 3) -> a float32 each (N,)
LoadKeras = Callable[[Path], Any]  # gives a classifiers.Classifier

LABELS = ("df", "real")  # the order is the meaning: score 0 and score 1
LABEL_ALIASES = {
    **dict.fromkeys(("df", "fake", "forged", "deepfake"), "df"),
    **dict.fromkeys(("real", "original"), "real"),
}
IMAGE_SIZE = 256  # pixels, both ways: what the networks take
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
SMALLEST_FACE = 16  # pixels: below, nothing is left of a face to score
LARGEST_IMAGE = 100_000_000  # pixels: 300 MB once decoded
MOST_SCANS = 100  # of a progressive JPEG, which has about 10: each goes over all pixels
JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")  # of those with a header, and the end
# what files are taken for, whatever their names: formats that hold what they show, and run nothing (EPS
# would start Ghostscript, a playlist would fetch and wait)
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
VIDEO_FORMATS = (
    "3g2,3gp,asf,av1,avi,dv,flv,gif,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,webm,wtv,yuv4mpegpipe"
)
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,  # antialiased where it shrinks
    "bicubic": Image.Resampling.BICUBIC,  # likewise
}
warnings.filterwarnings("ignore", module="PIL")  # of bombs and odd tags: read_image has its own limits

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
# what lies beside the faces of a video
TABLE_NAME, SHEET_NAME, RECORD_NAME = "faces.csv", "contact_sheet.png", "extraction.json"
DOUBTFUL_NAME, PERSON_NAME = "doubtful", re.compile(r"person\d+")
FACE_NAME = re.compile(r".+-\d{6,}\.(png|jpg)", re.DOTALL)
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
    """What was found of one image or video. `verdict`: "real", "deepfake", "no face" or "error".

    The last three tell of what faces were looked for in: a video, or a photograph.
    """

    image: ImageFile
    score: float | None  # P(real), None when there is none; of several people the lowest
    verdict: str
    error: str  # the reason, or ""
    kind: str = "image"  # or "video" or "photo"
    frames: int = 0  # sampled
    faces: tuple["FaceScore", ...] = ()


# --- images ---------------------------------------------------------------------------------------


def find_images(arguments: Iterable[str | Path]) -> list[ImageFile]:
    """Return the ImageFiles among files and folders (see `find_files`)."""
    return [
        describe_image(path, (*above, *below)) for path, above, below in find_files(arguments, IMAGE_SUFFIXES)
    ]


def find_media(arguments: Iterable[str | Path]) -> list[tuple[ImageFile, str]]:
    """Return [(ImageFile, name for what comes of it)] of the images and videos (see `find_files`)."""
    files = find_files(arguments, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    return [
        (describe_image(path, (*above, *below)), name)
        for (path, above, below), name in zip(files, name_outputs(files), strict=True)
    ]


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_square(path: Path) -> bool:
    """Return whether an image is about as wide as high, as face crops are; True when it cannot be read."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return max(image.size) <= 1.2 * min(image.size)
    except Exception:  # noqa: BLE001  (see read_image)
        return True


def find_files(arguments: Iterable[str | Path], suffixes: tuple[str, ...]) -> list[FoundFile]:
    """Return [(path, names of the folders up to the argument, of those below it)]: sorted, each file once.

    A file named as such is taken whatever its suffix. In folders, subfolders included, other suffixes
    are passed over, and so are hidden files and what `extract_faces.py` writes beside the faces to
    keep. Links are followed, a folder is entered once. What does not exist, and a folder that cannot
    be entered, is returned too, so that reading it reports it.
    """
    found: list[FoundFile] = []
    files_seen, folders_seen = set(), set()

    def add(path: Path, above: tuple[str, ...], below: tuple[str, ...] = ()) -> None:
        real = os.path.realpath(path)
        if real not in files_seen:
            files_seen.add(real)
            found.append((path, above, below))

    for argument in arguments:
        top = Path(argument)
        if not os.path.isdir(top):
            add(top, top.parts[:-1])
            continue
        above = top.parts or (top.resolve().name,)
        pending, unreadable = [top], list[Path]()
        while pending:  # os.walk would call itself for each level, of which there may be too many
            folder = pending.pop()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in folders_seen:
                    continue
                folders_seen.add((status.st_dev, status.st_ino))
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                unreadable.append(folder)
                continue
            entries = [entry for entry in entries if not entry.name.startswith(".")]
            subfolders = [entry for entry in entries if _is_folder(entry)]
            pending += [folder / s.name for s in reversed(subfolders) if s.name != DOUBTFUL_NAME]
            below = folder.parts[len(top.parts) :]
            for entry in entries:
                wanted = entry.name.lower().endswith(suffixes) and entry.name != SHEET_NAME
                if wanted and entry not in subfolders:
                    add(folder / entry.name, above, below)
        for folder in unreadable:
            add(folder, ())
    return found


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def describe_image(path: Path, folder_names: Sequence[str]) -> ImageFile:
    """Return the ImageFile of `path`, its label read from the names of the folders it lies in.

    The video is the subfolder below the label's folder, or else the first part of a name like
    `<video>-000123.png` or `<source>-<video>-<frame>.jpg`, or else the image itself. The folders of a
    video's persons are one.
    """
    person = folder_names and PERSON_NAME.fullmatch(folder_names[-1])
    folder_names = folder_names[:-1] if person else folder_names
    labels = [LABEL_ALIASES.get(name.lower(), "") for name in folder_names]
    label = next(filter(None, reversed(labels)), "")
    name = next(filter(None, (pattern.fullmatch(path.stem) for pattern in FRAME_NAMES)), None)
    if label and not labels[-1]:
        folder = path.parent.parent if person else path.parent
        return ImageFile(path, label, name["source"] if name else "", str(folder))
    if name:
        video = "-".join(filter(None, (name["source"], name["video"])))
        return ImageFile(path, label, name["source"], video)
    return ImageFile(path, label, "", str(path))


def read_image(path: Path) -> np.ndarray:
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
        with Image.open(path, formats=IMAGE_FORMATS) as opened:
            width, height = opened.size
            if min(width, height) < SMALLEST_FACE:
                raise ValueError(f"{width}x{height} pixels, wanted at least {SMALLEST_FACE} both ways")
            check_size(width, height)
            if opened.format in ("JPEG", "MPO") and (scans := _count_scans(path)) > MOST_SCANS:
                raise ValueError(f"JPEG of {scans} scans, wanted at most {MOST_SCANS}")
            if opened.mode == "F":
                raise ValueError("float pixels, of unknown range: save the image with 8 bits")
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip, not scale
            grey = np.asarray(image, np.float64)
            if grey.min() < 0 or grey.max() > 65535:
                raise ValueError(f"pixels of {grey.min():g} to {grey.max():g}, wanted 8 or 16 bits")
            grey *= 255 / 65535
            return np.stack([np.clip(grey, 0, 255).round().astype(np.uint8)] * 3, axis=-1)
        palette = image.mode == "P"  # its transparency goes with the alpha channel
        return np.asarray((image.convert("RGBA") if palette else image).convert("RGB"))
    except Image.UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise ValueError("empty file" if empty else "not an image") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever a damaged file makes its decoders do
        raise ValueError(f"damaged image ({describe_error(error)})") from error


def _count_scans(path: Path) -> int:
    with open(path, "rb") as file:
        data = file.read(4 * LARGEST_IMAGE)
    scans, position = 0, 2
    while found := JPEG_MARKER.search(data, position):
        kind, position = found[1][0], found.end()
        if kind == 0xD9:  # the end: behind it may lie anything, a film say
            break
        scans += kind == 0xDA
        position += int.from_bytes(data[position : position + 2])  # its header; within may lie anything too
    return scans


def check_size(width: int, height: int) -> None:
    """Raise ValueError when an image of so many pixels would fill the memory."""
    if width * height > LARGEST_IMAGE:
        raise ValueError(f"{width}x{height} pixels, wanted at most {LARGEST_IMAGE:,} in all")


def resize_face(image: np.ndarray, resampling: str, side: int = IMAGE_SIZE) -> np.ndarray:
    """Return `image` as uint8 (side, side, 3), resampled by the filter named (a key of RESAMPLING)."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), RESAMPLING[resampling]))


def load_face(path: Path, resampling: str) -> np.ndarray:
    """Return the face crop in a file as uint8 (256, 256, 3) RGB: what is scored and trained on."""
    return resize_face(read_image(path), resampling)


def load_faces(
    images: Iterable[ImageFile], resampling: str, ahead: int = 64
) -> Iterator[np.ndarray | Exception]:
    """Yield for each ImageFile, in order, its face (see `load_face`) or the error that it raised.

    Files are decoded in threads, at most `ahead` beyond what has been taken.
    """

    def load(image: ImageFile) -> np.ndarray | Exception:
        try:
            return load_face(image.path, resampling)
        except (OSError, ValueError, MemoryError) as error:
            return error

    pending: deque[Future[np.ndarray | Exception]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for image in images:
            pending.append(pool.submit(load, image))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# --- videos ---------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A frame of a video."""

    index: int  # type: ignore[assignment]  # hides tuple.index; from 0, in the order shown
    time: float  # seconds since the first frame
    image: np.ndarray  # uint8 (height, width, 3) RGB, upright


class Timeline(NamedTuple):
    """When the frames of a video are shown. The first two are parallel, one for each frame."""

    stamps: list[int]  # ascending, in the stream's unit; the frames' numbers where the file has none
    times: list[float]  # seconds since the first
    keys: list[tuple[int, int]]  # where decoding can start: (stamp, stamp of decoding), ascending
    stamped: bool  # whether the file has stamps


def find_videos(arguments: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Return [(path, name)] of the videos among files and folders: recursive, sorted, each file once.

    A file named as such is taken whatever its suffix. For the names see `name_outputs`.
    """
    files = find_files(arguments, VIDEO_SUFFIXES)
    return [(path, name) for (path, _, _), name in zip(files, name_outputs(files), strict=True)]


def name_outputs(files: Iterable[FoundFile]) -> list[str]:
    """Return a name for what comes of each of the files, which are as `find_files` returns them.

    The path below the argument, without suffix where that is enough for no two names to be alike,
    nor one to lie within another.
    """
    # never hidden: what is would be passed over later
    full = ["/".join((*below, path.name.lstrip(".") or "_")) for path, _, below in files]
    short = [name.removesuffix(path.suffix) for name, (path, _, _) in zip(full, files, strict=True)]
    # how many files use a name, as theirs or as a folder of it
    uses = Counter(use for name in short for use in (name, *map(str, PurePosixPath(name).parents)))
    folders = {str(folder) for name in short for folder in PurePosixPath(name).parents}
    names: dict[str, None] = {}
    for with_suffix, without in zip(full, short, strict=True):
        wanted = without if uses[without] == 1 else with_suffix
        numbered = (f"{wanted}-{number}" for number in itertools.count(2))
        tried = itertools.chain([wanted, with_suffix], numbered)
        free = (n for n in tried if not (n in names or n in folders or _is_part_of_extraction(n)))
        names[next(free)] = None
    return list(names)


def _is_part_of_extraction(name: str) -> bool:
    last = PurePosixPath(name).name
    return last == DOUBTFUL_NAME or bool(PERSON_NAME.fullmatch(last))


def read_frames(
    path: str | Path,
    count: int = 30,
    start: float = 0.0,
    end: float | None = None,
    keyframes: bool = False,
    every: int = 0,
    threads: int = 0,
) -> Iterator[Frame]:
    """Yield the Frames of a video: `count` of them, evenly spread, or all where there are fewer.

    With `every` instead each so manieth, 1 for all. Taken between the times `start` and `end`, in
    seconds since the first frame (None: to the last); with `keyframes` among the intra-coded frames
    alone. The file's packets are counted, since headers lie; then it is decoded once, forward, by
    `threads` threads (0: one per core), seeking over what is not needed. A frame that is damaged is
    replaced by the next that is not. Raises OSError or ValueError, in one line, when the file is
    missing, no video, or has no frame there.
    """
    import av

    try:
        if not os.path.getsize(path):
            raise ValueError("empty file")
        timeline = read_timeline(path)
        wanted = _choose_frames(timeline, count, start, np.inf if end is None else end, keyframes, every)
        decoded = 0
        with open_video(path) as container:
            stream = choose_stream(container)
            stream.thread_type, stream.thread_count = "SLICE" if keyframes else "FRAME", threads
            decode = _decode_alone if keyframes else _decode_forward
            for index, frame in decode(container, stream, timeline, wanted):
                check_size(frame.width, frame.height)  # it may change on the way
                image = frame.to_ndarray(format="rgb24")
                image = np.rot90(image, round(frame.rotation / 90))  # as the phone was held
                # rows without padding: dlib misreads others
                yield Frame(index, timeline.times[index], np.ascontiguousarray(image))
                decoded += 1
        if not decoded:
            raise ValueError(f"none of its {len(timeline.times)} frames can be decoded")
    except av.error.FFmpegError as error:
        raise ValueError(f"no video that can be read ({describe_error(error)})") from error


def _choose_frames(
    timeline: Timeline, count: int, start: float, end: float, keyframes: bool, every: int
) -> list[int]:
    times = np.array(timeline.times)
    if not len(times):
        raise ValueError("no frame in it")
    wanted = np.flatnonzero((times >= start) & (times <= end))
    if keyframes:
        keys = {key for key, _ in timeline.keys}
        wanted = np.array([i for i in wanted if timeline.stamps[i] in keys], int)
    if not len(wanted):
        kind = "key frame" if keyframes else "frame"
        until = "s on" if np.isinf(end) else f"to {end:g} s"
        raise ValueError(f"no {kind} from {start:g} {until}: it lasts {times[-1]:.2f} s")
    if every:
        return wanted[::every].tolist()
    return wanted[np.linspace(0, len(wanted) - 1, min(count, len(wanted))).round().astype(int)].tolist()


def open_video(path: str | Path) -> "InputContainer":
    """Return the PyAV container of a file, which alone is read: no playlist, nothing from a network."""
    import av

    # an absolute path has no "protocol:" in front
    return av.open(os.path.abspath(path), options={"format_whitelist": VIDEO_FORMATS})


def choose_stream(container: "InputContainer") -> "VideoStream":
    """Return the video stream of an open container. Raises ValueError when it has none of use."""
    import av

    cover = av.stream.Disposition.attached_pic  # a picture that comes with a song
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise ValueError("no video in it" + (", only sound" if container.streams.audio else ""))
    context = streams[0].codec_context
    if context is None:
        raise ValueError("no video that can be read (unknown codec)")
    check_size(context.width, context.height)
    return streams[0]


def read_timeline(path: str | Path) -> Timeline:
    """Return the Timeline of a video from its packets, without decoding. Raises as `read_frames`."""
    with open_video(path) as container:
        stream = choose_stream(container)
        # without the packets' content, which may be larger than the memory
        packets = [
            (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
            for packet in _demux(container, stream)
        ]
        shown = [(pts, dts, is_key) for pts, dts, is_key, trimmed in packets if not trimmed]
        stamps = sorted({pts for pts, _, _ in shown if pts is not None})
        unit = stream.time_base or 1  # seconds
        # AVI files say when frames are decoded only, raw streams nothing
        if container.format.name == "avi" or len(stamps) < len(shown):
            numbers = list(range(len(shown)))
            keys = [(number, number) for number, (*_, is_key) in enumerate(shown) if is_key]
            clock = sorted(dts for _, dts, _ in shown if dts is not None)
            if len(clock) < len(shown):
                rate = float(stream.average_rate or 25)
                return Timeline(numbers, [number / rate for number in numbers], keys, False)
            return Timeline(numbers, [float((t - clock[0]) * unit) for t in clock], keys, False)
        times = [float((stamp - stamps[0]) * unit) for stamp in stamps]
        starts = [
            (pts, pts if dts is None else dts) for pts, dts, key, _ in packets if key and pts is not None
        ]
        return Timeline(stamps, times, sorted(starts), True)


def _demux(container: "InputContainer", stream: "VideoStream") -> Iterator["Packet"]:
    """Yield the packets up to where the file is cut off, those trimmed off included: others build on them."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                yield packet


def _decode(stream: "VideoStream", packets: Iterable["Packet"]) -> Iterator["VideoFrame"]:
    """Yield the frames of packets, in the order shown, passing over what is damaged."""
    import av

    for packet in itertools.chain(packets, [None]):  # None: what is still held back
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


SEEK_FROM = 24  # frames not needed: to skip fewer saves less than the seek costs


def _decode_forward(
    container: "InputContainer", stream: "VideoStream", timeline: Timeline, wanted: list[int]
) -> Iterator[tuple[int, "VideoFrame"]]:
    """Yield (index, frame) of the frames `wanted`, skipping to the last key frame before each."""
    stamps, keys, can_seek = timeline.stamps, timeline.keys, timeline.stamped and bool(timeline.keys)
    frames, frame, position = _decode(stream, _demux(container, stream)), None, -1
    for index, following in zip(wanted, [*wanted[1:], len(stamps)], strict=True):
        key = keys[max(0, bisect.bisect_right(keys, (stamps[index], np.inf)) - 1)] if can_seek else None
        if key and bisect.bisect_left(stamps, key[0]) - position > SEEK_FROM:
            packets = _seek(container, stream, key)
            if packets is None:  # from the start, and all through
                can_seek, position, packets = False, -1, _seek(container, stream, keys[0])
            frames = _decode(stream, packets or ())
        while position < index:
            frame = next(frames, None)
            if frame is None:
                return
            stamp = frame.pts if timeline.stamped else None
            position = position + 1 if stamp is None else bisect.bisect_left(stamps, stamp)
        if frame and position < following:  # else this one was damaged, and all up to the next
            yield position, frame


def _seek(
    container: "InputContainer", stream: "VideoStream", key: tuple[int, int]
) -> Iterator["Packet"] | None:
    """Return the packets from a key frame on, or from one before; None where that fails.

    Some formats seek by when a frame is shown, others by when it is decoded.
    """
    for stamp in key:
        container.seek(stamp, stream=stream)
        packets = _demux(container, stream)
        first = next(packets, None)
        if first and first.is_keyframe and first.pts is not None and first.pts <= key[0]:
            return itertools.chain([first], packets)
    return None


def _decode_alone(
    container: "InputContainer", stream: "VideoStream", timeline: Timeline, wanted: list[int]
) -> Iterator[tuple[int, "VideoFrame"]]:
    """Yield (index, frame) of the key frames `wanted`, decoding nothing else."""
    indices: dict[int | None, int] = {timeline.stamps[index]: index for index in wanted}
    for number, packet in enumerate(_demux(container, stream)):
        index = indices.get(packet.pts if timeline.stamped else number)
        if index is not None:
            for frame in _decode(stream, [packet]):
                yield index, frame
            stream.codec_context.flush_buffers()


def work_ahead(iterable: Iterable[T], ahead: int = 2) -> Iterator[T]:
    """Yield the items of `iterable`, which runs in a thread beside, at most `ahead` items before."""
    iterator = iter(iterable)
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, iterator, end) for _ in range(ahead))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item


# --- faces ----------------------------------------------------------------------------------------

CROP_ZOOM = 1.3  # side of a crop / size of its face
HOG_FACE = 80  # pixels: the smallest face that the detector sees
ZONE, ZONE_FACE = 280, 112  # pixels: side of the zone searched around a known face, and the face in it
COARSE = 640  # pixels: long side from which on the largest face is looked for
SAME_PERSON = 0.6  # distance of encodings: face_recognition's own limit
SAME_LOOK = 0.75  # correlation of crops


class Pose(NamedTuple):
    """Where a face is, in pixels of the full frame."""

    x: float  # centre: between the nose tip and the nose bridge
    y: float
    size: float  # 2.2 x the larger of eye distance and eyes-to-mouth distance
    angle: float  # degrees in (-180, 180] by which to turn the head clockwise to have it upright


class Face(NamedTuple):
    """A face found in a video."""

    frame: int  # index of its frame
    time: float  # of its frame, seconds
    box: Box  # the detector's
    pose: Pose
    sharpness: float  # see measure_sharpness
    person: int  # from 1, in order of appearance
    crop: np.ndarray  # uint8 (side, side, 3) RGB, upright


class Search(NamedTuple):
    """Which faces of a video are wanted. Defaults: the published ones."""

    frames: int = 30  # to sample
    every: int = 0  # if not 0: sample every so manieth instead
    start: float = 0.0  # seconds
    end: float | None = None  # seconds
    keyframes: bool = False  # sample the intra-coded frames only
    detector: str = "hog"  # or "cnn", slow without a GPU
    everyone: bool = False  # every person's face, not only the largest of each frame
    min_size: float = 0.0  # pixels: Pose.size below which a face is passed over
    min_sharpness: float = 0.0  # likewise, see measure_sharpness


FoundFaces = tuple[Frame, list[Face], int]  # see find_faces


def sample_frames(path: Path, search: Search, threads: int = 0) -> Iterator[Frame]:
    """Yield the Frames of a video that a Search asks for (see `read_frames`)."""
    return read_frames(path, search.frames, search.start, search.end, search.keyframes, search.every, threads)


def find_faces(frames: Iterable[Frame], search: Search) -> Iterator[FoundFaces]:
    """Yield for each Frame (Frame, its Faces, how many more were too small or too blurred).

    Decoding, finding and telling persons apart run side by side.
    """
    located = work_ahead(locate_faces(work_ahead(frames), search))
    for frame, faces in recognize_people(located):
        kept = [f for f in faces if f.pose.size >= search.min_size and f.sharpness >= search.min_sharpness]
        yield frame, kept, len(faces) - len(kept)


def locate_faces(frames: Iterable[Frame], search: Search) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, its Faces, largest first, of person 0) for each of a video's Frames.

    The largest face is looked for near the last one first, then in the whole frame.
    """
    last: Pose | None = None
    for frame in frames:
        near = None
        if last and not search.everyone:
            near = locate_near(frame.image, last, search.detector)
        faces = []
        for box, pose in [near] if near else locate_anywhere(frame.image, search):
            crop = align_face(frame.image, pose)
            faces.append(Face(frame.index, frame.time, box, pose, measure_sharpness(crop), 0, crop))
        last = faces[0].pose if faces else last
        yield frame, faces


def locate_near(image: np.ndarray, pose: Pose, detector: str) -> tuple[Box, Pose] | None:
    """Return (box, Pose) of the face nearest to where one was, or None.

    Searched is a zone around it, scaled and turned upright, so that faces smaller than the detector
    sees are followed, and heads far from upright, where landmarks are poor. When the face proves to lie
    otherwise than thought, it is searched again as it lies.
    """
    found = None
    for _ in range(4):
        scale = pose.size / ZONE_FACE
        zone = cut_square(image, pose, ZONE, scale)
        boxes = detect_faces(zone, detector)
        if not boxes:
            break
        box = min(boxes, key=lambda b: np.hypot(b[0] + b[2] - ZONE, b[1] + b[3] - ZONE))
        turn, shift = map_square(pose, ZONE, scale)
        landmarks = {
            name: (np.array(points) + 0.5) @ turn.T + shift - 0.5
            for name, points in find_landmarks(zone, box).items()
        }
        before, pose = pose, measure_pose(landmarks)
        x, y = turn @ ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) + shift
        half = (box[2] - box[0]) / 2 * scale
        found = tuple(round(float(edge)) for edge in (x - half, y - half, x + half, y + half)), pose
        turned = abs((pose.angle - before.angle + 180) % 360 - 180)
        if turned < 5 and 0.9 < pose.size / before.size < 1.1:
            break
    return found


def locate_anywhere(image: np.ndarray, search: Search) -> list[tuple[Box, Pose]]:
    """Return [(box, Pose)] of a frame's largest face, or of all, largest first.

    The largest is looked for in the frame made small, then at ever larger scale: what is found
    first is the largest. The last scale, twice the frame's, is face_recognition's default, and costs
    three times as much as all before.
    """
    scales = [*((n, 0) for n in (8, 4, 2) if max(image.shape) >= n * COARSE), (1, 0), (1, 1)]
    if search.min_size >= HOG_FACE:
        scales.pop()
    if search.everyone:
        scales = scales[-1:]
    found = (detect_faces(image, search.detector, *scale) for scale in scales)
    boxes = next(filter(None, found), [])
    boxes = sorted(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]), reverse=True)
    faces = []
    for box in boxes if search.everyone else boxes[:1]:
        pose = measure_pose(find_landmarks(image, box))
        near = locate_near(image, pose, search.detector)
        if near and np.hypot(near[1].x - pose.x, near[1].y - pose.y) >= pose.size / 2:
            near = None  # another face, which lies nearer in the zone
        faces.append(near or (box, pose))
    return faces


def recognize_people(located: Iterable[tuple[Frame, list[Face]]]) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, its Faces) for each (Frame, Faces) of a video, with the person set, counted from 1.

    Who looks the same as in the frame before is not encoded anew: that takes longer than all else.
    """
    people: list[list[np.ndarray]] = []  # each person's encodings
    last: list[Face] = []  # of the last frame that had some

    def recognize(face: Face, others: set[int]) -> int:
        for known in last:
            near = np.hypot(face.pose.x - known.pose.x, face.pose.y - known.pose.y) < known.pose.size
            if near and known.person not in others and correlate_crops(face.crop, known.crop) > SAME_LOOK:
                return known.person
        encoding = encode_face(face.crop)
        distances = [np.linalg.norm(np.mean(encodings, axis=0) - encoding) for encodings in people]
        for person in np.argsort(distances).tolist():
            if distances[person] <= SAME_PERSON and person + 1 not in others:
                people[person].append(encoding)
                return person + 1
        people.append([encoding])
        return len(people)

    for frame, unknown in located:
        faces: list[Face] = []
        for face in unknown:  # nobody is in a frame twice
            faces.append(face._replace(person=recognize(face, {f.person for f in faces})))
        last = faces or last
        yield frame, faces


def detect_faces(
    image: np.ndarray, detector: str = "hog", reduction: int = 1, upsample: int = 0
) -> list[Box]:
    """Return the boxes (left, top, right, bottom) of the faces in a uint8 RGB image, in its pixels.

    Looked for in the image made `reduction` times smaller, then doubled `upsample` times.
    """
    small = image if reduction == 1 else np.asarray(Image.fromarray(image).reduce(reduction))
    boxes = _import_face_recognition().face_locations(small, upsample, detector)
    return [(left * reduction, top * reduction, right * reduction, bottom * reduction)
            for top, right, bottom, left in boxes]  # fmt: skip


def find_landmarks(image: np.ndarray, box: Box) -> dict[str, list[tuple[int, int]]]:
    """Return the 68 landmarks of the face in a box of a uint8 RGB image: {feature: (x, y)s}."""
    left, top, right, bottom = box
    return _import_face_recognition().face_landmarks(image, [(top, right, bottom, left)])[0]


def encode_face(crop: np.ndarray) -> np.ndarray:
    """Return the encoding of an aligned crop's face, float64 (128,): within 0.6 of the same person's."""
    side = crop.shape[0]
    edge = round(side * (1 - 1 / CROP_ZOOM) / 2)
    box = (edge, side - edge, side - edge, edge)
    return _import_face_recognition().face_encodings(crop, [box])[0]


def correlate_crops(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two aligned crops, at 24x24 grey pixels without the border, in [-1, 1]."""
    grey = [_reduce_grey(crop, 32)[4:-4, 4:-4].ravel() for crop in (first, second)]
    deviations = [g - g.mean() for g in grey]
    norms = [np.linalg.norm(d) for d in deviations]
    return float(deviations[0] @ deviations[1] / max(norms[0] * norms[1], 1e-9))


def measure_sharpness(crop: np.ndarray) -> float:
    """Return the variance of the Laplacian of a crop at 128x128 grey pixels in 0-255: low is blurred."""
    grey = _reduce_grey(crop, 128)
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def _reduce_grey(crop: np.ndarray, side: int) -> np.ndarray:
    return resize_face(crop, "bilinear", side) @ (0.299, 0.587, 0.114)


@functools.cache
def _import_face_recognition() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # its models announce pkg_resources' end
            import face_recognition
    except SystemExit as error:  # it calls quit() when it cannot import its models
        raise ImportError(
            f"face_recognition cannot import its models ({describe_error(error.__context__ or error)}): "
            "pip install -r requirements.txt"
        ) from error
    finally:
        # it has Pillow fill truncated images with grey, everywhere; here they are errors
        PillowFile.LOAD_TRUNCATED_IMAGES = False
    return face_recognition


def measure_pose(landmarks: Mapping[str, np.ndarray | list[tuple[int, int]]]) -> Pose:
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


def align_face(frame: np.ndarray, pose: Pose, zoom: float = CROP_ZOOM) -> np.ndarray:
    """Cut the face out upright: uint8 (side, side, 3) RGB, side = zoom x size, mirrored beyond the frame.

    At native resolution, in one bicubic resampling.
    """
    return cut_square(frame, pose, max(1, round(zoom * pose.size)))


def cut_square(frame: np.ndarray, pose: Pose, side: int, scale: float = 1.0) -> np.ndarray:
    """Cut an upright square around the pose: uint8 (side, side, 3), each pixel `scale` of the frame's.

    What lies beyond the frame is mirrored.
    """
    reach = int(side * scale * 0.71) + 3  # half the diagonal, and the filter's margin
    rows, columns = (
        _mirror(int(centre) - reach, int(centre) + reach, length)
        for centre, length in zip((pose.y, pose.x), frame.shape[:2], strict=True)
    )
    patch = Image.fromarray(frame[rows][:, columns])
    reduction = max(1, int(scale))  # the affine transform alone would skip pixels
    patch = patch.reduce(reduction) if reduction > 1 else patch
    turn, shift = map_square(pose, side, scale)
    shift = shift - (int(pose.x) - reach, int(pose.y) - reach)
    matrix = np.column_stack((turn, shift)).ravel() / reduction
    square = patch.transform((side, side), Image.Transform.AFFINE, matrix.tolist(), Image.Resampling.BICUBIC)
    return np.asarray(square)


def map_square(pose: Pose, side: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return (turn, shift), float (2, 2) and (2,): where turn @ (x, y) + shift of a square lies in its frame.

    In continuous coordinates: the centre of a pixel is half a pixel from its edge.
    """
    angle = np.radians(pose.angle)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turn, np.array([pose.x + 0.5, pose.y + 0.5]) - turn @ (side / 2, side / 2)


def _mirror(first: int, last: int, length: int) -> slice | np.ndarray:
    """Return which of `length` rows to take for those from `first` to before `last`."""
    if first >= 0 and last <= length:
        return slice(first, last)
    beyond = (max(0, -first), max(0, last - length))
    rows = np.pad(np.arange(length), beyond, "reflect" if length > 1 else "edge")
    return rows[max(0, first) : max(0, first) + last - first]


# --- faces of videos, as files ---------------------------------------------------------------------

FACE_COLUMNS = ("frame", "time", "person", "left", "top", "right", "bottom", "x", "y", "size", "angle",
                "sharpness", "doubt", "file")  # fmt: skip


class Extraction(NamedTuple):
    """What came of a video's extraction."""

    path: Path  # the video
    folder: Path  # where its faces are
    frames: int = 0  # sampled
    faces: int = 0  # written
    empty: int = 0  # frames without a face
    refused: int = 0  # faces too small or too blurred
    people: int = 0
    doubtful: int = 0  # of the faces written
    before: bool = False  # whether it had been done before
    error: str = ""


def extract_video(
    path: str | Path,
    folder: str | Path,
    search: Search,
    jpeg: int | None = None,
    drop_doubtful: bool = False,
    force: bool = False,
    threads: int = 0,
    watch: Watch[FoundFaces] = iter,
) -> Extraction:
    """Write a video's faces to a folder of their own; return the Extraction, errors included.

    In the folder: `<video>-<frame index>.png`, or .jpg of quality `jpeg`, of everyone in a subfolder for
    each person; faces.csv; contact_sheet.png; extraction.json. The folder appears when it is
    complete. One that holds the same video's faces by the same settings is left as it is, unless
    `force`; one that holds anything else is refused. With `drop_doubtful` the faces that
    `find_doubts` names go to a subfolder. `watch` wraps the iterator over frames: a progress bar.
    """
    path, folder = Path(path), Path(os.path.realpath(folder))
    settings = search._asdict() | {"jpeg": jpeg, "drop_doubtful": drop_doubtful}
    part = folder.parent / f".writing-{folder.name}"  # always the same: a kill's leftover is cleared
    try:
        record = {"video": path.name, "bytes": os.path.getsize(path), "settings": settings}
        if force:
            check_replaceable(folder)
        elif found := check_extraction(folder, record):
            return Extraction(path, folder, **found, before=True)
        with _claim(part) as lock:
            found = _write_faces(path, part, search, jpeg, drop_doubtful, threads, watch)
            (part / RECORD_NAME).write_text(json.dumps(record | {"found": found}, indent=1) + "\n")
            if force:
                shutil.rmtree(folder, ignore_errors=True)
            lock.unlink()
            os.replace(part, folder)
        return Extraction(path, folder, **found)
    except (OSError, ValueError, MemoryError) as error:
        return Extraction(path, folder, error=describe_error(error))


@contextlib.contextmanager
def _claim(folder: Path) -> Iterator[Path]:
    """Make a folder, or clear that of a killed run; yield the file that locks out other runs.

    Raises FileExistsError when another run is at it. The folder is gone when there is an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by a kill, too
        except BlockingIOError:
            raise FileExistsError(f"{folder}: another run is writing there") from None
        try:
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry != lock:
                    entry.unlink()
            yield lock
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def check_extraction(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return what an extraction by these settings found in this video before, {} if there was none.

    Raises FileExistsError when the folder holds anything else.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    try:
        found = json.loads((folder / RECORD_NAME).read_bytes())
        differing = [name for name in ("video", "bytes") if found[name] != record[name]]
        settings = found["settings"]
        differing += [name for name, value in record["settings"].items() if settings[name] != value]
        if not differing:
            return found["found"]
        reason = f"faces of another video or by other settings ({', '.join(differing)})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        reason = "something else"
    raise FileExistsError(f"{folder} holds {reason}: --force to replace it, or another --output")


def check_replaceable(folder: Path) -> None:
    """Raise FileExistsError unless the folder holds an extraction and nothing else, or nothing at all."""
    entries = list(folder.iterdir()) if folder.is_dir() else []
    recorded = any(entry.name == RECORD_NAME for entry in entries)
    for entry in entries:
        if entry.is_dir():
            own = entry.name == DOUBTFUL_NAME or PERSON_NAME.fullmatch(entry.name)
        else:
            own = entry.name in (RECORD_NAME, SHEET_NAME, TABLE_NAME) or FACE_NAME.fullmatch(entry.name)
        if not (recorded and own):
            raise FileExistsError(f"{folder} holds {entry.name}, which is no face: name another --output")


def _write_faces(
    path: Path,
    folder: Path,
    search: Search,
    jpeg: int | None,
    drop_doubtful: bool,
    threads: int,
    watch: Watch[FoundFaces],
) -> dict[str, Any]:
    """Write what belongs into an extraction's folder; return the counts of its Extraction."""
    faces, frames, empty, refused = [], 0, 0, 0
    for _, found, passed_over in watch(find_faces(sample_frames(path, search, threads), search)):
        for face in found:
            write_face(face, folder / name_face(path, face, search.everyone, jpeg), jpeg)
            # the sheet needs no more, and many large crops would fill the memory
            faces.append(face._replace(crop=resize_face(face.crop, "bilinear", THUMBNAIL)))
        frames += 1
        empty += not found and not passed_over
        refused += passed_over
    doubts = find_doubts(faces, search.everyone)
    files = [name_face(path, face, search.everyone, jpeg) for face in faces]
    for i, doubt in enumerate(doubts):
        if doubt and drop_doubtful:
            name = files[i].parent / DOUBTFUL_NAME / files[i].name
            os.renames(folder / files[i], folder / name)
            files[i] = name
    with open(folder / TABLE_NAME, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(FACE_COLUMNS)
        for face, doubt, name in zip(faces, doubts, files, strict=True):
            pose = (round(value, 2) for value in face.pose)
            numbers = (face.frame, round(face.time, 4), face.person, *face.box, *pose)
            writer.writerow((*numbers, round(face.sharpness, 1), doubt, name))
    if faces:
        draw_contact_sheet(faces, doubts).save(folder / SHEET_NAME)
    people = len({face.person for face in faces})
    doubtful = sum(map(bool, doubts))
    return {"frames": frames, "faces": len(faces), "empty": empty, "refused": refused,
            "people": people, "doubtful": doubtful}  # fmt: skip


def name_face(path: Path, face: Face, everyone: bool, jpeg: int | None) -> PurePosixPath:
    """Return the relative path of a face's file."""
    name = f"{path.stem}-{face.frame:06}{'.jpg' if jpeg else '.png'}"
    return PurePosixPath(f"person{face.person}", name) if everyone else PurePosixPath(name)  # PERSON_NAME


def write_face(face: Face, path: Path, jpeg: int | None) -> None:
    path.parent.mkdir(exist_ok=True)
    # full colour resolution: the networks look at just such traces
    options: dict[str, Any] = {"quality": jpeg, "subsampling": 0} if jpeg else {}
    Image.fromarray(face.crop).save(path, **options)


def find_doubts(faces: Sequence[Face], everyone: bool = False) -> list[str]:
    """Return why each of a video's Faces may be no good: "", or some of these, joined by ", ".

    "blurred" or "small" beside the median of the others, at an unusual "position", of another "identity"
    than most. With `everyone` each person's faces are compared with their own only.
    """
    if not faces:
        return []
    person = np.array([face.person for face in faces])
    sharpness = np.array([face.sharpness for face in faces])
    size = np.array([face.pose.size for face in faces])
    centre = np.array([face.pose[:2] for face in faces])
    tests = np.zeros((len(faces), 4), bool)
    for one in np.unique(person) if everyone else [None]:
        own = np.ones(len(faces), bool) if one is None else person == one
        away = np.linalg.norm(centre[own] - np.median(centre[own], axis=0), axis=1)
        tests[own, 0] = sharpness[own] < 0.4 * np.median(sharpness[own])
        tests[own, 1] = size[own] < 0.6 * np.median(size[own])
        # who walks across the picture is nowhere unusual
        tests[own, 2] = away > max(np.median(size[own]), 4 * np.median(away))
    if not everyone:
        tests[:, 3] = person != np.bincount(person).argmax()
    names = ("blurred", "small", "position", "identity")
    return [", ".join(itertools.compress(names, row)) for row in tests]


THUMBNAIL = 112  # pixels


def draw_contact_sheet(faces: Sequence[Face], doubts: Sequence[str]) -> Image.Image:
    """Return a Pillow image of the Faces in order, their crops made THUMBNAIL wide; the doubtful in red."""
    columns = min(10, len(faces))
    rows = -(-len(faces) // columns)
    width, height = THUMBNAIL + 8, THUMBNAIL + 30
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for i, (face, doubt) in enumerate(zip(faces, doubts, strict=True)):
        x, y = i % columns * width, i // columns * height
        if doubt:
            draw.rectangle((x, y, x + width - 1, y + height - 1), "red")
        sheet.paste(Image.fromarray(face.crop), (x + 4, y + 4))
        ink = "white" if doubt else "black"
        draw.text((x + 4, y + THUMBNAIL + 5), f"{face.frame}  {face.time:.1f} s", ink, font)
        draw.text((x + 4, y + THUMBNAIL + 17), doubt or f"person {face.person}", ink, font)
    return sheet


# --- many at once -----------------------------------------------------------------------------------


PROCESS_DIED = "the process that worked on it died, again: out of memory, or damaged so as to crash it"


def run_jobs(
    function: Callable[..., T],
    calls: Sequence[tuple],
    options: dict[str, Any],
    jobs: int = 1,
    dask: str | None = None,
) -> Iterator[T | None]:
    """Yield function(*call, **options) for each of `calls`, in order, as they get ready.

    In `jobs` processes of this machine, the cores shared out as their option `threads`, or on the Dask
    cluster whose scheduler is at the address `dask` (its workers get this file, and see the same
    folders). None stands for a call whose process died, by memory or a library's fault, even when it was
    alone. Raises OSError when the cluster cannot be reached or loses too many workers,
    ImportError without Dask.
    """
    if dask:
        yield from _run_on_cluster(function, calls, options, dask)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    jobs = max(1, min(jobs, len(calls)))
    if jobs == 1:
        yield from (function(*call, **options) for call in calls)
        return
    work = functools.partial(_work_for, os.getpid(), function, threads=max(1, (os.cpu_count() or 1) // jobs))
    done = 0
    while done < len(calls):
        parallel = Parallel(jobs, batch_size=1, return_as="generator")
        try:
            for result in parallel(delayed(work)(*call, **options) for call in calls[done:]):
                yield result
                done += 1
        except TerminatedWorkerError:
            try:  # it may be another's fault: alone, but in a process of its own
                (result,) = Parallel(2)([delayed(work)(*calls[done], **options)])
            except TerminatedWorkerError:
                result = None
            yield result
            done += 1


def _run_on_cluster(
    function: Callable[..., T], calls: Sequence[tuple], options: dict[str, Any], address: str
) -> Iterator[T]:
    from joblib import Parallel, delayed, parallel_config

    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise ImportError("--dask needs a package more: pip install distributed") from error
    try:
        with Client(address, timeout=10) as client, parallel_config("dask", n_jobs=-1):
            client.upload_file(__file__)
            client.upload_file(os.path.join(os.path.dirname(__file__), "classifiers.py"), load=False)
            parallel = Parallel(batch_size=1, return_as="generator")
            yield from parallel(delayed(function)(*call, **options) for call in calls)
    except KilledWorker as error:
        raise OSError("the cluster loses its workers, out of memory perhaps: run again to go on") from error


def _work_for(parent: int, function: Callable[..., T], *call: Any, **options: Any) -> T:
    """Call the function, in a process that ends when its parent was killed."""
    _watch_parent(parent)
    return function(*call, **options)


@functools.cache
def _watch_parent(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# --- weights --------------------------------------------------------------------------------------


def find_weights(name: str | Path, endings: Sequence[str] = (".tflite", ".weights.h5", ".h5")) -> Weights:
    """Return the Weights called `name`: a file, here or in weights/, its suffix given or not.

    Without suffix, the first of `endings` that is there. The card beside the first two
    says how they are used, and their SHA-256; a plain `.h5` (such as the authors') has no card and
    is used as published: nearest-neighbour resizing, threshold 0.5. Raises FileNotFoundError, or
    ValueError when file and card do not belong together; one line each.
    """
    ends = ("",) if str(name).endswith((".tflite", ".h5")) else endings
    tried = [Path(folder, f"{name}{end}") for folder in ("", WEIGHTS_FOLDER) for end in ends]
    path = next((path for path in tried if os.path.isfile(path)), None)
    if path is None:
        raise FileNotFoundError(
            f"{name}: no such weights, here or in {WEIGHTS_FOLDER} ({' or '.join(endings)}): "
            "weights/README.md says where to get weights"
        )
    card_path = name_card(path)
    plain = not path.name.endswith((".tflite", ".weights.h5"))
    if plain or (path.suffix == ".h5" and not card_path.is_file()):
        return Weights(path, "", "nearest", 0.5)
    if not card_path.is_file():
        raise FileNotFoundError(f"{path}: its card {card_path.name} is missing: copy it along")
    try:
        card = json.loads(card_path.read_bytes())
        weights = Weights(path, str(card["network"]), str(card["resampling"]), float(card["threshold"]))
        digest = card["sha256"][path.name]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{card_path}: not a card of {path.name} ({error!r}): get both again") from error
    if weights.resampling not in RESAMPLING:
        raise ValueError(f"{card_path}: resampling {weights.resampling!r}, wanted one of {[*RESAMPLING]}")
    if not 0 <= weights.threshold <= 1:
        raise ValueError(f"{card_path}: threshold {weights.threshold:g}, wanted 0 to 1")
    if compute_sha256(path) != digest:
        raise ValueError(f"{path}: damaged, or not the file of {card_path.name}: get both again")
    return weights


def name_card(path: Path) -> Path:
    """Return where the card of a weights file is."""
    return path.with_name(re.sub(r"\.(tflite|weights\.h5)$", "", path.name) + ".json")


# the last one loaded: who scores many videos loads weights once
_predictor: dict[tuple[Path, int], Predict] = {}
_one_at_a_time = threading.RLock()  # LiteRT is not for several threads, such as a Dask worker's


def load_predictor(weights: Weights, load_keras: LoadKeras, threads: int = 0) -> Predict:
    """Return the function that scores faces: uint8 (N, 256, 256, 3) -> P(real), float32 (N,).

    `.tflite` runs in LiteRT, by `threads` threads (0: one per core); for other files `load_keras(path)`
    gives the classifier to use, so that TensorFlow is imported by those who need it only.
    """
    key = weights.path, threads
    with _one_at_a_time:
        if key not in _predictor:
            _predictor.clear()
            if weights.path.suffix == ".tflite":
                _predictor[key] = _load_litert(weights.path, threads or os.cpu_count())
            else:
                classifier = load_keras(weights.path)
                _predictor[key] = lambda faces: classifier.predict(faces, max(1, len(faces)))[:, 0]
        return _predictor[key]


def _load_litert(path: Path, threads: int | None) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        (faces_in,), (scores_out,) = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: LiteRT cannot read it ({describe_error(error)}): get it again") from error
    found = np.dtype(faces_in["dtype"]).name, faces_in["shape"][1:].tolist(), len(scores_out["shape"])
    if found != ("uint8", [IMAGE_SIZE, IMAGE_SIZE, 3], 2):
        raise ValueError(f"{path}: takes faces as {found[0]} {found[1]}, wanted uint8 [256, 256, 3]")
    shape = None

    def predict(faces: np.ndarray) -> np.ndarray:
        nonlocal shape
        if not len(faces):
            return np.empty(0, np.float32)
        with _one_at_a_time:
            try:
                if faces.shape != shape:
                    interpreter.resize_tensor_input(faces_in["index"], faces.shape)
                    with hush_native():
                        interpreter.allocate_tensors()
                    shape = faces.shape
                interpreter.set_tensor(faces_in["index"], faces)
                interpreter.invoke()
            except RuntimeError as error:
                raise ValueError(f"{path}: LiteRT cannot run it ({describe_error(error)})") from error
            return interpreter.get_tensor(scores_out["index"])[:, 0]

    return predict


def write_weights(classifier: Any, stem: str | Path, card: dict[str, Any]) -> dict[str, Any]:
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
def hush_native() -> Iterator[None]:
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


def compute_sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_room(folder: Path) -> None:
    """Raise OSError when a megabyte cannot be written to `folder`: HDF5 would crash the process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1_000_000))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path of the same name), then rename it: a kill leaves no half file."""
    path = Path(os.path.realpath(path))  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        part = Path(folder, path.name)
        write(part)
        os.replace(part, path)


# --- scores ---------------------------------------------------------------------------------------


def score_images(
    images: Sequence[ImageFile], predict: Predict, resampling: str, threshold: float, batch_size: int = 32
) -> Iterator[Score]:
    """Yield the Score of each ImageFile, in order; decoding runs in threads beside the network."""
    waiting: list[tuple[ImageFile, str]] = []
    faces: list[np.ndarray] = []

    def score_waiting() -> Iterator[Score]:
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


class FaceScore(NamedTuple):
    """What was found of one face of a video or photograph. For the first five see `Face`."""

    frame: int
    time: float
    person: int
    box: Box
    pose: Pose
    score: float  # P(real)


def score_file(
    item: ImageFile,
    annotated: Path | None,
    weights: Weights,
    search: Search,
    load_keras: LoadKeras,
    batch_size: int = 32,
    threads: int = 0,
) -> Score:
    """Return the Score of a video's faces, or of all in a photograph: those that `extract_faces.py` writes.

    `item` is its ImageFile. An annotated copy is written to the path `annotated` if there is one. What
    goes wrong is in the Score; where that is the copy only, with the score.
    """
    kind = "video" if is_video(item.path) else "photo"
    try:
        if kind == "video":
            frames: Iterable[Frame] = sample_frames(item.path, search, threads)
        else:
            search = search._replace(everyone=True)
            frames = [Frame(0, 0.0, read_image(item.path))]
        predict = load_predictor(weights, load_keras, threads)
        sampled, faces = score_faces(find_faces(frames, search), predict, weights.resampling, batch_size)
        score = find_worst(average_people(faces))
        verdict = judge(score, weights.threshold) if faces else "no face"
        found = Score(item, score, verdict, "", kind, len(sampled), faces)
        if annotated:
            found = found._replace(error=try_annotating(found, annotated, weights.threshold, sampled))
        return found
    except (OSError, ValueError, MemoryError) as error:
        return Score(item, None, "error", describe_error(error), kind)


def try_annotating(score: Score, path: Path, threshold: float, sampled: Sequence[int] = ()) -> str:
    """Return why no annotated copy could be written, or ""."""
    import av

    try:
        write_whole(path, lambda part: annotate(score, part, threshold, sampled))
        return ""
    except (OSError, ValueError, MemoryError, av.error.FFmpegError) as error:
        return f"no annotated copy: {describe_error(error)}"


def score_faces(
    found: Iterable[FoundFaces], predict: Predict, resampling: str, batch_size: int = 32
) -> tuple[list[int], tuple[FaceScore, ...]]:
    """Return (indices of the frames, tuple of FaceScores) of what `find_faces` yields, scoring meanwhile."""
    sampled, scored = [], []
    waiting: list[Face] = []

    def score_batch() -> None:
        batch = waiting[:batch_size]
        scores = predict(np.stack([resize_face(face.crop, resampling) for face in batch]))
        if not np.isfinite(scores).all():
            raise ValueError("the network gave no number: these weights are no good")
        for face, score in zip(batch, scores, strict=True):
            scored.append(FaceScore(face.frame, face.time, face.person, face.box, face.pose, float(score)))
        del waiting[:batch_size]

    for frame, faces, _ in found:
        sampled.append(frame.index)
        waiting += faces
        while len(waiting) >= batch_size:
            score_batch()
    if waiting:
        score_batch()
    return sampled, tuple(scored)


FEW_FACES = 3  # a person seen in fewer frames of a video decides nothing


def average_people(faces: Iterable[FaceScore]) -> dict[int, tuple[float, int]]:
    """Return {person: (mean score, faces)} of FaceScores: the paper's aggregation, per person."""
    people = defaultdict(list)
    for face in faces:
        people[face.person].append(face.score)
    return {person: (float(np.mean(scores)), len(scores)) for person, scores in sorted(people.items())}


def find_worst(people: dict[int, tuple[float, int]]) -> float | None:
    """Return the lowest mean score of the people seen often enough, None where there are none."""
    often = {person: found for person, found in people.items() if found[1] >= FEW_FACES}
    return min((score for score, _ in (often or people).values()), default=None)


def judge(score: float | None, threshold: float) -> str:
    """Return the verdict on a score: "deepfake" below the threshold, else "real"; "error" on None."""
    if score is None:
        return "error"
    return "deepfake" if score < threshold else "real"


def open_streams() -> None:
    """Have print and progress bars work where stdout or stderr is closed, or knows no such letters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8


def read_count(text: str) -> int:
    """Return a count given on the command line; raises argparse's error when it is below 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted 1 or more")
    return value


def read_number(text: str) -> float:
    """Return a number given on the command line; raises argparse's error when it is not finite."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: wanted a number")
    return value


def show(path: str | Path) -> str:
    """Return a path on one line, whatever its name."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def describe_error(error: BaseException) -> str:
    """Return why a file could not be used, in one line without its name."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())


def summarize(scores: Sequence[Score], threshold: float) -> dict[str, Any]:
    """Return the outcome of many Scores: a dict of their number, how many of them were scored, skipped
    and without a face, and, where some were scored, average_score in [0, 1], deepfake_percent and the
    verdict on the average."""
    values = [s.score for s in scores if s.score is not None]
    no_face = sum(s.verdict == "no face" for s in scores)
    average = float(np.mean(values)) if values else None
    deepfakes = sum(s.verdict == "deepfake" for s in scores)
    return {
        "images": len(scores),
        "scored": len(values),
        "skipped": len(scores) - len(values) - no_face,
        "no_face": no_face,
        "average_score": average,
        "deepfake_percent": 100 * deepfakes / len(values) if values else None,
        "verdict": judge(average, threshold),
    }


def group_by_folder(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Return {folder: its Scores}, in order of appearance; the folder as in the images' paths."""
    folders = defaultdict(list)
    for score in scores:
        folders[str(score.image.path.parent)].append(score)
    return folders


# --- scores as tables ------------------------------------------------------------------------------

SCORE_COLUMNS = ("path", "score", "verdict", "label", "error", "kind", "frames", "frame", "time", "person",
                 "left", "top", "right", "bottom", "x", "y", "size", "angle", "settings")  # fmt: skip


def list_rows(scores: Iterable[Score]) -> Iterator[dict[str, Any]]:
    """Yield a dict per Score and, after a video's or photograph's, one per face: kind "face"."""
    for s in scores:
        score = None if s.score is None else round(s.score, 6)
        row = {"path": str(s.image.path), "score": score, "verdict": s.verdict, "label": s.image.label,
               "error": s.error, "kind": s.kind}  # fmt: skip
        yield row | ({} if s.kind == "image" else {"frames": s.frames})
        for face in s.faces:
            yield {
                "path": row["path"],
                "score": round(face.score, 6),
                "kind": "face",
                "frame": face.frame,
                "time": round(face.time, 6),
                "person": face.person,
                **dict(zip(("left", "top", "right", "bottom"), face.box, strict=True)),
                **{name: round(value, 2) for name, value in face.pose._asdict().items()},
            }


def write_csv(path: Path, scores: Iterable[Score], settings: str) -> None:
    """Write a row per Score and face (see `list_rows`), each with how it came about, in words."""

    def write(part: Path) -> None:
        with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, SCORE_COLUMNS)
            writer.writeheader()
            writer.writerows(row | {"settings": settings} for row in list_rows(scores))

    write_whole(path, write)


def write_json(path: Path, scores: Iterable[Score], summary: dict[str, Any]) -> None:
    """Write the summary, which holds the settings, and the rows of `list_rows`."""
    content = {"summary": summary, "items": list(list_rows(scores))}
    write_whole(path, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))


def read_scores(path: Path) -> tuple[dict[str, Score], str]:
    """Return ({path: Score}, the settings) of what `write_csv` or `write_json` wrote.

    Raises ValueError when it is something else.
    """
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            if file.read(1) == "{":
                content = json.loads("{" + file.read())
                rows, settings = content["items"], content["summary"]["settings"]
            else:
                file.seek(0)
                reader = csv.DictReader(file)
                rows = list(reader)
                if tuple(reader.fieldnames or ()) != SCORE_COLUMNS:
                    raise ValueError("other columns")
                settings = rows[0]["settings"] if rows else ""
                if any(row["settings"] != settings for row in rows):
                    raise ValueError("rows of several settings, or cut off")
        scores: dict[str, Score] = {}
        for row in rows:
            name = str(row["path"])
            if row["kind"] == "face":
                scores[name] = scores[name]._replace(faces=(*scores[name].faces, _read_face(row)))
            elif row["kind"] in ("image", "video", "photo") and row["verdict"] in VERDICT_INKS:
                score = None if row["score"] in (None, "") else _read_number(row["score"], 0, 1)
                image = ImageFile(Path(name), str(row["label"]), "", "")
                frames = int(_read_number(row.get("frames") or 0))
                scores[name] = Score(image, score, row["verdict"], str(row["error"]), row["kind"], frames)
            else:
                raise ValueError(f"kind {row['kind']!r}, verdict {row['verdict']!r}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path}: no table of scores ({describe_error(error)})") from error
    return scores, settings


def _read_face(row: dict[str, Any]) -> FaceScore:
    frame, person = (int(_read_number(row[name], 0)) for name in ("frame", "person"))
    box = tuple(int(_read_number(row[name])) for name in ("left", "top", "right", "bottom"))
    pose = Pose(*(_read_number(row[name]) for name in Pose._fields))
    _read_number(pose.size, 0, 100_000)
    return FaceScore(frame, _read_number(row["time"], 0), person, box, pose, _read_number(row["score"], 0, 1))


def _read_number(value: Any, least: float = -1e9, most: float = 1e9) -> float:
    number = float(value)
    if isinstance(value, bool) or not least <= number <= most:
        raise ValueError(f"{value!r}, wanted a number from {least:g} to {most:g}")
    return number


# --- figures of merit -----------------------------------------------------------------------------


def evaluate(
    labels: Sequence[str], scores: Sequence[float] | np.ndarray, threshold: float
) -> dict[str, float]:
    """Return how well scores tell "real" from "df": a dict of fractions in [0, 1].

    `labels` are "df" or "real", `scores` P(real). Accuracy for each class and overall, balanced
    accuracy, and, where both classes occur, the area under the ROC curve and the equal error rate.
    """
    real = np.array([label == "real" for label in labels])
    scores = np.asarray(scores)
    right = (scores >= threshold) == real
    found = {"count": len(scores), "accuracy": float(right.mean())}
    for label, chosen in (("df", ~real), ("real", real)):
        if chosen.any():
            found[f"accuracy_{label}"] = float(right[chosen].mean())
    if real.any() and not real.all():
        from sklearn import metrics  # a second

        found["balanced_accuracy"] = (found["accuracy_df"] + found["accuracy_real"]) / 2
        found["auc"] = float(metrics.roc_auc_score(real, scores))
        false_real, true_real, _ = metrics.roc_curve(real, scores)
        # where as many real faces are taken for forged as forged ones for real
        found["eer"] = float(np.interp(0, false_real + true_real - 1, false_real))
    return found


def evaluate_scores(scores: Iterable[Score], threshold: float) -> dict[str, dict[str, float]]:
    """Return {"image": figures, "video": figures} of the labelled Scores (see `evaluate`), or {}."""
    levels = collect_labelled(scores)
    return {level: evaluate(labels, values, threshold) for level, (labels, values) in levels.items()}


def collect_labelled(scores: Iterable[Score]) -> dict[str, tuple[list[str], list[float]]]:
    """Return {"image": (labels, scores), "video": (labels, scores)} of the labelled Scores.

    A video's score is the mean of its images' scores. Empty when no image has label and score.
    """
    known = [(s.image, s.score) for s in scores if s.image.label and s.score is not None]
    videos = defaultdict(list)
    for image, score in known:
        videos[image.label, image.video].append(score)
    if not known:
        return {}
    return {
        "image": ([image.label for image, _ in known], [score for _, score in known]),
        "video": ([label for label, _ in videos], [float(np.mean(v)) for v in videos.values()]),
    }


# --- figures --------------------------------------------------------------------------------------

VERDICT_COLORS = {"real": "tab:blue", "deepfake": "tab:red", "no face": "tab:gray"}
MOST_FACES = 32  # in a figure


def plot_scores(scores: Iterable[Score], threshold: float, path: Path) -> None:
    """Draw the Scores: faces in order of score, histogram and, where labels exist, the ROC curve.

    Of more than 32 faces, as many are shown, evenly spaced in the order. Raises ValueError when
    there is no score to draw, OSError when `path` cannot be written.
    """
    from matplotlib.figure import Figure

    ranked = sorted((s for s in scores if s.score is not None), key=attrgetter("score"))
    if not ranked:
        raise ValueError("no score to draw")
    shown = [ranked[i] for i in np.linspace(0, len(ranked) - 1, min(len(ranked), MOST_FACES)).astype(int)]
    columns = min(8, max(4, len(shown)))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.45 * columns, 1.75 * rows + 3.6), layout="constrained")
    upper, lower = figure.subfigures(2, squeeze=False, height_ratios=(1.75 * rows, 3.6)).flat
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


def draw_faces(cells: Sequence["Axes"], scores: Sequence[Score]) -> None:
    """Draw the face, score and verdict of each Score into an axes of its own; leave the rest empty."""
    for cell in cells[len(scores) :]:
        cell.axis("off")
    faces = load_faces([s.image for s in scores], "bilinear")
    for cell, score, face in zip(cells, scores, faces, strict=False):
        draw_face(cell, score, face)


def draw_face(cell: "Axes", score: Score, face: np.ndarray | Exception | None) -> None:
    color = VERDICT_COLORS[score.verdict]
    cell.set(xticks=[], yticks=[])
    for spine in cell.spines.values():
        spine.set(color=color, linewidth=3)
    cell.set_title(f"{score.score:.3f} {score.verdict}", fontsize=8, color=color)
    if score.image.label:
        cell.set_xlabel(f"labelled {score.image.label}", fontsize=7)
    if isinstance(face, np.ndarray):  # it may have vanished since it was scored
        cell.imshow(face)


def draw_histogram(panel: "Axes", scores: Iterable[Score], threshold: float) -> None:
    groups: dict[str, list[Any]] = defaultdict(list)
    for s in scores:
        groups[s.image.label or s.verdict].append(s.score)
    labelled = any(s.image.label for s in scores)
    names = sorted(groups)
    colors = [VERDICT_COLORS[{"df": "deepfake"}.get(name, name)] for name in names]
    panel.hist([groups[n] for n in names], bins=20, range=(0, 1), stacked=True, color=colors, label=names)
    panel.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(xlabel="score: 0 = deepfake/f2f, 1 = real", ylabel="images", title="Scores")
    panel.legend(title="label" if labelled else "verdict", fontsize=8)


def draw_roc(panel: "Axes", scores: Iterable[Score]) -> None:
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


MOST_VIDEOS = 6  # in a figure


def plot_videos(scores: Iterable[Score], threshold: float, path: Path) -> None:
    """Draw the scores of videos over time, with the lowest and the highest face of each.

    Of more than six videos those of the lowest scores are shown. Raises as `plot_scores`.
    """
    from matplotlib.figure import Figure

    ranked = sorted((s for s in scores if s.faces), key=attrgetter("score"))
    if not ranked:
        raise ValueError("no score to draw")
    shown = ranked[:MOST_VIDEOS]
    figure = Figure(figsize=(11, 3.2 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), 3, squeeze=False, width_ratios=(4, 1, 1))
    for (panel, *cells), score in zip(rows, shown, strict=True):
        draw_timeline(panel, score, threshold)
        for cell, choose, name in zip(cells, (min, max), ("lowest", "highest"), strict=True):
            face = choose(score.faces, key=lambda face: face.score)
            verdict = judge(face.score, threshold)
            draw_face(
                cell,
                score._replace(score=face.score, verdict=verdict),
                load_scored_face(score, face, "bilinear"),
            )
            cell.set_xlabel(f"{name}, at {face.time:.2f} s", fontsize=8)
    write_whole(path, lambda part: figure.savefig(part, dpi=100))


def draw_timeline(panel: "Axes", score: Score, threshold: float) -> None:
    """Draw a video's scores over time, a line for each person."""
    for person, (mean, _) in average_people(score.faces).items():
        own = [face for face in score.faces if face.person == person]
        label = f"person {person}: mean {mean:.3f}, {judge(mean, threshold)}"
        panel.plot([face.time for face in own], [face.score for face in own], marker="o", label=label)
    panel.axhspan(0, threshold, color=VERDICT_COLORS["deepfake"], alpha=0.08)
    panel.axhline(threshold, color="black", linestyle=":", label=f"threshold {threshold:g}")
    panel.set(ylim=(-0.03, 1.03), xlabel="seconds", ylabel="score: 0 = deepfake/f2f, 1 = real")
    panel.set_title(
        f"{show(score.image.path.name)}: {score.score:.3f}, {score.verdict}", fontsize=10, parse_math=False
    )
    panel.legend(fontsize=8)


def load_scored_face(score: Score, face: FaceScore | None, resampling: str) -> np.ndarray | None:
    """Return what the network saw, uint8 (256, 256, 3), None when the file cannot be read any more.

    Of a video or photograph the FaceScore says which face; of a face crop it is None.
    """
    try:
        if face and score.kind == "video":
            near = (face.time - 5e-4, face.time + 5e-4)
            crop = align_face(next(read_frames(score.image.path, 1, *near)).image, face.pose)
        else:
            image = read_image(score.image.path)
            crop = align_face(image, face.pose) if face else image
        return resize_face(crop, resampling)
    except (OSError, ValueError):
        return None


# --- annotated copies -----------------------------------------------------------------------------------

COPIED_SOUND = ("aac", "ac3", "eac3", "opus", "flac", "alac")  # what MP4 takes as it is
TICKS = 90_000  # a second, of an annotated video


def annotate(score: Score, path: Path, threshold: float, sampled: Sequence[int] = ()) -> None:
    """Write a copy of a Score's video, photograph or face crop with its verdicts drawn on it.

    A video becomes an MP4 (H.264) with its sound; its scores hold from one of the frames `sampled`,
    given by their indices, to the next; the boxes move along. An image becomes a PNG.
    """
    label = score.verdict if score.score is None else f"{score.score:.3f} {score.verdict}"
    if score.kind == "video":
        _annotate_video(score, label, path, threshold, sampled)
        return
    image = Image.fromarray(read_image(score.image.path))
    draw_verdicts(image, score.faces, threshold)
    draw_label(image, (0, 0), label, score.verdict)
    image.save(path, "png")


def _annotate_video(score: Score, label: str, path: Path, threshold: float, sampled: Sequence[int]) -> None:
    import av

    faces: dict[int, list[FaceScore]] = {index: [] for index in sampled}
    for face in score.faces:
        faces[face.frame].append(face)
    original, copy = score.image.path, os.path.abspath(path)
    with open_video(original) as source, av.open(copy, "w", format="mp4") as target:
        video = target.add_stream("libx264", options={"crf": "18", "preset": "veryfast"})
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        sound = _add_sound(source, target)
        for number, frame in enumerate(read_frames(original, every=1)):
            height, width = (side // 2 * 2 for side in frame.image.shape[:2])  # H.264 wants even sides
            if not height or not width:
                raise ValueError("frames of less than 2x2 pixels")
            image = Image.fromarray(frame.image[:height, :width])
            draw_verdicts(image, interpolate_faces(faces, sampled, frame.index), threshold)
            draw_label(image, (0, 0), label, score.verdict)
            picture = av.VideoFrame.from_image(image)
            picture.pts, picture.time_base = round(frame.time * TICKS), Fraction(1, TICKS)
            if not number:
                video.width, video.height = width, height
            target.mux(video.encode(picture))
        target.mux(video.encode())
        if sound:
            _copy_sound(source, target, sound)


def _add_sound(source: "InputContainer", target: "OutputContainer") -> "AudioStream | None":
    """Return the stream of `target` for the sound of `source`, None where it has none that can be kept."""
    stream = next(iter(source.streams.audio), None)
    if stream is None or stream.codec_context is None:
        return None
    if stream.codec_context.name in COPIED_SOUND:
        return target.add_stream_from_template(stream)
    return target.add_stream("aac", rate=min(stream.codec_context.sample_rate, 48_000))


def _copy_sound(source: "InputContainer", target: "OutputContainer", sound: "AudioStream") -> None:
    """Copy the sound, encoding it anew only where MP4 does not take it, up to where it is damaged."""
    import av

    stream, video = source.streams.audio[0], choose_stream(source)
    # times count from the first frame
    start = float((video.start_time or 0) * (video.time_base or 1))
    resampler = av.AudioResampler("fltp", "stereo", sound.codec_context.sample_rate)
    copied = sound.codec_context.name == stream.codec_context.name
    with contextlib.suppress(av.error.FFmpegError):
        for packet in source.demux(stream):
            if copied and packet.pts is not None and packet.dts is not None:
                shift = round(start / (stream.time_base or 1))
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = sound
                target.mux(packet)
            for frame in () if copied else packet.decode():
                for samples in resampler.resample(frame):
                    rate = samples.sample_rate
                    if samples.time is not None:
                        samples.pts = round((samples.time - start) * rate)
                        samples.time_base = Fraction(1, rate)
                    target.mux(sound.encode(samples))
        if not copied:
            target.mux(sound.encode())


def interpolate_faces(
    faces: dict[int, list[FaceScore]], sampled: Sequence[int], index: int
) -> list[FaceScore]:
    """Return the FaceScores to draw on a frame, given {index: FaceScores} of those `sampled`, ascending.

    Scores are those of the last frame sampled; boxes lie on the way to the same person's next.
    """
    at = bisect.bisect_right(sampled, index) - 1
    if at < 0:
        return []
    before, after = sampled[at], sampled[min(at + 1, len(sampled) - 1)]
    coming = {face.person: face for face in faces[after]}
    drawn = []
    for face in faces[before]:
        share = (index - before) / (after - before) if after > before and face.person in coming else 0
        ends = zip(face.box, coming.get(face.person, face).box, strict=True)
        drawn.append(face._replace(box=tuple(round(a + share * (b - a)) for a, b in ends)))
    return drawn


def draw_verdicts(image: Image.Image, faces: Iterable[FaceScore], threshold: float) -> None:
    """Draw the boxes, scores and verdicts of FaceScores on a Pillow image."""
    draw = ImageDraw.Draw(image)
    for face in faces:
        verdict = judge(face.score, threshold)
        draw.rectangle(face.box, outline=VERDICT_INKS[verdict], width=max(2, image.height // 200))
        draw_label(image, (face.box[0], face.box[3]), f"{face.score:.3f} {verdict}", verdict)


VERDICT_INKS = {"real": "#1f77b4", "deepfake": "#d62728", "no face": "#7f7f7f", "error": "#7f7f7f"}


def draw_label(image: Image.Image, corner: tuple[int, int], text: str, verdict: str) -> None:
    """Write white on the verdict's colour, the upper left corner at `corner` or as near as fits."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(11, image.height // 28))
    _, _, width, height = draw.textbbox((0, 0), text, font)
    x = max(0, min(corner[0], image.width - width - 6))
    y = max(0, min(corner[1], image.height - height - 6))
    draw.rectangle((x, y, x + width + 6, y + height + 6), VERDICT_INKS[verdict])
    draw.text((x + 3, y + 3), text, "white", font)


# --- where the evidence lies -------------------------------------------------------------------------------

PATCH, STRIDE = 32, 16  # pixels of a 256x256 face


def map_evidence(face: np.ndarray, compute_logits: Predict) -> np.ndarray:
    """Return how much each pixel of a face speaks for "forged": float32 (256, 256), in logits.

    Occlusion: patches are replaced by the face's own pixels in disorder, and each pixel gets by how
    much the logit rises, averaged over the patches that cover it. Where it is positive, what is there
    speaks for forged; where negative, for real. The logit, since the score itself saturates.
    `face` is uint8 (256, 256, 3), `compute_logits` as `classifiers.Classifier.compute_logits`.
    """
    disorder = np.random.default_rng(0).permutation(face.reshape(-1, 3)).reshape(face.shape)
    starts = range(0, IMAGE_SIZE - PATCH + 1, STRIDE)
    patches = [np.s_[y : y + PATCH, x : x + PATCH] for y in starts for x in starts]
    occluded = np.repeat(face[None], len(patches), axis=0)
    for image, patch in zip(occluded, patches, strict=True):
        image[patch] = disorder[patch]
    rises = compute_logits(occluded) - compute_logits(face[None])
    total, covers = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for rise, patch in zip(rises, patches, strict=True):
        total[patch] += rise
        covers[patch] += 1
    return total / covers


def plot_evidence(face: np.ndarray, evidence: np.ndarray, title: str, path: Path) -> None:
    """Draw a face beside itself with its map of evidence (see `map_evidence`) laid over."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    plain, overlaid = figure.subplots(1, 2)
    limit = max(float(np.abs(evidence).max()), 1e-3)
    plain.imshow(face)
    overlaid.imshow(face)
    colors = overlaid.imshow(evidence, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.55)
    for panel in (plain, overlaid):
        panel.axis("off")
    figure.colorbar(colors, ax=overlaid, label="logit: speaks for forged (red), for real (blue)")
    figure.suptitle(title, fontsize=10, parse_math=False)
    write_whole(path, lambda part: figure.savefig(part, dpi=100))


def plot_activations(means: dict[str, tuple[np.ndarray, ...]], path: Path) -> None:
    """Draw mean activations, {"real": (first, last), "df": (first, last)}: maps (height, width, channels)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.45 * len(means)), layout="constrained")
    rows = figure.subplots(len(means), 4, squeeze=False)
    for layer in (0, 1):
        # the border, where the convolution meets zeros, would outshine all else
        limit = max(float(np.percentile(maps[layer].mean(axis=2), 99.5)) for maps in means.values())
        for row, (label, maps) in zip(rows, means.items(), strict=True):
            strongest = maps[layer][:, :, maps[layer].mean(axis=(0, 1)).argmax()]
            name = ("first", "last")[layer]
            row[2 * layer].imshow(maps[layer].mean(axis=2), cmap="magma", vmin=0, vmax=limit)
            row[2 * layer].set_title(f"{label}: {name} layer, mean", fontsize=8)
            row[2 * layer + 1].imshow(strongest, cmap="magma")
            row[2 * layer + 1].set_title(f"{label}: {name} layer, strongest channel", fontsize=8)
    for panel in rows.flat:
        panel.axis("off")
    write_whole(path, lambda part: figure.savefig(part, dpi=100))


def plot_units(images: np.ndarray, weights: np.ndarray, path: Path) -> None:
    """Draw what excites each hidden unit most, uint8 (units, 256, 256, 3), those for "forged" first.

    `weights`, float (units,): of the units in the score.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.9 * -(-len(images) // 8)), layout="constrained")
    panels = figure.subplots(-(-len(images) // 8), 8, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, unit in zip(panels.flat, np.argsort(weights), strict=False):
        panel.imshow(images[unit])
        meaning = "real" if weights[unit] > 0 else "forged"
        panel.set_title(f"unit {unit}: {weights[unit]:+.2f}\n{meaning}", fontsize=8)
    write_whole(path, lambda part: figure.savefig(part, dpi=80))
