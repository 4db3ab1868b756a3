"""Look at the built site in a headless browser: ``python docs/site/view.py SITE [PICTURES]``.

Every page is laid out at 1280 and at 390 pixels; a page that is wider than the window, a picture
that is not there, a page without a title or words, a heading that skips a level, an option torn at
its hyphens and a link that leads nowhere are printed, and the exit code is 1. With PICTURES, a
screenshot of the named pages (or a dozen) is put there. Needs Chromium.
"""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urldefrag

WIDTHS = (1280, 390)
MEASURE = """<!doctype html><meta charset="utf-8"><body><script>
const pages = PAGES, widths = WIDTHS, report = [];
async function look(page, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.src = page;
  const loaded = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await loaded;
  const inner = frame.contentDocument, wide = inner.documentElement.scrollWidth;
  const broken = [...inner.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src);
  const levels = [...inner.querySelectorAll("article :is(h1, h2, h3, h4)")].map(h => +h.tagName[1]);
  const skipped = levels.filter((level, k) => level > (k ? levels[k - 1] : 0) + 1).length;
  const titles = levels.filter(level => level === 1).length;
  // On a narrow screen code in a cell of a table may break.
  const free = width < 640 ? s => !s.closest("td, th") : () => true;
  const torn = [...inner.querySelectorAll("article code .pre")].filter(
    s => s.textContent.startsWith("--") && s.getClientRects().length > 1 && free(s)
  ).map(s => s.textContent);
  const words = (inner.querySelector("article")?.textContent ?? "").split(/\s+/).length;
  if (wide > width || broken.length || skipped || torn.length || titles !== 1 || words < 15)
    report.push({page, width, wide, broken, skipped, torn, titles, words});
  frame.remove();
}
(async () => {
  for (const page of pages) for (const width of widths) await look(page, width);
  document.body.innerHTML = "<pre id=report></pre>";
  document.getElementById("report").textContent = JSON.stringify({seen: pages.length, report});
})();
</script>"""
SHOWN = (
    "index",
    "first-hour",
    "calculator",
    "conventions",
    "coming-from",
    "tutorials/01_relax",
    "tutorials/08_crystals",
    "families/index",
    "families/facet-metals-2",
    "measurements/training",
    "reference/ase_nnp",
    "commands",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def browse(words: list[str], profile: str) -> str:
    """Run Chromium and return what it prints."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    flags += [
        "--disable-extensions",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    flags += [f"--user-data-dir={profile}", "--virtual-time-budget=900000"]
    done = subprocess.run([browser, *flags, *words], capture_output=True, text=True, check=True)
    return done.stdout


def dead_links(site: Path) -> list[str]:
    """Return links between pages of the site that lead nowhere."""
    text = {page: page.read_text() for page in site.rglob("*.html")}
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', html)) for page, html in text.items()}
    dead = []
    for page, html in text.items():
        for address in set(re.findall(r'<a [^>]*href="([^"]+)"', html)):
            if re.match(r"[a-z]+:", address):
                continue
            name, anchor = urldefrag(unquote(unescape(address)))
            target = (page.parent / name).resolve() if name else page
            lost = (
                anchor and target.suffix == ".html" and anchor not in anchors.get(target, {anchor})
            )
            if not target.exists() or lost:
                dead.append(f"{page.relative_to(site)}: {address}")
    return sorted(dead)


def main(words: list[str]) -> int:
    """Measure all pages, and photograph some; return 1 if anything is wrong."""
    site = Path(words[0]).resolve()
    pages = [str(p.relative_to(site)) for p in sorted(site.rglob("*.html"))]
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"

    measure = site / "measure-all-pages.html"
    script = MEASURE.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS))
    measure.write_text(script)
    with tempfile.TemporaryDirectory() as profile:
        dom = browse(["--dump-dom", f"{home}/{measure.name}"], profile)
        measure.unlink()
        if len(words) > 1:
            photograph(home, Path(words[1]), words[2:] or list(SHOWN), profile)
    found = json.loads(unescape(re.findall(r'<pre id="report">(.*?)</pre>', dom, re.DOTALL)[0]))

    dead = dead_links(site)
    for line in [*map(str, found["report"]), *dead]:
        print(line)
    print(
        f"{found['seen']} pages at {WIDTHS}: {len(found['report'])} wrong, {len(dead)} dead links"
    )
    return 1 if found["report"] or dead else 0


def photograph(home: str, folder: Path, pages: list[str], profile: str) -> None:
    """Save a screenshot of each page at each width."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        for width in WIDTHS:
            picture = folder / f"{page.replace('/', '-')}-{width}.png"
            # A window of Chromium is never narrower than 500 pixels, so a frame makes it narrow.
            frame = (
                f"<iframe src='{home}/{page}.html' style='width:{width}px;height:1400px;border:0'>"
            )
            page_file = Path(profile) / "frame.html"
            page_file.write_text(f"<body style='margin:0'>{frame}")
            size = f"--window-size={max(width, 500)},1400"
            browse([f"--screenshot={picture}", size, page_file.as_uri()], profile)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
