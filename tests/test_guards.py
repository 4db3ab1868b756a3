"""What must stay so: light imports, arrows that point one way, a true list of public names."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import ase_nnp

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "ase_nnp"

# The order of the rooms: a module may import only from its own room and those before it.
ROOMS = (
    "errors",
    "files",
    "registry",
    "datasets",
    "metrics",
    "models",
    "uncertainty",
    "calculator",
    "workflows",
    "training",
    "testing",
    "cli",
)

# Imports for type checkers alone that point to a later room, each with its reason.
TYPE_ONLY = {
    ("registry", "models"): "a family names the type that its build function returns",
}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import ase_nnp",
        "import ase_nnp; ase_nnp.list_models()",
        "import ase_nnp; ase_nnp.open_dataset",
        "import ase_nnp.cli",
        "import ase.io; import ase_nnp.calculator.ase_doors",
    ],
)
def test_torch_stays_out(code):
    assert run(f"{code}; import sys; print('torch' in sys.modules)") == "False"


def test_listing_models_on_the_command_line_leaves_torch_out():
    code = (
        "import sys\nfrom ase_nnp.cli import main\n"
        "try: main(['models'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print('torch' in sys.modules)"
    )
    assert run(code).splitlines()[-1] == "False"


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import ase_nnp\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(loaded - set(sys.stdlib_module_names) - {'ase_nnp'}))"
    )
    assert run(code) == ""


def test_listing_models_loads_nothing_heavy():
    # Each of these takes longer to import than the whole listing; benchmarks/imports.py times it.
    heavy = ["ase", "e3nn", "h5py", "lightning", "lmdb", "matplotlib", "pandas", "pymatgen"]
    heavy += ["scipy", "torch", "vesin", "yaml"]
    code = (
        "import contextlib, io, sys\nfrom ase_nnp.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): "
        "main(['models'])\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    assert run(code) == ""


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where it stands."""

    module: str
    path: Path
    line: int
    type_only: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


@cache
def imports_of(path: Path) -> list[Import]:
    """Every import of a file: deferred ones, and those under TYPE_CHECKING, marked as such."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = absolute(node, path)
            # `from package import module` imports the module, not only the package
            targets = [
                f"{base}.{name.name}" if is_module(f"{base}.{name.name}") else base
                for name in node.names
            ]
        elif isinstance(node, ast.Import):
            targets = [name.name for name in node.names]
        else:
            targets = dynamic_targets(node)
        imports += [Import(t, path, node.lineno, id(node) in for_types) for t in set(targets)]
    return imports


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module an import names, relative dots resolved."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def dynamic_targets(node: ast.AST) -> list[str]:
    """What ``import_module("ase_nnp.room...")`` names, as far as it is written out."""
    if not isinstance(node, ast.Call):
        return []
    name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
    if name != "import_module":
        return []
    text = node.args[0]
    if isinstance(text, ast.JoinedStr):
        text = text.values[0]
    literal = isinstance(text, ast.Constant) and str(text.value).startswith("ase_nnp.")
    return [str(text.value).rstrip(".")] if literal else []


def is_module(name: str) -> bool:
    if not name.startswith("ase_nnp."):
        return False
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def core_imports() -> list[tuple[str, Import]]:
    """Each import of the core's own modules with the room it stands in."""
    return [
        (path.relative_to(CORE).parts[0].removesuffix(".py"), imported)
        for path in sorted(CORE.rglob("*.py"))
        if path != CORE / "__init__.py"
        for imported in imports_of(path)
        if imported.module.split(".")[0] == "ase_nnp"
    ]


def test_the_core_has_twelve_rooms():
    names = {p.stem for p in CORE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert names - {"__init__"} == set(ROOMS)


def test_imports_point_one_way():
    wrong = []
    for room, imported in core_imports():
        target = room_of(imported.module)
        if target not in ROOMS:
            continue  # `from ase_nnp import __version__`
        excused = imported.type_only and (room, target) in TYPE_ONLY
        if ROOMS.index(target) > ROOMS.index(room) and not excused:
            wrong.append(str(imported))
    assert not wrong, "\n".join(["an import points to a later room:", *wrong])


def test_no_module_uses_the_packages_front_door():
    """A public name taken from ``ase_nnp`` itself may lie in any room."""
    wrong = [str(i) for _, i in core_imports() if i.module == "ase_nnp" and not only_version(i)]
    assert not wrong, "\n".join(wrong)


def only_version(imported: Import) -> bool:
    return "__version__" in imported.path.read_text().splitlines()[imported.line - 1]


def test_no_two_modules_import_each_other():
    graph: dict[str, set[str]] = {}
    for _, imported in core_imports():
        if not imported.type_only:
            name = ".".join(imported.path.relative_to(ROOT).with_suffix("").parts)
            graph.setdefault(name.removesuffix(".__init__"), set()).add(imported.module)
    # a package's __init__ may gather its modules, and they may name the package's other modules
    circle = find_circle(graph)
    assert not circle, "imports run in a circle: " + " -> ".join(circle)


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in turn, first and last the same; [] if there are none."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if circle := walk(target, [*trail, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := walk(name, []))), [])


def test_the_core_knows_no_family_by_name():
    families = ("scn", "escaip", "facet", "cgcnn", "matgl", "chgnet", "sevennet")
    families += ("spline_eam", "mpnn", "eeacsf", "torchmdnet", "crystalformer")
    families += ("descriptor_mlp",)
    named = []
    for path in CORE.rglob("*.py"):
        named += [str(i) for i in imports_of(path) if i.module.startswith("ase_nnp_")]
        text = path.read_text()
        if not any(family in text for family in families):
            continue
        tree = ast.parse(text)
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in docs and text in families:
                named.append(f"{path.relative_to(ROOT)}:{node.lineno} {text}")
    assert named == []


def test_plugins_import_only_the_core_and_themselves():
    wrong = []
    for path in sorted((ROOT / "plugins").glob("*/ase_nnp_*/**/*.py")):
        package = next(p for p in path.parts if p.startswith("ase_nnp_"))
        for imported in imports_of(path):
            name = imported.module
            foreign = name.startswith("ase_nnp_") and name.split(".")[0] != package
            private = name.startswith(("ase_nnp.registry.installed", "ase_nnp.cli"))
            if foreign or private:
                wrong.append(str(imported))
    assert not wrong, "\n".join(wrong)


def test_each_plugin_repeats_its_entry_point():
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    bundled = root["project"]["entry-points"]["ase_nnp"]
    for folder in sorted(
        p for p in (ROOT / "plugins").iterdir() if (p / "pyproject.toml").exists()
    ):
        own = tomllib.loads((folder / "pyproject.toml").read_text())
        points = own["project"]["entry-points"]["ase_nnp"]
        assert points.items() <= bundled.items(), folder.name
        package = f"plugins/{folder.name}/ase_nnp_{folder.name}"
        assert package in root["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_all_is_what_is_public():
    for name in ase_nnp.__all__:
        assert getattr(ase_nnp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ase_nnp.nonsense
