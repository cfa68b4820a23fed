"""From image files to scores: what the scripts share.

A score is P(real): 1 = real, 0 = forged (deepfake or Face2Face). Faces travel as uint8 RGB.
Nothing here imports TensorFlow: `.tflite` weights are run by LiteRT.
"""

import argparse
import bisect
import contextlib
import functools
import hashlib
import io
import itertools
import math
import os
import re
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import numpy as np
from PIL import Image, ImageOps
from PIL import ImageFile as PillowFile

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

T = TypeVar("T")
FoundFile = tuple[Path, tuple[str, ...], tuple[str, ...]]  # see find_files
Box = tuple[int, ...]  # left, top, right, bottom, whole pixels
Watch = Callable[[Iterable[T]], Iterable[T]]  # wraps an iterator: a progress bar

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

# what lies beside the faces of a video
TABLE_NAME, SHEET_NAME, RECORD_NAME = "faces.csv", "contact_sheet.png", "extraction.json"
DOUBTFUL_NAME, PERSON_NAME = "doubtful", re.compile(r"person\d+")
FACE_NAME = re.compile(r".+-\d{6,}\.(png|jpg)", re.DOTALL)
# what a face's file name tells of its video: `<video>-000123.png`, as extract_faces.py writes them, or
# `<dataset>-<video>-<frame>.jpg`, as in the face sets that the networks are trained on
FRAME_NAMES = (
    re.compile(r"(?P<dataset>)(?P<video>.+)-\d{6}"),
    re.compile(r"(?P<dataset>[^-]+)-(?P<video>.+)-[^-]+"),
)


class Item(NamedTuple):
    """An image to score or to train on."""

    path: Path  # as found from the argument given
    label: str  # "df", "real", or "" when no folder name tells
    dataset: str  # the set it comes from, or ""
    video: str  # what it was cut from: images of one video share it


# --- images ---------------------------------------------------------------------------------------


def find_images(arguments: Iterable[str | Path]) -> list[Item]:
    """Return the Items among files and folders (see `find_files`)."""
    return [
        parse_labels(path, (*above, *below)) for path, above, below in find_files(arguments, IMAGE_SUFFIXES)
    ]


def find_media(arguments: Iterable[str | Path]) -> list[tuple[Item, str]]:
    """Return [(Item, name for what comes of it)] of the images and videos (see `find_files`)."""
    files = find_files(arguments, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    return [
        (parse_labels(path, (*above, *below)), name)
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


def parse_labels(path: Path, folder_names: Sequence[str]) -> Item:
    """Return the Item of `path`, its label read from the names of the folders it lies in.

    The video is the subfolder below the label's folder, or else the first part of a name like
    `<video>-000123.png` or `<dataset>-<video>-<frame>.jpg`, or else the image itself. The folders of a
    video's persons are one.
    """
    person = folder_names and PERSON_NAME.fullmatch(folder_names[-1])
    folder_names = folder_names[:-1] if person else folder_names
    labels = [LABEL_ALIASES.get(name.lower(), "") for name in folder_names]
    label = next(filter(None, reversed(labels)), "")
    name = next(filter(None, (pattern.fullmatch(path.stem) for pattern in FRAME_NAMES)), None)
    if label and not labels[-1]:
        folder = path.parent.parent if person else path.parent
        return Item(path, label, name["dataset"] if name else "", str(folder))
    if name:
        video = "-".join(filter(None, (name["dataset"], name["video"])))
        return Item(path, label, name["dataset"], video)
    return Item(path, label, "", str(path))


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


def load_faces(images: Iterable[Item], resampling: str, ahead: int = 64) -> Iterator[np.ndarray | Exception]:
    """Yield for each Item, in order, its face (see `load_face`) or the error that it raised.

    Files are decoded in threads, at most `ahead` beyond what has been taken.
    """

    def load(image: Item) -> np.ndarray | Exception:
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


def prefetch(iterable: Iterable[T], ahead: int = 2) -> Iterator[T]:
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
    """A face found in a video or photograph."""

    frame: int  # index of its frame
    time: float  # of its frame, seconds
    box: Box  # the detector's
    pose: Pose
    person: int = 0  # from 1, in order of appearance; 0: not yet known
    sharpness: float = 0.0  # see measure_sharpness
    # `Any`, since each is None for a part of a face's life: the crop once it is scored (it would fill
    # the memory), the score before
    crop: Any = None  # uint8 (side, side, 3) RGB, upright
    score: Any = None  # float: 1 = real, 0 = forged


class FaceOptions(NamedTuple):
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


def sample_frames(path: Path, search: FaceOptions, threads: int = 0) -> Iterator[Frame]:
    """Yield the Frames of a video that a FaceOptions asks for (see `read_frames`)."""
    return read_frames(path, search.frames, search.start, search.end, search.keyframes, search.every, threads)


def find_faces(frames: Iterable[Frame], search: FaceOptions) -> Iterator[FoundFaces]:
    """Yield for each Frame (Frame, its Faces, how many more were too small or too blurred).

    Decoding, finding and telling persons apart run side by side.
    """
    located = prefetch(locate_faces(prefetch(frames), search))
    for frame, faces in recognize_people(located):
        kept = [f for f in faces if f.pose.size >= search.min_size and f.sharpness >= search.min_sharpness]
        yield frame, kept, len(faces) - len(kept)


def locate_faces(frames: Iterable[Frame], search: FaceOptions) -> Iterator[tuple[Frame, list[Face]]]:
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
            faces.append(Face(frame.index, frame.time, box, pose, 0, measure_sharpness(crop), crop))
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


def locate_anywhere(image: np.ndarray, search: FaceOptions) -> list[tuple[Box, Pose]]:
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
    cluster whose scheduler is at the address `dask` (its workers see the same folders, this one
    included). None stands for a call whose process died, by memory or a library's fault, even when it was
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
        from distributed import Client, WorkerPlugin
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise ImportError("--dask needs a package more: pip install distributed") from error
    project = os.path.dirname(os.path.abspath(__file__))

    class ImportProject(WorkerPlugin):  # local, so that it is pickled whole, without this module
        def setup(self, worker: Any) -> None:  # noqa: ARG002
            if project not in sys.path:
                sys.path.insert(0, project)

    try:
        with Client(address, timeout=10) as client, parallel_config("dask", n_jobs=-1):
            client.register_plugin(ImportProject())  # also on workers that start later
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


# --- scripts ------------------------------------------------------------------------------------------


def run(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main` and exit with the status it returns; after Ctrl-C or a closed pipe, silently."""
    try:
        _open_streams()
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except FileNotFoundError as error:  # `main` reports all others
        sys.exit(fail(2, f"the working folder is gone ({describe_error(error)})"))


def _open_streams() -> None:
    """Make print and progress bars work if stdout or stderr is closed or cannot encode a file's name."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def fail(status: int, reason: object) -> int:
    """Print the reason after the script's name; return the exit status."""
    print(f"{os.path.basename(sys.argv[0])}: {reason}", file=sys.stderr)
    return status


def make_parser(description: str | None, usage: str) -> argparse.ArgumentParser:
    """Return a parser that prints a script's docstring as it is, and one line of usage before an error."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        usage=f"%(prog)s {usage}", description=description, formatter_class=formatter
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments, by default those of the command line; refuse empty ones."""
    argv = sys.argv[1:] if argv is None else argv
    if "" in argv:
        parser.error("an argument is empty: is a variable not set?")
    return parser.parse_args(argv)


def read_count(text: str) -> int:
    """Return a count given on the command line. Raises argparse's error if it is not at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def read_number(text: str) -> float:
    """Return a number given on the command line. Raises argparse's error if it is not finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number, not {text}")
    return value


def printable(path: str | Path) -> str:
    """Return a path on one line, whatever its name."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def describe_error(error: BaseException) -> str:
    """Return the reason of an error in one line, without the file's name."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path of the same name), then rename it: a killed run leaves no half file."""
    path = Path(os.path.realpath(path))  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        part = Path(folder, path.name)
        write(part)
        os.replace(part, path)


def compute_sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextlib.contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Discard what native code writes to stderr: TensorFlow and LiteRT print lines at every start.

    Set TF_CPP_MIN_LOG_LEVEL to see it; TensorFlow 2.21 itself reads that too late.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
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
