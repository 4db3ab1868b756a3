"""Pages of the reference: every public name, from its docstring."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "errors": "every error that is raised on purpose",
    "files": "bytes on disk, read without trust, written whole, locked",
    "registry": "what plugins hand over, and which are installed",
    "datasets": "files to sequences of Atoms",
    "metrics": "published scores",
    "models": "graphs, potentials, prediction",
    "uncertainty": "error bars",
    "calculator": "what ASE sees",
    "workflows": "relaxation, dynamics, adsorption, paths, crystals, screening",
    "training": "fit, fine-tune, evaluate",
    "testing": "checks of physics and of the ASE contract",
}


def reference_pages(folder: Path) -> None:
    """Write the page of the package's own names, and one for each room."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ase_nnp.rst").write_text(package_page())
    for room, text in ROOMS.items():
        (folder / f"{room}.rst").write_text(room_page(room, text))
    names = "\n   ".join(["ase_nnp", *ROOMS])
    (folder / "index.rst").write_text(
        f"{heading('Reference')}\n"
        "Names that are imported as ``ase_nnp.NAME`` first; then each room of the package\n"
        "with all public names of its modules.\n\n"
        f".. toctree::\n   :maxdepth: 1\n\n   {names}\n"
    )


def heading(title: str, line: str = "=") -> str:
    """Return a title in reStructuredText."""
    return f"{title}\n{line * len(title)}\n"


def package_page() -> str:
    """Return the page of what ``import ase_nnp`` offers."""
    import inspect

    import ase_nnp

    classes, functions, errors = [], [], []
    for name in ase_nnp.__all__:
        value = getattr(ase_nnp, name)
        if inspect.isclass(value):
            (errors if issubclass(value, Exception) else classes).append(name)
        elif callable(value) and name != "hookimpl":
            functions.append(name)

    lines = [heading("ase_nnp")]
    for title, names, directive in (
        ("Functions", functions, "autofunction"),
        ("Classes", classes, "autoclass"),
        ("Errors", errors, "autoclass"),
    ):
        lines.append(heading(title, "-"))
        lines += [entry(directive, f"ase_nnp.{name}") for name in names]
    lines.append(
        "``ase_nnp.hookimpl`` marks the functions of a plugin; see :doc:`/write-a-plugin`.\n"
    )
    return "\n".join(lines)


def entry(directive: str, name: str, index: bool = True) -> str:
    """Return the directive of one name."""
    options = ["   :members:", "   :show-inheritance:"] if directive == "autoclass" else []
    options += [] if index else ["   :no-index:"]
    return "\n".join([f".. {directive}:: {name}", *options, ""])


def room_page(room: str, text: str) -> str:
    """Return the page of all modules of a room that have public names."""
    path = ROOT / "ase_nnp" / room
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    lines = [heading(f"ase_nnp.{room}: {text}")]
    for file in files:
        names = public_names(file)
        if not names:
            continue
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        lines.append(heading(f"``{module}``", "-"))
        lines.append(first_line(file) + "\n")
        lines += [entry(kind, f"{module}.{name}", index=False) for name, kind in names.items()]
    return "\n".join(lines)


def first_line(file: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def public_names(file: Path) -> dict[str, str]:
    """Return the names of ``__all__`` that the module itself defines, with autodoc's directive."""
    tree = ast.parse(file.read_text())
    listed: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            try:
                listed = list(ast.literal_eval(node.value))
            except ValueError:
                listed = []
    kinds = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            kinds[node.name] = "autoclass"
        elif isinstance(node, ast.FunctionDef):
            kinds[node.name] = "autofunction"
    return {name: kinds[name] for name in listed if name in kinds}
