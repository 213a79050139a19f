"""Pixels of image files: wide values are scaled, colours are Pillow's, and what has no range is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxquant.data import open_image
from fxquant.data.pixels import image_mode
from fxquant.errors import InputError

RAMP = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)


def pixels(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(open_image(file))


def save(file: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Path:
    Image.fromarray(values).save(file)
    return file


def write_tiff(file: Path, bits: int, data: bytes, width: int, kind: int = 1, black: int = 1, end: str = "<") -> Path:
    """
    Write a grey TIFF of one row by hand, as Pillow does not write all of them.

    kind: 1 unsigned, 2 signed, 3 floats. black: 0 where white is zero. end: ``<`` or ``>``, the order of bytes.
    """
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, black), (273, 8), (277, 1), (278, 1), (279, len(data))]
    entries = b"".join(struct.pack(f"{end}HHII", number, 4, 1, value) for number, value in [*tags, (339, kind)])
    header = (b"II*\0" if end == "<" else b"MM\0*") + struct.pack(f"{end}I", 8 + len(data)) + data
    file.write_bytes(header + struct.pack(f"{end}H", len(tags) + 1) + entries + struct.pack(f"{end}I", 0))
    return file


@pytest.mark.parametrize("ending", ["png", "tif", "jp2"])
def test_sixteen_bits_are_scaled(tmp_path: Path, ending: str) -> None:
    file = save(tmp_path / f"a.{ending}", RAMP.astype(np.uint16) * 257)
    assert np.array_equal(pixels(file)[..., 1], RAMP)


def test_a_dark_image_of_sixteen_bits_stays_dark(tmp_path: Path) -> None:
    assert pixels(save(tmp_path / "a.png", RAMP.astype(np.uint16))).max() == 1


@pytest.mark.parametrize(("kind", "factor"), [("f4", 1 / 255), ("f4", 1), ("f4", 257), ("i4", 1), ("i4", 257)])
def test_floats_and_wide_integers_are_scaled_by_the_range_they_use(tmp_path: Path, kind: str, factor: float) -> None:
    file = save(tmp_path / "a.tif", (RAMP * np.float64(factor)).astype(kind))
    assert np.array_equal(pixels(file)[..., 2], RAMP)


def test_twelve_bits_and_white_as_zero(tmp_path: Path) -> None:
    twelve = write_tiff(tmp_path / "a.tif", 12, bytes([0xFF, 0xF8, 0x00]), 2)  # 4095 and 2048
    assert pixels(twelve)[0, :, 0].tolist() == [255, 128]
    inverted = write_tiff(tmp_path / "b.tif", 16, struct.pack("<HH", 0, 65535), 2, black=0)
    assert pixels(inverted)[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("end", ["<", ">"])
@pytest.mark.parametrize(
    ("bits", "kind", "code", "values", "shown"),
    [
        (16, 1, "H", [0, 255, 32768, 65535], [0, 1, 128, 255]),
        (16, 2, "h", [0, 129, 16384, 32767], [0, 1, 128, 255]),
        (32, 2, "i", [0, 1, 128, 255], [0, 1, 128, 255]),
        (32, 2, "i", [0, 257, 32896, 65535], [0, 1, 128, 255]),
        (32, 3, "f", [0, 0.25, 0.5, 1], [0, 64, 128, 255]),
        (32, 3, "f", [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_signs_and_the_order_of_bytes_are_heeded(
    tmp_path: Path, end: str, bits: int, kind: int, code: str, values: list[float], shown: list[int]
) -> None:
    file = write_tiff(tmp_path / "a.tif", bits, struct.pack(f"{end}4{code}", *values), 4, kind, end=end)
    assert pixels(file)[0, :, 0].tolist() == shown


def test_values_below_black_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its values are from -1 to 32767"):
        open_image(write_tiff(tmp_path / "a.tif", 16, struct.pack("<2h", -1, 32767), 2, 2))
    with pytest.raises(InputError, match="its values are signed bytes"):
        open_image(write_tiff(tmp_path / "a.tif", 8, struct.pack("<2b", -1, 127), 2, 2))


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_half_a_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = save(tmp_path / "a.png", np.random.RandomState(0).randint(0, 255, (64, 64)).astype(kind))
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(InputError, match="truncated"):
        open_image(file)


def test_a_pgm_file_says_its_range(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1000\n" + struct.pack(">HH", 1, 1000))
    assert pixels(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("values", [[0, 1.3], [0, 256.5], [-1, 1], [0, 70000], [0, float("nan")], [0, float("inf")]])
def test_values_of_no_known_range_are_refused(tmp_path: Path, values: list[float]) -> None:
    file = save(tmp_path / "a.tif", np.array([values], np.float32))
    with pytest.raises(InputError, match=rf"cannot read the image '{file}': its values are from .* 8 or 16 bits"):
        open_image(file)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_colours_are_those_of_pillow(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(np.dstack([RAMP, RAMP.T, RAMP[::-1]])).convert("RGB" if mode == "LAB" else mode).convert(mode).save(
        file
    )
    assert np.array_equal(pixels(file), np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.parametrize("ending", ["gif", "webp", "avif", "bmp", "jfif"])
def test_other_formats_are_read(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    Image.fromarray(RAMP).save(file)
    assert np.abs(pixels(file)[..., 0].astype(int) - RAMP).mean() < 4


def test_exif_turns_nothing_as_in_timm(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP[:, :20]).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (20, 32)


def test_models_of_one_channel_get_grey(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", np.dstack([RAMP, RAMP * 0, RAMP * 0]))
    assert np.array_equal(np.asarray(open_image(file, image_mode(1))), np.asarray(Image.open(file).convert("L")))
    assert image_mode(3) == "RGB"
    with pytest.raises(InputError, match=r"3 channels \(RGB\) or 1 \(grey\), the model takes 4"):
        image_mode(4)
