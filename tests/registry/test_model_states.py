"""What is said of models before they are loaded: state, metadata, citation."""

from __future__ import annotations

import json
import types
from importlib import metadata

import pytest

import ase_nnp
import ase_nnp.registry.citation  # before a test replaces the registry
from ase_nnp import Correction, ModelFamily, Pretrained
from ase_nnp.cli import main
from ase_nnp.errors import PluginError, UnknownModelError
from ase_nnp.registry.hookspecs import hookimpl
from ase_nnp.registry.installed import (
    Registry,
    broken_state,
    family_state,
    installed,
    unmet_requirements,
)


def plugin_with(**hooks):
    module = types.ModuleType("made_up")
    for name, value in hooks.items():
        setattr(module, name, hookimpl(value) if callable(value) else value)
    return module


def family(name, **changes):
    return ModelFamily(name=name, summary="made up", build=lambda config: None, **changes)


def imports(code):
    """A loader that runs ``code`` as an import would."""

    def load():
        exec(code, {"__name__": "made_up"})

    return load


def offering(*families, **attributes):
    def register_models(register):
        for one in families:
            register(one)

    return lambda: plugin_with(register_models=register_models, **attributes)


DEFECTS = {
    "missing dependency": imports("import acme_kernels.fast"),
    "import error": imports("from json import no_such_name"),
    "wrong hook": lambda: plugin_with(register_modles=lambda register: None),
    "newer interface": offering(family("future"), ase_nnp_api=99),
    "conflict": offering(family("taken")),
    "broken": imports("1 / 0"),
}


@pytest.fixture
def registry():
    made = Registry()
    made.add_plugin("first", offering(family("taken")))
    for kind, load in DEFECTS.items():
        made.add_plugin(kind.replace(" ", "_"), load)
    return made


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_kind_of_defect_is_named(registry, kind):
    error = registry.broken[kind.replace(" ", "_")]
    state = broken_state(error)
    assert state.kind == kind
    assert state.reason
    with pytest.raises(PluginError, match=f"cannot be used: {kind}"):
        registry.family(kind.replace(" ", "_"))


def test_what_mends_it_is_said(registry):
    assert broken_state(registry.broken["missing_dependency"]).fix == "pip install acme_kernels"
    assert "upgrade ase_nnp" in broken_state(registry.broken["newer_interface"]).fix


def test_other_ways_to_get_a_hook_wrong():
    made = Registry()
    made.add_plugin("odd", lambda: plugin_with(register_models=lambda register: register("x")))
    bare = types.ModuleType("bare")
    bare.register_models = lambda register: None  # @hookimpl was forgotten
    made.add_plugin("bare", lambda: bare)
    made.add_plugin("argument", lambda: plugin_with(register_models=lambda registre: None))
    for name in ("odd", "bare", "argument"):
        assert broken_state(made.broken[name]).kind == "wrong hook", made.broken[name]
    assert "@hookimpl" in str(made.broken["bare"])
    assert "{'registre'}" in broken_state(made.broken["argument"]).reason
    assert "the hooks are register_models(register)" in str(made.broken["argument"])


def test_a_plugin_that_offers_something_else_says_what():
    made = Registry()
    made.add_plugin("other", offering(family("its_name")))
    made.add_plugin("nothing", offering())
    made.distributions = {"other": "other 1.0", "nothing": "nothing 1.0"}
    with pytest.raises(UnknownModelError, match="It registers: ModelFamily its_name"):
        made.family("other")
    with pytest.raises(UnknownModelError, match="It registers: nothing"):
        made.family("nothing")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("build", None),
        ("elements", "Cu"),
        ("elements", ["Cu"]),
        ("elements", 29),
        ("energy_kind", "totl"),
        ("defaults", ["cutoff"]),
        ("test_config", None),
        ("violations", ["cutoff_is_smooth"]),
    ],
)
def test_a_field_that_cannot_be_meant_is_refused_where_it_is_written(field, value):
    fields = {"name": "morse", "summary": "", "build": len, field: value}
    with pytest.raises(PluginError, match=rf"^'morse': {field} is .*; wanted: "):
        ModelFamily(**fields)
    if field != "energy_kind":
        with pytest.raises(PluginError, match=rf"^'morse': {field} is "):
            Correction(**fields)


def test_a_syntax_error_is_an_import_error():
    made = Registry()
    made.add_plugin("bad", lambda: compile("def (:", "made_up.py", "exec"))
    assert broken_state(made.broken["bad"]).kind == "import error"


def test_a_family_states_the_line_that_installs_what_it_needs():
    needy = family("needy", requires=("no_such_package",))
    assert family_state(needy).fix == "pip install no_such_package"
    extra = family("extra", requires=("no_such_package",), install='pip install "ase_nnp[such]"')
    assert family_state(extra).fix == 'pip install "ase_nnp[such]"'
    assert family_state(extra).kind == "missing dependency"
    assert family_state(family("fine", requires=("json",))).kind == "ok"


def test_a_requirement_that_is_not_met_is_a_conflict(monkeypatch):
    unmet_requirements.cache_clear()
    wanted = ["numpy<1", "pluggy>=1", "nothing_of_that_name>3", 'ase<1; extra == "old"', "???"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    state = family_state(family("pinned"), "some_plugin")
    unmet_requirements.cache_clear()
    assert state.kind == "conflict"
    assert state.reason == f"wants numpy<1, and {metadata.version('numpy')} is installed"


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


def test_the_command_line_shows_every_state(registry, capsys, monkeypatch):
    registry.add_plugin("needy", offering(family("needy", requires=("no_such_package",))))
    monkeypatch.setattr("ase_nnp.registry.installed.installed", lambda: registry)
    monkeypatch.setenv("COLUMNS", "200")
    assert run("models") == 0
    out = capsys.readouterr().out
    assert "pip install no_such_package" in out
    assert "ModuleNotFoundError: No module named 'acme_kernels'" in out
    assert "newer interface" in out
    assert "Traceback" not in out
    assert run("models", "--traceback") == 0
    out = capsys.readouterr().out
    assert "Traceback" in out
    assert "1 / 0" in out or "division by zero" in out
    assert run("models", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["broken_states"]["conflict"]["kind"] == "conflict"
    assert {m["name"]: m["state"] for m in listed["models"]}["needy"] == "missing dependency"
    assert run("models", "show", "conflict") == 2


FIELDS = ("elements", "cutoff", "outputs", "conservative", "pbc", "required_inputs", "energy_kind",
          "energy_reference", "functional", "training_data", "license", "weights_license",
          "bibtex")  # fmt: skip


@pytest.mark.parametrize("name", ["cgcnn", "cgcnn_oc20", "escaip", "facet", "scn"])
def test_the_bundled_families_say_what_they_are(name, capsys):
    assert run("models", "show", name, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert set(FIELDS) <= set(row)
    assert row["bibtex"].startswith("@")
    assert row["cite"].rpartition("/")[2].removeprefix("PhysRevLett.") in row["bibtex"]
    assert run("models", name) == 0
    assert "@" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cgcnn", "cgcnn_oc20", "scn"])
def test_what_is_said_before_loading_is_what_the_model_says(name):
    known = installed().families[name]
    model = ase_nnp.build_model(name, dict(known.test_config), device="cpu")
    if "cutoff" not in known.test_config and "radius" not in known.test_config:
        assert model.cutoff == known.cutoff
    assert model.elements == frozenset(known.elements)


def test_bibtex_entries_are_well_formed():
    import re

    for known in installed().families.values():
        for entry in filter(None, known.bibtex.split("\n\n")):
            assert entry.count("{") == entry.count("}"), known.name
            assert re.match(r"@\w+\{\w+,\n", entry), known.name
            assert re.search(r"\b(title|author) = \{", entry)
            assert re.search(r"\byear = \{\d{4}\}", entry)


def test_cite_takes_names_models_calculators_and_pools():
    from ase_nnp.uncertainty import fit

    by_name = ase_nnp.cite("scn")
    assert "2206.14331" in by_name
    assert "10.1021/acscatal.0c04525" in by_name
    facet = installed().families["facet"]
    model = ase_nnp.build_model("facet", dict(facet.test_config), device="cpu", seed=0)
    assert "2509.08418" in ase_nnp.cite(model)
    assert ase_nnp.cite(ase_nnp.NNPCalculator(model)) == ase_nnp.cite(model)
    other = ase_nnp.build_model("cgcnn_oc20", device="cpu", seed=0)
    other.energy_kind = "total"
    from ase.build import bulk

    cells = [bulk("Cu", a=a) for a in (3.5, 3.6)]
    both = ase_nnp.cite(fit("pool", [model, other], align_on=cells))
    assert "2509.08418" in both
    assert "PhysRevLett.120.145301" in both
    with pytest.raises(UnknownModelError, match="Did you mean 'scn'"):
        ase_nnp.cite("snc")
    with pytest.raises(UnknownModelError):
        ase_nnp.cite(object())


def test_weights_with_a_publication_of_their_own_are_cited_by_their_name(monkeypatch):
    entry = "@misc{weights,\n  title = {Weights},\n  year = {2026}\n}"
    offered = Pretrained(name="big", summary="", source="big.nnp", bibtex=entry)
    known = family("two", cite="https://example.org/a", pretrained=(offered,))
    monkeypatch.setitem(installed().families, "two", known)
    assert ase_nnp.cite("big").endswith(entry)
    assert "https://example.org/a" in ase_nnp.cite("big")


def test_a_model_card_is_shown(monkeypatch, capsys, tmp_path):
    package = tmp_path / "carded"
    package.mkdir()
    (package / "__init__.py").write_text("def build(config): ...\n")
    (package / "card.md").write_text("# Good for copper\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import carded

    offered = Pretrained(name="cu", summary="s", source="cu.nnp", card="card.md")
    known = ModelFamily(name="carded", summary="s", build=carded.build, pretrained=(offered,))
    monkeypatch.setitem(installed().families, "carded", known)
    assert run("models", "show", "cu") == 0
    assert "# Good for copper" in capsys.readouterr().out
    assert run("models", "show", "carded", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cards"] == {"cu": "# Good for copper\n"}


def test_the_command_line_prints_bibtex(capsys):
    assert run("models", "cite", "scn", "facet") == 0
    out = capsys.readouterr().out
    assert "2206.14331" in out
    assert "2509.08418" in out
