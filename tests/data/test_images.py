# SPDX-License-Identifier: Apache-2.0
"""Every kind of image file is read correctly or is an ImageFault with its reason."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pointdet.data.images import ImageFault, read_image, read_size

HEIGHT, WIDTH = 24, 40
Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def picture() -> Pixels:
    """Smooth, so that JPEG preserves it, and different in every corner."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 6, y * 10, 255 - x * 6], axis=2).astype(np.uint8)


def encode(image: Pixels, suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, image)[1].tobytes())


def save(path: Path, image: Pixels, mode: str = "RGB", **options: object) -> Path:
    Image.fromarray(image[..., ::-1]).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_formats_are_read_as_bgr(tmp_path: Path, picture: Pixels, suffix: str) -> None:
    path = tmp_path / f"größe{suffix}"
    path.write_bytes(encode(picture, suffix))
    image = read_image(path, HEIGHT, WIDTH)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture).mean() < 4


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("missing", [0.5, 3])
def test_truncated_files_are_faults(tmp_path: Path, picture: Pixels, suffix: str, missing: float) -> None:
    data = encode(picture, suffix)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * missing)] if missing < 1 else data[: -int(missing)])
    with pytest.raises(ImageFault, match=f"cut{suffix} is truncated"):
        read_image(path)


def test_truncated_progressive_jpeg_is_a_fault(tmp_path: Path, picture: Pixels) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", progressive=True)
    path = tmp_path / "progressive.jpg"
    path.write_bytes(buffer.getvalue()[:-40])
    with pytest.raises(ImageFault, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_files_that_are_not_images_are_faults(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageFault, match="page.jpg"):
        read_image(path)
    with pytest.raises(ImageFault, match="page.jpg"):
        read_size(path)


def test_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ImageFault, match=r"none.jpg cannot be read: No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageFault, match=r"none.jpg cannot be read: No such file"):
        read_size(tmp_path / "none.jpg")


def test_grey_becomes_three_equal_channels(tmp_path: Path, picture: Pixels) -> None:
    image = read_image(save(tmp_path / "grey.png", picture, "L"))
    assert image.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_cmyk_is_converted(tmp_path: Path, picture: Pixels) -> None:
    image = read_image(save(tmp_path / "cmyk.jpg", picture, "CMYK", quality=95))
    assert np.abs(image.astype(int) - picture).mean() < 6


def test_16_bits_are_converted_to_8(tmp_path: Path, picture: Pixels) -> None:
    path = tmp_path / "deep.png"
    assert cv2.imwrite(str(path), picture.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(path), picture)


def test_alpha_is_dropped(tmp_path: Path, picture: Pixels) -> None:
    path = tmp_path / "alpha.png"
    assert cv2.imwrite(str(path), np.dstack([picture, np.full((HEIGHT, WIDTH), 9, np.uint8)]))
    np.testing.assert_array_equal(read_image(path), picture)


def test_palette_is_converted_to_bgr(tmp_path: Path) -> None:
    flat = np.full(
        (HEIGHT, WIDTH, 3), (51, 204, 102), np.uint8
    )  # a web-safe colour, which the palette contains
    np.testing.assert_array_equal(read_image(save(tmp_path / "palette.png", flat, "P")), flat)


def save_with_exif(path: Path, image: Pixels, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, image, exif=exif, quality=95)


def test_exif_is_applied_when_the_annotated_size_is_that_after_rotation(
    tmp_path: Path, picture: Pixels
) -> None:
    path = save_with_exif(tmp_path / "rotated.jpg", picture, 6)
    rotated = np.rot90(picture, -1).astype(int)
    assert np.abs(read_image(path, WIDTH, HEIGHT) - rotated).mean() < 4
    assert np.abs(read_image(path) - rotated).mean() < 4
    assert read_size(path) == (WIDTH, HEIGHT)


def test_exif_is_not_applied_when_the_annotated_size_is_that_of_the_stored_pixels(
    tmp_path: Path, picture: Pixels
) -> None:
    path = save_with_exif(tmp_path / "rotated.jpg", picture, 6)
    assert np.abs(read_image(path, HEIGHT, WIDTH) - picture.astype(int)).mean() < 4


def test_exif_is_applied_when_both_sizes_are_the_same(tmp_path: Path, picture: Pixels) -> None:
    path = save_with_exif(tmp_path / "upside_down.jpg", picture, 3)
    assert np.abs(read_image(path, HEIGHT, WIDTH) - np.rot90(picture, 2).astype(int)).mean() < 4


def test_another_size_is_a_fault(tmp_path: Path, picture: Pixels) -> None:
    path = save(tmp_path / "other.png", picture)
    with pytest.raises(ImageFault, match=r"other.png is 24 x 40 pixels .* its annotated size is 25 x 40"):
        read_image(path, HEIGHT + 1, WIDTH)


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_reduced_image(tmp_path: Path, picture: Pixels, reduction: int, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(encode(picture, suffix))
    image = read_image(path, HEIGHT, WIDTH, reduction)
    blocks = picture.reshape(HEIGHT // reduction, reduction, WIDTH // reduction, reduction, 3)
    assert image.shape == (HEIGHT // reduction, WIDTH // reduction, 3)
    assert np.abs(image - blocks.mean((1, 3))).mean() < 4
    with pytest.raises(ImageFault, match=f"24 x 40 pixels .* annotated size is {HEIGHT + 8} x {WIDTH}"):
        read_image(path, HEIGHT + 8, WIDTH, reduction)


def test_reduced_image_of_slightly_another_size_is_a_fault(tmp_path: Path, picture: Pixels) -> None:
    path = save(tmp_path / "short.jpg", picture[1:])
    with pytest.raises(ImageFault, match=r"short.jpg is 23 x 40 pixels .* its annotated size is 24 x 40"):
        read_image(path, HEIGHT, WIDTH, 2)


def test_reduced_image_with_exif(tmp_path: Path, picture: Pixels) -> None:
    path = save_with_exif(tmp_path / "rotated.jpg", picture, 6)
    rotated, stored = read_image(path, WIDTH, HEIGHT, 2), read_image(path, HEIGHT, WIDTH, 2)
    assert rotated.shape == (WIDTH // 2, HEIGHT // 2, 3)
    np.testing.assert_array_equal(rotated, np.rot90(stored, -1))
