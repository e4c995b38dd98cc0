"""Colours that mean different things in one figure can be told apart, also by the colour-blind."""

import itertools

import numpy as np
import pytest

from hybridrec import figures

PALETTE = {name: getattr(figures, name) for name in ("BLUE", "ORANGE", "GREEN", "RED", "PURPLE", "GREY")}
# What is left of linear RGB with one kind of cone missing: Machado, Oliveira & Fernandes 2009, table 1, severity 1.
MISSING = {
    "no cone": np.eye(3),
    "red cones (protanopia)": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                               [-0.003882, -0.048116, 1.051998]],
    "green cones (deuteranopia)": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                   [-0.011820, 0.042940, 0.968881]],
    "blue cones (tritanopia)": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                                [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
_TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
_WHITE = [0.95047, 1, 1.08883]
# CIE76; about 2.3 is just noticeable side by side. Lines and markers are small and apart, so more is asked.
ENOUGH = 15


def linear(colour: str) -> np.ndarray:
    """Linear RGB of ``#rrggbb``."""
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(colour: str, missing: str) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as somebody sees it."""
    seen = np.clip(np.asarray(MISSING[missing]) @ linear(colour), 0, 1)
    xyz = np.asarray(_TO_XYZ) @ seen / _WHITE
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one: str, other: str, missing: str) -> float:
    return float(np.linalg.norm(lab(one, missing) - lab(other, missing)))


@pytest.mark.parametrize("missing", MISSING)
def test_any_two_colours_can_be_told_apart(missing):
    pairs = itertools.combinations(PALETTE, 2)
    close = {pair: d for pair in pairs if (d := difference(*(PALETTE[name] for name in pair), missing)) < ENOUGH}
    assert close == {}


@pytest.mark.parametrize("missing", MISSING)
def test_every_colour_stands_out_from_the_paper(missing):
    assert min(difference(colour, "#ffffff", missing) for colour in PALETTE.values()) > 2 * ENOUGH


def test_colours_that_the_colour_blind_confuse_are_found():
    red, green = "#c00000", "#4f7f00"
    assert difference(red, green, "no cone") > 4 * ENOUGH
    assert min(difference(red, green, missing) for missing in MISSING) < ENOUGH


def test_white_and_black_are_as_far_apart_as_can_be():
    assert difference("#000000", "#ffffff", "no cone") == pytest.approx(100, abs=0.1)
