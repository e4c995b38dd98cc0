"""In a real browser: every page of the built site, and a notebook run in JupyterLab. `make site-check` runs this."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import nbformat
import psutil
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from hybridrec.study import paths

pytestmark = pytest.mark.browser
SITE = paths.ROOT / "_site" / "html"
QUIET = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
NO_BROWSER = "no chromium here. Install it (Debian: apt-get install chromium), and run `make site-check` again."
NO_SITE = "no site here: run `make site-check`, which makes it first."
WHITE_AND_BLACK = ("rgb(255, 255, 255)", "rgb(19, 20, 22)")  # the theme's pages, light and dark
FIRST_PAGE = 300_000  # bytes of the front page with all that it loads
PATIENCE = 120_000  # milliseconds that a page may take, on a machine that has other work to do
_LEFT = "net::ERR_ABORTED"  # an icon that was still on its way when the next page was called

# What is wrong with a page as it is laid out: figures that do not show, and whatever scrolls sideways. Tables and code
# may scroll in themselves, and so be as wide as they like. Folded parts are opened first.
_LOOK = """() => {
  document.querySelectorAll('article details').forEach(one => { one.open = true; });
  const wide = document.documentElement.clientWidth;
  const scrolls = part => part && part.tagName !== 'ARTICLE' &&
    (['auto', 'scroll'].includes(getComputedStyle(part).overflowX) || scrolls(part.parentElement));
  const box = part => part.getBoundingClientRect();
  const may = 'pre, .highlight, .table-wrapper, .output:has(table)';
  const scrolling = [...document.querySelectorAll('article *')].filter(one =>
    one.scrollWidth > one.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(one).overflowX) &&
    !one.closest(may));
  const white = one => getComputedStyle(one).backgroundColor === 'rgb(255, 255, 255)';
  const figures = [...document.querySelectorAll('article img')];
  const hidden = figures.filter(one => !(one.naturalWidth > 0 && box(one).width > 50 && box(one).height > 50));
  const out = [...document.querySelectorAll('article *')].filter(one => box(one).right > wide + 1 && !scrolls(one));
  return {
    figures: figures.length,
    problems: [
      ...hidden.map(one => 'does not show: ' + one.src),
      ...figures.filter(one => !white(one)).map(one => 'is not drawn on white: ' + one.src),
      ...out.slice(0, 3).map(one => 'sticks out: ' + one.outerHTML.slice(0, 100)),
      ...scrolling.slice(0, 3).map(one => 'scrolls sideways: ' + one.outerHTML.slice(0, 100)),
      ...(document.documentElement.scrollWidth > wide ? ['the page scrolls sideways'] : []),
    ],
    background: getComputedStyle(document.body).backgroundColor,
    ids: [...document.querySelectorAll('[id]')].map(one => one.id),
    links: [...document.querySelectorAll('a[href]')].map(one => one.href),
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window, with an empty profile."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail(NO_BROWSER)
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=QUIET)
        yield started
        started.close()


class Silent(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serve(folder: Path) -> Iterator[str]:
    """The address of a folder, served on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of the built site."""
    if not (SITE / "index.html").is_file():
        pytest.fail(NO_SITE)
    yield from serve(SITE)


def watch(page: Page, address: str) -> list[str]:
    """A list that fills with what goes wrong: errors on the console, requests that fail or leave this machine."""
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("requestfailed", lambda asked: wrong.append(f"failed: {asked.url}") if asked.failure != _LEFT else None)
    page.on("response", lambda reply: wrong.append(f"{reply.status}: {reply.url}") if reply.status >= 400 else None)
    own = (address, "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(f"elsewhere: {asked.url}"))
    return wrong


def look_at(page: Page, address: str, names: list[str]) -> tuple[dict[str, list[str]], dict[str, dict]]:
    """What is wrong on each page, light or dark, and what was seen there (figures, ids, links), by address."""
    wrong, seen = {}, {}
    page.set_default_timeout(PATIENCE)
    errors = watch(page, address)
    for name in names:
        page.emulate_media(color_scheme="light")
        page.goto(address + name)
        light = page.evaluate(_LOOK)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(_LOOK)
        seen[address + name] = light | {"dark": dark["background"]}
        if found := [*errors, *light["problems"], *(f"dark: {one}" for one in dark["problems"])]:
            wrong[name] = found
        errors.clear()
    return wrong, seen


def dangling(page: Page, address: str, seen: dict[str, dict]) -> set[str]:
    """Links within the site that the server does not know, or whose page has no such place."""
    links = {link for found in seen.values() for link in found["links"] if link.startswith(address)}
    files = {urldefrag(link).url for link in links}
    gone = {file for file in files if page.request.head(file).status != 200}
    lost = {
        link for link in links
        if (place := urlsplit(link).fragment) and urldefrag(link).url in seen
        and place not in seen[urldefrag(link).url]["ids"]
    }  # fmt: skip
    return gone | lost


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_loads_shows_its_figures_and_does_not_scroll_sideways(browser, address, width):
    names = sorted(str(file.relative_to(SITE)) for file in SITE.rglob("*.html"))
    page = browser.new_page(viewport={"width": width, "height": 844})
    wrong, seen = look_at(page, address, names)
    assert len(names) > 30 and sum(found["figures"] for found in seen.values()) > 100
    assert wrong == {}
    assert {(found["background"], found["dark"]) for found in seen.values()} == {WHITE_AND_BLACK}
    assert dangling(page, address, seen) == set()


def test_what_is_wrong_with_a_page_is_seen(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        '<link rel="icon" href="data:,"><article><img src="gone.png">'
        '<div style="width: 3000px">wide</div><p style="overflow-x: auto"><svg width="3000"></svg></p>'
        '<a href="#lost">x</a><a href="no.html">y</a>'
        "</article><script>console.error('oh'); fetch('http://127.0.0.1:9/x').catch(() => 0)</script>",
        encoding="utf-8",
    )
    (tmp_path / "good.html").write_text(
        '<link rel="icon" href="data:,"><article><div class="table-wrapper" style="overflow-x: auto">'
        '<div style="width: 3000px">wide</div></div><details><pre>text</pre></details></article>',
        encoding="utf-8",
    )
    for address in serve(tmp_path):
        page = browser.new_page(viewport={"width": 390, "height": 844})
        wrong, seen = look_at(page, address, ["bad.html", "good.html"])
        lost = dangling(page, address, seen)
    said = "\n".join(wrong.pop("bad.html"))
    parts = ("does not show", "not drawn on white", "sticks out", "scrolls sideways: <p", "the page scrolls sideways")
    for part in (*parts, "dark: sticks out", "404", "console: oh", "elsewhere"):
        assert part in said
    assert wrong == {}
    assert lost == {address + "bad.html#lost", address + "no.html"}


def test_the_site_can_be_searched_even_from_the_disk(browser, address):
    for start in (address, f"{SITE.as_uri()}/"):
        page = browser.new_page()
        errors = watch(page, start)
        page.goto(start + "search.html?q=regression")
        page.wait_for_selector("#search-results li a")
        page.wait_for_timeout(1000)
        assert errors == []


def test_the_front_page_is_small_and_shows_the_first_answer_on_the_second_screen(browser, address):
    sizes = {}
    page = browser.new_page(viewport={"width": 1280, "height": 844})
    page.on("response", lambda reply: sizes.update({reply.url: len(reply.body())}))
    page.goto(address, wait_until="networkidle")
    assert len(sizes) > 5 and sum(sizes.values()) < FIRST_PAGE, sizes
    assert page.locator("article img").first.bounding_box()["y"] < 844
    assert page.locator("#what-we-found table").bounding_box()["y"] < 2 * 844


def test_code_folds_and_is_copied_as_it_stands(browser, address):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}notebooks/03_user_triage.html")
    folds, unfolded = page.locator("details.code"), page.locator("details.code[open]")
    assert 0 < unfolded.count() < folds.count()
    page.click("text=Show all code")
    assert unfolded.count() == folds.count()
    first = folds.first
    first.locator("pre").hover()
    first.locator("button.copybtn").click()
    assert page.evaluate("navigator.clipboard.readText()").strip() == first.locator("pre").inner_text().strip()
    page.click("text=Hide all code")
    page.goto(f"{address}notebooks/06_cost.html")
    assert folds.count() > 0 and unfolded.count() == 0  # as it was left
    context.close()


# --- JupyterLab -------------------------------------------------------------------------------------------------------


def cleared_copy(source: Path, target: Path) -> Path:
    """A copy of a notebook without outputs."""
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, target)
    return target


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def lab(tmp_path) -> Iterator[tuple[str, str, Path, int]]:
    """JupyterLab on loopback over a scratch folder: its address, its token, the folder, its process."""
    folder, port, token = tmp_path / "notebooks", free_port(), secrets.token_hex()
    folder.mkdir()
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"HYBRIDREC_SCRATCH": str(tmp_path / "scratch"), "JUPYTER_TOKEN": token}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly", "--LabApp.news_url=None"]
    command += ["--ServerApp.port_retries=0", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (tmp_path / "lab.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_for_server(f"{address}api?token={token}", server, tmp_path / "lab.log")
        yield address, token, folder, server.pid
    finally:
        server.terminate()  # takes its kernels with it
        server.wait(120)


def wait_for_server(url: str, server: subprocess.Popen, log: Path, seconds: int = 120) -> None:
    """Wait until the server answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


def run_all(page: Page, file: Path, seconds: int = 300) -> list[nbformat.NotebookNode]:
    """Run > Run All Cells, then save until every code cell has run or one has failed. Returns the code cells."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    until = time.monotonic() + seconds
    while True:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
        failed = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
        if failed or all(cell.execution_count for cell in cells) or time.monotonic() > until:
            return cells


def opened(browser: Browser, address: str, token: str, file: Path) -> Page:
    """The notebook in JupyterLab, its kernel idle."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{address}lab/tree/{file.name}?token={token}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
    return page


def assert_whole(cells: list[nbformat.NotebookNode]) -> None:
    """Every cell ran, in order, without an error."""
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_a_notebook_and_its_exercise_run_in_jupyterlab_from_top_to_bottom(browser, lab, tmp_path):
    address, token, folder, server = lab
    file = cleared_copy(paths.NOTEBOOKS / "01_data.ipynb", folder / "study.ipynb")
    cells = run_all(opened(browser, address, token, file), file)
    kernels = [process.cmdline() for process in psutil.Process(server).children(recursive=True)]
    assert_whole(cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert [line[0] for line in kernels if "ipykernel_launcher" in line] == [sys.executable]
    assert (tmp_path / "scratch" / "results" / "ml-100k" / "01_portrait.png").is_file()

    solved = cleared_copy(paths.ROOT / "exercises" / "solutions" / "01_data.ipynb", folder / "exercise.ipynb")
    cells = run_all(opened(browser, address, token, solved), solved)
    assert_whole(cells)
    assert any("\u2713" in output.get("text", "") for cell in cells for output in cell.outputs)
