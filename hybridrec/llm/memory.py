"""Does a model remember what it was taught? Two probes, each with controls that it was not taught.

Titles: a real title is a more probable line of a list than one that is put together from the words of other titles.
Users: after a part of what a user rated, the user's other titles are more probable than titles rated as often that the
user did not rate. A model that has learned what people watch together does that, too, so the probe is also made of
users whom it was not taught, and after another user's list: what taught users have beyond these two is memory.

A probe's value is an AUC of log-likelihoods per token, real titles against controls: 1/2 says that the model cannot
tell them apart.

Source: Carlini et al. 2021, "Extracting Training Data from Large Language Models" (arXiv 2012.07805), who compare a
text's likelihood with a reference; Di Palma et al. 2025 (arXiv 2505.10212) ask models for MovieLens itself.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from hybridrec.errors import DatasetError
from hybridrec.evaluation import metrics, statistics
from hybridrec.llm import modes, prompts, runner
from hybridrec.llm.modes import Mode
from hybridrec.llm.recordings import Recordings
from hybridrec.randomness import generator, in_random_order

COLUMNS = ["probe", "of", "auc"]
_INVENTED = 3  # for each real title
_ACTUAL = 6  # titles of each user, and as many that the user did not rate


def invented(titles: Sequence[str], seed: int, number: int = _INVENTED) -> dict[str, list[str]]:
    """For each title others of as many words, each word from the same place of a title that is drawn; none is real.

    Args:
        titles: the catalogue's, without duplicates. A title of one word has none, and is left out.
        seed: root of what is drawn.
        number: how many for each title.
    """
    rng, words, real = generator(seed, "invented titles"), [title.split() for title in titles], set(titles)
    by_place: dict[int, list[str]] = {}
    for one in words:
        for place, word in enumerate(one[:-1]):
            by_place.setdefault(place, []).append(word)
    last = [one[-1] for one in words if len(one) > 1]  # often a year: the last word stays the last
    found = {}
    for title, own in zip(titles, words, strict=True):
        made = []
        for _ in range(20 * number if len(own) > 1 else 0):
            drawn = [by_place[place][rng.integers(len(by_place[place]))] for place in range(len(own) - 1)]
            new = " ".join([*drawn, last[rng.integers(len(last))]])
            if new not in real and new not in made:
                made.append(new)
            if len(made) == number:
                found[title] = made
                break
    return found


def title_requests(
    titles: Iterable[str], mode: Mode | str, noun: str, seed: int, number: int = 100
) -> list[runner.Asked]:
    """A request for each of a sample of titles: the title and its invented ones as the first line of a list.

    Args:
        titles: the catalogue's.
        mode: one of kind "rate", in whose words a list begins.
        noun: the word for an item.
        seed: root of the sample and of what is invented.
        number: the size of the sample.

    Returns:
        ``about`` is how many candidates are real: one, which comes first.
    """
    lines = sorted({prompts.one_line(title) for title in titles})
    made = invented(lines, seed)
    drawn = in_random_order(range(len(lines)), seed, "remembered titles")
    sample = [lines[at] for at in drawn if lines[at] in made][:number]
    return [_asked(title, mode, [], [title, *made[title]], 1, noun) for title in sample]


def user_requests(
    ratings: pd.DataFrame,
    users: Sequence[Hashable],
    items: pd.DataFrame,
    mode: Mode | str,
    noun: str,
    scale: float,
    seed: int,
    shown: int = 24,
    another: bool = False,
) -> list[runner.Asked]:
    """A request for each user: some titles that the user rated and as many that are matched, after other ratings.

    A matched title is the one with the nearest number of ratings among those that the user did not rate, each once.

    Args:
        ratings: user, item, rating: of all who are taught or held back, by whom titles are matched.
        users: whom to ask about; one with fewer than twice the titles that are asked for is left out.
        items: item, title.
        mode, noun: as for ``title_requests``.
        scale: the highest rating.
        seed: root of which ratings are shown and asked for.
        shown: so many ratings come before, at most.
        another: whether the list before is that of the user before in ``users``, less the titles asked for.

    Returns:
        ``about`` is how many candidates are real; they come first.

    Raises:
        DatasetError: another's list is wanted for fewer than two users.
    """
    titles, counts = items.set_index("item")["title"], ratings["item"].value_counts().sort_index()
    rows = {user: own.sort_values("item") for user, own in ratings[ratings["user"].isin(users)].groupby("user")}
    users = [user for user in users if len(rows.get(user, ())) >= 2 * _ACTUAL]
    if another and len(users) < 2:
        raise DatasetError(f"{len(users)} users have enough ratings to lend a list: two are needed.")
    parts = {}
    for user in users:
        own = rows[user].iloc[generator(seed, "remembered users", user).permutation(len(rows[user]))]
        parts[user] = own.iloc[:_ACTUAL], own.iloc[_ACTUAL : _ACTUAL + shown]
    found = []
    for at, user in enumerate(users):
        actual = parts[user][0]["item"].tolist()
        asked = [*actual, *_matched(actual, counts.drop(rows[user]["item"]), counts)]
        history = parts[users[at - 1] if another else user][1]
        history = history[~history["item"].isin(asked)]
        before = [
            prompts.Item(titles[item], rating=rating, grade=prompts.grade(rating, scale))
            for item, rating in history[["item", "rating"]].itertuples(index=False)
        ]
        found.append(_asked(user, mode, before, [titles[item] for item in asked], _ACTUAL, noun))
    return found


def _matched(items: Sequence[Hashable], others: pd.Series, counts: pd.Series) -> list[Hashable]:
    """For each item the one of ``others`` (ratings by item) that was rated as often, or nearly; each once."""
    left, found = others.copy(), []
    for item in items[: len(left)]:
        nearest = (left - counts[item]).abs().idxmin()
        found.append(nearest)
        left = left.drop(nearest)
    return found


def _asked(
    of: Hashable, mode: Mode | str, history: Sequence[prompts.Item], titles: Sequence[str], real: int, noun: str
) -> runner.Asked:
    """Lines that a list could go on with, up to where a grade would follow."""
    lines = [prompts.question(mode, prompts.Item(title), noun) for title in titles]
    text = prompts.instruction(modes.get(mode), history, [], noun)
    return runner.Asked(of, {"kind": "score", "plain": True, "instruction": text, "candidates": lines}, about=real)


def values(probe: str, asked: Sequence[runner.Asked], model: runner.Model, recordings: Recordings) -> pd.DataFrame:
    """The AUC of real titles against controls in each request; what has no recording is asked.

    Returns:
        COLUMNS: ``of`` is the title or the user; a request that failed has no row.
    """
    rows = []
    for answer in runner.ask(asked, model, recordings, what=f"memory, {probe}", total=len(asked)):
        if not isinstance(answer.outcome, runner.Failure):
            score = np.divide(answer.outcome["log_probs"], answer.outcome["lengths"])
            real = np.arange(len(score)) < answer.asked.about
            one = pd.DataFrame({"user": 0, "score": score, "relevant": real})
            rows.append((probe, answer.asked.user, float(metrics.auc(one).iloc[0])))
    return pd.DataFrame(rows, columns=COLUMNS)


def beyond(found: pd.DataFrame, probe: str, other: str) -> tuple[float, float, float]:
    """How much higher the AUC of one probe is than that of another, about other users: mean, and its 95 % interval.

    Args:
        found: what ``values`` returned, of both.
        probe, other: their names.

    Source: Welch 1947, for two means with variances of their own.
    """
    one, two = (found.loc[found["probe"] == name, "auc"] for name in (probe, other))
    interval = stats.ttest_ind(one, two, equal_var=False).confidence_interval()
    return float(one.mean() - two.mean()), float(interval.low), float(interval.high)


def table(found: Mapping[str, pd.DataFrame], seed: int, samples: int = 2000) -> pd.DataFrame:
    """Each probe's mean AUC with its 95 % interval over titles or users.

    Args:
        found: by model, what ``values`` returned, of several probes.
        seed, samples: of the bootstrap.

    Returns:
        model, probe, n, auc, low, high.
    """
    rows = []
    for model, one in found.items():
        for probe, part in one.groupby("probe", sort=False):
            rng = generator(seed, "memory", model, probe)
            low, high = statistics.bootstrap_interval(part["auc"].to_numpy(), rng, samples)
            rows.append((model, probe, len(part), part["auc"].mean(), low, high))
    return pd.DataFrame(rows, columns=["model", "probe", "n", "auc", "low", "high"])
