"""Weights by name: fetched once, checked, continued after a break; never trusted."""

from __future__ import annotations

import hashlib
import http.server
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from ase_nnp.cli import main
from ase_nnp.errors import ConfigError, DownloadError
from ase_nnp.models.download import cache_folder, cached, clear_cache, fetch
from ase_nnp.registry.family import Pretrained

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """A server that can be told to misbehave; what it was asked is in ``server.asked``."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        said = self.headers.get("Range")
        self.server.asked.append((self.path, said))
        manner = self.path.split("/")[1]
        body, start = CONTENT, 0
        if manner == "missing":
            return self.send_error(404)
        if manner == "away":
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere)
            return self.end_headers()
        if manner == "other":
            body = b"something else" * 1000
        if manner == "endless":
            body = CONTENT * 3
        if said and manner not in ("norange", "other"):
            start = int(said.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        sent = body[start:]
        if manner == "breaks" and len(self.server.asked) == 1:
            sent = sent[: len(sent) // 3]
        if manner == "norange" and len(self.server.asked) == 1:
            sent = sent[: len(sent) // 3]
        self.wfile.write(sent)
        return None


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.elsewhere = [], ""
    made.base = f"http://127.0.0.1:{made.server_address[1]}"
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASE_NNP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ASE_NNP_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def weights(source, **changes):
    about = {"name": "small", "summary": "", "sha256": DIGEST, "size_mb": len(CONTENT) / 1e6}
    return Pretrained(source=source, **{**about, **changes})


def test_a_file_is_fetched_once_and_then_found(server):
    seen = []
    offered = weights(f"{server.base}/good/small.nnp")
    path = fetch(offered, lambda have, total: seen.append((have, total)))
    assert path.read_bytes() == CONTENT
    assert path.name == "small.nnp"
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(offered) == path
    assert len(server.asked) == 1


def test_a_download_that_breaks_off_is_continued(server):
    offered = weights(f"{server.base}/breaks/small.nnp")
    with pytest.raises(DownloadError, match="bytes are kept; the next attempt continues"):
        fetch(offered)
    (part,) = cached()
    assert not part.complete
    assert fetch(offered).read_bytes() == CONTENT
    assert server.asked[1][1] == f"bytes={part.size}-"
    assert [f.complete for f in cached()] == [True]


def test_a_server_that_ignores_ranges_sends_all_again(server):
    offered = weights(f"{server.base}/norange/small.nnp")
    with pytest.raises(DownloadError):
        fetch(offered)
    assert fetch(offered).read_bytes() == CONTENT
    assert server.asked[1][1] is not None


def test_a_complete_part_is_recognised_by_its_hash(server, cache):
    offered = weights(f"{server.base}/good/small.nnp")
    part = cache / DIGEST[:16] / "small.nnp.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch(offered).read_bytes() == CONTENT


def test_a_spoilt_part_costs_one_more_download(server, cache):
    offered = weights(f"{server.base}/good/small.nnp")
    part = cache / DIGEST[:16] / "small.nnp.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert fetch(offered).read_bytes() == CONTENT
    assert [said for _, said in server.asked] == ["bytes=1000-", None]


@pytest.mark.parametrize("manner", ["other", "endless"])
def test_other_content_than_announced_is_refused_and_not_kept(server, manner):
    with pytest.raises(DownloadError, match="announced"):
        fetch(weights(f"{server.base}/{manner}/small.nnp"))
    assert cached() == []


def test_an_error_of_the_server_is_told(server):
    with pytest.raises(DownloadError, match="404"):
        fetch(weights(f"{server.base}/missing/small.nnp"))
    assert cached() == []


def test_a_server_that_is_not_there_is_told():
    with pytest.raises(DownloadError, match="checkpoint=PATH"):
        fetch(weights("http://127.0.0.1:9/small.nnp"))


def test_redirects_are_followed_to_allowed_places_only(server):
    server.elsewhere = f"{server.base}/good/small.nnp"
    assert fetch(weights(f"{server.base}/away/a.nnp")).read_bytes() == CONTENT
    for place in ("http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x"):
        server.elsewhere = place
        with pytest.raises(DownloadError):
            fetch(weights(f"{server.base}/away/b.nnp"))


@pytest.mark.parametrize("source", ["http://example.org/x", "ftp://example.org/x"])
def test_addresses_without_encryption_are_refused(source):
    with pytest.raises(DownloadError, match="neither https"):
        fetch(weights(source))


def test_weights_without_a_hash_are_refused(server):
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(weights(f"{server.base}/good/x", sha256=None))
    assert server.asked == []


def test_offline_uses_the_cache_and_asks_nobody(server, monkeypatch):
    offered = weights(f"{server.base}/good/small.nnp")
    monkeypatch.setenv("ASE_NNP_OFFLINE", "1")
    with pytest.raises(DownloadError, match="ASE_NNP_OFFLINE"):
        fetch(offered)
    assert server.asked == []
    monkeypatch.setenv("ASE_NNP_OFFLINE", "0")
    path = fetch(offered)
    monkeypatch.setenv("ASE_NNP_OFFLINE", "1")
    assert fetch(offered) == path


def test_a_file_address_works(tmp_path):
    (tmp_path / "here.nnp").write_bytes(CONTENT)
    assert fetch(weights((tmp_path / "here.nnp").as_uri())).read_bytes() == CONTENT


def ask(source, queue):
    queue.put(fetch(weights(source)).read_bytes() == CONTENT)


def test_processes_that_ask_at_once_download_once(server):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    source = f"{server.base}/good/small.nnp"
    crowd = [context.Process(target=ask, args=(source, queue)) for _ in range(4)]
    for process in crowd:
        process.start()
    assert all(queue.get(timeout=120) for _ in crowd)
    for process in crowd:
        process.join()
    assert len(server.asked) == 1


def test_a_cache_that_cannot_be_written_is_told(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASE_NNP_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(DownloadError, match="Cannot write"):
        fetch(weights(f"{server.base}/good/small.nnp"))


def test_the_cache_is_listed_and_cleared(server, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["models", "cache", *arguments])
        return stop.value.code, capsys.readouterr().out

    for name in ("a.nnp", "b.nnp"):
        fetch(weights(f"{server.base}/good/{name}"))
    code, out = run("list", "--json")
    assert code == 0
    assert [f["size"] for f in json.loads(out)] == [len(CONTENT)] * 2
    assert str(cache_folder()) in json.loads(out)[0]["path"]
    assert run("clear", "nobody")[0] == 2
    assert run("clear", "a.nnp", "--json")[0] == 0
    assert [f.path.name for f in cached()] == ["b.nnp"]
    assert run("clear")[0] == 0
    assert cached() == []
    with pytest.raises(ConfigError, match="holds no"):
        clear_cache("a.nnp")


def test_a_family_loads_its_weights_from_an_address(server, tmp_path, monkeypatch):
    """Through load_model; a local path then needs no network at all."""
    import dataclasses

    import ase_nnp
    from ase_nnp.registry.installed import installed

    made = ase_nnp.build_model("lj", {"sigma": 2.2}, device="cpu")
    ase_nnp.save_model(made, tmp_path / "lj.nnp")
    content = (tmp_path / "lj.nnp").read_bytes()
    offered = weights(
        (tmp_path / "lj.nnp").as_uri(), sha256=hashlib.sha256(content).hexdigest(), size_mb=None
    )
    family = dataclasses.replace(installed().families["lj"], pretrained=(offered,))
    monkeypatch.setitem(installed().families, "lj", family)
    loaded = ase_nnp.load_model("lj", checkpoint="small", device="cpu")
    assert loaded.config["sigma"] == 2.2
    assert loaded.provenance["pretrained"] == "small"
    monkeypatch.setenv("ASE_NNP_OFFLINE", "1")
    clear_cache()
    assert ase_nnp.load_model("lj", checkpoint=tmp_path / "lj.nnp").config["sigma"] == 2.2
    with pytest.raises(DownloadError):
        ase_nnp.load_model("lj")


def test_a_cached_file_that_changed_is_fetched_again(server):
    offered = weights(f"{server.base}/good/small.nnp")
    path = fetch(offered)
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch(offered).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_cached_file_that_changed_is_not_used_offline(server, monkeypatch):
    offered = weights(f"{server.base}/good/small.nnp")
    fetch(offered).write_bytes(b"something else")
    monkeypatch.setenv("ASE_NNP_OFFLINE", "1")
    with pytest.raises(DownloadError, match="not whole"):
        fetch(offered)


@pytest.mark.parametrize(
    "last",
    ["..%2F..%2Fout.nnp", "..%5C..%5Cout.nnp", "%2Fetc%2Fpasswd", "..", "%2E%2E", "%00x", ""],
)
def test_no_address_leads_out_of_the_cache(server, cache, last):
    path = fetch(weights(f"{server.base}/good/{last}"))
    assert path.resolve().parent == (cache / DIGEST[:16]).resolve()
    assert path.read_bytes() == CONTENT


def test_a_hash_that_is_none_is_refused(server):
    for digest in ("../" * 21 + "x", "g" * 64, "a" * 63):
        with pytest.raises(DownloadError, match="SHA-256"):
            fetch(weights(f"{server.base}/good/small.nnp", sha256=digest))


def test_pipes_and_devices_are_no_weights(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(DownloadError, match="pipe, socket or device"):
            fetch(weights(path.as_uri()))
