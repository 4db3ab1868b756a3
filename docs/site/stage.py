"""Gather the sources of the site: guides, tutorials, cards of models, measurements, reference.

Everything is written once, where it is read without a site too; this script brings it together and
turns links between files of the repository into links between pages.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from blocks import counts
from cells import read_cells, to_markdown, to_notebook
from command_page import command_page
from default_model import default_model_page
from measured_figures import with_figures
from model_page import model_table
from reference import reference_pages

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
#: Code in a sentence is left as it is; a comment takes its line with it where nothing else stands
#: there; the mark of a block that the tests do not run is for them.
COMMENT = re.compile(
    r"(`[^`\n]+`)|^<!--(?:(?!-->).)*-->\n|<!--.*?-->|^# not run here: [^\n]*\n",
    flags=re.DOTALL | re.MULTILINE,
)
#: Thousands of a number in a table, which must not be torn apart.
THOUSANDS = re.compile(r"(?<=\d) (?=\d{3}\b)")
#: Pages that stand elsewhere in the repository, and where they are on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/RESULTS.md": "measurements/index.md",
    "plugins/facet/ase_nnp_facet/weights/model_card.md": "families/facet-metals-2.md",
}


def pages() -> dict[str, str]:
    """Return the page of each file of the repository that has one."""
    places = dict(ELSEWHERE)
    for path in sorted((ROOT / "docs").glob("*.md")):
        places[f"docs/{path.name}"] = path.name
    for path in sorted((ROOT / "plugins").glob("*/README.md")):
        places[str(path.relative_to(ROOT))] = f"families/{path.parent.name}.md"
    for path in sorted((ROOT / "tutorials").glob("*.py")):
        places[f"tutorials/{path.name}"] = f"tutorials/{path.stem}.md"
    return places


def stage(target: Path) -> None:
    """Write all sources below ``target``, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "img", target / "img")
    shutil.copytree(ROOT / "docs" / "site" / "_static", target / "_static")
    shutil.copytree(ROOT / "docs" / "site" / "_templates", target / "_templates")
    shutil.copy(ROOT / "docs" / "site" / "conf.py", target / "conf.py")

    places = pages()
    for source, page in places.items():
        # README has a page of its own among the guides.
        if source in ("README.md", "benchmarks/RESULTS.md"):
            continue
        path = ROOT / source
        text = tutorial(path, target) if path.suffix == ".py" else path.read_text()
        text = text.replace("<!-- counts -->", counted())
        write(target / page, with_links(text, source, page, places))

    measurements(target, places)
    contents(target, "tutorials", "Tutorials", "tutorials/*.py", TUTORIALS)
    families(target)
    write(target / "commands.md", command_page())
    write(target / "families" / "table.md", model_table(places, "families/table.md"))
    reference_pages(target / "reference")


TUTORIALS = """\
Each is a script of the folder `tutorials` that the tests run; below each step stands what it
printed, and the pictures that it drew. All run offline, each in less than a minute of one CPU
core. `python docs/site/cells.py notebooks FOLDER` makes notebooks of them.
"""


def tutorial(path: Path, target: Path) -> str:
    """Return a tutorial as a page, and put its notebook beside it."""
    cells = read_cells(path)
    to_notebook(path, target / "tutorials")
    return to_markdown(path, cells)


def counted() -> str:
    """Return how many code blocks are run, and by what, and how many not, by reason."""
    run, left = counts()
    rows = [f"| run by `tests/test_guides.py` | {run} |"]
    for reason, n in sorted(left.items()):
        rows.append(f"| {reason if reason.startswith('run by') else f'not run: {reason}'} | {n} |")
    return "\n".join(["| blocks of README and guides | |", "| --- | --- |", *rows])


def write(path: Path, text: str) -> None:
    """Write a page; comments in it, such as what a test runs first, are not for readers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = COMMENT.sub(lambda match: match[1] or "", text).split("\n")
    lines = [THOUSANDS.sub("\u00a0", line) if line.startswith("|") else line for line in lines]
    path.write_text("\n".join(lines))


def with_links(text: str, source: str, page: str, places: dict[str, str]) -> str:
    """Return ``text`` with links to files turned into links to pages.

    A file of the repository that has no page is named by its path.
    """

    def link(match: re.Match[str]) -> str:
        image, label, address = match.groups()
        if re.match(r"[a-z]+:", address) or address.startswith("#"):
            return match[0]
        name, hash_, anchor = address.partition("#")
        wanted = os.path.normpath(os.path.join(os.path.dirname(source), name))
        if image or wanted.startswith("docs/img/"):
            wanted = wanted.removeprefix("docs/")
        elif wanted == "benchmarks/RESULTS.md" and anchor:
            # Each section of that file is a page of its own.
            wanted, hash_, anchor = f"measurements/{anchor}.md", "", ""
        elif wanted in places:
            wanted = places[wanted]
        elif (ROOT / wanted).exists():
            return label if f"`{wanted}`" == label else f"{label} (`{wanted}`)"
        else:
            wanted = address
            return f"{image}[{label}]({wanted})"
        relative = os.path.relpath(wanted, os.path.dirname(page) or ".")
        return f"{image}[{label}]({relative}{hash_}{anchor})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(p if p.startswith("```") else LINK.sub(link, p) for p in parts)


def anchor_of(title: str) -> str:
    """Return the anchor of a heading as forges make it, by which other pages link to it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def measurements(target: Path, places: dict[str, str]) -> None:
    """One page for each section of the measurements."""
    source = "benchmarks/RESULTS.md"
    head, *sections = re.split(r"^## ", (ROOT / source).read_text(), flags=re.MULTILINE)
    names = []
    for section in sections:
        title = section.partition("\n")[0]
        name = anchor_of(title)
        names.append(name)
        text = re.sub(r"^### ", "## ", f"# {section}", flags=re.MULTILINE)
        page = f"measurements/{name}.md"
        text = with_links(text, source, page, places)
        write(target / page, with_figures(text, target / "measurements"))
    default_model_page(target / "measurements")
    names.insert(0, "the-default-model")
    page = "measurements/index.md"
    write(target / page, with_links(head, source, page, places) + toctree(names))


def contents(target: Path, folder: str, title: str, pattern: str, text: str) -> None:
    """A page of contents for a folder."""
    names = [path.stem for path in sorted(ROOT.glob(pattern))]
    write(target / folder / "index.md", f"# {title}\n\n{text}\n{toctree(names)}")


def families(target: Path) -> None:
    """Contents of the pages of families and corrections."""
    names = sorted(path.stem for path in (target / "families").glob("*.md"))
    text = (
        "# Model families, corrections and cards\n\nOne page each: paper, weights, what differs.\n"
    )
    write(target / "families" / "index.md", f"{text}\n{toctree(['table', *names])}")


def toctree(names: list[str]) -> str:
    """Return a table of contents."""
    return "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n"
