"""Forgeries made of real faces, to train on: a face blended with itself, or with another's.

After "Detecting Deepfakes with Self-Blended Images" (Shiohara and Yamasaki, CVPR 2022), written anew.
Such a face differs from a real one only by a seam, and by colours and resolutions that do not match, so
what a network learns from it carries over to forgeries that it has not seen.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

SHIFT, STRETCH = 0.03, 0.05  # of one copy against the other
OPACITIES = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
ELASTIC = 0.04  # of the side: how far the mask's outline is bent
BROWS = slice(17, 27)  # of the 68 landmarks


def blend_self(face: np.ndarray, landmarks: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a face, uint8 (height, width, 3), blended with a copy of itself that was changed a little.

    `landmarks`: float (68, 2), (x, y) of dlib's model. Either copy, the inner or the outer one, has its
    colours and its sharpness changed; the inner one is shifted and scaled.
    """
    inner = outer = Image.fromarray(face)
    if random.random() < 0.5:
        inner = tint(soften(inner, random), random)
    else:
        outer = tint(soften(outer, random), random)
    width, height = outer.size
    right, down = random.uniform(-SHIFT, SHIFT, 2) * (width, height)
    across, along = 1 + random.uniform(-STRETCH, STRETCH, 2)
    x, y = landmarks.mean(0)
    inner = inner.transform(
        outer.size,
        Image.Transform.AFFINE,
        (across, 0, x - across * x - right, 0, along, y - along * y - down),
        Image.Resampling.BICUBIC,
    )
    return blend(inner, outer, landmarks, random)


def blend_other(
    face: np.ndarray,
    landmarks: np.ndarray,
    donor: np.ndarray,
    donor_landmarks: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """Return a face with the inner face of a donor, laid over it by the landmarks, in its colours."""
    outer = Image.fromarray(face)
    # the affine map from places in the face to places in the donor: least squares
    places = np.column_stack([landmarks, np.ones(len(landmarks))])
    affine = np.linalg.lstsq(places, donor_landmarks, rcond=None)[0].T
    inner, known = (
        image.transform(outer.size, Image.Transform.AFFINE, affine.ravel().tolist(), Image.Resampling.BICUBIC)
        for image in (Image.fromarray(donor), Image.new("L", donor.shape[1::-1], 255))
    )
    inner.paste(outer, mask=ImageChops.invert(known))  # where the donor's crop ends
    inside = np.asarray(draw_mask(outer.size, landmarks, random)) > 127
    if inside.any():
        inner = match_colours(inner, outer, inside, random.uniform(0.5, 1))
    if random.random() < 0.5:
        inner = soften(inner, random)
    return blend(inner, outer, landmarks, random, opaque=True)


def blend(
    inner: Image.Image,
    outer: Image.Image,
    landmarks: np.ndarray,
    random: np.random.Generator,
    opaque: bool = False,
) -> np.ndarray:
    """Return `outer` with `inner` in a soft mask of random outline and opacity."""
    mask = bend(draw_mask(outer.size, landmarks, random), random)
    side = min(outer.size)
    for most in (0.06, 0.03):
        mask = mask.filter(ImageFilter.GaussianBlur(side * random.uniform(0.002, most)))
    # a seam inside the outline: a blurred mask, hardened, is a smaller one with a soft edge
    if random.random() < 0.3:
        mask = mask.point([min(255, max(0, 2 * value - 255)) for value in range(256)])
    opacity = 1.0 if opaque else OPACITIES[random.integers(len(OPACITIES))]
    mask = mask.point([round(value * opacity) for value in range(256)])
    return np.asarray(Image.composite(inner, outer, mask))


def draw_mask(size: tuple[int, int], landmarks: np.ndarray, random: np.random.Generator) -> Image.Image:
    """Return a mask, mode L, of the landmarks' hull, of some with the forehead, or of a part of it."""
    points = np.array(landmarks, float)
    choice = random.random()
    if choice < 0.3:  # brows drawn up: with a forehead
        points[BROWS] += (points[BROWS].mean(0) - points[8]) * random.uniform(0.1, 0.3)
    elif choice < 0.5:  # no jaw: from the brows to the mouth
        points = points[17:]
    elif choice < 0.65:  # the lower face: nose, mouth and chin
        points = points[[*range(3, 14), *range(29, 36), *range(48, 68)]]
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([tuple(point) for point in find_hull(points)], fill=255)
    return mask


def find_hull(points: np.ndarray) -> list[np.ndarray]:
    """Return the corners of the convex hull of points (N, 2), in order (Andrew's monotone chain)."""
    ordered = sorted(map(tuple, points))
    halves: list[list[tuple[float, float]]] = []
    for run in (ordered, ordered[::-1]):
        half: list[tuple[float, float]] = []
        for x, y in run:
            while len(half) > 1:
                (ax, ay), (bx, by) = half[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                half.pop()
            half.append((x, y))
        halves.append(half[:-1])
    return [np.array(point) for half in halves for point in half]


def bend(mask: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a mask bent elastically: each pixel looks a smooth random way off."""
    width, height = mask.size
    coarse = int(random.integers(4, 8))
    reach = ELASTIC * min(mask.size) * random.random()
    fields = [
        np.asarray(
            Image.fromarray(random.standard_normal((coarse, coarse)).astype(np.float32)).resize(
                mask.size, Image.Resampling.BICUBIC
            )
        )
        for _ in range(2)
    ]
    row, column = np.mgrid[:height, :width]
    row = np.clip(row + reach * fields[0], 0, height - 1).astype(int)
    column = np.clip(column + reach * fields[1], 0, width - 1).astype(int)
    return Image.fromarray(np.asarray(mask)[row, column])


def tint(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return an image with other colours, brightness and contrast, all a little."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(random.uniform(0.85, 1.15))
    values = np.asarray(image, np.float32) + random.uniform(-12, 12, 3).astype(np.float32)
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def soften(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return an image as it is, sharpened, blurred, or scaled down and back."""
    way = random.integers(4)
    if way == 1:
        return ImageEnhance.Sharpness(image).enhance(random.uniform(1.2, 2.2))
    if way == 2:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.006 * min(image.size) + 0.3)))
    if way == 3:
        share = random.uniform(0.3, 0.7)
        small = [max(8, round(length * share)) for length in image.size]
        return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BICUBIC)
    return image


def match_colours(inner: Image.Image, outer: Image.Image, inside: np.ndarray, share: float) -> Image.Image:
    """Return `inner` with the means and spreads of `outer`'s colours inside a mask, by a share."""
    values, wanted = np.asarray(inner, np.float32), np.asarray(outer, np.float32)
    mean, goal = values[inside].mean(0), wanted[inside].mean(0)
    spread = np.clip(wanted[inside].std(0) / np.maximum(values[inside].std(0), 1), 0.5, 2)
    matched = (values - mean) * spread + goal
    mixed = share * matched + (1 - share) * values
    return Image.fromarray(np.clip(np.round(mixed), 0, 255).astype(np.uint8))


def choose_donor(landmarks: Sequence[np.ndarray], index: int, random: np.random.Generator) -> int:
    """Return which of the faces has its landmarks most alike those of one, of eight picked at random."""
    picked = [int(i) for i in random.integers(0, len(landmarks), 8) if i != index] or [index]

    def place(points: np.ndarray) -> np.ndarray:
        points = points - points.mean(0)
        return points / np.sqrt((points**2).mean())

    own = place(landmarks[index])
    return min(picked, key=lambda i: float(((place(landmarks[i]) - own) ** 2).sum()))
