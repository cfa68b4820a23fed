"""One video or photograph: find and score its faces, write an annotated copy."""

import bisect
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import (
    HOG_FACE,
    Face,
    FaceOptions,
    FoundFaces,
    Frame,
    Item,
    Pose,
    Timeline,
    Watch,
    count,
    describe_error,
    describe_reading,
    find_faces,
    get_stream,
    open_video,
    read_frames,
    read_image,
    read_timeline,
    sample_frames,
    write_atomically,
)
from weights import Rule, Weights, load_predictor
from weights.scoring.outputs import MADE_BY, make_png_note
from weights.scoring.scores import Result, read_photo, score_faces
from weights.scoring.verdicts import VERDICT_COLORS, decide_by_lowest, judge_face

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer, OutputContainer


def score_file(
    item: Item,
    annotated: Path | None,
    weights: Weights,
    options: FaceOptions,
    threads: int = 0,
    watch: Watch[FoundFaces] = iter,
) -> Result:
    """Return the Result of a video or photograph, from the faces that `extract_faces.py` would write.

    In a photograph all faces are scored. If `annotated` is a path, an annotated copy is written there.
    Errors are in the Result; if only the copy failed, beside the score. `watch` wraps the iterator over
    frames: a progress bar.
    """
    kind = "video" if item.is_video else "photo"
    try:
        predict, notes = load_predictor(weights, threads), list[str]()
        if item.is_video:
            timeline = read_timeline(item.path)
            found = find_faces(sample_frames(item.path, options, threads, timeline), options)
        else:
            found = find_faces_in_photo(item.path, options)
        sampled, faces, skipped = score_faces(watch(found), predict, weights.view)
        if item.is_video:
            notes.append(describe_reading(timeline, options, sampled))
        if skipped:
            notes.append(f"{count(skipped, 'face')} skipped: smaller than {options.min_size:g} pixels")
        faces, scores, (score, verdict, warning) = decide_by_lowest(faces, kind, weights.rule)
        parts = tuple(zip(weights.names, scores, strict=False))
        note = ", ".join(filter(None, notes))
        result = Result(item, score, verdict, "", kind, len(sampled), faces, parts, warning, note)
        if annotated:
            result = result._replace(error=try_annotating(result, annotated, weights.rule, sampled))
        return result
    except (OSError, ValueError, MemoryError) as error:
        return Result(item, None, "error", describe_error(error), kind)


# --- photographs ----------------------------------------------------------------------------------


def find_faces_in_photo(path: Path, options: FaceOptions) -> Iterator[FoundFaces]:
    """Yield all faces of a photograph as `pipeline.find_faces` does those of a frame.

    If there is none, the photograph is tried lying on its sides and on its head.
    """
    frame, options = Frame(0, 0.0, read_photo(path)), options._replace(everyone=True)
    for quarters in (0, 1, 3, 2):
        turned = frame._replace(image=np.ascontiguousarray(np.rot90(frame.image, quarters)))
        # a face on its side must have 80 pixels: the slow search for smaller ones is made once
        wanted = options._replace(min_size=max(options.min_size, HOG_FACE)) if quarters else options
        ((_, faces, skipped),) = find_faces([turned], wanted)
        if faces or skipped:
            break
    shape = frame.image.shape
    yield frame, [turn_back(face, quarters, shape) for face in faces] if quarters else faces, skipped


def turn_back(face: Face, quarters: int, shape: tuple[int, ...]) -> Face:
    """Return a Face of a picture turned anticlockwise as it lies in the picture before, of `shape`."""
    height, width = shape[:2]

    def back(x: float, y: float) -> tuple[float, float]:
        return {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[quarters]

    (x1, y1), (x2, y2) = back(*face.box[:2]), back(*face.box[2:])
    box = tuple(round(edge) for edge in (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
    angle = (face.pose.angle - 90 * quarters + 180) % 360 - 180
    return face._replace(box=box, pose=Pose(*back(face.pose.x, face.pose.y), face.pose.size, angle))


def try_annotating(result: Result, path: Path, rule: Rule, sampled: Sequence[int] = ()) -> str:
    """Write an annotated copy (see `annotate`). Return why that failed, or ""."""
    import av

    try:
        write_atomically(path, lambda part: annotate(result, part, rule, sampled))
        return ""
    except (OSError, ValueError, MemoryError, av.error.FFmpegError) as error:
        return f"no annotated copy: {describe_error(error)}"


# --- annotated copies -----------------------------------------------------------------------------

COPIED_SOUND = ("aac", "ac3", "eac3", "opus", "flac", "alac")  # what MP4 takes without re-encoding
TICKS = 90_000  # per second: the time base of an annotated video


def annotate(result: Result, path: Path, rule: Rule, sampled: Sequence[int] = ()) -> None:
    """Write a copy of a Result's video, photograph or face crop with boxes, scores and verdicts drawn on it.

    A video becomes an MP4 (H.264) with its sound. `sampled` lists the indices of the frames that were
    scored; a score is shown until the next of them, while the boxes move along. An image becomes a PNG.
    """
    label = result.verdict if result.score is None else f"{result.score:.3f} {result.verdict}"
    if result.kind == "video":
        _annotate_video(result, label, path, rule, sampled)
        return
    read = read_photo if result.kind == "photo" else read_image
    image = Image.fromarray(read(result.item.path))
    draw_verdicts(image, result.faces, rule, len({face.person for face in result.faces}) > 1)
    draw_label(image, (0, 0), label, result.verdict)
    image.save(path, "PNG", pnginfo=make_png_note())


def _annotate_video(result: Result, label: str, path: Path, rule: Rule, sampled: Sequence[int]) -> None:
    import av

    faces: dict[int, list[Face]] = {index: [] for index in sampled}
    for face in result.faces:
        faces[face.frame].append(face)
    original, copy = result.item.path, os.path.abspath(path)
    timeline = read_timeline(original)
    several = len({face.person for face in result.faces}) > 1
    # Pillow reads an animated image, which is silent; FFmpeg does not know them all
    opened = contextlib.nullcontext() if timeline.animated else open_video(original)
    with opened as source, av.open(copy, "w", format="mp4") as target:
        target.metadata["comment"] = MADE_BY
        video = target.add_stream("libx264", options={"crf": "18", "preset": "veryfast"})
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, TICKS)
        sound = _add_sound(source, target) if source else None
        for number, frame in enumerate(read_frames(original, every=1, timeline=timeline)):
            height, width = (side // 2 * 2 for side in frame.image.shape[:2])  # H.264 needs even sides
            if not height or not width:
                raise ValueError("frames must be at least 2x2 pixels")
            image = Image.fromarray(frame.image[:height, :width])
            draw_verdicts(image, interpolate_faces(faces, sampled, frame.index), rule, several)
            draw_label(image, (0, 0), label, result.verdict)
            picture = av.VideoFrame.from_image(image)
            picture.pts, picture.time_base = round(frame.time * TICKS), Fraction(1, TICKS)
            if not number:
                video.width, video.height = width, height
            target.mux(video.encode(picture))
        target.mux(video.encode())
        if source and sound:
            _copy_sound(source, target, sound, timeline)


def _add_sound(source: "InputContainer", target: "OutputContainer") -> "AudioStream | None":
    """Add to `target` a stream for the sound of `source`; return it, or None if there is no usable sound."""
    stream = next(iter(source.streams.audio), None)
    if stream is None or stream.codec_context is None:
        return None
    if stream.codec_context.name in COPIED_SOUND:
        return target.add_stream_from_template(stream)
    return target.add_stream("aac", rate=min(stream.codec_context.sample_rate, 48_000))


def _copy_sound(
    source: "InputContainer", target: "OutputContainer", sound: "AudioStream", timeline: Timeline
) -> None:
    """Copy the sound up to where it is damaged; re-encode it only if MP4 does not take its codec."""
    import av

    stream, video = source.streams.audio[0], get_stream(source, timeline)
    start = float((video.start_time or 0) * (video.time_base or 1))  # times count from the first frame
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


def interpolate_faces(faces: dict[int, list[Face]], sampled: Sequence[int], index: int) -> list[Face]:
    """Return the scored Faces to draw on the frame `index`.

    `faces` maps the indices `sampled`, ascending, to the Faces found there. Scores are those of the last
    sampled frame; boxes move linearly towards the same person's box in the next one. After the last sampled
    frame they stay for as long as two sampled frames usually lie apart.
    """
    at = bisect.bisect_right(sampled, index) - 1
    if at < 0:
        return []
    late = index - sampled[-1]
    if late > 0 and len(sampled) > 1 and late >= np.median(np.diff(sampled)):
        return []
    before, after = sampled[at], sampled[min(at + 1, len(sampled) - 1)]
    coming = {face.person: face for face in faces[after]}
    drawn = []
    for face in faces[before]:
        share = (index - before) / (after - before) if after > before and face.person in coming else 0
        ends = zip(face.box, coming.get(face.person, face).box, strict=True)
        drawn.append(face._replace(box=tuple(round(a + share * (b - a)) for a, b in ends)))
    return drawn


def draw_verdicts(image: Image.Image, faces: Iterable[Face], rule: Rule, several: bool) -> None:
    """Draw boxes, scores and verdicts of scored Faces, of `several` people also who it is, on an image."""
    draw = ImageDraw.Draw(image)
    for face in faces:
        verdict = judge_face(face, rule)
        draw.rectangle(face.box, outline=VERDICT_COLORS[verdict], width=max(2, image.height // 200))
        who = f"person {face.person}: " if several else ""
        draw_label(image, (face.box[0], face.box[3]), f"{who}{face.score:.3f} {verdict}", verdict)


def draw_label(image: Image.Image, corner: tuple[int, int], text: str, verdict: str) -> None:
    """Write white text on the verdict's colour, its upper left corner at `corner` or as near as fits."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(11, image.height // 28))
    _, _, width, height = draw.textbbox((0, 0), text, font)
    x = max(0, min(corner[0], image.width - width - 6))
    y = max(0, min(corner[1], image.height - height - 6))
    draw.rectangle((x, y, x + width + 6, y + height + 6), VERDICT_COLORS[verdict])
    draw.text((x + 3, y + 3), text, "white", font)
