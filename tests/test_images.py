"""Image files: found, named, labelled, read, resized."""

import os
from pathlib import Path, PurePosixPath

import numpy as np
import pillow_heif
import pytest
from conftest import touch
from PIL import Image, ImageCms, ImageOps

import pipeline
from weights.scoring.metrics import parse_forgery


def test_files_are_found_sorted_each_once_hidden_and_foreign_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "b/2.JPG b/1.png a.jpeg b/c/x.WebP b/notes.txt .git/z.png b/._1.png"
    touch(tmp_path / "top", *names.split())
    links = {"b/loop": tmp_path / "top", "again.png": "b/1.png", "self.png": "self.png", "there": "back"}
    for link, target in (links | {"back": "there"}).items():
        (tmp_path / "top" / link).symlink_to(target)
    (tmp_path / "raw.data").touch()
    arguments = ["top", "top/b", "raw.data", "top/a.jpeg", "gone.jpg"]
    found = [str(item.path) for item in pipeline.find_files(arguments)[0]]
    assert found == ["top/a.jpeg", "top/again.png", "top/self.png", "top/b/2.JPG", "top/b/c/x.WebP",
                     "raw.data", "gone.jpg"]  # fmt: skip
    with pytest.raises(OSError, match="Too many levels"):
        pipeline.read_image("top/self.png")
    os.chdir("top/b")
    inside = ["1.png", "2.JPG", "c/x.WebP", "loop/a.jpeg", "loop/self.png"]  # the loop leads out, once
    assert [str(item.path) for item in pipeline.find_files(["."])[0]] == inside


@pytest.mark.parametrize(
    ("folders", "name", "expected"),
    [
        (("faces", "df"), "1.png", ("df", "", "faces/df/1.png")),
        (("faces", "Real"), "1.png", ("real", "", "faces/Real/1.png")),
        (("real", "fake", "clip7"), "1.png", ("df", "", "clip7")),
        (("faces", "df", "clip7", "person2"), "000003.png", ("df", "", "clip7")),
        (("df", "celebdf", "id2-id3"), "5face0.jpg", ("df", "celebdf", "id2-id3")),
        (("df", "a", "b", "v1"), "a-1.jpg", ("df", "a/b", "v1")),
        (("people",), "1.png", ("", "", "people/1.png")),
        ((), "dfdc-abc-0.jpg", ("", "", "dfdc-abc-0.jpg")),
        (("real",), "my-clip-1000012.png", ("real", "", "my-clip")),
        ((), "3f2b8c1e-4c2d-1234567890ab.jpg", ("", "", "3f2b8c1e-4c2d-1234567890ab.jpg")),
        ((), "Screenshot-2024-07-27-101010.png", ("", "", "Screenshot-2024-07-27-101010.png")),
    ],
)
def test_label_data_set_and_video_are_parts_of_the_path(folders, name, expected):
    assert pipeline.parse_labels(Path(*folders, name), folders) == expected


def test_a_forgerys_name_says_what_it_was_made_from(tmp_path):
    touch(tmp_path, "df/ffpp/face2face_055_147/1.png")
    ((item,), _) = pipeline.find_files([tmp_path])
    assert parse_forgery(item) == ("face2face", "055")
    assert parse_forgery(item._replace(label="real")) == ("", "")
    assert parse_forgery(item._replace(dataset="")) == ("", "")


def test_every_kind_of_image_is_read_as_rgb(tmp_path, photo):
    pillow_heif.register_heif_opener()
    grey, palette = photo.convert("L"), photo.quantize(200)
    palette.info["transparency"] = 3
    several = {"save_all": True, "append_images": [Image.new("RGB", photo.size)]}
    for name, image, options, tolerance in (
        ("rgb.png", photo, {}, 0), ("rgba.png", photo.convert("RGBA"), {}, 0), ("rgb.tif", photo, {}, 0),
        ("grey.png", grey, {}, 0), ("alpha.png", grey.convert("LA"), {}, 0), ("grey.jpg", grey, {}, 5),
        ("16bit.png", Image.fromarray(np.asarray(grey, np.uint16) * 257), {}, 0),
        ("first.gif", photo, several, 6), ("palette.png", palette, {}, 6), ("x.avif", photo, {}, 5),
        ("cmyk.jpg", photo.convert("CMYK"), {"quality": 95}, 6), ("x.heic", photo, {"quality": 90}, 5),
        ("scan.tiff", photo, several, 0), ("x.webp", photo, several | {"lossless": True}, 0),
        ("camera.jpg", photo, several | {"format": "MPO"}, 5),
    ):  # fmt: skip
        image.copy().save(tmp_path / name, **options)  # a copy: Pillow keeps what a JPEG was saved with
        ((item,), _) = pipeline.find_files([tmp_path / name])
        assert item.kind == ("video" if name.endswith("gif") else "image")
        wanted = photo if image.mode.startswith(("RGB", "P", "C")) else grey.convert("RGB")
        found = pipeline.read_image(tmp_path / name)
        assert found.dtype == np.uint8
        assert np.abs(found - np.asarray(wanted, int)).mean() <= tolerance, name
    Image.fromarray(np.full((64, 64), 70_000, np.int32)).save(tmp_path / "32bit.tif")
    with pytest.raises(ValueError, match="pixels of unknown range: must have 8 or 16 bits"):
        pipeline.read_image(tmp_path / "32bit.tif")
    Image.fromarray(np.zeros((20, 20_000, 3), np.uint8)).save(tmp_path / "wide.png")
    assert pipeline.load_face(tmp_path / "wide.png", pipeline.View()).shape == (256, 256, 3)


def make_profile():
    """Return a colour profile of swapped primaries: what says red is green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "ours".encode("utf-16-be"))
    for old, new in ((b"rXYZ", b"xxxx"), (b"gXYZ", b"rXYZ"), (b"xxxx", b"gXYZ")):
        profile = profile.replace(old, new, 1)
    return profile


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.heic", "x.webp", "alpha.png", "palette.png"])
def test_photographs_are_brought_to_srgb(tmp_path, photo, name):
    pillow_heif.register_heif_opener()
    rgb = np.asarray(photo.convert("RGB"))
    image = {"alpha.png": photo.convert("RGBA"), "palette.png": photo.quantize(250)}.get(name, photo)
    lossy = {"quality": 95} if name == "x.heic" else {"lossless": True} if name == "x.webp" else {}
    image.save(tmp_path / name, icc_profile=make_profile(), **lossy)
    found = pipeline.read_image(tmp_path / name).astype(int)
    assert np.abs(found - rgb[..., (1, 0, 2)]).mean() < (0.5 if not lossy and image is photo else 6)


def test_profiles_that_change_nothing_cost_nothing(tmp_path, photo):
    """Of sRGB, for other channels, of 16 bits, and broken ones."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257)
    images = (photo, srgb), (photo, make_profile()[:300]), (photo.convert("L"), make_profile())
    for image, profile in (*images, (photo.convert("CMYK"), make_profile()), (wide, make_profile())):
        for name, own in (("plain.tif", None), ("x.tif", profile)):
            image.save(tmp_path / name, icc_profile=own)
        plain, found = (pipeline.read_image(tmp_path / name) for name in ("plain.tif", "x.tif"))
        np.testing.assert_array_equal(found, plain)


def test_resizing_is_pillows(photo):
    image = np.asarray(photo)
    for name, resampling in pipeline.RESAMPLING.items():
        np.testing.assert_array_equal(pipeline.resize_face(image, name), photo.resize((256, 256), resampling))


def test_a_crop_says_how_wide_it_was_cut(tmp_path, photo):
    """So that a network sees as much of it as of a face that was cut for it from a video."""
    crop = np.asarray(photo.resize((200, 200)))
    pipeline.write_crop(crop, tmp_path / "crop.png")
    photo.save(tmp_path / "crop.jpg", comment=pipeline.CROP_NOTE)
    assert pipeline.read_crop(tmp_path / "crop.jpg")[1] == 1.3
    Image.fromarray(crop).save(tmp_path / "unknown.png")
    assert pipeline.read_crop(tmp_path / "unknown.png")[1] is None
    pixels, zoom = pipeline.read_crop(tmp_path / "crop.png")
    assert zoom == 1.3
    np.testing.assert_array_equal(pixels, crop)
    middle = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR, (50, 50, 150, 150))
    near, wide, wider = (pipeline.View("bilinear", zoom) for zoom in (0.65, 1.3, 2))
    whole = pipeline.load_face(tmp_path / "unknown.png", near)
    np.testing.assert_array_equal(pipeline.load_face(tmp_path / "crop.png", near), middle)
    np.testing.assert_array_equal(pipeline.load_face(tmp_path / "crop.png", wide), whole)
    np.testing.assert_array_equal(pipeline.load_face(tmp_path / "crop.png", wider), whole)


def test_loading_ahead_is_bounded_and_in_order(tmp_path, photo):
    for i in range(40):
        photo.resize((20 + i, 20)).save(tmp_path / f"{i:02}.png")
    items, taken = pipeline.find_files([tmp_path])[0], []
    widths = pipeline.map_ahead(lambda item: taken.append(item) or item.path.name, items, ahead=5, threads=1)
    assert next(widths) == "00.png"
    assert len(taken) <= 6
    assert list(widths) == [item.path.name for item in items[1:]]


def test_labels_come_from_the_folder_given_and_below_not_from_above(tmp_path):
    touch(tmp_path, "deepfake/photos/1.png", "v/df/clip1/1.png", "v/real/clip2/1.png")
    for arguments, labels in (
        (["v/df", "v/real"], ["df", "real"]), (["deepfake/photos"], [""]), (["deepfake/photos/1.png"], [""])
    ):  # fmt: skip
        items, _ = pipeline.find_files([tmp_path / name for name in arguments])
        assert [item.label for item in items] == labels


def test_odd_metadata_costs_no_pixels(shared, tmp_path, photo):
    for name in ("png_text_2MB.png", "photo.jpe"):
        assert pipeline.read_image(shared / "inputs" / name).shape[2] == 3
    photo.save(tmp_path / "icc.png", icc_profile=np.random.default_rng(0).bytes(3_000_000))
    photo.save(tmp_path / "exif.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 200)
    photo.save(tmp_path / "exif.tif", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01")
    for path in (shared / "inputs/png_exif_bad.png", *tmp_path.iterdir()):
        np.testing.assert_array_equal(pipeline.read_image(path), photo)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(tmp_path, photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.crop((0, 0, 200, 120)).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(pipeline.read_image(tmp_path / "x.png"), wanted)


def test_folders_of_results_and_contact_sheets_are_no_input(tmp_path):
    touch(tmp_path, "clip/contact_sheet.png", "clip/clip-000001.png", "clip/extraction.json", "notes",
          "n.pdf", "r/results.csv", "r/results.json", "r/annotated/a.png", "contact_sheet.png")  # fmt: skip
    items, passed_over = pipeline.find_files([tmp_path])
    assert [item.name for item in items] == ["contact_sheet", "clip/clip-000001"]
    reason = "passed over, since they are not videos: no suffix: 1, .pdf: 1"
    assert pipeline.describe_passed_over(passed_over, "videos") == reason


def test_outputs_of_videos_are_never_mixed(tmp_path):
    touch(tmp_path, "a.mp4", "a.avi", "b.MOV", "sub/a.mp4", "c.mkv", "c/d.webm", ".hidden.mp4", "notes.txt")
    found = {str(item.path.relative_to(tmp_path)): item.name for item in pipeline.find_files([tmp_path])[0]}
    assert found == {"a.avi": "a.avi", "a.mp4": "a.mp4", "b.MOV": "b", "c.mkv": "c.mkv", "c/d.webm": "c/d",
                     "sub/a.mp4": "sub/a"}  # fmt: skip
    files = [tmp_path / "a.mp4", tmp_path / "sub/a.mp4", tmp_path / "a.mp4", tmp_path / "gone.mp4"]
    assert [item.name for item in pipeline.find_files(files)[0]] == ["a.mp4", "a.mp4-2", "gone"]
    assert pipeline.name_outputs([PurePosixPath(".x.mp4"), PurePosixPath("..mp4")]) == ["x", "mp4"]
