"""Image files: found, named, labelled, read, resized."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import make_bad_images, run_script
from PIL import Image, ImageOps

import pipeline


def test_find_images_sorted_each_once_hidden_and_foreign_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "b/c/x.WebP", "b/notes.txt", ".git/z.png", "b/._1.png"):
        file = tmp_path / "top" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "top/b/loop").symlink_to(tmp_path / "top")
    (tmp_path / "top/again.png").symlink_to("b/1.png")
    (tmp_path / "raw.data").touch()
    found = [
        str(i.path) for i in pipeline.find_images(["top", "top/b", "raw.data", "top/a.jpeg", "gone.jpg"])
    ]
    assert found == ["top/a.jpeg", "top/again.png", "top/b/2.JPG", "top/b/c/x.WebP", "raw.data", "gone.jpg"]
    os.chdir("top/b")
    inside = ["1.png", "2.JPG", "c/x.WebP", "loop/a.jpeg"]  # the loop leads out of the folder given, once
    assert [str(i.path) for i in pipeline.find_images(["."])] == inside


@pytest.mark.parametrize(
    ("folders", "name", "expected"),
    [
        (("faces", "df"), "1.png", ("df", "", "faces/df/1.png")),
        (("faces", "Real"), "1.png", ("real", "", "faces/Real/1.png")),
        (("real", "fake"), "1.png", ("df", "", "real/fake/1.png")),
        (("faces", "df", "clip7"), "000003.png", ("df", "", "faces/df/clip7")),
        (("df",), "celebdf-id2-id3-5face0.jpg", ("df", "celebdf", "celebdf-id2-id3")),
        (("people",), "1.png", ("", "", "people/1.png")),
        ((), "dfdc-abc-0.jpg", ("", "dfdc", "dfdc-abc")),
        (("real",), "my-clip-000012.png", ("real", "", "my-clip")),
        (("real",), "my-clip-1000012.png", ("real", "", "my-clip")),
    ],
)
def test_label_source_and_video_from_names(tmp_path, monkeypatch, folders, name, expected):
    monkeypatch.chdir(tmp_path)
    path = pipeline.Path(*folders, name)
    image = pipeline.parse_labels(path, folders)
    assert image == (path, *expected, False)


def test_every_kind_of_image_is_read_as_upright_rgb(tmp_path, photo):
    rgb = np.asarray(photo.convert("RGB"))
    grey = photo.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    for name, image, options in (
        ("rgb.png", photo, {}),
        ("rgba.png", photo.convert("RGBA"), {}),
        ("turned.png", photo.rotate(90, expand=True), {"exif": exif}),
        ("rgb.tif", photo, {}),
        ("first.gif", photo, {"save_all": True, "append_images": [grey.convert("RGB")]}),
    ):
        image.save(tmp_path / name, **options)
        read = pipeline.read_image(tmp_path / name)
        assert read.dtype == np.uint8
        tolerance = 40 if name.endswith("gif") else 0  # 256 colours
        assert np.abs(read.astype(int) - rgb).mean() <= tolerance / 10, name
        if not tolerance:
            np.testing.assert_array_equal(read, rgb, name)
    wide = np.asarray(grey, np.uint16) * 257
    palette = photo.quantize(200)
    palette.info["transparency"] = 3
    for name, image in (
        ("grey.png", grey),
        ("16bit.png", Image.fromarray(wide)),
        ("alpha.png", grey.convert("LA")),
        ("grey.jpg", grey),
    ):
        image.save(tmp_path / name)
        read = pipeline.read_image(tmp_path / name)
        assert read.shape == rgb.shape
        assert np.abs(read - np.asarray(grey, int)[..., None]).mean() <= (5 if name.endswith("jpg") else 0)
    Image.fromarray(np.full((64, 64), 70_000, np.int32)).save(tmp_path / "32bit.tif")
    with pytest.raises(ValueError, match="70000 to 70000: must have 8 or 16 bits"):
        pipeline.read_image(tmp_path / "32bit.tif")
    palette.save(tmp_path / "palette.png")
    assert np.abs(pipeline.read_image(tmp_path / "palette.png") - rgb.astype(int)).mean() < 6
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(pipeline.read_image(tmp_path / "cmyk.jpg") - rgb.astype(int)).mean() < 6
    Image.fromarray(np.zeros((20, 20_000, 3), np.uint8)).save(tmp_path / "wide.png")
    assert pipeline.load_face(tmp_path / "wide.png", pipeline.View()).shape == (256, 256, 3)


def test_bad_images_raise_one_line(tmp_path, photo):
    pipeline.detect_faces(np.zeros((64, 64, 3), np.uint8))  # face_recognition would have Pillow accept them
    for name, reason in make_bad_images(tmp_path, photo).items():
        with pytest.raises((OSError, ValueError), match=reason) as caught:
            pipeline.read_image(tmp_path / name)
        assert "\n" not in pipeline.describe_error(caught.value)


def test_resizing_is_pillows(photo):
    image = np.asarray(photo.convert("RGB"))
    nearest = pipeline.resize_face(image, "nearest")
    bilinear = pipeline.resize_face(image, "bilinear")
    np.testing.assert_array_equal(nearest, photo.convert("RGB").resize((256, 256), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(
        bilinear, photo.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    )
    assert (nearest != bilinear).any()


@pytest.mark.parametrize("jpeg", [None, 90])
def test_a_crop_says_how_wide_it_was_cut(tmp_path, photo, jpeg):
    """So that a network sees as much of it as of a face that was cut for it from a video."""
    crop = np.asarray(photo.convert("RGB").resize((200, 200)))
    pipeline.write_crop(crop, tmp_path / "crop", jpeg)
    pipeline.write_crop(crop, tmp_path / "unknown", jpeg, zoom=None)
    assert pipeline.read_zoom(tmp_path / "crop") == 1.3
    assert pipeline.read_zoom(tmp_path / "unknown") is None
    pixels = pipeline.read_image(tmp_path / "crop")
    assert jpeg or (pixels == crop).all()
    middle = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR, (50, 50, 150, 150))
    near, wide, wider = (pipeline.View("bilinear", zoom) for zoom in (0.65, 1.3, 2))
    whole = pipeline.load_face(tmp_path / "unknown", near)
    np.testing.assert_array_equal(pipeline.load_face(tmp_path / "crop", near), middle)
    np.testing.assert_array_equal(pipeline.load_face(tmp_path / "crop", wide), whole)
    np.testing.assert_array_equal(pipeline.load_face(tmp_path / "crop", wider), whole)


@pytest.mark.parametrize("zoom", ["9.0", "0.1", "1e9", "1.3 ", "nan", ""])
def test_a_note_that_makes_no_sense_is_ignored(tmp_path, photo, zoom):
    photo.save(tmp_path / "x.jpg", comment=pipeline.CROP_NOTE.format(zoom).encode() + b"\xff" * (zoom == ""))
    assert pipeline.read_zoom(tmp_path / "x.jpg") is None


def test_loading_ahead_is_bounded_and_in_order(tmp_path, photo):
    for i in range(40):
        photo.resize((20 + i, 20)).save(tmp_path / f"{i:02}.png")
    images = pipeline.find_images([tmp_path])
    taken = []
    faces = pipeline.load_faces((taken.append(i) or i for i in images), pipeline.View(), ahead=5)
    next(faces)
    assert len(taken) == 6
    assert len(list(faces)) == 39


def test_labels_come_from_the_folder_given_and_below_not_from_above(tmp_path, photo):
    for clip in ("deepfake/photos", "v/df/clip1", "v/real/clip2"):
        (tmp_path / clip).mkdir(parents=True)
        photo.save(tmp_path / clip / "1.png")
    done = run_script("deepfakes_images.py", "v/df", "v/real", cwd=tmp_path)
    assert "Accuracy per image: all 0.500, df 0.000, real 1.000" in done.stdout
    for paths in (["deepfake/photos"], ["deepfake/photos/1.png"], [tmp_path / "deepfake/photos"]):
        assert "Accuracy" not in run_script("deepfakes_images.py", *paths, cwd=tmp_path).stdout
    assert "Accuracy" not in run_script("deepfakes_images.py", ".", cwd=tmp_path / "v/df").stdout


def test_odd_metadata_costs_no_pixels(shared, tmp_path, photo):
    rgb = np.asarray(photo.convert("RGB"))
    for name in ("png_text_2MB.png", "png_exif_bad.png", "photo.jpe"):
        assert pipeline.read_image(shared / "inputs" / name).shape[2] == 3
    np.testing.assert_array_equal(pipeline.read_image(shared / "inputs/png_exif_bad.png"), rgb)
    icc = np.random.default_rng(0).bytes(3_000_000)
    photo.save(tmp_path / "icc.png", icc_profile=icc)
    photo.save(tmp_path / "exif.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 200)
    photo.convert("RGB").save(
        tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01", quality=95
    )
    for name in ("icc.png", "exif.png"):
        np.testing.assert_array_equal(pipeline.read_image(tmp_path / name), rgb)
    assert np.abs(pipeline.read_image(tmp_path / "exif.jpg").astype(int) - rgb).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(tmp_path, photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.crop((0, 0, 200, 120)).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(pipeline.read_image(tmp_path / "x.png"), wanted)


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_the_formats_of_phones_are_read(tmp_path, photo, suffix):
    if suffix == ".heic":
        pipeline._register_heif()
    photo.convert("RGB").save(tmp_path / f"x{suffix}", quality=90)
    found = pipeline.read_image(tmp_path / f"x{suffix}")
    assert np.abs(found.astype(int) - np.asarray(photo.convert("RGB"))).mean() < 5
    assert [item.path.suffix for item in pipeline.find_images([tmp_path])] == [suffix]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["3f2b8c1e-aa11-4c2d-9e3f-1234567890ab.jpg", "9b1c2d3e-bb22-4d3e-8f4a-abcdef012345.jpg"], None),
        (["IMG-20240727-WA0001.jpg", "IMG-20240727-WA0002.jpg", "IMG-20240728-WA0001.jpg"], None),
        (["Screenshot-2024-07-27-101010.png", "Screenshot-2024-07-28-101112.png"], None),
        (["john-smith-photo.jpg", "john-doe-outdoor.jpg"], None),
        (["mesonet-177-78.jpg", "mesonet-97-98.jpg"], {"mesonet-177", "mesonet-97"}),
        (["celebdf-id9id4-7face0.jpg", "celebdf-id9-8face0.jpg"], {"celebdf-id9id4", "celebdf-id9"}),
        (
            ["dfdcpair-abc-0.jpg", "dfdcpair-abc-xyz.jpg", "dfdcpair-def-0.jpg"],
            {"dfdcpair-abc", "dfdcpair-def"},
        ),
    ],
)
def test_names_are_data_sets_only_where_they_look_like_it(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    items = pipeline.find_images([tmp_path])
    if found is None:
        assert {(item.dataset, item.video) for item in items} == {("", str(item.path)) for item in items}
    else:
        assert {item.video for item in items} == found
        assert len({item.dataset for item in items}) == 1


def test_a_folder_is_no_data_set(tmp_path):
    for name in ("a-1", "a-2"):
        (tmp_path / f"clip-faces/df/v1/clip-{name}.jpg").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"clip-faces/df/v1/clip-{name}.jpg").touch()
    assert {Path(item.video).name for item in pipeline.find_images([tmp_path / "clip-faces"])} == {"v1"}


def test_videos_of_a_folder_are_videos_each(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "df/set1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "df/set1" / name).touch()
    items = [item for item, _ in pipeline.find_media([tmp_path / "df"])[0]]
    assert [Path(item.video).name for item in items] == ["a.mp4", "b.mp4"]


def test_a_tree_deeper_than_python_calls(tmp_path, photo, monkeypatch):
    """And, at its end, deeper than a path can be long: that is told."""
    monkeypatch.chdir(tmp_path)
    photo.save("plain.png")
    os.mkdir("top")
    folder = os.open("top", os.O_RDONLY)
    for depth in range(2100):
        if depth == 1500:
            os.link("plain.png", "deep.png", dst_dir_fd=folder)
        os.mkdir("a", dir_fd=folder)
        below = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    found = pipeline.find_images(["top"])
    assert [image.path.name for image in found] == ["deep.png", "a"]
    with pytest.raises(OSError, match="too long"):
        pipeline.read_image(found[1].path)
    subprocess.run(["rm", "-r", "top"], check=True)  # pytest's own way is recursive


def test_links_in_circles_are_followed_once(tmp_path, photo):
    photo.save(tmp_path / "x.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "there").symlink_to("back")
    (tmp_path / "back").symlink_to("there")
    found = [image.path.name for image in pipeline.find_images([tmp_path])]
    assert found == ["self.png", "x.png"]
    with pytest.raises(OSError, match="Too many levels"):
        pipeline.read_image(tmp_path / "self.png")


def test_outputs_are_never_taken_for_parts_of_an_extraction():
    paths = [
        Path(name) for name in ("doubtful.mp4", "person1.mp4", "a/person2.mp4", ".writing-x.mp4", "x.mp4")
    ]
    names = pipeline.name_outputs([pipeline.FoundFile(path, "x", path.parts[:-1]) for path in paths])
    assert names == ["doubtful.mp4", "person1.mp4", "a/person2.mp4", "writing-x", "x"]
