"""Augmentation: what the authors do to faces, and what a face goes through on its way to us.

The second: H.264, scaling, blur, noise, JPEG, a wider or a tighter crop; 1 to 3 ms a face on one core.
Pure functions. All that is random comes in as numbers in [-1, 1], drawn ahead of the epoch from
(seed, epoch): the same faces whichever thread makes them, and in a training that was resumed. Two
faces given the same numbers are changed alike: a forged face and its original differ in the
forgery alone.
"""

import io
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from pipeline import IMAGE_SIZE

CHANGES = 8  # numbers that `augment` needs of a face
KEPT = [3, 6, 7]  # which of them say whether it is mirrored, and which window is seen
# the authors' augmentation, their ImageDataGenerator's arguments
ZOOM = 0.2
ROTATION = 15.0  # degrees
BRIGHTNESS = 0.2
CHANNEL_SHIFT = 30 / 255
NUMBERS = 16  # that follow for a degraded face: 3 for `move`, the others for `degrade`
MOVES = 3
# at strength 1
MARGIN = 0.15  # a crop is made tighter, or wider, by up to this share
SHIFT = 0.06  # of the side
VIDEO_CHANCE, SCALE_CHANCE, BLUR_CHANCE, NOISE_CHANCE, JPEG_CHANCE = 0.5, 0.3, 0.1, 0.1, 0.5
SMALLEST = 0.35  # share of the side left by scaling
BLUR = 1.5  # pixels, radius of the Gaussian
NOISE = 8.0  # grey levels, standard deviation
WORST_QUALITY = 40  # of JPEG
RATE_FACTORS = (20, 44)  # of H.264 at any strength; FaceForensics++ takes 23 and 40
DOWN_FILTERS = (
    Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.HAMMING, Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS, Image.Resampling.NEAREST,
)  # fmt: skip
UP_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def augment(faces: Any, changes: Any, side: int = IMAGE_SIZE, strength: float = 0.0) -> Any:
    """Return uint8 faces (N, 256, 256, 3) changed as the authors' training does: float32 in [0, 1].

    `changes`, float32 (N, 8) in [-1, 1]: rotation to 15 degrees; zoom to 0.2, across and along;
    flip where the fourth is negative; channel shift to 30 of 255, one for all channels; brightness
    times 0.8 to 1.2; and, where `side` is less than 256, which window (N, side, side, 3) is given.
    Bilinear; where a face does not fill its square any more, its edge is repeated.
    With `strength`, three more numbers say how `move` moves the crop.
    Changes of 0 give the pixels of `classifiers.scale_pixels`, bit for bit.
    """
    import tensorflow as tf

    from classifiers import PIXEL_SCALE

    rotation, zoom_x, zoom_y, flip, shift, brightness, across, down = (
        changes[:, i, None, None] for i in range(CHANGES)
    )
    zoom_x, zoom_y = 1 + ZOOM * zoom_x, 1 + ZOOM * zoom_y
    zoom_x = tf.where(flip < 0, -zoom_x, zoom_x)
    angle = rotation * np.float32(np.radians(ROTATION))
    cos, sin = tf.cos(angle), tf.sin(angle)
    # (x, y): where in the face the output pixel (column, row) looks
    last = IMAGE_SIZE - 1
    middle = (tf.range(side, dtype=tf.float32) - (side - 1) / 2)[None, None]
    column = middle + tf.round(across * (IMAGE_SIZE - side) / 2)
    row = tf.transpose(middle, (0, 2, 1)) + tf.round(down * (IMAGE_SIZE - side) / 2)
    x = cos * zoom_x * column - sin * zoom_y * row + last / 2
    y = sin * zoom_x * column + cos * zoom_y * row + last / 2
    if strength:
        moved = move(changes[:, CHANGES : CHANGES + MOVES], strength)
        zoom, right, down_by = (number[:, None, None] for number in moved)
        x = (x - last / 2) * zoom + last / 2 + IMAGE_SIZE * right
        y = (y - last / 2) * zoom + last / 2 + IMAGE_SIZE * down_by
    values = _look_up(faces, tf.clip_by_value(x, 0, last), tf.clip_by_value(y, 0, last)) * PIXEL_SCALE
    values = tf.clip_by_value(values + CHANNEL_SHIFT * shift[..., None], 0.0, 1.0)
    return tf.clip_by_value(values * (1 + BRIGHTNESS * brightness[..., None]), 0.0, 1.0)


def keep_flips(changes: np.ndarray) -> np.ndarray:
    """Return numbers for `augment`, float32 (..., 8), that only mirror a face, and choose a window of it."""
    kept = np.zeros_like(changes[..., :CHANGES])
    kept[..., KEPT] = changes[..., KEPT]
    return kept


def _look_up(faces: Any, x: Any, y: Any) -> Any:
    """Return the faces' values at x and y, (N, h, w) each: float32 (N, h, w, 3), bilinear."""
    import tensorflow as tf

    left, top = tf.minimum(tf.floor(x), IMAGE_SIZE - 2), tf.minimum(tf.floor(y), IMAGE_SIZE - 2)
    corner = tf.cast(top, tf.int32) * IMAGE_SIZE + tf.cast(left, tf.int32)
    pixels = tf.reshape(faces, (-1, IMAGE_SIZE * IMAGE_SIZE, 3))

    def look(offset: int) -> Any:
        return tf.cast(tf.gather(pixels, corner + offset, batch_dims=1), tf.float32)

    x, y = (x - left)[..., None], (y - top)[..., None]
    upper = look(0) * (1 - x) + look(1) * x
    lower = look(IMAGE_SIZE) * (1 - x) + look(IMAGE_SIZE + 1) * x
    return upper * (1 - y) + lower * y


def degrade(face: np.ndarray, numbers: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Return a face, uint8 (side, side, 3) RGB, after H.264, scaling, blur, noise and JPEG, by chance.

    `numbers`: 13 in [-1, 1]. They say which of the five happen and how much: at strength 1, half of the
    faces get H.264, half JPEG, three in ten are scaled, one in ten is blurred, one in ten noisy.
    Higher `strength` makes each change stronger, except H.264, whose rate factors are fixed; below 1 it also
    makes each change rarer. At 0 the face comes back as it was. The side must be even.
    """
    if not strength:
        return face
    # shares of [0, 1), so that the highest number picks the last of a list
    share = np.clip((np.asarray(numbers, np.float64) + 1) / 2, 0, 1 - 1e-9).tolist()
    filmed, rate, scaled, size, down, up, blurred, radius, noisy, deviation, seed, compressed, quality = share
    often = min(strength, 1.0)
    if filmed < often * VIDEO_CHANCE:
        lowest, highest = RATE_FACTORS
        face = film(face, round(lowest + (highest - lowest) * rate))
    image = Image.fromarray(face)
    if scaled < often * SCALE_CHANCE:
        smallest = SMALLEST ** min(strength, 2.0)
        side = max(8, round(image.width * smallest**size))
        image = image.resize((side, side), DOWN_FILTERS[int(down * len(DOWN_FILTERS))])
        image = image.resize(face.shape[1::-1], UP_FILTERS[int(up * len(UP_FILTERS))])
    if blurred < often * BLUR_CHANCE:
        image = image.filter(ImageFilter.GaussianBlur(strength * BLUR * max(radius, 0.2)))
    if noisy < often * NOISE_CHANCE:
        grain = np.random.default_rng(int(seed * 2**32)).standard_normal(face.shape, np.float32)
        noise = np.float32(strength * NOISE * deviation) * grain
        image = Image.fromarray(np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8))
    if compressed < often * JPEG_CHANCE:
        worst = max(5.0, 100 - strength * (100 - WORST_QUALITY))
        image = compress(image, round(worst + (100 - worst) * quality))
    return np.asarray(image)


def film(face: np.ndarray, rate_factor: int) -> np.ndarray:
    """Return a face, uint8 (height, width, 3) RGB, both even, as it comes out of a video: one H.264 frame.

    A rate factor of 0 is best, 51 worst.
    """
    import av

    coder = av.CodecContext.create("libx264", "w")
    coder.height, coder.width = face.shape[:2]
    coder.pix_fmt, coder.time_base, coder.thread_count = "yuv420p", Fraction(1, 25), 1
    coder.options = {"crf": str(rate_factor), "preset": "veryfast", "tune": "zerolatency"}
    frame = av.VideoFrame.from_ndarray(face, "rgb24").reformat(format="yuv420p")
    packets = [*coder.encode(frame), *coder.encode(None)]
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return frames[0].to_ndarray(format="rgb24")


def compress(image: Image.Image, quality: int) -> Image.Image:
    """Return an image as it comes out of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    file.seek(0)
    return Image.open(file).convert("RGB")


def degrade_batch(faces: np.ndarray, numbers: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Return `degrade` of each of the faces, uint8 (N, side, side, 3); `numbers` (N, 13)."""
    return np.stack([degrade(face, row, strength) for face, row in zip(faces, numbers, strict=True)])


def move(numbers: Any, strength: float = 1.0) -> tuple[Any, Any, Any]:
    """Return (zoom, right, down) of crops, each an array (N,), from `numbers` (N, 3) in [-1, 1].

    Zoom: the side of the window that is looked at, as a share of the crop's (less than 1 is a tighter
    crop); right and down: how far it is shifted, as a share of the side. For NumPy and TensorFlow alike.
    """
    margin, right, down = numbers[:, 0], numbers[:, 1], numbers[:, 2]
    zoom = (1 + MARGIN) ** (strength * margin)
    return zoom, SHIFT * strength * right, SHIFT * strength * down
