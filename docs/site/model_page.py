"""The table of families, made from what plugins say of themselves."""

from __future__ import annotations

import os


def model_table(places: dict[str, str], page: str) -> str:
    """Return a page with a row for each installed family."""
    import ase_nnp
    from ase_nnp.registry.installed import installed

    registry = installed()
    lines = ["# All families at a glance", "", "Made from what the plugins say of themselves.", ""]
    lines += ["| family | what it is | energy | conservative | weights by name |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, family in sorted(ase_nnp.list_models().items()):
        owner = registry.owners.get(f"ModelFamily:{name}", name)
        readme = places.get(f"plugins/{owner}/README.md", "")
        link = f"[`{name}`]({os.path.relpath(readme, os.path.dirname(page))})" if readme else name
        weights = ", ".join(p.name for p in family.pretrained)
        kind = {"config": "by weights"}.get(family.energy_kind, family.energy_kind)
        yes = {True: "yes", False: "no"}.get(family.conservative, "as built")
        if kind == "none":
            yes = "no forces"
        lines.append(f"| {link} | {family.summary} | {kind} | {yes} | {weights} |")
    return "\n".join(lines) + "\n"
