"""Plugins: found without being imported, loaded one at a time, broken ones named."""

from __future__ import annotations

import types

import pytest

from ase_nnp import ModelFamily, build_model
from ase_nnp.errors import ConfigError, PluginError, UnknownModelError
from ase_nnp.registry.hookspecs import hookimpl
from ase_nnp.registry.installed import Registry, list_models


def plugin_with(**hooks):
    """A module whose attributes are the given hook implementations."""
    module = types.ModuleType("made_up")
    for name, value in hooks.items():
        setattr(module, name, hookimpl(value) if callable(value) else value)
    return module


def family(name, **changes):
    return ModelFamily(name=name, summary="made up", build=lambda config: None, **changes)


@pytest.fixture
def registry():
    made = Registry()
    made.add_plugin(
        "good", lambda: plugin_with(register_models=lambda register: register(family("escaip")))
    )
    return made


def test_a_plugin_offers_several_families_formats_and_commands(registry):
    def models(register):
        register(family("one"))
        register(family("two"))

    def commands(register):
        register("hello", lambda: None)

    registry.add_plugin(
        "both", lambda: plugin_with(register_models=models, register_commands=commands)
    )
    assert set(registry.families) == {"escaip", "one", "two"}
    assert "hello" in registry.commands
    assert not registry.broken


def test_a_plugin_that_raises_on_import_is_named_and_stops_nobody(registry):
    def load():
        raise ModuleNotFoundError("No module named 'acme_kernels'")

    registry.add_plugin("acme", load)
    registry.add_plugin(
        "after", lambda: plugin_with(register_models=lambda register: register(family("late")))
    )
    assert "acme_kernels" in str(registry.broken["acme"])
    assert "late" in registry.families


def test_a_misspelt_hook_is_broken_and_leaves_nothing_behind(registry):
    module = plugin_with(
        register_models=lambda register: register(family("ghost")),
        register_modles=lambda register: None,
    )
    registry.add_plugin("typo", lambda: module)
    assert "register_modles" in str(registry.broken["typo"])
    assert "ghost" not in registry.families
    registry.add_plugin(
        "next", lambda: plugin_with(register_models=lambda register: register(family("ok")))
    )
    assert "ok" in registry.families


def test_a_plugin_that_fails_half_way_leaves_nothing_behind(registry):
    def models(register):
        register(family("first"))
        raise RuntimeError("then this")

    registry.add_plugin("half", lambda: plugin_with(register_models=models))
    assert "first" not in registry.families
    assert "then this" in str(registry.broken["half"])


def test_a_newer_interface_is_listed_not_loaded(registry):
    module = plugin_with(
        register_models=lambda register: register(family("future")), ase_nnp_api=99
    )
    registry.add_plugin("future", lambda: module)
    assert isinstance(registry.broken["future"], PluginError)
    assert "99" in str(registry.broken["future"])
    assert "future" not in registry.families


def test_a_name_that_is_taken_is_refused_with_its_owner(registry):
    registry.add_plugin(
        "thief", lambda: plugin_with(register_models=lambda register: register(family("escaip")))
    )
    assert "good" in str(registry.broken["thief"])
    assert registry.families["escaip"].summary == "made up"


def test_what_is_no_family_is_refused(registry):
    registry.add_plugin(
        "odd", lambda: plugin_with(register_models=lambda register: register("scn"))
    )
    assert "ModelFamily" in str(registry.broken["odd"])


def test_two_plugins_of_one_name_use_the_first():
    from importlib.metadata import EntryPoint

    registry = Registry()
    points = [
        EntryPoint("same", "ase_nnp.datasets", "ase_nnp"),
        EntryPoint("same", "ase_nnp.datasets", "ase_nnp"),
        EntryPoint("same", "csv", "ase_nnp"),
    ]
    registry.add_entry_points(points)
    assert list(registry.broken) == ["same (csv)"]


def test_an_unknown_name_says_what_was_meant_installed_and_broken(registry):
    def load():
        raise ModuleNotFoundError("No module named 'acme_kernels'")

    registry.add_plugin("acme", load)
    with pytest.raises(UnknownModelError) as caught:
        registry.family("escap")
    assert str(caught.value).splitlines() == [
        "no model family is named 'escap'.",
        "Did you mean 'escaip'?",
        "Installed: escaip.",
        "Plugin 'acme' is broken: ModuleNotFoundError: No module named 'acme_kernels'",
    ]


def test_a_missing_package_names_the_install_line(registry):
    needy = family("needy", requires=("no_such_package",))
    registry.add_plugin(
        "needy", lambda: plugin_with(register_models=lambda register: register(needy))
    )
    with pytest.raises(PluginError, match="pip install no_such_package"):
        registry.family("needy")


def test_the_bundled_families_are_listed_and_none_is_broken():
    models = list_models()
    assert {"cgcnn", "cgcnn_oc20", "escaip", "facet", "scn"} <= set(models)
    assert not models.broken
    assert all(f.summary and f.cite for f in models.values())


def test_an_unknown_hyper_parameter_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'epsilon'"):
        build_model("lj", {"epsilom": 1.0})


def test_a_whole_published_configuration_is_flattened():
    model = build_model("lj", {"model": {"sigma": 2.0}, "n_parameters": 3, "summary": {}})
    assert model.config["sigma"] == 2.0
    assert "summary" not in model.config
