"""Teaching: what is taught is asked afterwards, nobody else's ratings matter, a killed run comes to the same."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_model
import torch

from hybridrec import cli, progress
from hybridrec.errors import DatasetError, ModelError
from hybridrec.llm import lessons, modes, objectives, prompts, rankers, teach
from hybridrec.llm.models import packed
from hybridrec.llm.models.local import HuggingFace
from hybridrec.llm.models.weights import ADAPTER_CARD, ADAPTER_WEIGHTS
from hybridrec.llm.recordings import Recordings
from hybridrec.llm.tasks import build_tasks
from hybridrec.study import teaching

TITLES = [f"{word} {number}" for word in ("Alien", "Brazil", "Casino") for number in range(1, 9)]
GOOD = {title for title in TITLES if title.startswith("Alien")}  # everybody likes these


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("tiny") / "tiny")


def material(users: int = 12, seed: int = 0) -> lessons.Material:
    rng = np.random.default_rng(seed)
    rows = [
        (user, item, float(rng.integers(4, 6) if TITLES[item] in GOOD else rng.integers(1, 4)), item)
        for user in range(users)
        for item in rng.permutation(len(TITLES))[:18]
    ]
    ratings = pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"])
    items = pd.DataFrame({"item": range(len(TITLES)), "title": TITLES, "genres": ""})
    return lessons.Material(ratings, items, "film", 5, 4.0)


QUICK = {
    "objective": "likelihood",
    "passes": 3.0,
    "lines": 12,
    "tokens_per_step": 600,
    "learning_rate": 0.02,
    "held_back": 0.25,
    "patience": 50,
}


def test_grades_are_tenths_of_the_scale():
    assert [prompts.grade(rating, 5) for rating in (0.5, 1, 1.5, 2, 3, 4, 4.5, 5)] == [0, 1, 2, 3, 5, 7, 8, 9]
    assert [prompts.grade(rating, 10) for rating in range(1, 11)] == list(range(10))
    assert [prompts.grade(rating, 1) for rating in (0, 1)] == [0, 9]


def test_a_list_that_is_taught_is_the_list_that_is_asked(folder):
    model, about = HuggingFace(folder), material()
    writer = lessons.Writer(model, modes.get("rating-lines"), "film", 12)
    rows = about.by_user[0]
    (example,) = list(writer.examples(rows.iloc[:12], about.like, np.random.default_rng(1)))
    order = pd.Series(example.items)
    history = rows.set_index("item").loc[order[:-1]].reset_index()
    last = rows[rows["item"] == order.iloc[-1]]
    prompt = writer.prompt(history, last, about.like)
    whole = prompt.prefix + prompt.suffixes[0]
    assert (example.prefix + example.texts[0])[: len(whole)] == whole
    text, place, choice = example.asked[-1]
    assert (text, place) == (0, len(whole) - len(example.prefix) - 1)
    assert choice == last["grade"].item()
    assert example.texts[0][place + 1] == writer.choices[choice]


@pytest.mark.parametrize("mode", ["rating-lines", "pointwise"])
def test_the_loss_is_that_of_plain_passes(folder, mode):
    model, about = HuggingFace(folder), material()
    writer = lessons.Writer(model, modes.get(mode), "film", 6)
    rng = np.random.default_rng(2)
    examples = [one for user in (0, 1) for one in writer.examples(about.by_user[user], about.like, rng)][:3]
    with torch.no_grad():
        found = objectives.loss(model.model, examples, writer.choices, "likelihood", {})
        losses = []
        for example in examples:
            for text, place, choice in example.asked:
                tokens = example.prefix + example.texts[text][: place + 1]
                logits = model.model(torch.tensor([tokens])).logits[0, -1]
                losses.append(-logits.log_softmax(0)[writer.choices[choice]].item())
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_beyond_the_item_others_grades_are_multiplied_in(folder):
    model, about = HuggingFace(folder), material()
    writer = lessons.Writer(model, modes.get("rating-lines"), "film", 6)
    usual = objectives.usual_grades(about, sorted(about.by_user), writer.mode)
    (example, *_) = list(writer.examples(about.by_user[0], about.like, np.random.default_rng(2)))
    with torch.no_grad():
        found = objectives.loss(model.model, [example], writer.choices, "beyond-item", usual).item()
        losses = []
        for (_, place, choice), item in zip(example.asked, example.items, strict=True):
            logits = model.model(torch.tensor([example.prefix + example.texts[0][: place + 1]])).logits[0, -1]
            odds = logits.softmax(0)
            of_choices = odds[writer.choices].double().numpy()
            others = usual[item].copy()
            others[choice] -= 1
            together = of_choices * others / (of_choices * others).sum()
            losses.append(-np.log(together[choice]) - np.log(of_choices.sum()))
    assert found == pytest.approx(np.mean(losses), rel=1e-3)


def test_pairs_of_one_list_that_are_in_order_cost_less():
    sure = torch.full((2, 10), -9.0)
    sure[0, 9], sure[1, 1] = 9.0, 9.0
    right = objectives._pairs(sure, torch.tensor([7, 3]), [0, 0])
    wrong = objectives._pairs(sure, torch.tensor([3, 7]), [0, 0])
    assert right.item() == pytest.approx(np.log1p(np.exp(-2.0 * 8)), abs=1e-4)
    assert wrong.item() == pytest.approx(np.log1p(np.exp(2.0 * 8)), abs=1e-3)
    assert objectives._pairs(sure, torch.tensor([7, 3]), [0, 1]).item() == 0  # of two lists there is no pair


@pytest.mark.parametrize("objective", ["likelihood", "pairs", "beyond-item"])
def test_what_is_the_same_for_everybody_is_learned_unless_it_is_multiplied_in(folder, tmp_path, objective):
    settings = teach.Teaching(**QUICK | {"objective": objective})
    card = teach.teach(HuggingFace(folder), material(), tmp_path / "a", "taught", settings, 5)
    first, *later = [one["auc"] for one in card["curve"]]
    if objective == "beyond-item":
        assert card["curve"][-1]["loss"] < card["curve"][1]["loss"]
    else:
        assert max(later) > max(first, 0.75)


def test_a_taught_model_answers_by_name_and_its_answers_have_keys_of_their_own(folder, tmp_path):
    about = material()
    base = HuggingFace(folder)
    identity = base.source.identity
    teach.teach(base, about, tmp_path / "a", "tiny taught", teach.Teaching(**QUICK | {"passes": 8.0}), 5)
    taught = HuggingFace(folder, adapter=tmp_path / "a")
    assert taught.name == "tiny taught"
    assert taught.source.identity.startswith(f"{identity}+")
    history = about.ratings.query("user == 3 and item % 2 == 0")
    lists = about.ratings.query("user == 3 and item % 2 == 1")
    lists = lists.assign(position=range(len(lists)))
    (task,) = build_tasks([3], history, lists, about.items, 12, 5, "mixed", 4.0)
    (found,) = rankers.rank([task], "rating-lines", taught, Recordings(None), noun="film", seed=1)
    request = rankers.request_of(task, "rating-lines", "film").request
    assert found.failure == ""
    prompt = taught.prompt(request)
    (odds,) = [torch.stack(one).exp().double().numpy() for one in packed.log_probs(taught.model, [prompt])]
    expected = odds @ np.arange(10) / odds.sum(axis=1)
    np.testing.assert_allclose(found.scores, expected, atol=1e-3)
    assert found.answered == pytest.approx(odds.sum(axis=1).mean(), abs=1e-3)
    untaught = HuggingFace(folder)
    assert untaught.key(rankers.request_of(task, "rating-lines", "film")) != taught.key(
        rankers.request_of(task, "rating-lines", "film")
    )


def test_whoever_is_not_taught_changes_nothing(folder, tmp_path):
    about = material()
    others = about.ratings.assign(user=about.ratings["user"] + 100)
    cards = []
    for name, rows in (("one", others), ("two", others.assign(rating=6 - others["rating"]))):
        everybody = pd.concat([about.ratings, rows])
        mine = lessons.Material(everybody[everybody["user"] < 100], about.items, "film", 5, 4.0)
        cards.append(teach.teach(HuggingFace(folder), mine, tmp_path / name, "t", teach.Teaching(**QUICK), 5))
    assert cards[0]["sha256"] == cards[1]["sha256"]
    changed = lessons.Material(about.ratings.assign(rating=6 - about.ratings["rating"]), about.items, "film", 5, 4.0)
    assert teach.teach(HuggingFace(folder), changed, tmp_path / "c", "t", teach.Teaching(**QUICK), 5)["sha256"] not in {
        card["sha256"] for card in cards
    }


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
import test_teach
from pathlib import Path
from hybridrec import progress
from hybridrec.llm import teach
from hybridrec.llm.models.local import HuggingFace
run = teach.teach(HuggingFace(Path({folder!r})), test_teach.material(), Path({out!r}), "t",
                  teach.Teaching(**test_teach.QUICK), 5, checkpoint_every=0.0)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_comes_to_the_same_adapter(folder, tmp_path):
    torch.set_num_threads(1)
    whole = teach.teach(HuggingFace(folder), material(), tmp_path / "whole", "t", teach.Teaching(**QUICK), 5)
    out = tmp_path / "killed"
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder), out=str(out))
    steps = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code])
        before = _checkpoint(out)
        while process.poll() is None and _checkpoint(out) == before:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps.append(_checkpoint(out))
    assert len(set(steps)) == 3  # each time it had gone on
    assert not (out / ADAPTER_CARD).exists()
    card = teach.teach(HuggingFace(folder), material(), out, "t", teach.Teaching(**QUICK), 5)
    assert card["sha256"] == whole["sha256"]
    assert [one["auc"] for one in card["curve"]] == [one["auc"] for one in whole["curve"]]


def _checkpoint(out: Path) -> float:
    path = out / "checkpoint.safetensors"
    return path.stat().st_mtime_ns if path.exists() else 0


def test_what_has_ended_is_not_run_again_and_another_teaching_does_not_take_its_place(folder, tmp_path):
    settings = teach.Teaching(**QUICK)
    card = teach.teach(HuggingFace(folder), material(), tmp_path, "t", settings, 5)
    model = HuggingFace(folder)
    assert teach.teach(model, material(), tmp_path, "t", settings, 5) == card
    assert "model" not in vars(model)  # its weights were not even loaded
    with pytest.raises(ModelError, match="remove that folder"):
        teach.teach(model, material(), tmp_path, "t", settings, 6)
    (tmp_path / ADAPTER_WEIGHTS).write_bytes(b"0")
    with pytest.raises(ModelError, match="not those of card"):
        HuggingFace(folder, adapter=tmp_path)


def test_a_damaged_checkpoint_is_told_and_begun_anew(folder, tmp_path, heard):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not whole")
    card = teach.teach(HuggingFace(folder), material(), tmp_path, "t", teach.Teaching(**QUICK), 5)
    assert card["curve"][0]["step"] == 0
    assert any("damaged" in line for line in heard)


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What long work tells."""
    lines: list[str] = []

    class Listener(progress._Nobody):
        def tell(self, line: str) -> None:
            lines.append(line)

    before = progress.listen(Listener())
    yield lines
    progress.listen(before)


@pytest.mark.parametrize("mode", ["rating-lines", "pointwise"])
def test_lists_may_be_as_short_as_settings_allow(folder, tmp_path, mode):
    settings = teach.Teaching(**QUICK | {"mode": mode, "lines": 2, "passes": 0.5})
    card = teach.teach(HuggingFace(folder), material(), tmp_path, "t", settings, 5)
    assert card["steps"] > 0 and card["curve"][-1]["loss"] > 0


@pytest.mark.parametrize("users", [1, 2])
def test_too_few_users_are_told(folder, tmp_path, users):
    with pytest.raises(DatasetError, match="users"):
        teach.teach(HuggingFace(folder), material(users), tmp_path, "t", teach.Teaching(**QUICK), 5)


def test_a_mode_in_which_nothing_is_chosen_cannot_be_taught(folder, tmp_path):
    with pytest.raises(ModelError, match="listwise"):
        teach.teach(HuggingFace(folder), material(), tmp_path, "t", teach.Teaching(**QUICK | {"mode": "listwise"}), 5)


def test_from_files_to_rankings_by_the_command(folder, tmp_path, capsys):
    about = material()
    rows = about.ratings.assign(title=about.ratings["item"].map(dict(enumerate(TITLES))))
    rows.to_csv(tmp_path / "ratings.csv", index=False)
    pd.DataFrame({"user": range(1, 12)}).to_csv(tmp_path / "others.csv", index=False)
    pd.DataFrame({"user": 0, "item": sorted(set(range(24)) - set(rows.query("user == 0")["item"]))}).to_csv(
        tmp_path / "candidates.csv", index=False
    )
    known = [str(tmp_path / "ratings.csv"), "--model", str(folder), "--noun", "film"]
    taught = ["teach", *known, "--users", str(tmp_path / "others.csv"), "-o", str(tmp_path / "adapter")]
    assert cli.main(taught) == 0
    card = json.loads((tmp_path / "adapter" / ADAPTER_CARD).read_text())
    assert card["data"]["users"] + card["data"]["held_back"] == 11
    told = capsys.readouterr().out
    assert f"{card['best']['auc']:.3f} after" in told
    assert card["settings"] == teach.Teaching().model_dump()
    assert "--history-length 48" in told
    ranked = ["rank", *known, "--adapter", str(tmp_path / "adapter"), "--mode", "rating-lines"]
    ranked += ["--candidates", str(tmp_path / "candidates.csv"), "--answers", str(tmp_path / "a.sqlite")]
    assert cli.main([*ranked, "-o", str(tmp_path / "new.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "new.csv")) == 6
    assert cli.main([*ranked[:-2], "--adapter", str(tmp_path / "nothing"), "-o", str(tmp_path / "new.csv")]) == 2
    assert "teach it again" in capsys.readouterr().err


def test_the_command_teaches_as_it_is_told_and_names_a_value_that_cannot_be(folder, tmp_path, capsys):
    about = material()
    about.ratings.assign(title=about.ratings["item"].map(dict(enumerate(TITLES)))).to_csv(tmp_path / "r.csv")
    known = ["teach", str(tmp_path / "r.csv"), "--model", str(folder), "-o", str(tmp_path / "adapter")]
    assert cli.main([*known, "--objective", "best"]) == 2
    assert cli.main([*known, "--lines", "1"]) == 2
    said = capsys.readouterr().err
    assert "objective" in said and "beyond-item" in said and "lines" in said
    how = ["--objective", "beyond-item", "--passes", "0.5", "--lines", "12", "--tokens-per-step", "512"]
    assert cli.main([*known, *how]) == 0
    card = json.loads((tmp_path / "adapter" / ADAPTER_CARD).read_text())
    asked = {"objective": "beyond-item", "passes": 0.5, "lines": 12, "tokens_per_step": 512}
    assert card["settings"] == teach.Teaching(**asked).model_dump()
    assert "--history-length 12" in capsys.readouterr().out


def test_whoever_says_nothing_teaches_in_the_way_that_the_study_chose():
    assert teach.Teaching() == teaching.VARIANTS[teaching.CHOSEN]
