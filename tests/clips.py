"""Clips for the tests and the README: of numbers, and of public-domain portraits, real and forged."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from matplotlib import cbook
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pipeline

RATE = 25  # frames a second, where nothing else is said
GENERATED = 64  # pixels: side of the faces that the first deepfake autoencoders produced
BITS = 10  # of a frame's number, shown as black and white bars


def write_clip(path, frames, codec="libx264", options=(), stamps=None, pixels="yuv420p", aspect=1, sound="",
               **container):  # fmt: skip
    """Write uint8 RGB frames, the n-th shown at stamps[n] / 1000 s (default: 25 a second), and `sound`."""
    unit = Fraction(1, 1000 if stamps else RATE)
    with av.open(str(path), "w", options=container) as target:
        stream = target.add_stream(codec, RATE, options=dict(options))
        stream.pix_fmt, stream.codec_context.time_base = pixels, unit
        stream.codec_context.sample_aspect_ratio = aspect
        tone = target.add_stream(sound, 44100) if sound else None
        for i, frame in enumerate(frames):
            if not i:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = stamps[i] if stamps else i, unit
            target.mux(stream.encode(picture))
        target.mux(stream.encode())
        if tone:
            target.mux(tone.encode(make_sound(np.sin(np.arange(44100) / 16) * 9000, 44100)))
            target.mux(tone.encode())
    return path


def make_sound(samples, rate):
    """Return an audio frame of one channel from numbers within those of int16."""
    frame = av.AudioFrame.from_ndarray(np.asarray(samples, np.int16)[None], "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return frame


def draw_number(number, height=64, width=160):
    """Return a frame that shows a number in bars, the lowest bit on the left."""
    bits = (number >> np.arange(BITS)) & 1
    row = np.repeat(bits, width // BITS).astype(np.uint8) * 255
    return np.tile(np.pad(row, (0, width - len(row)))[None, :, None], (height, 1, 3))


def read_number(image):
    middle = image[image.shape[0] // 2, :, 1]
    width = image.shape[1] // BITS
    return sum(int(middle[i * width + width // 2] > 127) << i for i in range(BITS))


def open_portrait(name="hopper"):
    """Return a portrait, uint8 RGB: Grace Hopper's, with shoulders, or a face crop of test_images."""
    if name == "hopper":
        return pipeline.read_image(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    return pipeline.read_image(ROOT / f"test_images/real/{name}.png")


def locate(portrait):
    """Return the Pose of a portrait's face."""
    ((_, faces),) = pipeline.locate_faces([pipeline.Frame(0, 0.0, portrait)], pipeline.FaceOptions())
    return faces[0].pose


def film(portrait, pose, size=(640, 480)):
    """Return a frame of `size` (width, height) that shows the portrait with its face at `pose`, on grey."""
    own = locate(portrait)
    turn = np.radians(pose.angle - own.angle)
    scale = own.size / pose.size
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = np.array([own.x, own.y]) + 0.5 - matrix @ (pose.x + 0.5, pose.y + 0.5)
    image = Image.fromarray(portrait)
    if scale > 1:  # the transform alone would skip pixels
        image = image.resize([round(side / scale) for side in image.size], Image.Resampling.BICUBIC)
        matrix, shift = matrix / scale, shift / scale
    affine = np.column_stack((matrix, shift)).ravel().tolist()
    frame = image.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC, fillcolor="grey")
    return np.asarray(frame)


def film_portrait(path, frames=100):
    """Write a clip of a face that moves to the right."""
    portrait = open_portrait()
    return write_clip(path, (film(portrait, pipeline.Pose(250 + i, 240, 130, 0)) for i in range(frames)))


def find_landmarks(image):
    """Return the landmarks of the only face in an image."""
    (box,) = pipeline.detect_faces(image, upsample=1)
    return pipeline.find_landmarks(image, box)


def forge_face(face, landmarks):
    """Return uint8 `face` as face-warping deepfakes of 2018 change it.

    The inner part, brows to chin, is brought to 64x64 pixels, warped back, recoloured and blended in.
    """
    points = np.array([p for name in ("chin", "left_eyebrow", "right_eyebrow") for p in landmarks[name]])
    centre = points.mean(axis=0)
    points = centre + 0.92 * (points - centre)
    (left, top), (right, bottom) = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    image = Image.fromarray(face)
    region = image.crop((left, top, right, bottom))
    small = region.resize((GENERATED, GENERATED), Image.Resampling.BILINEAR)
    small = small.filter(ImageFilter.GaussianBlur(0.8))  # an autoencoder's softness
    again = np.asarray(small.resize(region.size, Image.Resampling.BICUBIC), np.float32)
    again = np.clip(again * (1.04, 1.0, 0.97), 0, 255).astype(np.uint8)  # colours never match quite
    mask = Image.new("L", image.size)
    hull = points[np.argsort(np.arctan2(*(points - centre).T))]
    ImageDraw.Draw(mask).polygon([tuple(p) for p in hull], fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(0.02 * face.shape[0]))
    pasted = image.copy()
    pasted.paste(Image.fromarray(again), (int(left), int(top)))
    return np.asarray(Image.composite(pasted, image, mask))
