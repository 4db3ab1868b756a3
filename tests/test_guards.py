"""What must stay so: light imports, arrows that point one way, a true list of public names."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ase_nnp

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "ase_nnp"

# From the bottom of the stack to the top; a module may import only what stands before it.
LAYERS = [
    "errors",
    "outcomes",
    "ase_contract",
    "family",
    "_pickle_scan",
    "_pickle_values",
    "unpickle",
    "hookspecs",
    "config",
    "registry",
    "citation",
    "weights",
    "metrics",
    "datasets",
    "neighbors_nvalchemi",
    "neighbors",
    "graph",
    "potential",
    "torchsim",
    "workers",
    "foreign",
    "tensors",
    "models",
    "shipped",
    "budget",
    "loading",
    "batch_size",
    "evaluating",
    "inference",
    "precision",
    "uncertainty",
    "calculator",
    "batching",
    "workflows",
    "training",
    "testing_checks",
    "testing",
    "pytest_plugin",
    "template",
    "ase_doors",
    "commands",
    "cli",
]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout.strip()


def cpu_seconds(code: str) -> float:
    """Least CPU time of three runs of a statement in a fresh interpreter."""
    timed = f"import time; {code}; print(time.process_time(), file=__import__('sys').stderr)"
    figures = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", timed], capture_output=True, text=True, check=True, cwd="/"
        )
        figures.append(float(done.stderr.split()[-1]))
    return min(figures)


@pytest.mark.parametrize(
    "code",
    [
        "import ase_nnp",
        "import ase_nnp; ase_nnp.list_models()",
        "import ase_nnp; ase_nnp.open_dataset",
        "import ase_nnp.cli",
        "import ase.io; import ase_nnp.ase_doors",
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


def test_importing_the_package_costs_next_to_nothing():
    assert cpu_seconds("import ase_nnp") < 0.15


def test_listing_models_is_quick():
    listing = (
        "import contextlib, io; from ase_nnp.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): "
        "main(['models'])\n"
        "import time"
    )
    assert cpu_seconds(listing) < 0.4


def imports_of(path: Path) -> set[str]:
    """Names of ase_nnp modules imported at the top level of a file, outside TYPE_CHECKING."""
    found: set[str] = set()

    def visit(body):
        for node in body:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                if node.module == "ase_nnp":
                    found.update(f"ase_nnp.{a.name}" for a in node.names)
                else:
                    found.add(node.module)
            elif isinstance(node, ast.Import):
                found.update(a.name for a in node.names)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If, ast.Try, ast.With)):
                visit(node.body)

    visit(ast.parse(path.read_text()).body)
    return found


def layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_module_has_its_layer():
    names = {p.stem for p in CORE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert names - {"__init__", "__pycache__"} <= set(LAYERS)


def test_imports_point_one_way():
    allowed_inside = {"registry"}  # asked for inside functions; stands beside the stack
    wrong = []
    for path in sorted(CORE.rglob("*.py")):
        own = path.relative_to(CORE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        top = {
            node
            for node in imports_of_top_level(path)
            if node.startswith("ase_nnp.") and layer(node) in LAYERS
        }
        for name in top:
            if layer(name) == own or layer(name) in allowed_inside:
                continue
            if LAYERS.index(layer(name)) > LAYERS.index(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def imports_of_top_level(path: Path) -> set[str]:
    """As imports_of, but not inside functions."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
    return found


def test_the_core_knows_no_family_by_name():
    families = ("scn", "escaip", "facet", "cgcnn", "matgl", "chgnet", "sevennet")
    named = []
    for path in CORE.rglob("*.py"):
        tree = ast.parse(path.read_text())
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
        named += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in imports_of(path)
            if name.startswith("ase_nnp_")
        ]
    assert named == []


def test_plugins_import_only_the_core_and_themselves():
    wrong = []
    for path in sorted((ROOT / "plugins").glob("*/ase_nnp_*/**/*.py")):
        package = next(p for p in path.parts if p.startswith("ase_nnp_"))
        for name in imports_of(path):
            if name.startswith("ase_nnp_") and name.split(".")[0] != package:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if name in ("ase_nnp.registry", "ase_nnp.cli", "ase_nnp.commands"):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


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
