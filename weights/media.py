"""One video or photograph: score its faces, write an annotated copy."""

import bisect
import contextlib
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from pipeline import (
    Face,
    FaceOptions,
    Frame,
    Item,
    choose_stream,
    describe_error,
    find_faces,
    is_video,
    open_video,
    read_frames,
    read_image,
    sample_frames,
    write_atomically,
)
from weights import LoadKeras, Weights, load_predictor
from weights.scores import VERDICT_INKS, Result, average_people, lowest_person_score, score_faces, verdict_of

if TYPE_CHECKING:
    from av import AudioStream
    from av.container import InputContainer, OutputContainer


def score_file(
    item: Item,
    annotated: Path | None,
    weights: Weights,
    search: FaceOptions,
    load_keras: LoadKeras,
    batch_size: int = 32,
    threads: int = 0,
) -> Result:
    """Return the Score of a video's faces, or of all in a photograph: those that `extract_faces.py` writes.

    `item` is its Item. An annotated copy is written to the path `annotated` if there is one. What
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
        score = lowest_person_score(average_people(faces))
        verdict = verdict_of(score, weights.threshold) if faces else "no face"
        found = Result(item, score, verdict, "", kind, len(sampled), faces)
        if annotated:
            found = found._replace(error=try_annotating(found, annotated, weights.threshold, sampled))
        return found
    except (OSError, ValueError, MemoryError) as error:
        return Result(item, None, "error", describe_error(error), kind)


def try_annotating(score: Result, path: Path, threshold: float, sampled: Sequence[int] = ()) -> str:
    """Return why no annotated copy could be written, or ""."""
    import av

    try:
        write_atomically(path, lambda part: annotate(score, part, threshold, sampled))
        return ""
    except (OSError, ValueError, MemoryError, av.error.FFmpegError) as error:
        return f"no annotated copy: {describe_error(error)}"


COPIED_SOUND = ("aac", "ac3", "eac3", "opus", "flac", "alac")  # what MP4 takes as it is
TICKS = 90_000  # a second, of an annotated video


def annotate(score: Result, path: Path, threshold: float, sampled: Sequence[int] = ()) -> None:
    """Write a copy of a Score's video, photograph or face crop with its verdicts drawn on it.

    A video becomes an MP4 (H.264) with its sound; its scores hold from one of the frames `sampled`,
    given by their indices, to the next; the boxes move along. An image becomes a PNG.
    """
    label = score.verdict if score.score is None else f"{score.score:.3f} {score.verdict}"
    if score.kind == "video":
        _annotate_video(score, label, path, threshold, sampled)
        return
    image = Image.fromarray(read_image(score.item.path))
    draw_verdicts(image, score.faces, threshold)
    draw_label(image, (0, 0), label, score.verdict)
    image.save(path, "png")


def _annotate_video(score: Result, label: str, path: Path, threshold: float, sampled: Sequence[int]) -> None:
    import av

    faces: dict[int, list[Face]] = {index: [] for index in sampled}
    for face in score.faces:
        faces[face.frame].append(face)
    original, copy = score.item.path, os.path.abspath(path)
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


def interpolate_faces(faces: dict[int, list[Face]], sampled: Sequence[int], index: int) -> list[Face]:
    """Return the scored Faces to draw on a frame, given {index: scored Faces} of those `sampled`, ascending.

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


def draw_verdicts(image: Image.Image, faces: Iterable[Face], threshold: float) -> None:
    """Draw the boxes, scores and verdicts of scored Faces on a Pillow image."""
    draw = ImageDraw.Draw(image)
    for face in faces:
        verdict = verdict_of(face.score, threshold)
        draw.rectangle(face.box, outline=VERDICT_INKS[verdict], width=max(2, image.height // 200))
        draw_label(image, (face.box[0], face.box[3]), f"{face.score:.3f} {verdict}", verdict)


def draw_label(image: Image.Image, corner: tuple[int, int], text: str, verdict: str) -> None:
    """Write white on the verdict's colour, the upper left corner at `corner` or as near as fits."""
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(11, image.height // 28))
    _, _, width, height = draw.textbbox((0, 0), text, font)
    x = max(0, min(corner[0], image.width - width - 6))
    y = max(0, min(corner[1], image.height - height - 6))
    draw.rectangle((x, y, x + width + 6, y + height + 6), VERDICT_INKS[verdict])
    draw.text((x + 3, y + 3), text, "white", font)
