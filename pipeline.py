"""Turn image and video files into upright faces.

What all scripts share: finding and reading files, sampling a video's frames, finding, following and
aligning faces, telling people apart, and what every script needs (errors in one line, atomic writes,
several jobs). Faces travel as uint8 RGB. Nothing here runs a network or judges a score.
"""

import argparse
import bisect
import contextlib
import errno
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

import imageio.v3 as iio
import numpy as np
from PIL import Image, PngImagePlugin
from PIL import ImageFile as PillowFile

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

T = TypeVar("T")
Box = tuple[int, ...]  # left, top, right, bottom, whole pixels
Watch = Callable[[Iterable[T]], Iterable[T]]  # wraps an iterator: a progress bar

VERSION = "1.0"
LABELS = ("df", "real")  # the order is the meaning: score 0 and score 1
LABEL_ALIASES = {
    **dict.fromkeys(("df", "fake", "forged", "deepfake"), "df"),
    **dict.fromkeys(("real", "original"), "real"),
}
IMAGE_SIZE = 256  # pixels, both ways: what the networks take
CROP_ZOOM = 1.3  # side of a crop / size of its face, as published
SMALLEST_ZOOM = 0.5  # that weights may look at


# --- files and labels -----------------------------------------------------------------------------

IMAGE_SUFFIXES = (
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png",
    ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
ANIMATED_SUFFIXES = (".apng", ".gif")  # images that may be videos
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".ts", ".vob", ".webm",
    ".wmv",
)  # fmt: skip
IGNORED_SUFFIXES = (".csv", ".html", ".json", ".md", ".txt")  # texts beside faces: not worth a word
RECORD_NAME, SHEET_NAME = "extraction.json", "contact_sheet.png"  # beside the faces of a video
RESULTS_NAMES = {"results.csv", "results.json"}  # in a folder of results, which is never scored itself
PERSON_NAME = re.compile(r"person\d+")  # folder of one person's faces
EXTRACTED_NAME = re.compile(r"(?P<video>.+)(?<!\d\d-\d\d)-\d{6,}")  # not `Screenshot-2024-07-27-101010`
FORGERY_NAME = re.compile(r"(?P<kind>[^_]+)_(?P<origin>[^_]+)(_.*)?", re.DOTALL)


class Item(NamedTuple):
    """A file to work on."""

    path: Path  # as found from the argument given
    name: str  # of what comes of it: no two Items of a search have the same, nor one inside another
    label: str = ""  # "df", "real", or "" if no folder name says
    dataset: str = ""  # the face set it belongs to, or ""
    video: str = ""  # what it was cut from, in its data set; images of one video share it
    kind: str = "image"  # a face crop; or "photo", in which faces are searched, or "video"


def find_files(arguments: Iterable[str | Path]) -> tuple[list[Item], Counter[str]]:
    """Return (Items, {suffix: number of files passed over}) of files and folders: sorted, each file once.

    A file given as argument is taken whatever its name. In folders, subfolders included, only images and
    videos are taken, and neither hidden files nor contact sheets nor folders of results. Links are followed;
    a folder is entered once. A missing file, or a folder that cannot be entered, is returned as well:
    reading it reports the error.
    """
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}  # {real path: (path, folders from the argument's on)}
    passed_over: Counter[str] = Counter()
    seen = set()
    for top in map(Path, arguments):
        if not os.path.isdir(top):
            found.setdefault(os.path.realpath(top), (top, ()))
        unreadable: list[OSError] = []
        for folder, subfolders, files in os.walk(top, onerror=unreadable.append, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen or set(files) >= RESULTS_NAMES:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            folders = (top.name or ".", *Path(folder).parts[len(top.parts) :])
            ours = {SHEET_NAME} if RECORD_NAME in files else set()
            for name in sorted(name for name in set(files) - ours if not name.startswith(".")):
                path, suffix = Path(folder, name), Path(name).suffix.lower()
                if suffix in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
                    found.setdefault(os.path.realpath(path), (path, folders))
                elif suffix not in IGNORED_SUFFIXES:
                    passed_over[suffix] += 1
        for error in unreadable:
            found.setdefault(os.path.realpath(error.filename), (Path(error.filename), ()))
    names = name_outputs([PurePosixPath(*folders[1:], path.name) for path, folders in found.values()])
    items = []
    for (path, folders), name in zip(found.values(), names, strict=True):
        kind = "video" if is_video(path) else "image"
        label, dataset, video = parse_labels(path, folders)
        items.append(Item(path, name, label, dataset, str(path) if kind == "video" else video, kind))
    return items, passed_over


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its suffix; by its content if that is unknown or may be both."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or (suffix in IMAGE_SUFFIXES and suffix not in ANIMATED_SUFFIXES):
        return suffix in VIDEO_SUFFIXES
    try:
        with open_image(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError):
        return path.is_file() and suffix not in IMAGE_SUFFIXES


def parse_labels(path: Path, folders: Sequence[str]) -> tuple[str, str, str]:
    """Return (label, data set, video) of an image by the names of its folders, outermost first.

    `df/<data set>/<video>/` or `df/<video>/`; the folders of a video's people are one. Elsewhere the video
    is what the name `<video>-000123.png` says, as extract_faces.py writes it, or else the image itself.
    """
    folders = folders[:-1] if folders and PERSON_NAME.fullmatch(folders[-1]) else folders
    labels = [LABEL_ALIASES.get(name.lower(), "") for name in folders]
    last = max((depth for depth, label in enumerate(labels) if label), default=None)
    if last is not None and (below := folders[last + 1 :]):
        return labels[last], "/".join(below[:-1]), below[-1]
    named = EXTRACTED_NAME.fullmatch(path.stem)
    return labels[last] if last is not None else "", "", named["video"] if named else str(path)


def parse_forgery(item: Item) -> tuple[str, str]:
    """Return (kind of forgery, video that it was made from) as a forged video's name in a data set says.

    `<kind>_<origin>` or `<kind>_<origin>_<source>`: ffpp/face2face_055_147 was made from ffpp/055, with the
    face or expression of ffpp/147. ("", "") if the name says nothing.
    """
    named = FORGERY_NAME.fullmatch(item.video) if item.dataset and item.label == "df" else None
    return (named["kind"], named["origin"]) if named else ("", "")


def name_outputs(paths: Sequence[PurePosixPath]) -> list[str]:
    """Return for each path a name for what comes of it: no two are alike, nor one inside another.

    It is the path without its suffix if that is unambiguous.
    """
    # never hidden: hidden files are passed over when the outputs are searched
    paths = [path.with_name(path.name.lstrip(".") or "_") for path in paths]
    uses = Counter(str(use) for path in paths for use in (path.with_suffix(""), *path.parents))
    taken = {str(folder) for path in paths for folder in path.parents}
    names = []
    for path in paths:
        short = [str(path.with_suffix(""))] * (uses[str(path.with_suffix(""))] == 1)
        tried = itertools.chain(short, [str(path)], (f"{path}-{number}" for number in itertools.count(2)))
        names.append(next(name for name in tried if name not in taken))
        taken.add(names[-1])
    return names


def describe_passed_over(passed_over: Counter[str], wanted: str = "images or videos") -> str:
    """Return one line about the files in the folders that are not wanted."""
    listed = ", ".join(f"{suffix or 'no suffix'}: {number}" for suffix, number in sorted(passed_over.items()))
    return f"passed over, since they are not {wanted}: {listed}"


# --- images ---------------------------------------------------------------------------------------

# Formats that only hold pixels: EPS, say, would start Ghostscript.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF")
ANIMATED_FORMATS = ("PNG", "GIF", "WEBP", "AVIF")  # other files of several images hold previews or pages
HEIF_BRANDS = [b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")]
SMALLEST_IMAGE = 16  # pixels: in less there is no face to score
LARGEST_IMAGE = 250_000_000  # pixels: 750 MB once decoded
MOST_SCANS = 100  # of a progressive JPEG, which has about 10; each goes over all pixels
CROP_NOTE = "face crop by extract_faces.py: {} times as wide as the face"
CROP_ZOOM_NOTED = re.compile(re.escape(CROP_NOTE).replace(r"\{\}", r"(\d\.\d+)"))
JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")  # those with a header, and the end
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,  # antialiased when it shrinks
    "bicubic": Image.Resampling.BICUBIC,  # likewise
}
Image.MAX_IMAGE_PIXELS = None  # check_size says what is too large
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # screenshots carry megabytes of XMP
warnings.filterwarnings("ignore", "Glyph")  # of Matplotlib, which lacks some of the world's letters
warnings.filterwarnings("ignore", module="PIL")  # of large images and odd tags: read_image checks


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image of a known format. Raises OSError or ValueError, in one line, for any other file."""
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        os.scandir(path).close()  # raises the reason why it could not be entered
    if not stat.S_ISREG(kind):
        raise ValueError("not a regular file")  # opening a pipe would block
    try:
        with open(path, "rb") as file:
            is_heif = file.read(12)[4:] in HEIF_BRANDS
        formats = (*IMAGE_FORMATS, _register_heif()) if is_heif else IMAGE_FORMATS
        with Image.open(path, formats=formats) as image:
            yield image
    except Image.UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise ValueError("empty file" if empty else "not an image") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise anything
        raise ValueError(f"damaged image ({describe_error(error)})") from error


@functools.cache
def _register_heif() -> str:
    from pillow_heif import register_heif_opener  # takes long to import

    register_heif_opener()
    return "HEIF"


def _count_images(path: Path) -> int:
    """Return how many frames an animated image has; 1 for a picture, with which others may be stored."""
    with open_image(path) as image:
        return getattr(image, "n_frames", 1) if image.format in ANIMATED_FORMATS else 1


def read_image(path: Path) -> np.ndarray:
    """Return an image as uint8 (height, width, 3) RGB, upright by its EXIF; the first frame of several.

    16-bit grey is scaled to 8 bits, alpha dropped. Raises OSError or ValueError, in one line, if the file
    is missing, damaged, not an image, too small or too large.
    """
    with open_image(path) as image:
        return _decode_image(image, path)


def _decode_image(image: Image.Image, path: Path) -> np.ndarray:
    """Return the pixels of an open image, see `read_image`."""
    width, height = image.size
    if min(width, height) < SMALLEST_IMAGE:
        raise ValueError(f"{width}x{height} pixels: must be at least {SMALLEST_IMAGE} both ways")
    check_size(width, height)
    if image.format in ("JPEG", "MPO") and (scans := _count_scans(path)) > MOST_SCANS:
        raise ValueError(f"JPEG of {scans} scans: must be at most {MOST_SCANS}")
    if image.mode == "F":
        raise ValueError("float pixels, of unknown range: save the image with 8 bits")
    pixels = _convert_to_rgb(image)
    return np.ascontiguousarray(_turn_upright(pixels, _read_orientation(image)))


def _convert_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip, not scale
        grey = np.asarray(image, np.float64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"pixels from {grey.min():g} to {grey.max():g}: must have 8 or 16 bits")
        return np.stack([(grey * (255 / 65535)).round().astype(np.uint8)] * 3, axis=-1)
    # a palette's transparency becomes an alpha channel, which is dropped
    return np.asarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (not turned) if there is none or EXIF cannot be read."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001  (damaged EXIF makes Pillow raise anything)
        return 1


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]


def _count_scans(path: Path) -> int:
    with open(path, "rb") as file:
        data = file.read(4 * LARGEST_IMAGE)
    scans, position = 0, 2
    while found := JPEG_MARKER.search(data, position):
        kind, position = found[1][0], found.end()
        if kind == 0xD9:  # the end; anything may follow, even a film
            break
        scans += kind == 0xDA
        position += int.from_bytes(data[position : position + 2])  # skip the header, which may hold anything
    return scans


def check_size(width: int, height: int) -> None:
    """Raise ValueError if an image of this size would fill the memory."""
    if width * height > LARGEST_IMAGE:
        raise ValueError(f"{width}x{height} pixels: must be at most {LARGEST_IMAGE:,} in all")


class View(NamedTuple):
    """How a network looks at a face."""

    resampling: str = "nearest"  # key of RESAMPLING: what brings the face to 256x256
    zoom: float = CROP_ZOOM  # how wide a square it looks at, in widths of the face

    def __str__(self) -> str:
        return f"{self.resampling} resizing and zoom {self.zoom}"


def resize_face(image: np.ndarray, resampling: str, side: int = IMAGE_SIZE, share: float = 1.0) -> np.ndarray:
    """Return the middle of `image`, `share` of its sides, as uint8 (side, side, 3).

    Resampled with a filter of RESAMPLING.
    """
    height, width = image.shape[:2]
    if (height, width, share) == (side, side, 1):
        return image
    edge = (1 - share) / 2
    box = (width * edge, height * edge, width * (1 - edge), height * (1 - edge))
    return np.asarray(Image.fromarray(image).resize((side, side), RESAMPLING[resampling], box))


def view_face(crop: np.ndarray, view: View, cut: float | None = CROP_ZOOM) -> np.ndarray:
    """Return what a network sees of a crop: uint8 (256, 256, 3) RGB, the middle of it.

    `cut` is how wide the crop is, in widths of the face. If nobody knows (None), it is taken whole.
    """
    return resize_face(crop, view.resampling, share=min(1, view.zoom / cut) if cut else 1)


def load_face(path: Path, view: View) -> np.ndarray:
    """Return what a network sees of the face crop in a file: what is scored and trained on.

    As `view_face` does; only crops that `write_crop` wrote say how wide they are.
    """
    with open_image(path) as image:
        return view_face(_decode_image(image, path), view, _parse_zoom(image))


def read_zoom(path: Path) -> float | None:
    """Return the zoom that `write_crop` noted in a file; None if it is no such crop."""
    with open_image(path) as image:
        return _parse_zoom(image)


def _parse_zoom(image: Image.Image) -> float | None:
    """Return the zoom noted in an open image, see `read_zoom`."""
    note = image.info.get("Comment", image.info.get("comment", ""))
    found = CROP_ZOOM_NOTED.fullmatch(note.decode("latin-1") if isinstance(note, bytes) else str(note))
    return float(found[1]) if found and 0.5 <= float(found[1]) <= 5 else None  # else it is damaged


def write_crop(crop: np.ndarray, path: Path, jpeg: int | None = None, zoom: float | None = CROP_ZOOM) -> None:
    """Write a face crop, uint8 (side, side, 3), as PNG, or as JPEG of quality `jpeg`.

    A comment in the file notes the zoom with which it was cut, unless that is None, for `load_face`.
    """
    note = CROP_NOTE.format(float(zoom)) if zoom else ""
    if jpeg:
        # full colour resolution: colour traces are among what the networks look for
        options: dict[str, Any] = {"quality": jpeg, "subsampling": 0, "comment": note}
    else:
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", note)
        options = {"pnginfo": text, "compress_level": 3}  # a third of the time of 6, a tenth larger
    Image.fromarray(crop).save(path, "JPEG" if jpeg else "PNG", **options)


def read_crop_header(path: Path) -> tuple[int, int, float | None]:
    """Return (width, height, zoom as `read_zoom`) of an image without decoding it. Raises as `read_image`."""
    with open_image(path) as image:
        return *image.size, _parse_zoom(image)


def load_faces(items: Iterable[Item], view: View, ahead: int = 64) -> Iterator[np.ndarray | Exception]:
    """Yield for each Item, in order, its face (see `load_face`) or the error that reading it raised.

    Files are decoded in threads, at most `ahead` files ahead.
    """

    def load(item: Item) -> np.ndarray | Exception:
        try:
            return load_face(item.path, view)
        except (OSError, ValueError, MemoryError) as error:
            return error

    pending: deque[Future[np.ndarray | Exception]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in items:
            pending.append(pool.submit(load, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# --- videos ---------------------------------------------------------------------------------------

# Formats that only hold a video: a playlist, say, would read other files or wait for a network.
VIDEO_FORMATS = (
    "3g2,3gp,asf,av1,avi,dv,flv,gif,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,webm,wtv,yuv4mpegpipe"
)
MOST_BOXES = 100_000  # of an MP4 file: of two hours in fragments there are some ten thousand
SEEK_FROM = 24  # frames: skipping fewer saves less than the seek costs
WIDEST_PIXEL = 4  # pixels wider, or higher, than that are a mistake in the file's header


class Frame(NamedTuple):
    """A frame of a video."""

    index: int  # type: ignore[assignment]  # hides tuple.index; from 0, in the order shown
    time: float  # seconds since the first frame
    image: np.ndarray  # uint8 (height, width, 3) RGB, upright, of square pixels


class Timeline(NamedTuple):
    """When the frames of a video are shown, and where decoding can start."""

    times: list[float]  # of each frame, rising: seconds since the first
    stamps: list[int]  # of each frame, ascending, in the stream's unit; [] if the file's are unusable
    keys: list[tuple[int, int]]  # (stamp, stamp of decoding) of the key frames, ascending
    key_indices: list[int]  # of the key frames
    stream: int = 0  # index of the video stream in its container
    note: str = ""  # what a reader should know of how the video was read
    animated: bool = False  # whether the file is an animated image, which has no streams


def find_videos(arguments: Iterable[str | Path]) -> tuple[list[tuple[Path, str]], Counter[str]]:
    """Return ([(path, name of its outputs)] of videos, {suffix: number of files passed over}).

    See `find_files` and `name_outputs`. A file given as argument is taken whatever it is.
    """
    files, passed_over = find_files(arguments)
    videos = []
    for file in files:
        if not file.top or is_video(file.path):
            videos.append(file)
        else:
            passed_over[file.path.suffix.lower()] += 1
    return list(zip((file.path for file in videos), name_outputs(videos), strict=True)), passed_over


def read_frames(
    path: str | Path,
    count: int = 30,
    start: float = 0.0,
    end: float | None = None,
    keyframes: bool = False,
    every: int = 0,
    threads: int = 0,
    timeline: Timeline | None = None,
) -> Iterator[Frame]:
    """Yield `count` Frames of a video, evenly spread, or all of them if there are fewer.

    `every=n` takes every nth frame instead. Both choose among the frames from `start` to `end`, in
    seconds since the first frame (None: to the last); with `keyframes`, among the intra-coded ones. The
    file's packets are counted, since headers can be wrong; then it is decoded once, forward, with
    `threads` threads (0: one per core), seeking over long stretches. A damaged frame is replaced by the
    next intact one. `timeline` is what `read_timeline` returned, to save reading it again. Raises
    OSError or ValueError, in one line, if the file is missing, not a video, or has no such frame.
    """
    import av

    path = Path(path)
    timeline = timeline or read_timeline(path)
    wanted = choose_frames(timeline, count, start, end, keyframes, every)
    decode = _read_animation if timeline.animated else _decode_video
    decoded = 0
    try:
        for index, image in decode(path, timeline, wanted, threads):
            yield Frame(index, timeline.times[index], image)
            decoded += 1
    except av.error.FFmpegError as error:
        raise ValueError(f"not a readable video ({describe_error(error)})") from error
    if not decoded:
        raise ValueError(f"none of its {len(timeline.times)} frames can be decoded")


def choose_frames(
    timeline: Timeline,
    count: int = 30,
    start: float = 0.0,
    end: float | None = None,
    keyframes: bool = False,
    every: int = 0,
) -> list[int]:
    """Return the indices of the frames that `read_frames` yields. Raises ValueError if there are none."""
    times = np.array(timeline.times)
    if not len(times):
        raise ValueError("it has no frames")
    wanted = np.flatnonzero((times >= start) & (times <= (np.inf if end is None else end)))
    if keyframes:
        wanted = np.intersect1d(wanted, timeline.key_indices)
    if not len(wanted):
        kind = "key frame" if keyframes else "frame"
        until = "s on" if end is None else f"to {end:g} s"
        raise ValueError(f"no {kind} from {start:g} {until}: it lasts {times[-1]:.2f} s")
    if every:
        return wanted[::every].tolist()
    return wanted[np.linspace(0, len(wanted) - 1, min(count, len(wanted))).round().astype(int)].tolist()


def read_timeline(path: str | Path) -> Timeline:
    """Return the Timeline of a video from its packets, without decoding. Raises as `read_frames`."""
    import av

    path = Path(path)
    if not os.path.getsize(path):
        raise ValueError("empty file")
    if _is_animation(path):
        return _time_animation(path)
    try:
        with open_video(path) as container:
            timeline = _time_packets(container)
            return timeline._replace(note=", ".join(filter(None, (timeline.note, describe_cut(path)))))
    except av.error.FFmpegError as error:
        raise ValueError(f"not a readable video ({describe_error(error)})") from error


def describe_cut(path: Path) -> str:
    """Return a note if an MP4 or Matroska file is shorter than its own headers say, else ""."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:

        def read_size(start: int) -> tuple[int, int]:
            """Return (where an EBML element's content begins, how long it is) from its size at `start`."""
            file.seek(start)
            first = (file.read(1) or b"\1")[0]
            length = 9 - first.bit_length()  # 9, of a byte 0, is damage
            value = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1))
            known = length < 9 and value < (1 << 7 * length) - 1  # all ones: not known
            return start + length, value if known else 0

        end, start = 0, file.read(8)
        if start[:4] == b"\x1aE\xdf\xa3":  # the header; then one segment holds all
            end = sum(read_size(4))
            file.seek(end)
            end = sum(read_size(end + 4)) if file.read(4) == b"\x18S\x80g" else 0
        elif start[4:] == b"ftyp":
            for _ in range(MOST_BOXES):
                file.seek(end)
                box, name = int.from_bytes(file.read(4)), file.read(4)
                if box == 1:  # a longer size follows the name
                    box = int.from_bytes(file.read(8))
                # the end; a box up to the end; or no box, but what a camera appends
                if box < 8 or not name.isalnum():
                    break
                end += box
    return f"cut short: {1 - size / end:.0%} of the file is missing" if end > size else ""


def open_video(path: str | Path) -> "InputContainer":
    """Return the PyAV container of a file. Nothing but the file is read: no playlist, no network."""
    import av

    # an absolute path cannot begin with a protocol
    return av.open(os.path.abspath(path), options={"format_whitelist": VIDEO_FORMATS})


def _list_streams(container: "InputContainer") -> list["VideoStream"]:
    """Return the video streams of known codecs. Raises ValueError if there is none."""
    import av

    cover = av.stream.Disposition.attached_pic  # the picture that comes with a song
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        sound = ", only sound" if container.streams.audio else ""
        raise ValueError("not a readable video (unknown codec)" if streams else f"it has no video{sound}")
    return known


def _time_packets(container: "InputContainer") -> Timeline:
    known = _list_streams(container)
    # without the packets' content, which may exceed the memory
    packets: dict[int, list[tuple]] = {stream.index: [] for stream in known}
    guessed = container.format.name.startswith("matroska")  # holds no decoding times: FFmpeg makes them up
    for packet in _demux(container, *known):
        dts = None if guessed else packet.dts
        found = (packet.pts, dts, packet.is_keyframe, packet.is_discard, packet.size)
        packets[packet.stream.index].append(found)

    def rank(stream: "VideoStream") -> tuple:
        own = packets[stream.index]  # a picture of one frame is not the film; empty pictures have few bytes
        return len(own) > 1, stream.width * stream.height, sum(size for *_, size in own)

    stream = max(known, key=rank)
    check_size(stream.width, stream.height)
    sizes = [f"{other.width}x{other.height}" for other in known if other is not stream]
    notes = [f"of {len(sizes) + 1} video streams the largest was taken, not {', '.join(sizes)}"] * bool(sizes)
    own, unit = packets[stream.index], float(stream.time_base or 1)
    shown = [packet for packet in own if not packet[3]]  # the rest is decoded only, since others build on it
    only_decoding = container.format.name == "avi"  # says when frames are decoded, not when they are shown
    stamps = [dts if only_decoding or pts is None else pts for pts, dts, *_ in shown]
    pieces = _split_pieces(shown, stamps)
    if None not in stamps and not only_decoding and len(pieces) == 1 and len(set(stamps)) == len(stamps):
        stamps.sort()
        times = [(stamp - stamps[0]) * unit for stamp in stamps]
        keys = sorted((pts, pts if dts is None else dts) for pts, dts, is_key, *_ in own if is_key)
        key_indices = [i for i in (bisect.bisect_left(stamps, key) for key, _ in keys) if i < len(stamps)]
        return Timeline(times, stamps, keys, key_indices, stream.index, ", ".join(notes))
    if None in stamps:  # a raw stream
        pieces, unit = [list(range(len(shown)))], 1 / float(stream.average_rate or 25)
    key_indices = [number for number, (_, _, is_key, *_) in enumerate(shown) if is_key]
    return Timeline(_join_pieces(pieces, unit), [], [], key_indices, stream.index, ", ".join(notes))


def _split_pieces(packets: Sequence[tuple], stamps: Sequence[int | None]) -> list[list[int | None]]:
    """Return the stamps in pieces: a new one begins where the decoding clock goes back, in joined files."""
    pieces: list[list[int | None]] = [[]]
    last = None
    for (_, dts, *_), stamp in zip(packets, stamps, strict=True):
        if dts is not None and last is not None and dts < last:
            pieces.append([])
        last = dts if dts is not None else last
        pieces[-1].append(stamp)
    return pieces


def _join_pieces(pieces: Sequence[Sequence[int | None]], unit: float) -> list[float]:
    """Return rising times, in seconds, of stamps that repeat or restart: one piece follows the other."""
    ordered = [np.sort(np.array(piece, float)) * unit for piece in pieces if piece]
    gaps = np.concatenate([np.zeros(0), *(np.diff(piece) for piece in ordered)])
    step = float(np.median(gaps[gaps > 0])) if (gaps > 0).any() else 1 / 25
    times, end = [], 0.0
    for piece in ordered:
        times.append(piece - piece[0] + end)
        end = times[-1][-1] + step
    joined = np.concatenate([np.zeros(0), *times])
    first = np.flatnonzero(np.diff(joined, prepend=-1) > 0)  # of each run of equal times
    return np.interp(np.arange(len(joined)), [*first, len(joined)], [*joined[first], end]).tolist()


def _demux(container: "InputContainer", *streams: "VideoStream") -> Iterator["Packet"]:
    """Yield the packets up to where the file is cut off, trimmed ones included: others build on them."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


def _decode_video(
    path: Path, timeline: Timeline, wanted: list[int], threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, image) of the frames `wanted`, of square pixels, upright."""
    with open_video(path) as container:
        stream = get_stream(container, timeline)
        stream.thread_type, stream.thread_count = "FRAME", threads
        aspect = float(stream.sample_aspect_ratio or 1)
        aspect = aspect if 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL else 1.0
        for index, frame in _seek_and_decode(container, stream, timeline, wanted):
            check_size(frame.width, frame.height)  # it may change on the way
            width, height = round(frame.width * max(aspect, 1)), round(frame.height / min(aspect, 1))
            square = frame if aspect == 1 else frame.reformat(width, height)
            image = square.to_ndarray(format="rgb24")
            image = np.rot90(image, round(frame.rotation / 90))  # as the phone was held
            yield index, np.ascontiguousarray(image)  # without padding: dlib misreads padded rows


def get_stream(container: "InputContainer", timeline: Timeline) -> "VideoStream":
    """Return the video stream of an open container that the Timeline is of."""
    return next(stream for stream in container.streams.video if stream.index == timeline.stream)


def _seek_and_decode(
    container: "InputContainer", stream: "VideoStream", timeline: Timeline, wanted: list[int]
) -> Iterator[tuple[int, "VideoFrame"]]:
    """Yield (index, frame) of the frames `wanted`, skipping to the last key frame before each.

    The frames are those that decoding from the start gives. Where a seek leads past the wanted frame
    (damage, or a packet wrongly marked as a key frame), decoding begins again at the start, without seeking.
    """
    stamps, keys = timeline.stamps, timeline.keys
    frames, frame, position = _decode(stream, _demux(container, stream)), None, -1

    def decode_to(index: int) -> bool:
        nonlocal frame, position
        while position < index:
            frame = next(frames, None)
            if frame is None:
                return False
            stamp = frame.pts if stamps else None
            position = position + 1 if stamp is None else bisect.bisect_left(stamps, stamp)
        return True

    for index, following in zip(wanted, [*wanted[1:], len(timeline.times)], strict=True):
        key = keys[max(0, bisect.bisect_right(keys, (stamps[index], np.inf)) - 1)] if keys else None
        if key and bisect.bisect_left(stamps, key[0]) - position > SEEK_FROM:
            decode_to(0)  # the first frame tells some decoders what kind of encoder made the rest
            packets = _seek(container, stream, key)
            frames = _decode(stream, packets or ())
            if not (packets and decode_to(index) and position == index):
                keys, position = [], -1
                container.seek(timeline.keys[0][1], stream=stream)
                frames = _decode(stream, _demux(container, stream))
        if not decode_to(index):
            return
        if frame and position < following:  # else it was damaged, and all up to the next one wanted
            yield position, frame


def _seek(
    container: "InputContainer", stream: "VideoStream", key: tuple[int, int]
) -> Iterator["Packet"] | None:
    """Return the packets from a key frame on, or from one before it; None if the seek failed.

    Some formats seek by when a frame is shown, others by when it is decoded.
    """
    for stamp in key:
        container.seek(stamp, stream=stream)
        packets = _demux(container, stream)
        first = next(packets, None)
        if first and first.is_keyframe and first.pts is not None and first.pts <= key[0]:
            return itertools.chain([first], packets)
    return None


def _decode(stream: "VideoStream", packets: Iterable["Packet"]) -> Iterator["VideoFrame"]:
    """Yield the frames of packets, in the order shown, passing over what is damaged."""
    import av

    for packet in itertools.chain(packets, [None]):  # None: what is still held back
        try:
            frames = stream.decode(packet)
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


# --- animated images ------------------------------------------------------------------------------


def _is_animation(path: Path) -> bool:
    with contextlib.suppress(ValueError):
        return _count_images(path) > 1
    return False


def _time_animation(path: Path) -> Timeline:
    with open_image(path) as image:
        check_size(*image.size)
        seconds = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()  # of a WebP, the duration is known only then
            seconds.append((image.info.get("duration") or 100) / 1000)
    times = np.cumsum([0, *seconds[:-1]]).tolist()
    return Timeline(times, [], [], list(range(len(times))), animated=True)


def _read_animation(
    path: Path, timeline: Timeline, wanted: list[int], threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, image) of the frames `wanted` of a GIF, WebP, AVIF or PNG."""
    del timeline, threads
    chosen = set(wanted)
    with open_image(path):  # whatever Pillow raises becomes one line
        for index, image in enumerate(iio.imiter(path, plugin="pillow", mode="RGB")):
            if index in chosen:
                yield index, image


# --- faces ----------------------------------------------------------------------------------------

HOG_FACE = 80  # pixels: the smallest face that the detector sees
DOUBLED = (1, 1)  # a Scale
ZONE, ZONE_FACE = 280, 112  # pixels: side of the zone searched around a known face, and the face in it
COARSE = 640  # pixels: long side of the smallest reduced picture that is searched
TILE = 3000  # pixels: side of the parts in which pictures of more pixels are searched, to bound the memory
LARGER = 1.15  # another face must be so many times as wide to be followed instead
SHRUNK = 1.7  # a face found near the one followed, but so many times smaller, is another
LOOK_AROUND = 10  # frames, at most, from one search for larger faces to the next
CHEAP = 20_000  # pixels: pictures so small are searched in every frame; twice as large ones in every second
CUT = 0.5  # correlation of two frames below which they are different scenes
BACKGROUND = 8  # faces so many times smaller than the largest are not searched for
PROBED = 8  # of the frames without a face, the slow search tries the first two and then every eighth
SAME_PERSON = 0.6  # distance of encodings: face_recognition's own limit
SAME_LOOK = 0.75  # correlation of crops


class Pose(NamedTuple):
    """Where a face is, in pixels of the full frame."""

    x: float  # centre: between the nose tip and the nose bridge
    y: float
    size: float  # 2.2 x the larger of eye distance and eyes-to-mouth distance
    angle: float  # degrees in (-180, 180] by which to turn the head clockwise to make it upright


class Face(NamedTuple):
    """A face found in a video or photograph."""

    frame: int  # index of its frame
    time: float  # of its frame, seconds
    box: Box  # the detector's
    pose: Pose
    person: int = 0  # from 1, in order of appearance; 0: not yet known
    sharpness: float = 0.0  # see measure_sharpness
    # `Any`: `crop` is None once the face is scored (crops would fill the memory), `score` is None before
    crop: Any = None  # uint8 (side, side, 3) RGB, upright
    score: Any = None  # float: 1 = real, 0 = forged
    parts: tuple[float, ...] = ()  # the scores by each of several weights


class FaceOptions(NamedTuple):
    """Which faces of a video to take. Defaults: the published ones."""

    frames: int = 30  # to sample
    every: int = 0  # if not 0: sample every nth frame instead
    start: float = 0.0  # seconds
    end: float | None = None  # seconds
    keyframes: bool = False  # sample the intra-coded frames only
    detector: str = "hog"  # or "cnn", slow without a GPU
    everyone: bool = False  # every person's face, not only the largest of each frame
    min_size: float = 0.0  # pixels: faces with a smaller Pose.size are skipped
    min_sharpness: float = 0.0  # likewise, see measure_sharpness
    only: str | None = None  # path of a picture: only the person shown there

    @property
    def sampling(self) -> tuple[int, float, float | None, bool, int]:
        """Which frames are searched, as `choose_frames` takes it."""
        return self.frames, self.start, self.end, self.keyframes, self.every


Located = tuple[Box, Pose]  # a face in a picture
Scale = tuple[int, int]  # how many times a picture is reduced, then doubled
FoundFaces = tuple[Frame, list[Face], int]  # see find_faces


def sample_frames(
    path: Path, options: FaceOptions, threads: int = 0, timeline: Timeline | None = None
) -> Iterator[Frame]:
    """Yield the Frames of a video that the options ask for. See `read_frames`."""
    return read_frames(path, *options.sampling, threads, timeline)


def describe_reading(timeline: Timeline, options: FaceOptions, sampled: Iterable[int]) -> str:
    """Return a note on how a video was read: its Timeline's, and how many frames asked for were damaged.

    `sampled`: indices of the frames that `sample_frames` yielded.
    """
    wanted = choose_frames(timeline, *options.sampling)
    damaged = len(set(wanted) - set(sampled))
    parts = [timeline.note, f"{damaged} of {count(len(wanted), 'frame')} damaged" if damaged else ""]
    return ", ".join(filter(None, parts))


def find_faces(frames: Iterable[Frame], options: FaceOptions) -> Iterator[FoundFaces]:
    """Yield (Frame, its Faces, number of faces skipped as too small or too blurred) for each Frame.

    Decoding, searching and telling people apart run side by side.
    """
    # while the first frames decode; no daemon, which would crash a program that ends meanwhile
    threading.Thread(target=_load_detector_ahead).start()
    searched = options._replace(everyone=True) if options.only else options
    recognized = recognize_people(prefetch(locate_faces(prefetch(frames), searched)))
    for frame, faces in keep_person(recognized, options.only) if options.only else recognized:
        kept = [f for f in faces if f.pose.size >= options.min_size and f.sharpness >= options.min_sharpness]
        yield frame, kept, len(faces) - len(kept)


def prefetch(iterable: Iterable[T], ahead: int = 2) -> Iterator[T]:
    """Iterate in a background thread, at most `ahead` items ahead."""
    iterator = iter(iterable)
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, iterator, end) for _ in range(ahead))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item


def locate_faces(frames: Iterable[Frame], options: FaceOptions) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, its Faces, largest first, of person 0) for each of a video's Frames.

    The largest face is followed from frame to frame until a larger one is seen or the scene changes.
    Frames without a face wait until a few of them are searched at twice their size (see `locate_anywhere`);
    only if that finds a face are all searched so from then on.
    """
    last: Located | None = None  # the face that is followed
    look_before: np.ndarray | None = None
    blank: np.ndarray | None = None  # a picture in which every search failed
    waiting: list[Frame] = []
    doubled = False
    for number, frame in enumerate(frames):
        look = _reduce_grey(frame.image[::4, ::4], 32)
        if look_before is not None and _correlate(look, look_before) < CUT:
            last = None
        look_before = look
        searched_before = waiting[-1].image if waiting else blank
        found: list[Located] = []
        if searched_before is None or not _is_unchanged(frame.image, searched_before):
            found = _locate(frame.image, number, last, options, doubled)
        if not found and not doubled:
            waiting.append(frame)
            if len(waiting) < (2 if blank is None else PROBED):
                continue
        if waiting:
            again = _search_again(waiting, options, blank)
            doubled = any(again)
            last = next((located[0] for located in reversed(again) if located), last)
            blank = None if doubled else waiting[-1].image
            for earlier, located in zip(waiting, again, strict=True):
                yield earlier, _make_faces(earlier, located)
            waiting = []
            if not found:
                continue
        last = found[0] if found else last
        if options.everyone and not doubled:  # smaller people may stand beside the one found
            doubled = True
            found = locate_anywhere(frame.image, options, doubled)
        yield frame, _make_faces(frame, found)
    if waiting:
        for earlier, located in zip(waiting, _search_again(waiting, options, blank), strict=True):
            yield earlier, _make_faces(earlier, located)


def _search_again(
    frames: Sequence[Frame], options: FaceOptions, blank: np.ndarray | None
) -> list[list[Located]]:
    """Return what the doubled search finds in each frame, if it finds anything in the first or middle one.

    After a first failure, in the picture `blank`, only the middle one is tried. From where a face is found
    it is followed in both directions; the slow search serves again where it is lost.
    """
    first: list[Located] = []
    failed: list[int] = []
    middle = len(frames) // 2
    for start in (middle,) if blank is not None else (0, middle):
        image = frames[start].image
        if options.min_size < HOG_FACE and (blank is None or not _is_unchanged(image, blank)):
            first = _pick(image, detect_faces(image, options.detector, *DOUBLED), options)
        if first:
            break
        blank = image
        failed.append(start)
    if not first:
        return [[] for _ in frames]
    found = {start: first}
    for others in (range(start + 1, len(frames)), range(start - 1, -1, -1)):
        last = first[0]
        for i in others:
            found[i] = _locate(frames[i].image, i, last, options, doubled=i not in failed)
            last = found[i][0] if found[i] else last
    return [found[i] for i in range(len(frames))]


def _make_faces(frame: Frame, located: Iterable[Located]) -> list[Face]:
    faces = []
    for box, pose in located:
        crop = align_face(frame.image, pose)
        faces.append(Face(frame.index, frame.time, box, pose, 0, measure_sharpness(crop), crop))
    return faces


def _locate(
    image: np.ndarray, number: int, last: Located | None, options: FaceOptions, doubled: bool
) -> list[Located]:
    """Return the face followed, or a larger one if the frame shows it, or all faces (`options.everyone`).

    `number` counts the frames: the larger the picture to search for larger faces, the more seldom that is.
    """
    near = locate_near(image, last[1], options.detector) if last and not options.everyone else None
    if last and near and near[1].size > last[1].size / SHRUNK:  # else it is another face
        width = near[0][2] - near[0][0]
        for scale in _list_scales(image, ZONE):
            pixels = image.shape[0] * image.shape[1] / scale[0] ** 2
            due = number % min(LOOK_AROUND, math.ceil(pixels / CHEAP)) == 0
            if due and _smallest_visible(scale) > LARGER * width:
                others = _merge_boxes([near[0], *detect_faces(image, options.detector, *scale)])
                largest = max(others, key=_area)
                if largest[2] - largest[0] > LARGER * width:
                    return [_measure(image, largest, options.detector)]
        return [near]
    return locate_anywhere(image, options, doubled)


def locate_near(image: np.ndarray, pose: Pose, detector: str) -> Located | None:
    """Return (box, Pose) of the face nearest to a known pose, or None.

    Searches a zone around it, scaled and turned upright: so faces smaller than the detector sees are
    followed, and heads far from upright, whose landmarks would be poor. If the face turns out to lie
    differently, it is searched again as it lies.
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


def locate_anywhere(image: np.ndarray, options: FaceOptions, doubled: bool = True) -> list[Located]:
    """Return [(box, Pose)] of the largest face in a picture, or of all (`options.everyone`), largest first.

    The picture is searched from small to large: what is found first is the largest. The last search, with
    `doubled`, is in the picture at twice its size, face_recognition's default, where faces down to 40
    pixels are found; it costs three times as much as all before. Faces an eighth as large as the largest
    are background: they are not searched.
    """
    *reduced, full = _list_scales(image, COARSE)
    finest = DOUBLED if doubled and options.min_size < HOG_FACE else full
    boxes: list[Box] = []
    for scale in dict.fromkeys((*reduced, full, finest)):
        if options.everyone and scale == full != finest and _widest(boxes) < BACKGROUND * HOG_FACE:
            continue  # the finest search finds what this one does, and more
        boxes = _merge_boxes(boxes + detect_faces(image, options.detector, *scale))
        if boxes and (not options.everyone or _smallest_visible(scale) <= _widest(boxes) / BACKGROUND):
            break
    return _pick(image, boxes, options)


def _pick(image: np.ndarray, boxes: Sequence[Box], options: FaceOptions) -> list[Located]:
    boxes = sorted(boxes, key=_area, reverse=True)
    return [_measure(image, box, options.detector) for box in (boxes if options.everyone else boxes[:1])]


def _measure(image: np.ndarray, box: Box, detector: str) -> Located:
    """Return (box, Pose) of a detected face, measured upright where that finds the same face again."""
    pose = measure_pose(find_landmarks(image, box))
    near = locate_near(image, pose, detector)
    if near and np.hypot(near[1].x - pose.x, near[1].y - pose.y) < pose.size / 2:
        return near
    return box, pose


def _list_scales(image: np.ndarray, side: int) -> list[Scale]:
    """Return the scales at which to search, the smallest picture, of at least `side` pixels, first."""
    return [*((n, 0) for n in (16, 8, 4, 2) if max(image.shape) >= n * side), (1, 0)]


def _smallest_visible(scale: Scale) -> float:
    """Return the width, in pixels of the picture, of the smallest face that is found at a scale."""
    return HOG_FACE * scale[0] / 2 ** scale[1]


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _widest(boxes: Iterable[Box]) -> int:
    return max((box[2] - box[0] for box in boxes), default=0)


def _merge_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes without those that have their centre in an earlier one: the same face, found twice."""
    merged: list[Box] = []
    for box in boxes:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if not any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in merged):
            merged.append(box)
    return merged


def recognize_people(located: Iterable[tuple[Frame, list[Face]]]) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, its Faces) for each (Frame, Faces) of a video, with the person set, counted from 1.

    A face that matches one in the previous frame keeps its person: encoding is the slowest step.
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


def keep_person(
    recognized: Iterable[tuple[Frame, list[Face]]], picture: str
) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, [the Face of the person that a picture shows] or []) for each (Frame, Faces) of a video.

    Raises OSError or ValueError if the picture cannot be read or does not show exactly one face.
    """
    wanted = encode_person(Path(picture))
    distances: dict[int, float] = {}  # by person
    for frame, faces in recognized:
        for face in faces:
            if face.person not in distances:
                distances[face.person] = float(np.linalg.norm(encode_face(face.crop) - wanted))
        nearest = min(faces, key=lambda face: distances[face.person], default=None)
        yield frame, [nearest] if nearest and distances[nearest.person] <= SAME_PERSON else []


def encode_person(picture: Path) -> np.ndarray:
    """Return the encoding, float64 (128,), of the one face in a picture. Raises as `keep_person`."""
    image = read_image(picture)
    found = locate_anywhere(image, FaceOptions(everyone=True))
    if len(found) != 1:
        raise ValueError(f"{picture}: must show one face, not {len(found) or 'none'}")
    return encode_face(align_face(image, found[0][1]))


def detect_faces(
    image: np.ndarray, detector: str = "hog", reduction: int = 1, upsample: int = 0
) -> list[Box]:
    """Return the boxes (left, top, right, bottom) of the faces in a uint8 RGB image, in its pixels.

    The image is searched reduced by `reduction`, then doubled `upsample` times; in parts if it is large.
    """
    small = image if reduction == 1 else np.asarray(Image.fromarray(image).reduce(reduction))
    find = _import_face_recognition().face_locations
    side, overlap = TILE >> upsample, 3 * HOG_FACE
    if small.shape[0] * small.shape[1] <= side * side:
        side = max(side, *small.shape)
    boxes = []
    for y in range(0, max(1, small.shape[0] - overlap), side - overlap):
        for x in range(0, max(1, small.shape[1] - overlap), side - overlap):
            part = np.ascontiguousarray(small[y : y + side, x : x + side])
            for top, right, bottom, left in find(part, upsample, detector):
                box = (left + x, top + y, right + x, bottom + y)
                boxes.append(tuple(edge * reduction for edge in box))
    return _merge_boxes(boxes) if max(small.shape) > side else boxes


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
    return _correlate(*(_reduce_grey(crop, 32)[4:-4, 4:-4] for crop in (first, second)))


def _correlate(first: np.ndarray, second: np.ndarray) -> float:
    deviations = [(grey - grey.mean()).ravel() for grey in (first, second)]
    norms = [np.linalg.norm(d) for d in deviations]
    return float(deviations[0] @ deviations[1] / max(norms[0] * norms[1], 1e-9))


def _is_unchanged(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two pictures differ by no more than compression does."""
    if first.shape != second.shape:
        return False
    every = np.s_[::3, ::3]
    return bool(np.abs(first[every].astype(np.int16) - second[every]).max() <= 8)


def measure_sharpness(crop: np.ndarray) -> float:
    """Return the variance of the Laplacian of a crop at 128x128 grey pixels in 0-255: low is blurred."""
    grey = _reduce_grey(crop, 128)
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def _reduce_grey(crop: np.ndarray, side: int) -> np.ndarray:
    return resize_face(crop, "bilinear", side) @ (0.299, 0.587, 0.114)


def _load_detector_ahead() -> None:
    with contextlib.suppress(ImportError):  # whoever needs it raises it again
        _import_face_recognition()


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


def align_face(frame: np.ndarray, pose: Pose) -> np.ndarray:
    """Cut the face out upright: uint8 (side, side, 3) RGB, side = 1.3 x size, mirrored beyond the frame.

    At native resolution, in one bicubic resampling.
    """
    return cut_square(frame, pose, max(1, round(CROP_ZOOM * pose.size)))


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


# --- many at once -----------------------------------------------------------------------------------


PROCESS_DIED = "its worker process crashed twice (out of memory, or a damaged file)"


def run_jobs(
    function: Callable[..., T],
    calls: Sequence[tuple],
    options: dict[str, Any],
    jobs: int = 1,
    dask: str | None = None,
) -> Iterator[T | None]:
    """Yield function(*call, **options) for each of `calls`, in order, as they get ready.

    Runs in `jobs` processes and passes each its share of the cores as `threads`; or, given `dask`, on the
    cluster whose scheduler has that address. Its workers must see the same folders, the project's included.
    Yields None for a call whose process crashed twice, the second time running alone. Raises OSError when
    the cluster cannot be reached or loses too many workers, ImportError without Dask.
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
        raise ImportError("--dask needs another package: pip install distributed") from error
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
    import psutil

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(parent)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO):  # of the disk that stdout goes to
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(fail(1, f"the output cannot be written ({describe_error(error)})"))


def _open_streams() -> None:
    """Make print and progress bars work if stdout or stderr is closed or cannot encode a file's name."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # a log shows rows at once


def fail(status: int, reason: object) -> int:
    """Print the reason after the script's name; return the exit status."""
    print(f"{os.path.basename(sys.argv[0])}: {printable(str(reason))}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    def parse_args(self, argv: Any = None, namespace: Any = None) -> Any:
        argv = sys.argv[1:] if argv is None else argv
        if "" in argv:
            self.error("an argument is empty: is a variable not set?")
        return super().parse_args(argv, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def make_parser(description: str | None, example: str = "") -> argparse.ArgumentParser:
    """Return a parser that prints a script's docstring as it is, and one line of usage before an error.

    `example`, a command, ends the help.
    """
    parser = _Parser(
        usage="%(prog)s [options]",
        description=description,
        epilog=f"example: {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    return parser


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


def read_amount(text: str) -> float:
    """Return a number given on the command line. Raises argparse's error if it is below 0."""
    value = read_number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value


def read_share(text: str) -> float:
    """Return a share, or a score, given on the command line. Raises argparse's error if not from 0 to 1."""
    value = read_number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return value


def read_width(text: str) -> float:
    """Return a zoom given on the command line. Raises argparse's error if no crop can be seen so."""
    value = read_number(text)
    if not SMALLEST_ZOOM <= value <= CROP_ZOOM:
        raise argparse.ArgumentTypeError(f"must be from {SMALLEST_ZOOM} to {CROP_ZOOM}, not {text}")
    return value


def read_time(text: str) -> float:
    """Return seconds given on the command line as a number, `1:30` or `00:01:30.5`, as FFmpeg takes them."""
    *parts, seconds = text.split(":")
    wrong = len(parts) > 2 or not all(part.isdecimal() for part in parts)
    if wrong or not 0 <= read_number(seconds) < (60 if parts else math.inf):
        raise argparse.ArgumentTypeError(f"must be seconds or [hours:]minutes:seconds, not {text}")
    return sum(int(part) * 60**power for power, part in enumerate(reversed(parts), 1)) + read_number(seconds)


def add_sampling_options(group: argparse._ArgumentGroup) -> None:
    """Add --frames or --every, --start and --end: which frames of a video are searched."""
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--frames",
        type=read_count,
        default="30",  # a string: argparse takes a given 30 for the default, and lets --every stand beside it
        metavar="N",
        help="frames to sample per video, evenly spread (default: %(default)s)",
    )
    either.add_argument(
        "--every", type=read_count, default=0, metavar="N", help="sample every Nth frame instead"
    )
    group.add_argument(
        "--start",
        type=read_time,
        default=0.0,
        metavar="TIME",
        help="of the first frame, in seconds or as 00:01:30 (default: %(default)s)",
    )
    group.add_argument(
        "--end", type=read_time, metavar="TIME", help="of the last frame (default: the video's end)"
    )


def check_times(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with an error of the parser if --end is before --start."""
    if arguments.end is not None and not arguments.start <= arguments.end:
        parser.error(f"--end {arguments.end:g} must not be before --start {arguments.start:g}")


def show_progress(iterable: Iterable[T], total: int, unit: str, **options: Any) -> Iterator[T]:
    """Yield the items; show a bar on a terminal, elsewhere a line a minute on stderr."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, unit=unit, leave=False, **options)
        return
    begun = said = time.monotonic()
    for done, item in enumerate(iterable):
        now = time.monotonic()
        if done and now - said >= 60:
            left = (now - begun) / done * (total - done) / 60
            print(f"{done} of {count(total, unit)}, {math.ceil(left)} min left", file=sys.stderr)
            said = now
        yield item


def pick_evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of the items, in order: the first, the last and others, evenly spaced."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(len(items), count)).astype(int)]


def count(number: int, noun: str) -> str:
    """Return "1 face" or "2 faces"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(path: str | Path) -> str:
    """Return a path on one line, whatever its name."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def describe_error(error: BaseException) -> str:
    """Return the reason of an error in one line, without the file's name."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path of the same name), then rename it: a killed run leaves no half file.

    The folder is made if missing. A link stays a link: what it leads to is replaced. Raises OSError,
    naming `path`.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as folder:
            part = Path(folder, target.name)
            write(part)
            os.replace(part, target)
    except (OSError, UnicodeError) as error:  # UnicodeError: text that no file can hold
        raise OSError(f"{path}: {describe_error(error)}") from error


def find_obstacle(path: str | Path) -> str:
    """Return why no file of this name can be written, or "". The trial leaves nothing behind."""
    target = Path(os.path.realpath(path))
    folder = next(above for above in target.parents if os.path.lexists(above))
    if not os.path.isdir(folder):
        return f"{folder} is not a folder"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as trial:
            part = Path(trial, target.relative_to(folder))
            part.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
    except OSError as error:
        return describe_error(error)
    return ""


def compute_sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
