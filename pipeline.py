"""Turn image and video files into upright faces.

Also what every script needs: errors in one line, atomic writes, several jobs. Faces travel as uint8 RGB.
Nothing here runs a network or judges a score.
"""

import argparse
import bisect
import contextlib
import functools
import io
import itertools
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import av
import numpy as np
from av import Packet, VideoFrame, VideoStream
from av.container import InputContainer
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin
from pillow_heif import register_heif_opener
from tqdm import tqdm

T = TypeVar("T")
Box = tuple[int, ...]  # left, top, right, bottom, whole pixels

VERSION = "1.0"
LABELS = ("df", "real")  # the order is the meaning: score 0 and score 1
LABEL_NAMES = {"df": "df", "fake": "df", "forged": "df", "deepfake": "df", "real": "real", "original": "real"}
IMAGE_SIZE = 256  # pixels, both ways: what the networks take
CROP_ZOOM = 1.3  # side of a crop / size of its face, as published


# --- files and labels -----------------------------------------------------------------------------

IMAGE_SUFFIXES = (".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg",
                  ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # fmt: skip
ANIMATED_SUFFIXES = (".apng", ".gif")  # images that may be videos
VIDEO_SUFFIXES = (".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mjpeg",
                  ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv",
                  ".qt", ".ts", ".vob", ".webm", ".wmv")  # fmt: skip
IGNORED_SUFFIXES = (".csv", ".html", ".json", ".md", ".txt")  # texts beside faces: not worth mentioning
RECORD_NAME, SHEET_NAME = "extraction.json", "contact_sheet.png"  # beside the faces of a video
RESULTS_NAMES = {"results.csv", "results.json"}  # in a folder of results, which is never scored itself
PERSON_NAME = re.compile(r"person\d+")  # folder of one person's faces
EXTRACTED_NAME = re.compile(r"(?P<video>.+)(?<!\d\d-\d\d)-\d{6,}")  # not `Screenshot-2024-07-27-101010`


class Item(NamedTuple):
    path: Path  # as found from the argument given
    name: str  # of what comes of it: no two Items of a search have the same, nor one inside another
    label: str = ""  # "df", "real", or "" if no folder name says
    dataset: str = ""  # the face set it belongs to, or ""
    video: str = ""  # what it was cut from, in its data set; images of one video share it
    kind: str = "image"  # a face crop; or "photo", in which faces are searched, or "video"


def find_files(arguments: Iterable[str | Path]) -> tuple[list[Item], Counter[str]]:
    """Return (Items, {suffix: number of files passed over}) of files and folders: sorted, each file once.

    A file given is taken whatever its name; in folders, visible images and videos, no contact sheets nor
    folders of results. What is missing, or cannot be entered, is returned too: reading it says why.
    """
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}  # {real path: (path, folders from the argument's on)}
    passed_over, seen = Counter[str](), set[str]()
    for top in map(Path, arguments):
        unreadable: list[OSError] = []
        for folder, subfolders, files in os.walk(top, onerror=unreadable.append, followlinks=True):
            if (real := os.path.realpath(folder)) in seen or set(files) >= RESULTS_NAMES:
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
    """Return (label, data set, video) by folders `df/<data set>/<video>/`, or name `<video>-000123.png`."""
    folders = folders[:-1] if folders and PERSON_NAME.fullmatch(folders[-1]) else folders
    labels = [LABEL_NAMES.get(name.lower(), "") for name in folders]
    last = max((depth for depth, label in enumerate(labels) if label), default=None)
    if last is not None and (below := folders[last + 1 :]):
        return labels[last], "/".join(below[:-1]), below[-1]
    named = EXTRACTED_NAME.fullmatch(path.stem)
    return labels[last] if last is not None else "", "", named["video"] if named else str(path)


def name_outputs(paths: Sequence[PurePosixPath]) -> list[str]:
    """Return a name for what comes of each path, without suffix if that is clear: none alike or nested."""
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
    listed = ", ".join(f"{suffix or 'no suffix'}: {number}" for suffix, number in sorted(passed_over.items()))
    return f"passed over, since they are not {wanted}: {listed}"


# --- images ---------------------------------------------------------------------------------------

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "AVIF", "HEIF")  # EPS runs Ghostscript
SMALLEST_IMAGE = 16  # pixels: in less there is no face to score
LARGEST_IMAGE = 250_000_000  # pixels: 750 MB once decoded
CROP_NOTE = f"face crop by extract_faces.py: {CROP_ZOOM} times as wide as the face"
RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic")}
register_heif_opener()
Image.MAX_IMAGE_PIXELS = None  # check_size refuses what is too large
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # screenshots carry megabytes of XMP
warnings.filterwarnings("ignore", module="PIL")  # of large images and odd tags: read_image checks


class View(NamedTuple):
    """How a network looks at a face."""

    resampling: str = "nearest"  # key of RESAMPLING: what brings the face to 256x256
    zoom: float = CROP_ZOOM  # how wide a square it looks at, in widths of the face
    mirrored: bool = False  # the score is the mean of the face's and of its mirror image's


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image of a known format. Raises OSError or ValueError, in one line, for any other file."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError("not a regular file")  # opening a pipe would block
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            yield image
    except Image.UnidentifiedImageError:
        raise ValueError("not an image" if os.path.getsize(path) else "empty file") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise anything
        raise ValueError(f"damaged image ({describe_error(error)})") from error


def read_image(path: Path) -> np.ndarray:
    return read_crop(path)[0]


def read_crop(path: Path) -> tuple[np.ndarray, float | None]:
    """Return (image, uint8 (height, width, 3) sRGB, upright; CROP_ZOOM if `write_crop` noted it, or None)."""
    with open_image(path) as image:
        width, height = image.size
        if min(width, height) < SMALLEST_IMAGE:
            raise ValueError(f"{width}x{height} pixels: must be at least {SMALLEST_IMAGE} both ways")
        check_size(width, height)
        image.load()
        note = image.info.get("Comment", image.info.get("comment"))  # in a PNG, in a JPEG
        zoom = CROP_ZOOM if note in (CROP_NOTE, CROP_NOTE.encode()) else None
        with contextlib.suppress(Exception):  # damaged EXIF makes Pillow raise anything
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith(("I", "F")):  # 16 bits: Pillow's own conversion would clip, not scale
            grey = np.asarray(image, np.float64)
            if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
                raise ValueError("pixels of unknown range: must have 8 or 16 bits")
            return np.stack([(grey / 257).round().astype(np.uint8)] * 3, axis=-1), zoom
        return np.asarray(_convert_to_srgb(image)), zoom


def _convert_to_srgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB without alpha, converted from the colour profile in it if that can be used."""
    image = image.convert({"L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB"))
    with contextlib.suppress(Exception):  # it has none, or a broken one, or one for other channels
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if "sRGB" not in ImageCms.getProfileDescription(profile):
            srgb = ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image
    return image.convert("RGB")


def check_size(width: int, height: int) -> None:
    """Raise ValueError if an image of this size would fill the memory."""
    if width * height > LARGEST_IMAGE:
        raise ValueError(f"{width}x{height} pixels: must be at most {LARGEST_IMAGE:,} in all")


def write_crop(crop: np.ndarray, path: Path) -> None:
    """Write a face crop, uint8 (side, side, 3), as PNG; a comment notes that it was cut with CROP_ZOOM."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", CROP_NOTE)
    Image.fromarray(crop).save(path, "PNG", pnginfo=text, compress_level=3)  # three times as fast as 6


def resize_face(image: np.ndarray, resampling: str, side: int = IMAGE_SIZE, share: float = 1.0) -> np.ndarray:
    """Return the middle of `image`, `share` of its sides, as (side, side, 3); all but "nearest" antialias."""
    height, width = image.shape[:2]
    if (height, width, share) == (side, side, 1):
        return image
    edge = (1 - share) / 2
    box = (width * edge, height * edge, width * (1 - edge), height * (1 - edge))
    return np.asarray(Image.fromarray(image).resize((side, side), RESAMPLING[resampling], box))


def view_face(crop: np.ndarray, view: View, cut: float | None = CROP_ZOOM) -> np.ndarray:
    """Return what a network sees of a crop that is `cut` faces wide (None, unknown: all), (256, 256, 3)."""
    return resize_face(crop, view.resampling, share=min(1, view.zoom / cut) if cut else 1)


def load_face(path: Path, view: View) -> np.ndarray:
    """Return what a network sees of the face crop in a file. See `view_face`."""
    crop, zoom = read_crop(path)
    return view_face(crop, view, zoom)


def map_ahead(
    function: Callable[[Any], T], items: Iterable[Any], ahead: int = 64, threads: int | None = os.cpu_count()
) -> Iterator[T]:
    """Yield function(item) for each item, in order, computed in threads at most `ahead` items ahead."""
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# --- videos ---------------------------------------------------------------------------------------

VIDEO_FORMATS = (  # that only hold a video: a playlist, say, would read other files or wait for a network
    "3g2,3gp,apng,asf,av1,avi,dv,flv,gif,h264,hevc,ivf,m4a,m4v,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,webm,wtv,yuv4mpegpipe"
)
SEEK_FROM = 24  # frames: skipping fewer saves less than the seek costs
NO_PICTURE = 8  # bytes: an MPEG-4 packet of at most as many holds no picture
MISSING = 0.5  # seconds at the end of a file, from which on it counts as cut short
PQ, HLG, BT2020 = 16, 18, 9  # FFmpeg's numbers of the transfer curves of HDR, and of its primaries
WHITE = 140  # nits that become white: between 100, of SDR copied into HDR, and 203, of HDR (BT.2408)
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


class Frame(NamedTuple):
    index: int  # type: ignore[assignment]  # hides tuple.index; from 0, in the order shown
    time: float  # seconds since the first frame
    image: np.ndarray  # uint8 (height, width, 3) RGB, upright, of square pixels


class Timeline(NamedTuple):
    """When the frames of a video are shown, and where decoding can start."""

    times: list[float]  # of each frame, rising: seconds since the first
    stamps: list[int]  # of each frame, ascending, in the stream's unit; [] if frames can only be counted
    keys: list[int]  # indices of the key frames
    stream: int = 0  # index of the video stream in its container
    interlaced: bool = False  # whether the first frame is
    note: str = ""  # how the video was read, if the user should know


def read_frames(
    path: str | Path,
    count: int | None = 30,
    start: float = 0.0,
    end: float | None = None,
    keyframes: bool = False,
    threads: int = 0,
    timeline: Timeline | None = None,
) -> Iterator[Frame]:
    """Yield `count` Frames of a video, evenly spread; all of them if there are fewer or if it is None.

    From `start` to `end`, in seconds since the first (None: to the last); with `keyframes`, intra-coded ones.
    The next intact frame replaces a damaged one. `threads` 0: one per core. Raises OSError or ValueError.
    """
    timeline = timeline or read_timeline(path)
    wanted, index = choose_frames(timeline, count, start, end, keyframes), -1
    for index, image in _seek_and_decode(path, timeline, wanted, threads):
        yield Frame(index, timeline.times[index], image)
    if index < 0:
        raise ValueError(f"none of its {len(timeline.times)} frames can be decoded")


def choose_frames(
    timeline: Timeline, count: int | None, start: float, end: float | None, keyframes: bool
) -> list[int]:
    """Return the indices of the frames that `read_frames` yields. ValueError: there are none."""
    times = np.array(timeline.times)
    wanted = np.flatnonzero((times >= start) & (times <= (np.inf if end is None else end)))
    if keyframes:
        wanted = np.intersect1d(wanted, timeline.keys)
    if not len(wanted):
        lasts = max(timeline.times, default=0)
        raise ValueError(f"no {'key ' * keyframes}frame in the time given: it lasts {lasts:.2f} s")
    return pick_evenly(wanted.tolist(), count or len(wanted))


def open_video(path: str | Path) -> InputContainer:
    """Return the PyAV container of a file. Nothing but the file is read: no playlist, no network."""
    # where an MP4 is cut short, the packets of all streams are read in the order in which they lie
    options = {"format_whitelist": VIDEO_FORMATS, "interleaved_read": "0"}
    # an absolute path cannot begin with a protocol; tags may be in any encoding
    return av.open(os.path.abspath(path), options=options, metadata_errors="replace")


@contextlib.contextmanager
def _explain_errors() -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise ValueError(f"not a readable video ({describe_error(error)})") from error


def read_timeline(path: str | Path) -> Timeline:
    """Return the Timeline of a video's largest stream; decodes its first frame. Raises as `read_frames`."""
    if not os.path.getsize(path):
        raise ValueError("empty file" if os.path.isfile(path) else "not a regular file")
    cover, last, notes = av.stream.Disposition.attached_pic, 0.0, []
    with _explain_errors(), open_video(path) as container:
        streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
        if not streams:
            raise ValueError("it has no video of a known codec")
        # of each packet that holds a picture; the content of all may exceed the memory
        packets: dict[int, list[tuple]] = {stream.index: [] for stream in streams}
        for packet in _demux(container):
            if packet.pts is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index in packets and not packet.is_discard:  # which others only build on
                header = (packet.pts, packet.dts, packet.is_keyframe, packet.duration or 0, packet.size)
                packets[packet.stream_index].append(header)

        # a picture of one frame is not the film
        stream = max(streams, key=lambda s: (len(packets[s.index]) > 1, s.width * s.height))
        check_size(stream.width, stream.height)
        whole = (container.duration or 0) / 1e6
        if container.format.name.startswith(("matroska", "mov")) and whole - last > MISSING:
            notes.append(f"cut short: the last {whole - last:.1f} of {whole:.1f} s are missing")
        with contextlib.suppress(av.error.FFmpegError):
            container.seek(0)
        first = next((frame for _, frame in _decode(stream, _demux(container, stream), [])), None)
        interlaced = bool(first and first.interlaced_frame)
        notes += ["interlaced: deinterlaced"] * interlaced
        notes += ["HDR: converted to SDR"] * bool(first and first.color_trc in (PQ, HLG))
        found = _time_frames(container.format.name, stream, packets[stream.index])
        return Timeline(*found, stream.index, interlaced, ", ".join(notes))


def _time_frames(form: str, stream: VideoStream, packets: list[tuple]) -> tuple[list, list, list]:
    """Return (times, stamps, keys) of a Timeline, by FFmpeg's stamps; by durations where these are bad."""
    codec, unit = stream.codec_context.name, float(stream.time_base or 1)
    packets = [packet for packet in packets if codec != "mpeg4" or packet[-1] > NO_PICTURE]
    # AVI holds the order of decoding alone, from which FFmpeg guesses wrong where frames are reordered
    counted = form == "avi" and codec in ("h264", "hevc")
    stamps = [dts if counted or pts is None else pts for pts, dts, *_ in packets]
    # Matroska holds no decoding times: FFmpeg makes them up, and they may go back
    decoded = [dts for _, dts, *_ in packets if dts is not None and not form.startswith("matroska")]
    order = list(range(len(packets)))
    if None in stamps or len(set(stamps)) < len(stamps) or decoded != sorted(decoded):
        counted, step = True, 1 / float(stream.average_rate or 25)
        lengths = [duration * unit or step for _, _, _, duration, _ in packets]
        times = [0.0, *np.cumsum(lengths)[:-1].tolist()]
    else:
        order.sort(key=stamps.__getitem__)
        times = [(stamps[i] - stamps[order[0]]) * unit for i in order]
    keys = [index for index, i in enumerate(order) if packets[i][2]]
    return times, [] if counted else [stamps[i] for i in order], keys


def _demux(container: InputContainer, *streams: VideoStream) -> Iterator[Packet]:
    """Yield the packets up to where the file is cut off, of all streams if none is given."""
    with contextlib.suppress(av.error.FFmpegError):
        yield from (packet for packet in container.demux(*streams) if packet.size)


def _convert_frame(frame: VideoFrame, aspect: Any) -> np.ndarray:
    """Return a decoded frame as uint8 (height, width, 3) RGB, of square pixels, upright."""
    wide = float(aspect or 1)  # of a pixel
    width, height = round(frame.width * max(wide, 1)), round(frame.height / min(wide, 1))
    check_size(width, height)  # it may change on the way
    square = frame.reformat(width, height)
    if frame.color_trc in (PQ, HLG) or frame.color_primaries == BT2020:
        to_light, to_signal = _make_tables(frame.color_trc)  # by way of gbrp: rgb48 is wrong in PyAV 17
        light = to_light[cast("Any", square.to_ndarray(format="gbrp10le"))] @ TO_BT709.T
        image = to_signal[(np.sqrt(light.clip(0, 16)) * 1023).astype(np.uint16)]
    else:
        image = square.to_ndarray(format="rgb24")
    if matrix := frame.side_data.get("DISPLAYMATRIX"):  # how the phone was held, or mirrored
        # the stored x counts xx to the right and xy down, y likewise
        (xx, xy), (yx, yy) = np.frombuffer(cast("bytes", matrix), np.int32).reshape(3, 3)[:2, :2].tolist()
        if abs(xy) > abs(xx):  # stored rows become columns
            image, xx, yy = image.swapaxes(0, 1), yx, xy
        image = image[:: -1 if yy < 0 else 1, :: -1 if xx < 0 else 1]
    return np.ascontiguousarray(image)  # without padding: dlib misreads padded rows


@functools.cache
def _make_tables(curve: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (light of 1,024 signals by BT.2100, white being 1; uint8 signals of roots of light)."""
    signal, light = np.arange(1024) / 1023, (np.arange(4093) / 1023) ** 2
    squeezed = np.where(light < 0.5, light, 1 - np.exp(1 - 2 * light) / 2)  # highlights of HDR
    if curve == PQ:
        root = signal ** (32 / 2523)
        nits = 10_000 * (np.maximum(128 * root - 107, 0) / (2413 - 2392 * root)) ** (8192 / 1305)
    elif curve == HLG:
        bright = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        nits = 1000 * np.where(signal < 0.5, signal**2 / 3, bright) ** 1.2
    else:
        nits, squeezed = WHITE * signal**2.4, np.minimum(light, 1)
    return (nits / WHITE).astype(np.float32), (squeezed ** (1 / 2.4) * 255).round().astype(np.uint8)


def _seek_and_decode(
    path: str | Path, timeline: Timeline, wanted: list[int], threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, image) of the frames `wanted`, as decoding from the start gives them, but seeks."""
    stamps, keys = timeline.stamps, timeline.keys if timeline.stamps else []
    position, missing = -1, (len(timeline.times), None)
    with _explain_errors(), open_video(path) as container:
        stream = cast("VideoStream", container.streams[timeline.stream])
        stream.thread_type, stream.thread_count = "FRAME", threads
        frames = _deinterlace(_decode(stream, _demux(container, stream), stamps))
        for place, (index, following) in enumerate(zip(wanted, [*wanted[1:], missing[0]], strict=True)):
            earlier = bisect.bisect_right(keys, index - timeline.interlaced)  # bwdif needs one frame more
            key = keys[earlier - 1] if earlier else -1
            if far := key - position > SEEK_FROM:
                if position < 0:
                    next(frames, None)  # it tells some decoders what kind of encoder made the rest
                frames = _deinterlace(_decode(stream, _seek(container, stream, stamps[key]), stamps))
            if far or position < index:
                position, frame = next((found for found in frames if found[0] >= index), missing)
            if far and position != index:  # damage, or a false key frame: from the start, without seeking
                yield from _seek_and_decode(path, timeline._replace(keys=[]), wanted[place:], threads)
                return
            if position < following:  # else it was damaged, and all up to the next one wanted
                yield position, _convert_frame(frame, stream.sample_aspect_ratio)


def _seek(container: InputContainer, stream: VideoStream, stamp: int) -> Iterator[Packet]:
    """Return the packets from the key frame of a stamp on, or none if seeking failed."""
    container.seek(stamp, stream=stream)
    first = next(packets := _demux(container, stream), None)
    if first and first.is_keyframe and first.pts is not None and first.pts <= stamp:
        return itertools.chain([first], packets)
    return iter(())


def _decode(stream: VideoStream, packets: Iterable[Packet], stamps: list[int]) -> Iterator[tuple]:
    """Yield (index, frame) in the order shown, by stamp or else counted, passing over what is damaged."""
    index = -1
    for packet in itertools.chain(packets, [None]):  # None: what is still held back
        with contextlib.suppress(av.error.FFmpegError):
            for frame in stream.decode(packet):
                if not frame.is_corrupt:
                    stamp = frame.pts if stamps else None
                    index = index + 1 if stamp is None else bisect.bisect_left(stamps, stamp)
                    yield index, frame


def _deinterlace(frames: Iterable[tuple]) -> Iterator[tuple]:
    """Yield the (index, frame)s, interlaced ones deinterlaced by FFmpeg's bwdif, which needs the next one."""
    shapes = itertools.groupby(frames, lambda found: (found[1].width, found[1].height, found[1].format.name))
    for (width, height, form), run in shapes:
        graph, held = None, -1
        for index, frame in itertools.chain(run, [(-1, None)]):  # None: what is still held back
            if graph:
                graph.push(frame)
                yield held, graph.vpull()
            elif frame and frame.interlaced_frame:
                graph = av.filter.Graph()
                source = graph.add_buffer(None, width, height, form, time_base=frame.time_base)
                bwdif, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
                graph.link_nodes(source, bwdif, sink).configure()
                graph.push(frame)
            elif frame:
                yield index, frame
            held = index


# --- faces ----------------------------------------------------------------------------------------

HOG_FACE = 80  # pixels: the smallest face that the detector sees
ZONE, ZONE_FACE = 280, 112  # pixels: side of the zone searched around a known face, and the face in it
COARSE = 640  # pixels: long side of the smallest reduced picture that is searched
LARGEST_SEARCHED = 12_000_000  # pixels: larger photographs are reduced, larger frames never doubled
LARGER = 1.15  # another face must be so many times as wide to be followed instead
SHRUNK = 1.7  # a face found near the one followed, but so many times smaller, is another
LOOK_AROUND = 10  # frames, at most, from one search for larger faces to the next
CHEAP = 20_000  # pixels: pictures so small are searched in every frame; twice as large ones in every second
CUT = 0.5  # correlation of two frames below which they are different scenes
BACKGROUND = 8  # faces so many times smaller than the largest are not searched for
SLOW_EVERY = 8  # of the frames without a face, the slow search tries the first two and every eighth
SAME_PERSON = 0.6  # distance of encodings: face_recognition's own limit
SAME_LOOK = 0.5  # correlation of crops


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
    brightness: float = 255.0  # see measure_colors
    saturation: float = 1.0  # likewise
    outside: float = 0.0  # share of what the network saw of it that lies outside the frame
    looks_like: str = ""  # kind of forgery whose expert doubts it most


class FaceOptions(NamedTuple):
    """Which faces of a video to take, by default as published."""

    frames: int = 30  # to sample
    start: float = 0.0  # seconds
    end: float | None = None  # seconds
    keyframes: bool = False  # sample the intra-coded frames only
    everyone: bool = False  # every person's face, not only the largest of each frame
    min_size: int = 0  # pixels: extraction skips faces whose Pose.size is smaller

    @property
    def sampling(self) -> tuple[int, float, float | None, bool]:
        """Which frames are searched, as `read_frames` and `choose_frames` take it."""
        return self.frames, self.start, self.end, self.keyframes


Located = tuple[Box, Pose]  # a face in a picture


def describe_reading(timeline: Timeline, options: FaceOptions, sampled: Iterable[int]) -> str:
    """Return a note on how a video was read, `sampled` being the frames that were read."""
    wanted = choose_frames(timeline, *options.sampling)
    damaged = len(set(wanted) - set(sampled))
    lost = f"{damaged} of {count(len(wanted), 'frame')} damaged" if damaged else ""
    return ", ".join(filter(None, (timeline.note, lost)))


def find_faces(frames: Iterable[Frame], options: FaceOptions) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, its Faces, largest first) for each Frame of a video, in three threads."""
    ThreadPoolExecutor(1).submit(_import_face_recognition)  # while the first frames decode
    yield from recognize_people(prefetch(locate_faces(prefetch(frames), options)))


def find_faces_in_photo(image: np.ndarray) -> list[Face]:
    """Return all Faces of a photograph, uint8 RGB, largest first, searched at no more than 12 megapixels."""
    factor = math.ceil(math.sqrt(image.shape[0] * image.shape[1] / LARGEST_SEARCHED))
    reduced, located = np.asarray(Image.fromarray(image).reduce(factor)), []
    for box, pose in locate_anywhere(reduced, FaceOptions(everyone=True)):
        x, y = (factor * (place + 0.5) - 0.5 for place in pose[:2])
        located.append((tuple(factor * edge for edge in box), Pose(x, y, factor * pose.size, pose.angle)))
    frame = Frame(0, 0.0, image)
    ((_, faces),) = recognize_people([(frame, list(_make_faces(frame, located)))])
    return faces


def prefetch(iterable: Iterable[T]) -> Iterator[T]:
    """Iterate in a background thread, at most two items ahead."""
    iterator, end = iter(iterable), cast("T", object())
    items = map_ahead(lambda _: next(iterator, end), itertools.repeat(None), ahead=2, threads=1)
    yield from itertools.takewhile(lambda item: item is not end, items)


def locate_faces(frames: Iterable[Frame], options: FaceOptions) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, its Faces, largest first, of person 0) for each of a video's Frames.

    The largest face is followed until a larger one is seen or the scene changes. Where nobody is found, the
    first two frames and every eighth are searched doubled; with `options.everyone`, all frames are.
    """
    last: Located | None = None  # the face that is followed
    before: Frame | None = None
    missed = 0  # frames since the last with a face
    for number, frame in enumerate(frames):
        last, before = None if is_cut(before, frame) else last, frame
        followed = _follow(frame.image, number, last) if last and not options.everyone else None
        slow = options.everyone or missed == 1 or missed % SLOW_EVERY == 0
        found = [followed] if followed else locate_anywhere(frame.image, options, slow)
        last = found[0] if found else last
        missed = 0 if found else missed + 1
        yield frame, list(_make_faces(frame, found))


def _make_faces(frame: Frame, located: Iterable[Located]) -> Iterator[Face]:
    for box, pose in located:
        crop = align_face(frame.image, pose)
        measured = measure_sharpness(crop), crop, None, *measure_colors(crop)
        yield Face(frame.index, frame.time, box, pose, 0, *measured)


def _follow(image: np.ndarray, number: int, last: Located) -> Located | None:
    """Return the face found before, or a larger one if the frame shows it; None if it is lost."""
    near = locate_near(image, last[1])
    if near is None or near[1].size <= last[1].size / SHRUNK:  # it is another face
        return None
    width = near[0][2] - near[0][0]
    for reduction in _list_reductions(image, ZONE):
        pixels = image.shape[0] * image.shape[1] / reduction**2
        due = number % min(LOOK_AROUND, math.ceil(pixels / CHEAP)) == 0  # a large picture in few frames
        if due and reduction * HOG_FACE > LARGER * width:
            largest = max(_merge_boxes([near[0], *detect_faces(image, reduction)]), key=_area)
            if largest[2] - largest[0] > LARGER * width:
                return _measure(image, largest)
    return near


def locate_near(image: np.ndarray, pose: Pose) -> Located | None:
    """Return (box, Pose) of the face nearest to a known pose, by a search upright and to scale, or None."""
    found = None
    for _ in range(4):  # again if the face turns out to lie differently
        scale = pose.size / ZONE_FACE
        zone = cut_square(image, pose, ZONE, scale)
        turn, shift = map_square(pose, ZONE, scale)
        found_at = {b: turn @ ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) + shift for b in detect_faces(zone)}
        boxes = [b for b, (x, y) in found_at.items() if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]]
        if not boxes:  # those beyond the edge are mirror images
            break
        box = min(boxes, key=lambda b: np.hypot(b[0] + b[2] - ZONE, b[1] + b[3] - ZONE))
        landmarks = find_landmarks(zone, box).items()
        placed = {name: (np.array(points) + 0.5) @ turn.T + shift - 0.5 for name, points in landmarks}
        before, pose = pose, measure_pose(placed)
        x, y = found_at[box]
        half = (box[2] - box[0]) / 2 * scale
        found = tuple(round(float(edge)) for edge in (x - half, y - half, x + half, y + half)), pose
        turned = abs((pose.angle - before.angle + 180) % 360 - 180)
        if turned < 5 and 0.9 < pose.size / before.size < 1.1:
            break
    return found


def locate_anywhere(image: np.ndarray, options: FaceOptions, doubled: bool = True) -> list[Located]:
    """Return [(box, Pose)] of the largest face in a picture, or of all (`options.everyone`), largest first.

    Searches it small, then larger, at last `doubled`: that finds faces of 40 pixels at three times the cost.
    """
    doubled = doubled and options.min_size < HOG_FACE and image.shape[0] * image.shape[1] <= LARGEST_SEARCHED
    boxes, widest = list[Box](), 0
    for reduction, upsample in [*((n, 0) for n in _list_reductions(image, COARSE)), *[(1, 1)] * doubled]:
        covered = doubled and (reduction, upsample) == (1, 0) and widest < BACKGROUND * HOG_FACE
        if options.everyone and covered:  # by the last search
            continue
        boxes = _merge_boxes(boxes + detect_faces(image, reduction, upsample))
        widest = max((right - left for left, _, right, _ in boxes), default=0)
        smallest = HOG_FACE * reduction / 2**upsample  # that this search finds
        if boxes and (not options.everyone or smallest <= widest / BACKGROUND):
            break
    boxes.sort(key=_area, reverse=True)
    return [_measure(image, box) for box in (boxes if options.everyone else boxes[:1])]


def _measure(image: np.ndarray, box: Box) -> Located:
    """Return (box, Pose) of a detected face, measured upright where that finds the same face again."""
    pose = measure_pose(find_landmarks(image, box))
    near = locate_near(image, pose)
    if near and np.hypot(near[1].x - pose.x, near[1].y - pose.y) < pose.size / 2:
        return near
    return box, pose


def _list_reductions(image: np.ndarray, side: int) -> list[int]:
    """Return by how much to reduce a picture to search it: first to a small one, of `side` pixels or more."""
    return [*(n for n in (16, 8, 4, 2) if max(image.shape) >= n * side), 1]


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _merge_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes without those that have their centre in an earlier one: the same face, found twice."""
    merged: list[Box] = []
    for box in boxes:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if not any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in merged):
            merged.append(box)
    return merged


def recognize_people(located: Iterable[tuple[Frame, list[Face]]]) -> Iterator[tuple[Frame, list[Face]]]:
    """Yield (Frame, Faces) with the person set, from 1: encoded only where no face like it was before."""
    people: list[list[np.ndarray]] = []  # each person's encodings
    last: list[Face] = []  # of the last frame of the scene that had some
    before: Frame | None = None
    for frame, unknown in located:
        last, before = [] if is_cut(before, frame) else last, frame
        faces: list[Face] = []
        for face in unknown:
            others = {other.person for other in faces}  # nobody is in a frame twice
            known = (old.person for old in last if old.person not in others and _is_same(face, old))
            faces.append(face._replace(person=next(known, 0) or _recognize(face, people, others)))
        last = faces or last
        yield frame, faces


def _is_same(face: Face, old: Face) -> bool:
    near = np.hypot(face.pose.x - old.pose.x, face.pose.y - old.pose.y) < old.pose.size
    return bool(near) and correlate(face.crop, old.crop, border=4) > SAME_LOOK


def _recognize(face: Face, people: list[list[np.ndarray]], others: set[int]) -> int:
    """Return the person of a face by its encoding, which is added to theirs in `people`."""
    encoding = encode_face(face.crop)
    distances = [np.linalg.norm(np.mean(encodings, axis=0) - encoding) for encodings in people]
    for person in np.argsort(distances).tolist():
        if distances[person] <= SAME_PERSON and person + 1 not in others:
            people[person].append(encoding)
            return person + 1
    people.append([encoding])
    return len(people)


_one_search = threading.Lock()  # dlib's detector keeps the picture in itself: two at once crash the process


def detect_faces(image: np.ndarray, reduction: int = 1, upsample: int = 0) -> list[Box]:
    """Return the boxes of the faces in a uint8 RGB image, searched reduced, then doubled `upsample` times."""
    reduced = np.asarray(Image.fromarray(image).reduce(reduction))
    with _one_search:
        found = _import_face_recognition().face_locations(reduced, upsample)
    return [tuple(reduction * edge for edge in (left, *others)) for *others, left in found]


def find_landmarks(image: np.ndarray, box: Box) -> dict[str, list[tuple[int, int]]]:
    """Return the 68 landmarks of the face in a box of a uint8 RGB image: {feature: (x, y)s}."""
    return _import_face_recognition().face_landmarks(image, [(*box[1:], box[0])])[0]


def encode_face(crop: np.ndarray) -> np.ndarray:
    """Return the encoding of an aligned crop's face, float64 (128,): within 0.6 of the same person's."""
    edge = round(len(crop) * (1 - 1 / CROP_ZOOM) / 2)
    far = len(crop) - edge
    return _import_face_recognition().face_encodings(crop, [(edge, far, far, edge)])[0]


def is_cut(before: Frame | None, frame: Frame) -> bool:
    """Return whether the scene changes between two frames."""
    return before is not None and correlate(before.image[::4, ::4], frame.image[::4, ::4]) < CUT


def correlate(first: np.ndarray, second: np.ndarray, border: int = 0) -> float:
    """Return the correlation of two pictures at 32x32 grey pixels, less a border, in [-1, 1]."""
    inner = slice(border, 32 - border)
    greys = (_reduce_grey(picture, 32)[inner, inner] for picture in (first, second))
    one, other = ((grey - grey.mean()).ravel() for grey in greys)
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9))


def measure_sharpness(crop: np.ndarray) -> float:
    """Return the variance of the Laplacian of a crop at 128x128 grey pixels in 0-255: low is blurred."""
    grey = _reduce_grey(crop, 128)
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def measure_colors(crop: np.ndarray) -> tuple[float, float]:
    """Return (brightness, 0 to 255; saturation, 0 to 1: grey is 0) of a crop, means over its pixels."""
    small = resize_face(crop, "bilinear", 64).astype(np.float64)
    brightness = small.max(axis=2).mean()
    return float(brightness), float(1 - small.min(axis=2).mean() / max(1, brightness))


def _reduce_grey(crop: np.ndarray, side: int) -> np.ndarray:
    return resize_face(crop, "bilinear", side) @ (0.299, 0.587, 0.114)


@functools.cache
def _import_face_recognition() -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # its models announce pkg_resources' end
            import face_recognition
    except SystemExit as error:  # it calls quit() when it cannot import its models
        reason = f"({describe_error(error.__context__ or error)}): pip install -r requirements.txt"
        raise ImportError(f"face_recognition cannot import its models {reason}") from error
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # it has Pillow fill truncated images with grey, everywhere
    return face_recognition


def measure_pose(landmarks: Mapping[str, np.ndarray | list[tuple[int, int]]]) -> Pose:
    """Return the Pose by the 68 landmarks {feature: (x, y)s}, as the authors do, but over the full circle."""
    mean = {name: np.mean(points, axis=0) for name, points in landmarks.items()}
    eyes = (mean["left_eye"] + mean["right_eye"]) / 2
    down = (mean["top_lip"] + mean["bottom_lip"]) / 2 - eyes
    x, y = (mean["nose_tip"] + mean["nose_bridge"]) / 2
    size = 2.2 * max(np.linalg.norm(mean["right_eye"] - mean["left_eye"]), np.linalg.norm(down))
    return Pose(float(x), float(y), float(size), float(np.degrees(np.arctan2(down[0], down[1]))))


def align_face(frame: np.ndarray, pose: Pose) -> np.ndarray:
    """Cut the face out upright: uint8 (side, side, 3) RGB, side = 1.3 x size, at native resolution."""
    return cut_square(frame, pose, max(1, round(CROP_ZOOM * pose.size)))


def cut_square(frame: np.ndarray, pose: Pose, side: int, scale: float = 1.0) -> np.ndarray:
    """Cut an upright square, uint8 (side, side, 3), each pixel `scale` of the frame's, mirrored beyond it."""
    reach = int(side * scale * 0.71) + 3  # half the diagonal, and the filter's margin
    left, top, (height, width) = int(pose.x) - reach, int(pose.y) - reach, frame.shape[:2]
    rows, columns = _mirror(top, top + 2 * reach, height), _mirror(left, left + 2 * reach, width)
    reduction = max(1, int(scale))  # the affine transform alone would skip pixels
    patch = Image.fromarray(frame[rows][:, columns]).reduce(reduction)
    turn, shift = map_square(pose, side, scale)
    matrix = np.column_stack((turn, shift - (left, top))).ravel() / reduction
    square = patch.transform((side, side), Image.Transform.AFFINE, matrix.tolist(), Image.Resampling.BICUBIC)
    return np.asarray(square)


def map_square(pose: Pose, side: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return (turn, shift): turn @ (x, y) + shift of a square lies in its frame; pixel centres are at .5."""
    angle = np.radians(pose.angle)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turn, np.array([pose.x + 0.5, pose.y + 0.5]) - turn @ (side / 2, side / 2)


def _mirror(first: int, last: int, length: int) -> slice | np.ndarray:
    """Return which of `length` rows to take for those from `first` to before `last`."""
    if first >= 0 and last <= length:
        return slice(first, last)
    rows = np.arange(first, last) % max(1, 2 * length - 2)
    return np.minimum(rows, 2 * length - 2 - rows)


# --- shared by scripts ----------------------------------------------------------------------------

PROCESS_DIED = "its worker process crashed twice (out of memory, or a damaged file)"


def run_jobs(
    function: Callable[..., T], calls: Sequence[tuple], options: dict, jobs: int = 1, dask: str | None = None
) -> Iterator[T | None]:
    """Yield function(*call, **options) for each of `calls`, in order; None where its process crashed twice.

    In `jobs` processes, each with its share of the cores as `threads`, or on the cluster of the scheduler
    `dask`, whose workers must see the same folders. Raises OSError if the cluster fails.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    jobs, done = max(1, min(jobs, len(calls))), 0
    if jobs > 1 and not dask:
        options = options | {"threads": max(1, (os.cpu_count() or 1) // jobs)}
    work = [delayed(function)(*call, **options) for call in calls]
    if dask:
        yield from _run_on_cluster(work, dask)
        return
    workers = {"batch_size": 1, "initializer": _end_with, "initargs": (os.getpid(),)}
    while done < len(calls):
        try:
            for result in Parallel(jobs, return_as="generator", **workers)(work[done:]):
                yield result
                done += 1
        except TerminatedWorkerError:
            try:  # it may be another's fault: alone, but in a process of its own
                (result,) = Parallel(2, **workers)(work[done : done + 1])
            except TerminatedWorkerError:
                result = None
            yield result
            done += 1


def _run_on_cluster(work: Iterable[Any], address: str) -> Iterator[Any]:
    from distributed import Client
    from distributed.scheduler import KilledWorker
    from joblib import Parallel, parallel_config

    folder = os.path.dirname(os.path.abspath(__file__))

    def import_project() -> None:  # local, so that it is pickled whole, without this module
        sys.path.insert(0, folder)

    try:
        with Client(address, timeout=10) as client, parallel_config("dask", n_jobs=-1):
            client.register_worker_callbacks(import_project)  # also on workers that start later
            yield from Parallel(batch_size=1, return_as="generator")(work)
    except KilledWorker as error:
        raise OSError("the cluster lost its workers, perhaps out of memory: run again to continue") from error


def _end_with(parent: int) -> None:
    """End this process once its parent has died."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def show_progress(iterable: Iterable[T], total: int | None, unit: str, **options: Any) -> Iterator[T]:
    """Iterate behind a tqdm bar; where stderr is no terminal, print one line a minute."""
    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, unit=unit, leave=False, **options)
        return
    started = printed = time.monotonic()
    for done, item in enumerate(iterable, 1):
        yield item
        if (now := time.monotonic()) - printed >= 60:
            printed, left = now, (now - started) / done * ((total or done) - done) / 60
            print(f"{done} of {count(total or done, unit)}, {left:.0f} min left", file=sys.stderr)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main` and exit with the status it returns; after Ctrl-C or a closed pipe, silently."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for name in ("stdout", "stderr"):  # a log shows rows at once, and files of any name
            stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (closed)
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
            setattr(sys, name, stream)
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # of stdout, a full disk, or the working folder is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, `head` say, has seen enough
            sys.exit(141)
        sys.exit(fail(1, f"{error.filename or 'the output cannot be written'} ({describe_error(error)})"))


def fail(status: int, reason: object) -> int:
    """Print the reason after the script's name; return the exit status."""
    print(f"{os.path.basename(sys.argv[0])}: {printable(str(reason))}", file=sys.stderr)
    return status


def make_parser(description: str | None, example: str = "") -> argparse.ArgumentParser:
    """Return a parser that prints a script's docstring as it is; an example, if given, ends the help."""
    form, usage = argparse.RawDescriptionHelpFormatter, "%(prog)s [options] ..."  # one line before an error
    epilog = example and f"example: {example}"
    parser = argparse.ArgumentParser(None, usage, description, epilog, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    if "" in sys.argv[1:]:
        parser.error("an argument is empty: is a variable unset?")
    return parser


def read_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def read_time(text: str) -> float:
    """Return seconds given on the command line as a number, `1:30` or `00:01:30.5`, as FFmpeg takes them."""
    if not re.fullmatch(r"(\d+:){1,2}[0-5]?\d(\.\d+)?|\d*\.?\d+", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"must be seconds or [hours:]minutes:seconds, not {text}")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(text.split(":"))))


def add_sampling_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--frames", type=read_count, default=30, metavar="N", help="frames per video (default: %(default)s)")
    add("--start", type=read_time, default=0.0, metavar="TIME", help="first frame, in seconds or as 0:01:30")
    add("--end", type=read_time, metavar="TIME", help="last frame (default: the video's end)")


def pick_evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of the items, in order: the first, the last and others, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(len(items), count)).round().astype(int)]


def count(number: int, noun: str) -> str:
    """Return "1 face" or "2 faces"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(path: str | Path) -> str:
    """Return a path on one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def describe_error(error: BaseException) -> str:
    """Return the reason of an error in one line, without the file's name."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(reason.split())


def write_atomically(path: str | Path, write: Callable[[Path], T]) -> T:
    """Return write(temporary path), then put that in place of `path`. Raises OSError, naming `path`."""
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as folder:
            part = Path(folder, target.name)
            written = write(part)
            os.replace(part, target)
            return written
    except (OSError, UnicodeError) as error:  # UnicodeError: text that no file can hold
        raise OSError(f"{path}: {describe_error(error)}") from error


def stamp_file(path: str | Path) -> str:
    """Return a file's size and time, which change when another takes its place, or ""."""
    with contextlib.suppress(OSError):
        return f"{(status := os.stat(path)).st_size} {status.st_mtime_ns}"
    return ""
