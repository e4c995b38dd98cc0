"""The command ``hybridrec``: files in, files out, the same tables as the functions give."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_model

import hybridrec as hr
from hybridrec import cli
from hybridrec.llm.models.settings import LocalSettings
from hybridrec.llm.ranker import Ranker


@pytest.fixture
def shop(tmp_path, monkeypatch) -> None:
    """Ratings, scores and outcomes of a small service as CSV files, with ids that are text."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    grid = pd.MultiIndex.from_product(
        [[f"u{n:02}" for n in range(40)], [f"i{n:02}" for n in range(30)]], names=["user", "item"]
    ).to_frame(index=False)
    grid["rating"], draw = rng.integers(1, 6, len(grid)), rng.random(len(grid))
    known = grid[draw < np.where(grid["user"] > "u30", 0.6, 0.3)]
    later = grid[draw > 0.7]
    titles = known["item"].map("Song {}".format)
    known.to_csv("ratings.csv", index=False)
    pd.DataFrame({"item": known["item"], "title": titles}).drop_duplicates().to_csv("items.csv", index=False)
    known[["user", "item"]].assign(score=rng.random(len(known))).to_csv("out_of_fold.csv", index=False)
    later[["user", "item"]].assign(score=rng.random(len(later))).to_csv("scores.csv", index=False)
    later.to_csv("later.csv", index=False)


RANK = ["rank", "ratings.csv", "--items", "items.csv", "--candidates", "later.csv", "-o", "new.csv"]


def run(*words: str) -> int:
    return cli.main(list(words))


@pytest.mark.usefixtures("shop")
def test_from_ratings_to_a_verdict(capsys):
    assert run("triage", "ratings.csv", "--items", "items.csv", "--scores", "out_of_fold.csv", "-o", "weak.csv") == 0
    assert run("allocate", "weak.csv", "--budget-users", "5", "-o", "routed.csv") == 0
    weak, routed = pd.read_csv("weak.csv"), pd.read_csv("routed.csv")
    data = hr.Dataset.read("ratings.csv", items="items.csv")
    assert set(weak.loc[weak["weak"], "user"]) == set(hr.triage(data, hr.FromTable("out_of_fold.csv")).users)
    assert len(routed) == 5 and set(routed["user"]) <= set(weak.loc[weak["weak"], "user"])
    later = pd.read_csv("later.csv")
    right = later.assign(score=later["rating"], ranker="oracle", failure="")  # whoever was routed is ranked perfectly
    right.drop(columns="rating").to_csv("new.csv", index=False)
    assert run("combine", "scores.csv", "new.csv", "--users", "routed.csv", "-o", "final.parquet") == 0
    final = pd.read_parquet("final.parquet")
    assert set(final.loc[final["source"] == "oracle", "user"]) == set(routed["user"]) & set(later["user"])
    assert (
        run("compare", "final.parquet", "later.csv", "ratings.csv", "--items", "items.csv", "-o", "verdicts.csv") == 0
    )
    verdicts = pd.read_csv("verdicts.csv")
    assert (verdicts["auc_final"] == 1).all() and (verdicts["gain"] > 0).all()
    assert "random" in capsys.readouterr().out


@pytest.mark.usefixtures("shop")
def test_ratings_in_a_form_of_their_own(capsys):
    known = pd.read_csv("ratings.csv")
    known["rating"] = known["rating"].ge(4).map({True: "up", False: "down"})
    known.to_csv("thumbs.csv", index=False, sep=";")
    Path("form.toml").write_text('likes = ["UP"]\nseparator = ";"\n', encoding="utf-8")
    words = ["--items", "items.csv", "--scores", "out_of_fold.csv", "-o"]
    Path("items.csv").write_text(Path("items.csv").read_text(encoding="utf-8").replace(",", ";"), encoding="utf-8")
    assert run("triage", "thumbs.csv", *words, "thumbs_weak.csv", "--form", "form.toml") == 0
    assert "'up' (" in capsys.readouterr().err
    Path("items.csv").write_text(Path("items.csv").read_text(encoding="utf-8").replace(";", ","), encoding="utf-8")
    assert run("triage", "ratings.csv", *words, "weak.csv") == 0
    pd.testing.assert_frame_equal(pd.read_csv("thumbs_weak.csv"), pd.read_csv("weak.csv"))


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["triage", "nowhere.csv", "--scores", "out_of_fold.csv", "-o", "w.csv"], "nowhere.csv"),
        (
            [
                "triage",
                "ratings.csv",
                "--items",
                "items.csv",
                "--scores",
                "scores.csv",
                "--rating",
                "stars",
                "-o",
                "w.csv",
            ],
            "stars",
        ),
        (["triage", "ratings.csv", "--scores", "out_of_fold.csv", "-o", "w.csv"], "title"),
        (["triage", "ratings.txt", "--scores", "out_of_fold.csv", "-o", "w.csv"], "there is no such file"),
        (["combine", "scores.csv", "scores.csv", "-o", "final.xlsx"], "final.xlsx"),
        (["combine", "scores.csv", "scores.csv", "-o", "items.csv/final.csv"], "cannot be written"),
        (["combine", "scores.csv", "out_of_fold.csv", "-o", "f.csv"], "no candidate"),
        ([*RANK, "--model", "nowhere.gguf"], "nowhere.gguf"),
        ([*RANK, "--model", "org/m", "--dtype", "float16"], "bfloat16"),
        ([*RANK, "--model", "org/m", "--device", "gpu"], "cuda"),
        ([*RANK, "--model", "SmolLM2-135M-Instruct", "--revision", "v2"], "v2"),
        ([*RANK, "--model", "m", "--endpoint", "e.toml", "--dtype", "bfloat16"], "--dtype"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(words, says, capsys):
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and "Traceback" not in said


@pytest.mark.usefixtures("shop")
def test_a_model_is_loaded_as_the_options_say(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Ranker, "rank", lambda self, *_, **__: seen.append(self.llm.loaded) or pd.DataFrame({"a": [1]}))
    tiny = str(tiny_model.save(tmp_path / "My model"))
    assert run(*RANK, "--model", tiny, "--dtype", "bfloat16", "--device", "cuda:1") == 0
    assert run(*RANK, "--model", "org/m", "--revision", "v2") == 0
    assert run(*RANK, "--model", tiny) == 0
    assert seen == [LocalSettings(dtype="bfloat16", device="cuda:1"), LocalSettings(revision="v2"), LocalSettings()]


@pytest.mark.usefixtures("shop")
def test_no_budget_that_buys_nobody_writes_a_table(tmp_path):
    assert run("triage", "ratings.csv", "--items", "items.csv", "--scores", "out_of_fold.csv", "-o", "weak.csv") == 0
    assert run("allocate", "weak.csv", "--budget-users", "0", "-o", "routed.csv") == 2
    assert not (tmp_path / "routed.csv").exists()


@pytest.mark.parametrize("command", ["triage", "allocate", "rank", "combine", "compare"])
def test_every_command_explains_its_arguments(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert "--output" in capsys.readouterr().out
