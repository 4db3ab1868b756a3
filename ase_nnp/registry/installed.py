"""The one plugin manager: which families, formats and methods are installed, and what is broken.

Entry points are read without importing anything; plugins are then imported one at a time, each
inside a guard, so that a broken one is reported by name and stops nobody. What a plugin's module
imports is its own business, but it should not be torch: models are imported when one is built.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import metadata, util
from typing import Any, NamedTuple

import pluggy

from ase_nnp.errors import NameTakenError, NewerPluginError, PluginError, UnknownModelError
from ase_nnp.registry import hookspecs
from ase_nnp.registry.correction import Correction
from ase_nnp.registry.family import API_VERSION, DatasetFormat, ModelFamily, UncertaintyMethod

__all__ = [
    "ModelList",
    "Registry",
    "State",
    "broken_state",
    "family_state",
    "installed",
    "list_models",
]


class ModelList(dict[str, ModelFamily]):
    """Families by name; ``broken`` maps the names of unusable plugins to the reason."""

    broken: dict[str, Exception]


class Registry:
    """Everything that plugins have registered.

    Attributes
    ----------
    families, datasets, uncertainties, corrections, commands
        What was registered, by name.
    owners
        Which plugin registered a name, as ``"ModelFamily:NAME" -> plugin``.
    broken
        Plugins that cannot be used, with the exception that says why.
    distributions
        Distribution name and version of each plugin, where known.
    """

    def __init__(self) -> None:
        self.families: dict[str, ModelFamily] = {}
        self.datasets: dict[str, DatasetFormat] = {}
        self.uncertainties: dict[str, UncertaintyMethod] = {}
        self.corrections: dict[str, Correction] = {}
        self.commands: dict[str, Callable[..., Any]] = {}
        self.owners: dict[str, str] = {}
        self.broken: dict[str, Exception] = {}
        self.distributions: dict[str, str] = {}
        self._adding = ""
        self.pm = pluggy.PluginManager(hookspecs.GROUP)
        self.pm.add_hookspecs(hookspecs)
        hook = self.pm.hook

        offers: tuple[tuple[Any, dict[str, Any], type], ...] = (
            (hook.register_models, self.families, ModelFamily),
            (hook.register_datasets, self.datasets, DatasetFormat),
            (hook.register_uncertainties, self.uncertainties, UncertaintyMethod),
            (hook.register_corrections, self.corrections, Correction),
        )

        for call, table, kind in offers:
            # Historic: pluggy replays the call on each plugin as it comes, so one that raises does
            # so alone.
            call.call_historic(kwargs={"register": self._adder(table, kind)})
        hook.register_commands.call_historic(kwargs={"register": self._add_command})

    def _adder(self, table: dict[str, Any], kind: type) -> Callable[[Any], None]:
        def register(thing: Any) -> None:
            if not isinstance(thing, kind):
                raise PluginError(
                    f"register() takes a {kind.__name__}, and got {type(thing).__name__}."
                )
            name: str = getattr(thing, "name")  # noqa: B009

            # Before it is entered: a name that is taken must not be replaced in silence.
            self._claim(name, table, kind.__name__)
            table[name] = thing

        return register

    def _add_command(self, name: str, function: Callable[..., Any]) -> None:
        self._claim(name, self.commands, "command")
        self.commands[name] = function

    def _claim(self, name: str, table: dict[str, Any], kind: str) -> None:
        if name in table:
            owner = self.owners.get(f"{kind}:{name}", "another plugin")
            raise NameTakenError(
                f"The {kind} name '{name}' is taken by the plugin '{owner}'. "
                "Rename it, or uninstall one of the two."
            )
        self.owners[f"{kind}:{name}"] = self._adding

    def add_plugin(self, name: str, load: Callable[[], object]) -> None:
        """Register the plugin that ``load`` returns; if it fails, keep why and go on."""
        tables: list[dict[str, Any]] = [
            self.families,
            self.datasets,
            self.uncertainties,
            self.corrections,
            self.commands,
            self.owners,
        ]

        # A plugin may fail after it has registered half of what it offers.
        before = [dict(table) for table in tables]
        plugin: object | None = None
        self._adding = name
        try:
            plugin = load()
            if self.pm.is_registered(plugin):
                return  # one module, installed by two distributions
            wants = getattr(plugin, "ase_nnp_api", API_VERSION)
            if wants > API_VERSION:
                raise NewerPluginError(
                    f"'{name}' needs plugin interface {wants}; this ase_nnp offers {API_VERSION}. "
                    "Upgrade ase_nnp, or install an older version of the plugin."
                )
            try:
                self.pm.register(plugin, name=name)
                self.pm.check_pending()  # a hook whose name is misspelt
            except pluggy.PluginValidationError as error:
                # pluggy says in several lines what is wrong, and not what was wanted.
                said = str(error).replace(f" in plugin {plugin!r}", "").splitlines()[-1]
                hooks = ", ".join(f"{h}(register)" for h in vars(hookspecs) if h[:9] == "register_")
                raise PluginError(f"{said}; the hooks are {hooks}") from error
            if not self.pm.get_hookcallers(plugin):
                raise PluginError(
                    f"'{name}' implements no hook. Is @hookimpl missing above register_models?"
                )
        except Exception as error:  # a plugin may raise anything
            if plugin is not None and self.pm.is_registered(plugin):
                self.pm.unregister(plugin)
            for table, old in zip(tables, before, strict=True):
                table.clear()
                table.update(old)
            self.broken[name] = error
        finally:
            self._adding = ""

    def add_entry_points(self, points: Iterable[metadata.EntryPoint]) -> None:
        """Add each plugin named by an entry point; a name used twice is broken the second time."""
        seen: dict[str, str] = {}
        for point in points:
            if point.name in seen and seen[point.name] == point.value:
                continue  # the same plugin, in two folders of the path
            name = point.name
            if name in seen:
                name = f"{point.name} ({point.value})"

                def load(point: metadata.EntryPoint = point) -> object:
                    raise NameTakenError(
                        f"Two plugins are called '{point.name}': {seen[point.name]} and "
                        f"{point.value}. The first is used."
                    )

                self.add_plugin(name, load)
                continue
            seen[name] = point.value
            if point.dist is not None:
                self.distributions[name] = f"{point.dist.name} {point.dist.version}"
            self.add_plugin(name, point.load)

    def family(self, name: str) -> ModelFamily:
        """Return the family called ``name``.

        Raises
        ------
        UnknownModelError
            Saying what was meant, what is installed and what is broken.
        PluginError
            The family is there, but a package that it needs is not; or the plugin of that name
            cannot be used.
        """
        if name in self.families:
            family = self.families[name]
            missing = missing_packages(family)
            if missing:
                raise PluginError(
                    f"The family '{name}' needs {', '.join(missing)}, which is not installed. "
                    f"Install it with: {install_line(family)}"
                )
            return family

        if name in self.broken:
            kind, reason, fix = broken_state(self.broken[name])
            raise PluginError(
                f"The plugin '{name}' is installed and cannot be used: {kind}: {reason}"
                + (f"\n{fix}" if fix else "")
            ) from self.broken[name]

        if name in self.distributions:
            offers = [key.replace(":", " ") for key, by in self.owners.items() if by == name]
            raise UnknownModelError(
                f"The plugin '{name}' is installed and registers no model family '{name}'. "
                f"It registers: {', '.join(offers) or 'nothing'}."
            )

        # Checkpoints have names of their own, which users take for a family's.
        offered = [p.name for f in self.families.values() for p in f.pretrained]
        raise UnknownModelError(self._unknown(name, self.families, "model family", offered))

    def correction(self, name: str) -> Correction:
        """Return the correction called ``name``.

        Raises
        ------
        UnknownModelError
            Saying what was meant and what is installed.
        PluginError
            The correction is there, but a package that it needs is not.
        """
        if name not in self.corrections:
            raise UnknownModelError(self._unknown(name, self.corrections, "correction"))
        correction = self.corrections[name]
        missing = missing_packages(correction)
        if missing:
            raise PluginError(
                f"The correction '{name}' needs {', '.join(missing)}, which is not installed. "
                f"Install it with: {install_line(correction)}"
            )
        return correction

    def _unknown(
        self, name: str, table: Iterable[str], what: str, others: Iterable[str] = ()
    ) -> str:
        known = sorted(table)
        close = difflib.get_close_matches(name, [*known, *others], n=1)
        lines = [f"no {what} is named '{name}'."]
        if close:
            lines.append(f"Did you mean '{close[0]}'?")
        lines.append(f"Installed: {', '.join(known) or 'none'}.")
        lines += [
            f"Plugin '{plugin}' is broken: {first_line(error)}"
            for plugin, error in sorted(self.broken.items())
        ]
        return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """Return ``Type: first line`` of an exception."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def missing_packages(family: ModelFamily | Correction) -> list[str]:
    """Return the packages of ``family.requires`` that cannot be found, without importing them."""
    # Looked for and not imported: listing models must not cost seconds of torch.
    return [name for name in family.requires if util.find_spec(name) is None]


def install_line(family: ModelFamily | Correction) -> str:
    """Return the command that installs what a family needs."""
    return family.install or f"pip install {' '.join(missing_packages(family))}"


class State(NamedTuple):
    """Whether something can be used: ``kind`` in one or two words, why not, and what to do."""

    kind: str
    reason: str = ""
    fix: str = ""

    def __str__(self) -> str:
        """One line."""
        return ": ".join(part for part in (self.kind, self.fix or self.reason) if part)


def broken_state(error: BaseException) -> State:
    """Say what kind of trouble a plugin is in.

    The kinds are ``"newer interface"``, ``"conflict"``, ``"missing dependency"``, ``"wrong hook"``,
    ``"import error"`` and ``"broken"`` for whatever else it raised.
    """
    reason = first_line(error)
    if isinstance(error, NewerPluginError):
        return State("newer interface", reason, "pip install --upgrade ase_nnp")
    if isinstance(error, NameTakenError):
        return State("conflict", reason)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if util.find_spec(package) is None:
            return State("missing dependency", reason, f"pip install {package}")
    if isinstance(error, (ImportError, SyntaxError)):
        return State("import error", reason)
    if isinstance(error, PluginError):
        return State("wrong hook", reason)
    return State("broken", reason)


def family_state(family: ModelFamily, distribution: str = "") -> State:
    """Return the state of a family that could be registered, importing nothing.

    ``distribution`` is the name of the package that it came with; a requirement of that package
    which the installed version of another does not meet is a conflict.
    """
    if missing_packages(family):
        needs = ", ".join(missing_packages(family))
        return State("missing dependency", f"needs {needs}", install_line(family))
    unmet = unmet_requirements(distribution) if distribution else []
    if unmet:
        return State("conflict", "; ".join(unmet))
    return State("ok")


@lru_cache(maxsize=64)
def unmet_requirements(distribution: str) -> list[str]:
    """Return the version requirements of a distribution that the installed ones do not meet."""
    if util.find_spec("packaging") is None:
        return []  # present wherever pip-installed tools are; without it versions go unchecked
    from packaging.requirements import InvalidRequirement, Requirement

    unmet = []
    for text in metadata.requires(distribution) or ():
        try:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            have = metadata.version(wanted.name)
        except (InvalidRequirement, metadata.PackageNotFoundError):
            continue
        if not wanted.specifier.contains(have, prereleases=True):
            unmet.append(f"wants {wanted.name}{wanted.specifier}, and {have} is installed")
    return unmet


@lru_cache(maxsize=1)
def installed() -> Registry:
    """Return the registry of everything installed, filled on first use."""
    registry = Registry()
    registry.add_entry_points(metadata.entry_points(group=hookspecs.GROUP))
    return registry


def list_models() -> ModelList:
    """Return every installed model family by name; ``.broken`` holds plugins that failed.

    Neither torch nor any model is imported.
    """
    registry = installed()
    result = ModelList(sorted(registry.families.items()))
    result.broken = dict(registry.broken)
    return result
