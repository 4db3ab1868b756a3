"""The query language: what it means, against plain Python; and what is no query."""

from __future__ import annotations

import fnmatch
import operator
import sqlite3

import numpy as np
import pytest
from ase.data import atomic_numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ase_nnp.datasets.catalog.grammar import parse
from ase_nnp.datasets.catalog.query_tree import Everything
from ase_nnp.errors import DatasetError, QueryError

OPS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBERS = {"natoms": (3, 20), "energy": (-6, 6), "adsorption_energy": (-6, 6), "fmax": (0, 4)}
TEXTS = {
    "adsorbate": ("*CO", "*OH", "*H", "*O", "*NH3", "*none"),
    "bulk_id": ("mp-0", "mp-3", "mp-6", "x"),
    "sid": ("1000", "random1013", "1050", "7"),
    "role": ("adslab", "slab"),
}
ELEMENTS = ("Cu", "Pt", "Al", "C", "O", "H", "Au")


def facts_of(dataset, number):
    """What a record says, read from the file itself and not from the index."""
    atoms = dataset[number]
    info, results = atoms.info, (atoms.calc.results if atoms.calc else {})
    free = np.setdiff1d(np.arange(len(atoms)), atoms.constraints[0].index)
    tags = atoms.get_tags()
    energy, forces = results.get("energy"), results.get("forces")
    reference = info.get("reference_energy")
    return {
        "natoms": len(atoms),
        "energy": energy,
        "adsorption_energy": None if None in (energy, reference) else energy - reference,
        "fmax": None if forces is None else float(np.linalg.norm(forces[free], axis=1).max()),
        "adsorbate": info.get("adsorbate"),
        "bulk_id": info["bulk_id"],
        "sid": str(info["sid"]).removeprefix("random"),
        "role": "adslab" if (tags == 2).any() else "slab",
        "numbers": atoms.numbers,
        "tags": tags,
    }


@st.composite
def conditions(draw, depth=0):
    """A query as text, and the same as a Python function."""
    kind = draw(st.integers(0, 6 if depth < 3 else 4))
    if kind == 0:
        name = draw(st.sampled_from(sorted(NUMBERS)))
        value = draw(st.floats(*NUMBERS[name], allow_nan=False).map(lambda x: round(x, 3)))
        op = draw(st.sampled_from(sorted(OPS)))
        return f"{name} {op} {value}", lambda r: r[name] is not None and OPS[op](r[name], value)
    if kind == 1:
        name = draw(st.sampled_from(sorted(TEXTS)))
        value = draw(st.sampled_from(TEXTS[name]))
        bare = value.removeprefix("random") if name == "sid" else value
        op = draw(st.sampled_from(["=", "!="]))
        return f'{name} {op} "{value}"', lambda r: r[name] is not None and OPS[op](r[name], bare)
    if kind == 2:
        symbol = draw(st.sampled_from(ELEMENTS))
        scope = draw(st.sampled_from(["", "slab.", "adsorbate."]))
        op, count = draw(st.sampled_from(sorted(OPS))), draw(st.integers(0, 5))

        def counted(r):
            inside = r["tags"] == 2
            part = {"": r["tags"] >= 0, "slab.": ~inside, "adsorbate.": inside}[scope]
            return OPS[op](int((r["numbers"][part] == atomic_numbers[symbol]).sum()), count)

        return f"{scope}{symbol} {op} {count}", counted
    if kind == 3:
        name = draw(st.sampled_from(sorted(TEXTS)))
        values = draw(st.lists(st.sampled_from(TEXTS[name]), min_size=1, max_size=3))
        bare = [v.removeprefix("random") for v in values]
        listed = ", ".join(f"'{value}'" for value in values)
        word, expected = draw(st.sampled_from([("in", True), ("not in", False)]))
        return f"{name} {word} ({listed})", lambda r: (r[name] in bare) is expected
    if kind == 4:
        name = draw(st.sampled_from(["adsorbate", "bulk_id"]))
        pattern = draw(st.sampled_from(["*O*", "?O", "mp-?", "[*", "**H*"]))
        glob = pattern.replace("[", "[[]")
        return (
            f"{name} like '{pattern}'",
            lambda r: r[name] is not None and fnmatch.fnmatchcase(r[name], glob),
        )
    if kind == 5:
        text, meets = draw(conditions(depth + 1))
        return f"not ({text})", lambda r: not meets(r)
    word, join = draw(st.sampled_from([("and", all), ("or", any)]))
    parts = draw(st.lists(conditions(depth + 1), min_size=2, max_size=3))
    text = f" {word} ".join(f"({part})" for part, _ in parts)
    return text, lambda r: join(meets(r) for _, meets in parts)


@pytest.fixture(scope="module")
def records(indexed):
    return [facts_of(indexed, number) for number in range(len(indexed))]


@pytest.mark.slow
@settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(question=conditions())
def test_an_answer_is_that_of_reading_every_record(indexed, records, question):
    text, meets = question
    expected = [number for number, record in enumerate(records) if meets(record)]
    assert indexed.where(text).positions.tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "adsorbate = '*CO'; drop table records",
        "energy < 3 --",
        "energy = (select max(energy) from records)",
        "1 = 1",
        "adsorbate = *CO",
        "energy <",
        "energy < 'low'",
        "adsorbate < ",
        "natoms between 3",
        "natoms in (3, 4",
        "(energy < 3",
        "energy < 3 energy > 1",
        "adsorbate like 3",
        "natoms like '3*'",
        "Xx",
        "Cu >= 'many'",
        "Cu = -1",
        "lake.Cu",
        "adsorbate = 'unclosed",
        "records.energy < 3",
        "rowid = 3",
        "not",
        "and",
        "energy = 1e999",
        "miller = 'flat'",
        "miller = (1, 1, 1e400)",
        "energy is 3",
        "energy not < 3",
        "\0",
        "energy < 3 \u2028 or \udcff",
    ],
)
def test_what_is_no_query_is_refused_in_our_words(indexed, text):
    with pytest.raises(QueryError):
        indexed.where(text)


def test_a_mistake_is_named_with_its_place_and_what_was_meant():
    with pytest.raises(QueryError, match=r"character 12: .*'energi'.*did you mean 'energy'"):
        parse("natoms and energi < 3".replace("natoms and", "Cu   and  "))


@pytest.mark.parametrize("text", ["(" * 5000 + "Cu" + ")" * 5000, "not " * 5000 + "Cu"])
def test_a_query_that_nests_too_deeply_is_refused(text):
    with pytest.raises(QueryError, match=r"levels|characters"):
        parse(text)


def test_a_query_of_too_many_conditions_is_refused():
    with pytest.raises(QueryError, match="conditions"):
        parse(" or ".join(["Cu"] * 1000))


def test_values_reach_the_database_as_values(indexed):
    evil = "x' OR 1=1 --"
    assert len(indexed.where(adsorbate=evil)) == 0
    assert len(indexed.where('adsorbate = "x\' OR 1=1 --"')) == 0
    assert len(indexed.where(bulk_id__like="*'*")) == 0
    with pytest.raises(QueryError):
        indexed.where(**{"energy) OR (1": 1})
    assert len(indexed.where()) == 120


def test_the_index_itself_cannot_be_changed_through_its_connection(indexed):
    with pytest.raises((sqlite3.OperationalError, DatasetError)):
        indexed.index(indexed._catalog.path).execute("DELETE FROM records")


def test_keywords_say_the_same_as_the_language(indexed):
    same = [
        ({"adsorbate": "*CO", "contains": ["Cu"]}, "adsorbate = '*CO' and Cu"),
        ({"energy": (-2, 0), "natoms__lt": 9}, "energy between -2 and 0 and natoms < 9"),
        ({"excludes": ["Cu", "O"]}, "not Cu and not O"),
        ({"adsorbate": ["*CO", "*O"]}, "adsorbate in ('*CO', '*O')"),
        ({"adsorbate": None}, "adsorbate is null"),
        ({"miller": (1, 1, 0)}, "miller = '110'"),
        ({"energy": (None, 1)}, "energy <= 1"),
        ({"sid": 1003}, "sid = 'random1003'"),
        ({"fid__in": range(1, 2)}, "fid = 1"),
        ({"bulk_id__like": "mp-?"}, "bulk_id like 'mp-?'"),
        ({"natoms": 4}, "natoms = 4.0"),
    ]
    for keywords, text in same:
        expected = indexed.where(text).positions.tolist()
        assert indexed.where(**keywords).positions.tolist() == expected
    assert indexed.where(elements=["Pt", "O"]).metadata.count("Pt").all()


@pytest.mark.parametrize(
    "keywords",
    [
        {"energy": "low"},
        {"energy": (1, 2, 3)},
        {"energy": float("nan")},
        {"adsorbat": "*CO"},
        {"natoms__about": 3},
        {"contains": ["Xx"]},
        {"natoms__like": "3"},
        {"adsorbate": 3.5},
        {"natoms": 2**70},
        {"adsorbate": "a\0b"},
    ],
)
def test_keywords_that_say_nothing_are_refused(indexed, keywords):
    with pytest.raises(QueryError):
        indexed.where(**keywords)


def test_an_empty_query_is_met_by_every_record(indexed):
    assert parse("  ") == Everything()
    assert len(indexed.where("")) == len(indexed)
