"""The 92 features of the elements H (1) to Fm (100) that both CGCNN models read.

Each element is described by nine properties, each put into one of a few classes and written
one-hot (Xie and Grossman 2018, supplement). Below, one character per element names the class within
the property (0-9, then a-z); a dot stands for an element without a value. The classes are those
of ``atom_init.json`` in txie-93/cgcnn, (c) 2018 Tian Xie, MIT license: see
``LICENSE.txie-93-cgcnn`` beside this file.
"""

from __future__ import annotations

import numpy as np

__all__ = ["MAX_Z", "NUM_FEATURES", "element_features"]

MAX_Z = 100
NUM_FEATURES = 92

# Property, number of classes, classes of Z = 1..100 (ten elements to a blank-separated piece).
_CLASSES = (
    (
        "group (0: f block)",
        19,
        "1i12defghi 12defghi12 3456789abc defghi1234 56789abcde"
        " fghi120000 0000000000 3456789abc defghi1200 0000000000",
    ),
    (
        "period",
        7,
        "0011111111 2222222233 3333333333 3333334444 4444444444"
        " 4444555555 5555555555 5555555555 5555556666 6666666666",
    ),
    (
        "electronegativity",
        10,
        "4.1345789. 1233457.01 2233333433 34457.0122 3444544334"
        " 4466011111 .1.1.2222. 1223344453 33344.0112 2322......",
    ),
    (
        "covalent radius",
        10,
        "0043222111 5544333376 5444443334 4444348765 5544444455"
        " 5444976666 6666666666 6554444444 5555558776 6666666666",
    ),
    (
        "valence electrons",
        12,
        "0101234567 0123456701 23456789ab 2345670123 45678bab23"
        " 4567011111 1111111111 23456789ab 2345670111 1111111111",
    ),
    (
        "first ionization energy",
        10,
        "6914456678 1323556702 2333333334 2344560222 3333343423"
        " 4455012212 2222222222 1333344445 2334450112 2222222222",
    ),
    (
        "electron affinity",
        10,
        "5.5046269. 5.56579.54 4455.4566. 56579.5445 5556656.46"
        " 6794545557 ..5.65..64 444546677. 55578.545. ..........",
    ),
    (
        "block",
        4,
        "0000111111 0011111100 2222222222 1111110022 2222222211"
        " 1111003333 3333333333 2222222222 1111110033 3333333333",
    ),
    (
        "atomic volume",
        10,
        "4630004444 5423445686 4321111112 3334579754 3222222344"
        " 5568975555 .565555546 4332222224 4555...855 435.55....",
    ),
)


def element_features() -> np.ndarray:
    """Return the features as (119, 92) float64, row ``Z``.

    Rows without features (0 and those above 100) are NaN, so that an element which the table does
    not know can never be answered for silently.
    """
    table = np.full((119, NUM_FEATURES), np.nan)
    table[1 : MAX_Z + 1] = 0.0
    first = 0
    for _, size, classes in _CLASSES:
        for z, letter in enumerate(classes.replace(" ", ""), start=1):
            if letter != ".":
                table[z, first + int(letter, 36)] = 1.0
        first += size
    return table
