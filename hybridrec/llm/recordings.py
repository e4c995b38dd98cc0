"""Every answer of a model is recorded once and never asked for again.

New answers go into an SQLite database, ``NAME.sqlite``. The file ``NAME.jsonl.gz`` beside it is the compact form, which
a repository commits: one answer a line, ``{"key": ..., "response": ...}``, sorted by key. A key is the SHA-256 of the
request, so the files quote no history and no rating, and may be published.
"""

import gzip
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import threading
import warnings
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hybridrec.errors import RecordingError
from hybridrec.files import replacing, shown

# How request_key makes keys, and the layout of the database. Kept in each database as its user_version.
VERSION = 1
# Free bytes without which nothing is asked: tens of thousands of answers.
_LEAST_FREE = 32 * 2**20
# Seconds to wait for another process that is writing.
_PATIENCE = 60
_TABLE = "CREATE TABLE answers (key TEXT PRIMARY KEY, response TEXT NOT NULL) WITHOUT ROWID"
_INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?)"
_WRITE_NOTHING = "DELETE FROM answers WHERE FALSE"  # an error all the same where nothing can be written
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")

_Line = tuple[Path, int, bytes]


def request_key(request: dict[str, Any], attempt: int = 0) -> str:
    """SHA-256 of the canonical request including the attempt, so that a second sample is a second recording."""
    canonical = json.dumps({**request, "attempt": attempt}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Recordings:
    """The recorded answers of one model, by the key of the request.

    Three files are read: the compact form, the journal ``NAME.jsonl`` of earlier versions if there is one, and the
    database. Only the database is written, except by ``compact``. The first answer to a request stays.

    Threads may share an object; a lock lets one of them at a time use its connection. Several processes may append to
    a database and compact it at the same time. It must lie on a local disk.

    Args:
        path: the database; it need not exist, and is made when the first answer is to be written. None: in memory.
        replay_only: read only; nothing is written, and nothing may be asked that has no recording.

    Raises:
        RecordingError: a file is damaged, unreadable or of a newer version (names the file, the line and a remedy).

    Warns:
        UserWarning: the last line of the journal is torn (an earlier run was killed): that answer is ignored.
    """

    def __init__(self, path: Path | str | None = None, replay_only: bool = False) -> None:
        self.path, self.replay_only = None if path is None else Path(path), replay_only
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._lines: dict[str, _Line] = {}
        self._read_at: list[tuple[int, int] | None] = []
        self._read_lines()
        with self._explained("could not be read", "Make it and its folder writable, or open a copy."):
            self._existing()

    @property
    def name(self) -> str:
        """The database as messages name it."""
        return shown(self.path) if self.path else "recordings in memory"

    @property
    def compact_path(self) -> Path:
        """Where the compact form lies."""
        if self.path is None:
            raise RecordingError("Recordings in memory have no compact form: use export(path).")
        return _compact(self.path)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: str) -> bool:
        if key in self._lines or self._stored(key) is not None:
            return True
        self._read_lines()  # another process may have moved it into the compact form
        return key in self._lines

    def __iter__(self) -> Iterator[str]:
        keys = [key for (key,) in self._run("SELECT key FROM answers ORDER BY key")]
        self._read_lines()
        return iter(dict.fromkeys([*self._lines, *keys]))

    def __getitem__(self, key: str) -> dict[str, Any]:
        if key not in self._lines and (text := self._stored(key)) is not None:
            try:
                return json.loads(text)
            except ValueError:
                raise self.damaged(key, f"the answer {key[:12]} is not JSON") from None
        if key not in self._lines:
            self._read_lines()  # another process may have moved it into the compact form
        return json.loads(self._lines[key][2])["response"]

    def damaged(self, key: str, what: str) -> RecordingError:
        """The error to raise for a recorded answer that cannot be used: names the file, the line and the remedy."""
        if key in self._lines:
            path, number, _ = self._lines[key]
            return _damaged_line(path, number, what)
        delete = '"DELETE FROM answers WHERE key = ?"'
        code = f"import sqlite3; sqlite3.connect({json.dumps(self.name)}, isolation_level=None)"
        command = f"python3 -c {shlex.quote(f'{code}.execute({delete}, [{json.dumps(key)}])')}"
        return RecordingError(f"{self.name}: {what}. Remove it (`{command}`): the answer will be asked for again.")

    def make_room(self) -> None:
        """Check that answers can be written, before the first of them is computed or paid for.

        Raises:
            RecordingError: the folder or the database cannot be written to, or too little space is free.
        """
        if self.path is None:
            return
        folder = self.path.parent
        with self._explained("cannot be written", "Nothing was asked. Make its folder writable, or record elsewhere."):
            with self._lock:
                self._database().execute(_WRITE_NOTHING)
            free = shutil.disk_usage(folder).free
        if free < _LEAST_FREE:
            raise RecordingError(
                f"{shown(folder)}: {free / 2**20:.1f} MB are free, fewer than the {_LEAST_FREE / 2**20:.0f} MB "
                "wanted for answers, so nothing was asked. Free some space and run again."
            )

    def append(self, key: str, response: dict[str, Any]) -> None:
        """Record one answer; an answer that the request has already stays.

        When this returns, the answer survives the death of this process (not always a power cut).

        Raises:
            RecordingError: it could not be written, such as on a full disk. Those before it are intact.
        """
        remedy = "Those before it are kept. Remove the cause (free some space) and run again: only it is asked for."
        with self._explained(f"the answer {key[:12]} could not be kept", remedy):
            self._read_lines()  # another process may have moved an answer into the compact form
            with self._lock:
                if key not in self._lines:
                    self._database().execute(_INSERT, (key, _json(response)))

    def import_(self, path: Path | str) -> int:
        """Append the answers of a ``.jsonl.gz`` or ``.jsonl`` file; those to requests that have one are left out.

        Returns:
            How many answers were new.

        Raises:
            RecordingError: the file is damaged (names the line), or an answer could not be written.
        """
        found = {key: json.loads(line)["response"] for key, (_, _, line) in _lines_of(Path(path)).items()}
        new = [(key, _json(response)) for key, response in found.items() if key not in self]
        with self._lock, self._explained("could not be written"), self._database() as database:
            database.execute("BEGIN")
            database.executemany(_INSERT, new)
        return len(new)

    def export(self, path: Path | str, newer: "Recordings | None" = None) -> None:
        """Write all answers to a ``.jsonl.gz`` file, sorted by key: the same answers give the same bytes.

        Args:
            path: of the file; what is there is replaced in one step.
            newer: further recordings, whose answers win.

        Raises:
            RecordingError: the file cannot be written; what was there is as it was.
        """
        holders = dict.fromkeys(self, self) | ({} if newer is None else dict.fromkeys(newer, newer))
        lines = (_json({"key": key, "response": holder[key]}) for key, holder in sorted(holders.items()))
        text = "".join(f"{line}\n" for line in lines).encode()
        with self._explained("could not be written", "No answer is lost. Free some space and run again.", Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with replacing(Path(path)) as partial:
                partial.write_bytes(gzip.compress(text, 9, mtime=0))

    def compact(self, newer: "Recordings | None" = None) -> None:
        """Move all answers into the compact form. The database is emptied, and the journal removed.

        The database stays as an empty file, because other processes may be about to append to it. Without an answer
        no compact form is written.

        Args:
            newer: recordings that are moved there, too; their answers win.

        Raises:
            RecordingError: a file is damaged or cannot be written; then no answer is lost.
        """
        with self._emptied():
            if len(self) or newer:
                self.export(self.compact_path, newer)
            _journal(self.compact_path).unlink(missing_ok=True)
        if newer is not None:
            with newer._emptied():
                for path in (newer.compact_path, _journal(newer.compact_path)):
                    path.unlink(missing_ok=True)

    # --- the database -------------------------------------------------------------------------------------------------

    def _database(self) -> sqlite3.Connection:
        """The connection, opened when it is first needed; a database that is not there is made."""
        with self._lock:
            if self._connection is None:
                if self.path and not self.replay_only:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = _connect(self.path, self.name, self.replay_only)
                weakref.finalize(self, self._connection.close)  # also at exit, so that SQLite tidies up its files
            return self._connection

    def _existing(self) -> sqlite3.Connection | None:
        """The connection, or None where there is no database."""
        exists = self._connection is not None or self.path is None or self.path.exists()
        return self._database() if exists else None

    def _run(self, statement: str, *given: str) -> list[tuple]:
        """The rows that a query finds; none where there is no database."""
        with self._lock, self._explained("could not be read"):
            database = self._existing()
            return database.execute(statement, given).fetchall() if database else []

    def _stored(self, key: str) -> str | None:
        rows = self._run("SELECT response FROM answers WHERE key = ?", key)
        return rows[0][0] if rows else None

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        """Let nobody append meanwhile; afterwards the database is empty. After an error it is as it was."""
        with self._lock, self._explained("could not be emptied", "No answer is lost. Run again."):
            database = self._existing()
            if database is None:
                yield
                return
            with database:
                database.execute("BEGIN IMMEDIATE")
                yield
                database.execute("DELETE FROM answers")
            with suppress(sqlite3.OperationalError):  # others are reading: the file shrinks another time
                database.execute("VACUUM")

    @contextmanager
    def _explained(self, what: str, remedy: str = "", path: Path | None = None) -> Iterator[None]:
        """Turn an error of SQLite or of the system into one that names the file, the cause and the remedy."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            name = shown(path) if path else self.name
            if getattr(error, "sqlite_errorname", None) in _DAMAGE:
                raise _damaged_database(name, error) from None
            cause = getattr(error, "strerror", None) or error
            raise RecordingError(f"{name}: {what} ({cause}). {remedy}".rstrip()) from None

    # --- the files beside it ------------------------------------------------------------------------------------------

    def _read_lines(self) -> None:
        """Read the compact form and the journal, unless they are as they were when they were last read.

        The journal goes first: if another process compacted in between, its answers would be in neither.
        """
        if self.path is None:
            return
        with self._lock:
            paths = [_journal(self.compact_path), self.compact_path]
            found = [_changed_at(path) for path in paths]
            if found != self._read_at:
                journal, compact = (_lines_of(path) if at else {} for path, at in zip(paths, found, strict=True))
                self._lines, self._read_at = {**journal, **compact}, found


def remove(path: Path) -> None:
    """Delete the recordings at a path, damaged or not: the database, the compact form and the journal."""
    helpers = [path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm")]
    for file in (path, *helpers, _compact(path), _journal(_compact(path))):
        file.unlink(missing_ok=True)


def _connect(path: Path | None, name: str, replay_only: bool) -> sqlite3.Connection:
    """Open the database, or make it.

    Where nothing may be written (a replay, a read-only folder), SQLite must not make its helper files either. It then
    needs no locks if nobody has the database open, which shows in the absence of its write-ahead log.
    """
    where, writable = "file::memory:", True
    if path is not None:
        writable = not replay_only and all(os.access(one, os.W_OK) for one in (path.parent, path) if one.exists())
        reading = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
        where = f"{path.absolute().as_uri()}?{'mode=rwc' if writable else reading}"
    # isolation_level=None: every statement is a transaction of its own.
    database = sqlite3.connect(where, _PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
    try:
        if writable:
            with database:
                database.execute("BEGIN IMMEDIATE")
                if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                    database.execute(_TABLE)
                    database.execute(f"PRAGMA user_version = {VERSION}")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise RecordingError(
                f"{name}: version {version} of a database of recordings, and this hybridrec knows version "
                f"{VERSION}. Update hybridrec, or name another file."
            )
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damaged_database(name, found)
        if writable:
            with suppress(sqlite3.OperationalError):  # another process is doing the same just now
                database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        database.close()
        raise
    return database


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _compact(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".sqlite") + ".jsonl.gz")


def _journal(compact: Path) -> Path:
    """Where earlier versions kept new answers."""
    return compact.with_suffix("")


def _changed_at(path: Path) -> tuple[int, int] | None:
    """When a file was written, and its size; None if there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None


def _lines_of(path: Path) -> dict[str, _Line]:
    """The lines of a compact form or a journal, by key."""
    packed = path.suffix == ".gz"
    try:
        text = path.read_bytes()
    except FileNotFoundError:  # another process has just removed it
        return {}
    except OSError as error:
        raise RecordingError(f"{shown(path)}: {error.strerror}. Make it readable, or restore it.") from None
    if packed:
        text = _unpacked(text, path)
    whole, _, torn = text.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    if torn and packed:
        raise _damaged_line(path, len(lines) + 1, "the last line is cut off")
    if torn:
        warnings.warn(f"{shown(path)}: the last line was cut off (by a killed run); it is ignored.", stacklevel=5)
    found: dict[str, _Line] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode())  # the bytes of any other encoding are damage
            key, response = record["key"], record["response"]
            if not (isinstance(key, str) and isinstance(response, dict)):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _damaged_line(path, number, "not a recording") from None
        if packed and key in found:  # which of the two counts is unknown
            first = found[key][1]
            raise _damaged_line(path, number, f"line {first} holds an answer to the same request ({key[:12]})")
        found[key] = (path, number, line)
    return found


def _unpacked(packed: bytes, path: Path) -> bytes:
    try:
        text = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error):
        text = b""
    if not text:
        raise RecordingError(
            f"{shown(path)}: not a gzip file, or cut off, or empty. Restore it from git, or remove it (all its "
            "answers will be asked for again)."
        )
    return text


def _damaged_line(path: Path, line: int, what: str) -> RecordingError:
    name = shown(path)
    file, remedy = shlex.quote(name), "Remove that line"
    if path.suffix == ".gz":
        command = f"gzip -dc {file} | sed {line}d | gzip > mended.gz && mv mended.gz {file}"
        remedy = f"Restore the file from git, or remove that line (`{command}`)"
    return RecordingError(f"{name}, line {line}: {what}. {remedy}: the answer will be asked for again.")


def _damaged_database(name: str, cause: object) -> RecordingError:
    folder = shlex.quote(str(Path(name).parent / "damaged"))
    command = f"mkdir {folder} && mv {shlex.quote(name)}* {folder}"
    cause = " ".join(str(cause).split())
    return RecordingError(
        f"{name}: damaged ({cause}). Move it away (`{command}`): its answers will be asked for again."
    )
