# SPDX-License-Identifier: Apache-2.0
"""Every kind of image file is read correctly or is an ImageFault with its reason."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import resource
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pointdet.data import images
from pointdet.data.images import ImageFault, read_image, read_size
from pointdet.data.library_output import without_library_output

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


def png_of(height: int, width: int) -> bytes:
    """A PNG whose header claims this size, with the pixels of a small one."""
    data = bytearray(encode(np.zeros((8, 8, 3), np.uint8), ".png"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg_of(height: int, width: int) -> bytes:
    data = bytearray(encode(np.zeros((8, 8, 3), np.uint8), ".jpg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("make", [png_of, jpeg_of])
def test_a_file_that_is_too_small_for_its_size_is_a_fault(
    tmp_path: Path, make: Callable[[int, int], bytes]
) -> None:
    path = tmp_path / "small.png"
    path.write_bytes(make(30_000, 32_000))
    assert path.stat().st_size < 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ImageFault, match=r"small.png claims to have 30000 x 32000 pixels .*, but has only \d+ bytes"
    ):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    assert read_size(path) == (30_000, 32_000)


def test_an_image_that_does_not_fit_into_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encode(np.zeros((6000, 6000), np.uint8), ".png"))
    assert read_image(path).shape == (6000, 6000, 3)
    monkeypatch.setattr("pointdet.data.image_header.available_bytes", lambda: 1 << 28)
    with pytest.raises(
        ImageFault, match="large.png claims to have 6000 x 6000 .* do not fit into the memory"
    ):
        read_image(path)


def test_more_pixels_than_pillow_allows(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_of(20_000, 20_000))
    assert read_size(path) == (20_000, 20_000)


def test_sides_that_opencv_cannot_transform(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    path.write_bytes(encode(np.zeros((8, 40_001, 3), np.uint8), ".png"))
    with pytest.raises(
        ImageFault, match="strip.png is 8 x 40001 pixels .* only images with sides of up to 32766"
    ):
        read_image(path)


def test_a_pipe_is_a_fault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, read_size):
        with pytest.raises(ImageFault, match="pipe.png cannot be read: it is not a file"):
            read(tmp_path / "pipe.png")


def test_a_path_with_a_nul_character_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ImageFault, match="cannot be read: embedded null byte"):
        read_image(f"{tmp_path}/a\0.png")


def damaged(picture: Pixels, suffix: str) -> bytes:
    data = bytearray(encode(picture, suffix))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_damaged_files_print_nothing(
    tmp_path: Path, picture: Pixels, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"damaged{suffix}"
    for content in (damaged(picture, suffix), encode(picture, suffix)[:-20]):
        path.write_bytes(content)
        with suppress(ImageFault):
            read_image(path)
    assert capfd.readouterr() == ("", "")


def test_messages_of_c_libraries_return_after_the_block(capfd: pytest.CaptureFixture[str]) -> None:
    library = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(library, "stderr")
    with without_library_output(), without_library_output():
        library.fputs(b"dropped\n", ctypes.c_void_p(stream.value))
    library.fputs(b"printed\n", ctypes.c_void_p(stream.value))
    assert capfd.readouterr().err == "printed\n"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm"])
def test_sizes_from_headers(tmp_path: Path, picture: Pixels, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(encode(picture, suffix))
    assert read_size(tmp_path / f"a{suffix}") == (HEIGHT, WIDTH)


@pytest.mark.parametrize(("kind", "orientation"), [("JPEG", 6), ("PNG", 8), ("JPEG", 3), ("WEBP", 5)])
def test_sizes_from_headers_after_exif(tmp_path: Path, picture: Pixels, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a", picture, format=kind, exif=exif)
    assert read_size(path) == ((WIDTH, HEIGHT) if orientation in (5, 6, 8) else (HEIGHT, WIDTH))


def test_size_of_a_jpeg_2000_file(tmp_path: Path, picture: Pixels) -> None:
    assert read_size(save(tmp_path / "a.jp2", picture)) == (HEIGHT, WIDTH)


def test_sizes_of_lossy_and_lossless_webp(tmp_path: Path, picture: Pixels) -> None:
    for lossless in (True, False):
        assert read_size(save(tmp_path / "a.webp", picture, lossless=lossless)) == (HEIGHT, WIDTH)


class Storage:
    """Opening a file fails `failures` times."""

    def __init__(self, failures: int, number: int) -> None:
        self.failures, self.number, self.attempts = failures, number, 0

    def __call__(self, path: str, flags: int) -> int:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise OSError(self.number, os.strerror(self.number))
        return os.open(path, flags)


def read_from(storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Pixels:
    path = folder / "a.png"
    cv2.imwrite(str(path), np.full((4, 6, 3), 7, np.uint8))
    monkeypatch.setattr(images, "_opener", storage)
    monkeypatch.setattr(images.time, "sleep", lambda seconds: None)
    return read_image(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_read_error_of_network_storage_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage = Storage(3, number)
    assert (read_from(storage, tmp_path, monkeypatch) == 7).all() and storage.attempts == 4
    with pytest.raises(ImageFault, match=f"cannot be read: {os.strerror(number)}"):
        read_from(Storage(4, number), tmp_path, monkeypatch)


def test_a_missing_file_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(9, errno.ENOENT)
    with pytest.raises(ImageFault, match="cannot be read: No such file"):
        read_from(storage, tmp_path, monkeypatch)
    assert storage.attempts == 1
