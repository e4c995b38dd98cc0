"""The key of an endpoint reaches no file, log, message, traceback or notebook, even if the server repeats it."""

import json
import logging
import os
import secrets
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import pytest
import rank_users
from fault_server import FaultServer, Reply, Request, completion, error, ranked, serve

from hybridrec.errors import EndpointError, SettingError
from hybridrec.llm import rankers
from hybridrec.llm.models import endpoint
from hybridrec.llm.models.endpoint import Endpoint
from hybridrec.llm.recordings import Recordings
from hybridrec.study import config, paths
from hybridrec.study import models as study_models

# Keys may hold slashes, which some servers escape in JSON.
SECRET = secrets.token_hex(16)
KEY = f"sk/{SECRET}/+="
VARIABLE = "HYBRIDREC_TEST_KEY"
# What other processes import: these tests' helpers, and the package that is tested here.
IMPORTED = os.pathsep.join([str(Path(__file__).parent), str(paths.ROOT)])


def quotes_the_key(text: str | bytes) -> bool:
    """Whether a text holds the key or any eight characters in a row of its secret part."""
    data = text.encode() if isinstance(text, str) else text
    return any(SECRET[start : start + 8].encode() in data for start in range(len(SECRET) - 7))


def test_a_piece_of_the_key_is_found_where_there_is_one():
    assert quotes_the_key(f"Bearer {KEY}")
    assert quotes_the_key(b"cut off after " + KEY[:12].encode())
    assert not quotes_the_key("Bearer [key]")


# --- a server that repeats the key wherever it can ------------------------------------------------------------------


def repeats(request: Request) -> Reply:
    """The key in headers, status line, errors and answers; what comes depends on the user."""
    key = request.headers["authorization"].removeprefix("Bearer ")
    user = int(request.message.split("New Film ")[1].split("-")[0])
    headers = {"X-Request-Id": key, "X-Your-Authorization": f"Bearer {key}"}
    escaped = {"error": {"message": f"wrong key {key}", "code": key}}
    answer = json.loads(completion(request, f"C1 > C2, {key}").content)
    answer["choices"][0]["finish_reason"] = key
    replies = [
        ranked(request, headers=headers, reason=f"OK {key}"),
        completion(request, f"C2 > C1, said {key}", headers=headers),
        Reply("escaped", json.dumps(answer).replace("/", "\\/"), answers=True),
        error(400, f"wrong key: {key}", headers=headers),
        Reply("escaped", json.dumps(escaped).replace("/", "\\/"), 400),
        error(400, "x" * (300 - len("error ") - 16) + key),  # where messages are cut, within the key
        Reply("plain", f"Authorization: Bearer {key}", 503, reason=f"Unavailable for {key}"),
        Reply("html", f"<html>{key}</html>", headers=headers),
        Reply("no completion", json.dumps({"error": {"message": f"key {key} is tired"}})),
        Reply("reset", reset=True),
    ]
    if user >= 200:
        return Reply("redirect", status=307, headers={"Location": f"/{key}?key={key}"})
    return replies[user % len(replies)] if user < 100 else error(401, f"no such key: {key}", key, headers)


@pytest.fixture(scope="module")
def area(tmp_path_factory) -> Path:
    """The folder in which everything of this module is written."""
    return tmp_path_factory.mktemp("area")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with pytest.MonkeyPatch.context() as patch, serve(repeats) as running:
        patch.setenv(VARIABLE, KEY)
        patch.setattr(endpoint, "_FIRST_WAIT", 0.01)
        yield running


@pytest.fixture(scope="module")
def logged(area) -> Iterator[Path]:
    """A file that takes all that any library logs."""
    names = ["", "httpx2", "httpcore2", *endpoint._LOGGERS]
    levels = {name: logging.getLogger(name).level for name in names}
    handler = logging.FileHandler(area / "debug.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield area / "debug.log"
    logging.getLogger().removeHandler(handler)
    handler.close()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def model(server: FaultServer, **settings) -> Endpoint:
    return rank_users.model(server.url, key_variable=VARIABLE, retries=1, attempts=1, **settings)


@pytest.fixture(scope="module")
def run(server, area, logged) -> tuple[Endpoint, list[rankers.Ranking], EndpointError]:
    """A run of 40 users in which some fail, then two that end with an error; the first of the two is returned."""
    recordings = Recordings(area / "recordings" / "toy.sqlite")
    one = model(server)
    labels = (rank_users.task(user) for user in range(40))
    rankings = list(rankers.rank(labels, "listwise-labels", one, recordings, noun="film", seed=1))
    with pytest.raises(EndpointError) as caught:
        list(rank_users.rank(range(100, 140), model(server), recordings))
    with pytest.raises(EndpointError, match=r"redirects to another address, /\[key\]\."):
        list(rank_users.rank(range(200, 240), model(server), recordings))
    return one, rankings, caught.value


def test_the_key_is_sent_and_the_server_repeats_it(run, server):
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert quotes_the_key(repeats(server.requests[0]).bytes())


def test_no_file_of_the_run_holds_the_key(run, area):
    files = [path for path in area.rglob("*") if path.is_file()]
    assert {"debug.log", "toy.sqlite"} <= {path.name for path in files}
    assert not [path.name for path in files if quotes_the_key(path.read_bytes())]


def test_the_recordings_show_that_the_key_was_taken_out(run, area):
    recordings = Recordings(area / "recordings" / "toy.sqlite")
    answers = [recordings[key] for key in recordings]
    assert any("said [key]" in answer["text"] for answer in answers)
    assert any(answer["finish_reason"] == "[key]" for answer in answers)


def test_the_log_holds_everything_but_the_key(run, logged):
    text = logged.read_text(encoding="utf-8")
    for name in ("httpcore2.http11", "httpcore2.connection", "httpx2"):
        assert f"{name} DEBUG" in text or f"{name} INFO" in text
    assert "X-Your-Authorization', b'Bearer [key]'" in text
    assert "?key=[key]" in text
    assert not quotes_the_key(text)


def test_failures_that_are_printed_hold_no_key(run):
    _, rankings, _ = run
    failures = {ranking.failure for ranking in rankings if ranking.failure}
    assert "refused with 400: error wrong key: [key]" in failures
    assert "refused with 400: [key] wrong key [key]" in failures
    assert not quotes_the_key("".join(failures))
    assert not quotes_the_key(f"{rankings}")


def test_the_error_that_ends_a_run_and_all_behind_it_hold_no_key(run):
    *_, caught = run
    assert "401: [key] no such key: [key]" in str(caught)
    links, behind = [], caught
    while behind is not None:  # also what "from None" hides
        links.append(f"{behind!r} {behind} {behind.args}")
        behind = behind.__cause__ or behind.__context__
    shown = "".join(traceback.format_exception(caught, chain=True))
    assert "in _send" in shown
    assert not quotes_the_key(shown + "".join(links))


def test_no_object_shows_the_key(run):
    one, *_ = run
    things = [one, one.endpoint, one._client, one._censor, one.budget, one._requests, one.faults, one.price]
    assert not quotes_the_key(" ".join(f"{thing!r} {thing}" for thing in things))


def test_neither_standard_output_nor_standard_error_of_a_process_that_fails_holds_the_key(server, tmp_path):
    """With all logging switched on, which writes to standard error."""
    code = f"""
import logging
import rank_users
from pathlib import Path
from hybridrec.llm.recordings import Recordings
logging.basicConfig(level=logging.DEBUG)
model = rank_users.model({server.url!r}, key_variable={VARIABLE!r}, retries=0, attempts=1)
recordings = Recordings(Path("toy.sqlite"))
for ranking in rank_users.rank(range(10), model, recordings): print(ranking, model.endpoint, model)
list(rank_users.rank(range(100, 101), model, recordings))
"""
    environment = os.environ | {"PYTHONPATH": IMPORTED}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert "EndpointError" in done.stderr
    assert "httpcore2.http11" in done.stderr
    assert "Ranking(" in done.stdout
    assert not quotes_the_key(done.stdout + done.stderr)
    assert not quotes_the_key((tmp_path / "toy.sqlite").read_bytes())


# --- notebooks ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["Context", "Verbose"])
def test_a_notebook_that_fails_on_the_way_holds_no_key(mode, server, area, monkeypatch):
    """Verbose tracebacks print the variables of every function on the way."""
    monkeypatch.setenv("IPYTHONDIR", str(area / f"ipython-{mode}"))
    monkeypatch.setenv("PYTHONPATH", IMPORTED)
    cells = [
        f"%xmode {mode}",
        "import rank_users\nfrom pathlib import Path\nfrom hybridrec.llm.recordings import Recordings",
        f"model = rank_users.model({server.url!r}, key_variable={VARIABLE!r})\nmodel",
        "list(rank_users.rank(range(100, 101), model, Recordings(Path('notebook.sqlite'))))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    source, target = area / f"{mode}.ipynb", area / f"{mode}.executed.ipynb"
    nbformat.write(notebook, source)
    quiet = ["--log-level=CRITICAL"]
    with pytest.raises(papermill.PapermillExecutionError, match="EndpointError") as caught:
        papermill.execute_notebook(
            source, target, kernel_name="python3", cwd=area, progress_bar=False, extra_arguments=quiet
        )
    assert "401: [key] no such key: [key]" in target.read_text(encoding="utf-8")
    assert not quotes_the_key("".join(traceback.format_exception(caught.value)))
    files = [path for path in area.rglob("*") if path.is_file()]
    assert target in files
    assert not [path.name for path in files if quotes_the_key(path.read_bytes())]


# --- a key in the wrong place ---------------------------------------------------------------------------------------

VALUES = tomllib.loads((paths.EXPERIMENTS / "ml-100k.toml").read_text(encoding="utf-8"))
URL = "https://host.example/v1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": URL, "key_variable": KEY}, "key_variable must be the NAME of an environment variable"),
        ({"base_url": URL, "key_variable": SECRET}, "key_variable must be the NAME of an environment variable"),
        ({"base_url": URL, "key_variable": [KEY]}, "key_variable is not what it should be"),
        (
            {"base_url": f"https://user:{SECRET}@host.example/v1"},
            "base_url must be like",
        ),
        ({"base_url": f"{URL}?key={SECRET}"}, "base_url must be like"),
        ({"base_url": f"{URL}#{SECRET}"}, "base_url must be like"),
        ({"base_url": KEY}, "base_url must be like"),
        ({"base_url": {"key": KEY}}, "base_url is not what it should be"),
        ({"base_url": URL, "api_key": KEY}, "unknown key 'api_key'"),
        pytest.param(KEY, "endpoint is not what it should be", id="the key alone"),
        ([KEY], "endpoint is not what it should be"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_without_being_repeated(settings, message):
    with pytest.raises(SettingError, match=message) as caught:
        config.build("toy", VALUES | {"endpoint": settings}, "toy.toml")
    assert not quotes_the_key("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize(
    "line", [f"key_variable = {KEY}", f'key_variable = "{KEY}', KEY], ids=["bare", "an open quote", "the key alone"]
)
def test_a_key_that_breaks_the_experiment_file_is_not_repeated(line, tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(f'[endpoint]\nbase_url = "{URL}"\n{line}\n', encoding="utf-8")
    with pytest.raises(SettingError, match="toy.toml") as caught:
        config.read(path)
    assert not quotes_the_key("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize("settings", [{"base_url": URL, "key_variable": KEY}, {"base_url": f"https://{SECRET}@host"}])
def test_a_key_in_the_wrong_place_is_refused_by_a_notebook_too(settings):
    with pytest.raises(SettingError) as caught:
        study_models.open_model("gpt-4o-mini", settings)
    assert not quotes_the_key("".join(traceback.format_exception(caught.value)))
    assert not quotes_the_key(repr(Endpoint("toy", URL, key_variable=VARIABLE).endpoint))
