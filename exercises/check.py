"""Checks of the exercises: each says whether an answer is right and, if not, where to look. None says what is right.

A check works the truth out from the tables it is given, so it holds for every experiment. What is wrong raises
``NotYet``, which Jupyter shows without a traceback; what is right is praised in one line.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from hybridrec.evaluation import metrics
from hybridrec.evaluation.prices import Price
from hybridrec.weak_users import triage

_RATE = 0.006  # how far a share or an AUC may be off: two decimals are enough


class NotYet(AssertionError):
    """An answer that is missing or not right yet; the message says what to look at."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter prints instead of a traceback, which would only show the inside of a check."""
        return [f"Not yet: {self}"]


# --- what all checks share --------------------------------------------------------------------------------------------


def _filled(*answers: Any) -> None:
    if any(answer is None or answer is ... for answer in answers):
        raise NotYet("nothing filled in yet. Put your answer where the dots are.")


def _require(condition: Any, hint: str) -> None:
    if not condition:
        raise NotYet(hint)


def _passed(text: str) -> None:
    print(f"✓ {text}")


def _number(value: Any, what: str, low: float = -np.inf, high: float = np.inf) -> float:
    _filled(value)
    _require(isinstance(value, Real) and not isinstance(value, bool | np.bool_), f"{what} must be a number.")
    _require(low <= value <= high, f"{what} must lie between {low:g} and {high:g}.")
    return float(value)


def _equal(value: Any, truth: float, what: str, mistakes: Mapping[str, float], tolerance: float = _RATE) -> None:
    """Refuse a number that is not the truth, with the hint of the known mistake that it comes from."""
    number = _number(value, what)
    if abs(number - truth) <= tolerance:
        return
    for hint, wrong in mistakes.items():
        _require(not abs(number - wrong) <= tolerance, hint)
    raise NotYet(f"{what} comes out differently here. Look at what it is divided by, and over whom it is taken.")


def _series(value: Any, what: str, index: pd.Index) -> pd.Series:
    """The answer as one number for each of ``index``, in its order."""
    _filled(value)
    _require(isinstance(value, pd.Series), f"{what} must be a pandas Series, one value each.")
    absent, strange = index.difference(value.index), value.index.difference(index)
    _require(not len(absent), f"{what} lacks {len(absent)} of {len(index)}: has something been dropped on the way?")
    _require(not len(strange), f"{what} has {len(strange)} too many: has somebody got in who does not belong there?")
    return value.reindex(index).astype(float)


def prediction(value: Any, low: float, high: float) -> None:
    """A prediction, made before anything is run: any number in its range will do."""
    _number(value, "a prediction", low, high)
    _passed("noted. Now let us see.")


def compare(predicted: float, found: float, what: str) -> None:
    """The prediction beside what was found, without a verdict: a wrong one is how one learns."""
    print(f"{what}: you predicted {predicted:.4g}, and it came out as {found:.4g}.")
    if abs(predicted - found) <= 0.1 * max(abs(found), 1e-12):
        print("Close. Could you say why, to somebody who guessed wrong?")
    else:
        print("That is fine: a wrong prediction is worth more than none. What did you take for granted?")


# --- 01: data ---------------------------------------------------------------------------------------------------------


def sparsity(answer: Any, interactions: pd.DataFrame, n_items: int) -> None:
    """S_I(u) of known ratings, one value a user."""
    counted = {"all": interactions, "train": interactions[interactions["split"] == "train"]}
    counted["known"] = interactions[interactions["split"] != "test"]
    index = {name: 1 - rows.groupby("user").size() / n_items for name, rows in counted.items()}
    truth = index["known"]
    given = _series(answer, "the index", truth.index).to_numpy()
    train, with_test = (index[name].reindex(truth.index) for name in ("train", "all"))
    _require(not np.allclose(given, 1 - truth), "this grows with a user's activity. The index must grow as it falls.")
    _require(not np.allclose(given, with_test), "you count ratings that a service has not been given yet.")
    _require(not np.allclose(given, train), "you leave out ratings that a service does know when the test begins.")
    _require(np.allclose(given, truth), "not the share of the catalogue that is left. What is counted, what divides?")
    _passed("that is the sparsity index: what a user has left unrated, of what could be known before the test.")


def inactive_quarter(t_s: Any, index: pd.Series) -> None:
    """A threshold above which between a fifth and a quarter of users lie, or as many as equal values allow."""
    share = (index > _number(t_s, "t_s")).mean()
    possible = [(index > value).mean() for value in index.unique()]
    _require(share <= 0.25, "more than a quarter of the users are sparser than that.")
    most = max(one for one in possible if one <= 0.25)
    _require(share > 0.20 or share >= most, "fewer than a fifth of the users are sparser than that.")
    _passed("only the sparsest quarter is inactive now. The data did not change; the word did.")


def test_share(answer: Any, judged_share: Callable[[float], float], goal: float, step: float = 0.01) -> None:
    """The smallest share of test items with which enough users can be judged."""
    share = _number(answer, "the share", step, 0.5)
    _require(np.isclose(share / step, round(share / step)), f"take a multiple of {step:g}.")
    _require(judged_share(share) > goal - 1e-9, "too few users can be judged with so few test items.")
    _require(share <= step * 1.5 or judged_share(share - step) < goal, "enough, but a smaller share would do, too.")
    _passed("with less, too many users drop out; with more, there is less left to learn from.")


# --- 02: baselines ----------------------------------------------------------------------------------------------------


def constant(answer: Any, rankable: pd.DataFrame) -> None:
    """A ranking in which all items of all users have the same score."""
    _filled(answer)
    _require(isinstance(answer, pd.DataFrame), "make it a table, like `rankable`.")
    lacking = {"user", "relevant", "score"} - set(answer)
    _require(not lacking, f"the table has no column {', '.join(sorted(lacking))}.")
    _require(len(answer) == len(rankable), "keep every row of `rankable`: all users, all their items.")
    same = (answer["relevant"].to_numpy() == rankable["relevant"].to_numpy()).all()
    _require(same, "the labels must stay as they are. Only the score is new.")
    _require(answer["score"].nunique(dropna=False) == 1, "some items still have another score than others.")
    _require(np.isfinite(answer["score"]).all(), "the score must be a number.")
    _passed("a ranking that knows nothing and admits it. The last cell shows what two metrics think of it.")


def tuned(seed: Any, reported: Any, coins: pd.DataFrame) -> None:
    """A seed chosen as a setting should be, and the number to be reported for it."""
    _filled(seed, reported)
    _require(seed in coins.index, "choose one of the seeds in `coins`.")
    chosen, peeked = coins["validation"].idxmax(), coins["test"].idxmax()
    _require(seed == chosen or seed != peeked, "this seed was chosen by the very items that are to judge it.")
    _require(seed == chosen, "there is a better seed among those items that may be used to choose.")
    truth = coins.loc[chosen, "test"]
    mistakes = {
        "this is the best that the test has to offer. Is it the number of the seed you chose?": coins["test"].max(),
        "this is the quality on the items that chose the seed: of course it is high.": coins.loc[chosen, "validation"],
    }
    _equal(reported, truth, "the number to report", mistakes, tolerance=0.0006)
    _passed("chosen on one part, reported on another. It is a coin after all, and now it looks like one.")


def winner(difference: Any, interval: Any, verdict: Any, auc: pd.DataFrame) -> None:
    """Which of two columns of ``auc`` (one row a user) is better: per-user difference, interval, and what it says."""
    _filled(difference, interval, verdict)
    first, second = auc.columns
    _interval(interval, _difference(difference, auc))
    _verdict(verdict, {"above": first, "below": second, "around": "cannot tell"}, interval)
    _passed("the interval is over users, and both rankings were judged on the same ones.")


def _difference(answer: Any, auc: pd.DataFrame) -> pd.Series:
    """The difference of each user's two AUCs, first column less second; refuses an answer that is not this one."""
    first, second = auc.columns
    truth = (auc[first] - auc[second]).dropna()
    given = _series(answer.dropna() if isinstance(answer, pd.Series) else answer, "difference", truth.index)
    _require(not np.allclose(given, -truth) or np.allclose(truth, 0), f"the other way round: {first} less {second}.")
    _require(np.allclose(given, truth), f"not the difference of each user's two AUCs, {first} less {second}.")
    return truth


def _interval(interval: Any, values: pd.Series) -> None:
    """A 95 % interval of the mean: its ends may differ a little from the normal ones, as resamples do."""
    _require(isinstance(interval, Sequence) and len(interval) == 2, "an interval is a pair: (low, high).")
    low, high = (_number(end, "an end of the interval") for end in interval)
    half = 1.96 * values.std() / np.sqrt(len(values))
    _require(low <= values.mean() <= high, "an interval of the mean must hold the mean. Of what is yours?")
    wide = (high - low) / (2 * half) if half else 1
    _require(0.75 < wide < 1.25, "this interval is too wide or too narrow for a mean over these users, at 95 %.")


def _verdict(verdict: Any, words: Mapping[str, Any], interval: Sequence[float]) -> None:
    """What an interval says about 0, in the words of the exercise."""
    _require(verdict in words.values(), f"answer with one of: {', '.join(repr(word) for word in words.values())}.")
    low, high = interval
    side = "above" if low > 0 else "below" if high < 0 else "around"
    _require(verdict == words[side], "that is not what your interval says. Does it include 0, and on which side is it?")


# --- 03: triage -------------------------------------------------------------------------------------------------------


def precision_recall(flagged: Any, precision: Any, recall: Any, users: pd.DataFrame, t_p: float) -> None:
    """Who is flagged by ``record``, and how well that finds those who are ``weak`` later."""
    truth = users["record"] <= t_p
    given = _series(flagged, "flagged", users.index).astype(bool)
    _require(not given.equals(users["weak"]), "you flag whoever turns out weak later. A service cannot know that yet.")
    _require(given.equals(truth), "flag by the record: P(u) at or below t_p, ties included.")
    hits, weak = (truth & users["weak"]).sum(), users["weak"].sum()
    right = {"precision": hits / truth.sum(), "recall": hits / weak}
    other = "this is the other of the two: is the question about those flagged, or about those weak?"
    accuracy = {"this counts all users who were told apart rightly.": (truth == users["weak"]).mean()}
    _equal(precision, right["precision"], "precision", {other: right["recall"], **accuracy})
    _equal(recall, right["recall"], "recall", {other: right["precision"], **accuracy})
    _passed("precision asks those flagged, recall asks those weak.")


def threshold(t_p: Any, users: pd.DataFrame, wanted: float = 0.5, step: float = 0.01) -> None:
    """The smallest threshold with which enough of the weak are flagged."""
    chosen = _number(t_p, "t_p", 0, 1)
    _require(np.isclose(chosen / step, round(chosen / step)), f"take a multiple of {step:g}.")
    record = users.loc[users["weak"], "record"]
    caught = [(record <= round(t, 6)).mean() for t in (chosen, chosen - step)]
    _require(caught[0] >= wanted, "too many of the weak are not flagged.")
    _require(caught[1] < wanted, "enough of the weak are flagged, but a lower threshold, and fewer users, would do.")
    _passed("found. Now look at how many users are flagged for it, and for how many of them in vain.")


def evidence(items: Any, unlucky: Callable[[int], float], at_most: float = 0.05) -> None:
    """The smallest even number of items with which chance alone calls few users weak."""
    number = _number(items, "the number of items", 2, 400)
    _require(number == int(number) and number % 2 == 0, "take an even number: half of the items are liked.")
    # A simulation has an error of its own, about 0.002: two neighbouring answers can be right.
    _require(unlucky(int(number)) <= at_most + 0.005, "with so few items, bad luck alone still calls too many weak.")
    _require(number == 2 or unlucky(int(number) - 2) > at_most - 0.005, "enough, but fewer items would do.")
    _passed("so much evidence it takes before a low AUC says more about the recommender than about luck.")


# --- 04: prompts ------------------------------------------------------------------------------------------------------


def tokens(answer: Any, texts: Sequence[str], tokenizer: Any) -> None:
    """How many tokens the longest of some texts has."""
    counts = [_count(text, tokenizer) for text in texts]
    mistakes = {
        "this counts words. A token is often less than a word.": max(len(text.split()) for text in texts),
        "this counts characters.": max(map(len, texts)),
        "this is the number of tokens of a shorter one.": min(counts),
        "this is the number of tokens of all of them together.": sum(counts),
    }
    _equal(answer, max(counts), "the number of tokens", mistakes, tolerance=2)
    _passed("this is what one question costs a reader without memory.")


def _count(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def fields(text: Any, wanted: set[str]) -> None:
    """A template holds exactly the wanted places to fill in, each of them once."""
    _require(isinstance(text, str), "a template is a text, in quotes.")
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise NotYet(f"the braces of this template do not match: {error}.") from None
    lacking, strange = wanted - set(found), set(found) - wanted
    _require(not lacking, f"the template never says where {{{', '.join(lacking)}}} goes: {text!r}.")
    _require(not strange, f"nobody will fill in {{{', '.join(strange)}}}: {text!r}.")
    _require(len(found) == len(wanted), f"a place to fill in comes twice: {text!r}.")


def prompt(
    opening: Any, question: Any, length: Any, requests: Callable[..., list[Any]], budget: int, tokenizer: Any
) -> None:
    """A template that can be filled in, and whose longest prompt stays within the budget.

    Args:
        opening, question, length: the student's template, and how many titles it shows.
        requests: makes the requests of all users from these three (instruction, candidates).
        budget: tokens of instruction and question together.
        tokenizer: the model's.
    """
    _filled(opening, question, length)
    fields(opening, {"history"})
    fields(question, {"title"})
    _require(isinstance(length, int) and length >= 1, "show at least one item of the user's own.")
    asked = [one["instruction"] + each for one in requests(opening, question, length) for each in one["candidates"]]
    over = max(_count(text, tokenizer) for text in asked) - budget
    _require(over <= 0, f"{over} tokens over the budget of {budget}. Fewer titles, or fewer words?")
    _passed(f"a valid template, {-over} tokens below the budget of {budget}.")


def answered(mass: pd.Series, baseline_mass: pd.Series, at_least: float = 1 / 3) -> None:
    """The model takes the question for one of Yes or No: nearly as much as with the baseline, it is about to say so."""
    ratio = float(mass.mean() / baseline_mass.mean())
    _require(
        ratio >= at_least,
        f"the model is only {ratio:.2f} times as likely to say Yes or No as after the long prompt: its answers cannot "
        "be read. Does your question say what may be answered?",
    )
    _passed("the model takes it for a question of Yes or No.")


def verdict(difference: Any, interval: Any, includes_zero: Any, before: pd.Series, after: pd.Series) -> None:
    """Before and after, user by user, and whether the interval of the mean difference includes 0."""
    _filled(difference, interval, includes_zero)
    truth = after - before
    given = _series(difference, "difference", truth.index)
    _require(not np.allclose(given, -truth) or np.allclose(truth, 0), "the other way round: after less before.")
    _require(np.allclose(given, truth), "not the same users' difference, after less before.")
    _interval(interval, truth)
    low, high = interval
    _require(isinstance(includes_zero, bool | np.bool_), "answer with True or False.")
    _require(bool(includes_zero) == (low <= 0 <= high), "look at the two ends of your interval again.")
    _passed("before and after on the same users, and a fair word about it. No better score was asked for.")


# --- 05: evaluation ---------------------------------------------------------------------------------------------------


def coin(answer: Callable[..., Any], candidates: pd.DataFrame) -> None:
    """A ranker that knows nothing: chance, and nothing but chance, decides."""
    rolls = [answer(candidates, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    _filled(*rolls)
    rolls = [np.asarray(roll, dtype=float) for roll in rolls]
    _require(rolls[0].shape == (len(candidates),), "a coin is thrown for each row: one score each.")
    _require(np.array_equal(rolls[0], rolls[1]), "the same generator must give the same scores: throw with `rng`.")
    _require(len(np.unique(rolls[0])) > 1, "every item has the same score. That is a shrug and not a coin.")
    _require(not np.array_equal(rolls[0], rolls[2]), "another generator must give other scores: throw with `rng`.")
    turned = answer(scrambled(candidates), np.random.default_rng(1))
    _require(np.array_equal(rolls[0], np.asarray(turned)), "this coin has seen the labels: turn them and it changes.")
    many = [answer(candidates, np.random.default_rng(seed)) for seed in range(20)]
    means = [metrics.auc(candidates.assign(score=roll)).mean() for roll in many]
    _require(abs(np.mean(means) - 0.5) < 0.03, "on average this coin does not land at one half.")
    _passed("a fair coin.")


def coin_share(answer: Any, weak_rows: pd.DataFrame) -> None:
    """How much of the paper's own gain an order of AUC one half would give, row by row."""
    before, after = weak_rows["recommender_alone"], weak_rows["with_gpt_35"]
    given = _series(answer, "the share", weak_rows.index)
    _require(not np.allclose(given, 0.5 - before), "that is the coin's gain. It is a share of what?")
    _require(not np.allclose(given, 0.5 / after), "compare gains, and not the places where they end.")
    _require(not np.allclose(given, (after - before) / (0.5 - before)), "upside down: whose gain is the whole?")
    _require(np.allclose(given, (0.5 - before) / (after - before), atol=_RATE), "the coin's gain over the paper's.")
    _passed("so much of the published gain needs no language model:")
    print(given.round(2).to_string())


def cross_gain(answer: Any, hand_overs: pd.DataFrame) -> None:
    """What a coin does to users who were picked without the items on which they are scored.

    Args:
        answer: the mean over recommenders of (coin's AUC - recommender's AUC) over hand-overs of their weak users.
        hand_overs: recommender, test, user, weak, alone, with_coin: a row for each inactive user and test fold.
    """
    rows = hand_overs.assign(gain=hand_overs["with_coin"] - hand_overs["alone"])

    def mean(of: pd.DataFrame) -> float:
        return float(of.groupby("recommender")["gain"].mean().mean())

    weak = rows[rows["weak"]]
    mistakes = {
        "these are all inactive users. Who was handed over?": mean(rows),
        "you average each user's folds first. Let every hand-over count once.": mean(
            weak.groupby(["recommender", "user"])["gain"].mean().reset_index()
        ),
        "the other way round: the coin's AUC less the recommender's.": -mean(weak),
    }
    _equal(answer, mean(weak), "the gain", mistakes, tolerance=0.002)
    _passed("the same coin, the same recommenders. Only the way in which users were picked has changed.")


def scrambled(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with every label turned round: liked becomes not liked."""
    return rows.assign(relevant=~rows["relevant"].astype(bool))


Router = Callable[[pd.DataFrame, pd.DataFrame], Any]


def mended(router: Router, known: pd.DataFrame, test: pd.DataFrame) -> None:
    """A router without a leak: blind to the test's labels, and still one that picks the worst served.

    Args:
        router: takes known and test, returns the users that it routes.
        known: user, fold, score, relevant: out-of-fold scores of known ratings.
        test: user, score, relevant, coin.
    """
    _filled(router(known, test))
    routed, turned, other = (
        pd.Index(router(*rows)) for rows in ((known, test), (known, scrambled(test)), (scrambled(known), test))
    )
    record = triage.performance(known)["performance"].dropna()
    _require(len(routed), "nobody is routed.")
    _require(routed.isin(known["user"]).all(), "return users: the index of those routed.")
    moved = len(routed.symmetric_difference(turned))
    _require(not moved, f"still a leak: turn the test's labels round, and {moved} users are routed differently.")
    _require(len(routed.symmetric_difference(other)), "these users do not depend on what is known of them either.")
    left = record.index.difference(routed)
    _require(len(left), "everybody is routed.")
    _require(record.reindex(routed).max() <= record[left].min(), "some users with a better record are routed first.")
    _passed("the leak is closed: nothing that the test says about a user decides about that user.")


# --- 06: cost ---------------------------------------------------------------------------------------------------------


def service(users: Any, refreshes: Any) -> None:
    """A service of the student's own: any numbers will do."""
    _number(users, "the number of users", 1, 1e10)
    _number(refreshes, "refreshes a month", 1 / 12, 1e6)
    _passed("this is your service. Everything below is about it.")


def usd_per_call(answer: Any, calls: pd.DataFrame, price: Price) -> None:
    """The mean price of a call."""
    each, truth = calls.apply(price.usd, axis=1), price.usd(calls.mean(numeric_only=True))
    mistakes = {
        "prices are per million tokens.": truth * 1e6,
        "this is the price of all calls together.": each.sum(),
        "this is the price of the middle call. A bill adds up all of them, the long ones as well.": each.median(),
        "tokens of the prompt and of the completion have prices of their own.": calls[
            ["prompt_tokens", "completion_tokens"]
        ].sum(axis=1).mean() * price.prompt / 1e6,
        "the model's answer has to be paid for, too.": calls["prompt_tokens"].mean() * price.prompt / 1e6,
    }  # fmt: skip
    _equal(answer, truth, "the price of a call", mistakes, tolerance=0.01 * truth)
    _passed("a small number. It will be multiplied.")


def bill(answer: Any, users: float, refreshes: float, weak_share: float, per_call: float) -> None:
    """The monthly bill of three routings."""
    _filled(answer)
    _require(isinstance(answer, Mapping) and {"nobody", "weak", "everybody"} == set(answer), "three bills are wanted.")
    everybody = users * refreshes * per_call
    right = {"nobody": 0.0, "weak": everybody * weak_share, "everybody": everybody}
    for routing, truth in right.items():
        mistakes = {
            f"{routing}: this is the bill for a single refresh.": truth / refreshes if refreshes != 1 else np.nan,
            f"{routing}: this is the bill of everybody else.": everybody - truth,
        }
        tolerance = max(0.01 * truth, 1e-9)
        _equal(answer[routing], truth, f"the bill for {routing}", mistakes, tolerance)
    _passed("the bill is in proportion to the users asked for, whoever they are.")


def machine(per_call: Any, cheaper: Any, calls: pd.DataFrame, hour: float, endpoint_per_call: float) -> None:
    """What a call costs on a machine that is paid by the hour and always busy, and which of the two is cheaper."""
    _filled(per_call, cheaper)
    truth = calls["seconds"].mean() * hour / 3600
    mistakes = {
        "the machine is paid by the hour, and a call takes seconds.": calls["seconds"].mean() * hour,
        "there are sixty minutes in an hour, and sixty seconds in a minute.": calls["seconds"].mean() * hour / 60,
    }
    _equal(per_call, truth, "the price of a call on this machine", mistakes, tolerance=0.01 * truth)
    _require(cheaper in ("machine", "endpoint"), "answer 'machine' or 'endpoint'.")
    _require((cheaper == "machine") == (truth < endpoint_per_call), "compare the two prices of a call again.")
    _passed("as long as the machine is never idle, and its small model is good enough.")


def refreshes_within(answer: Any, budget: float, per_call: float) -> None:
    """How many whole refreshes of one user a budget pays for."""
    number = _number(answer, "the number of refreshes", 0)
    _require(number == int(number), "a refresh is done or not done: give a whole number.")
    _require(number * per_call <= budget, "that costs more than the budget.")
    _require((number + 1) * per_call > budget, "the budget would pay for more.")
    _passed("this is what the budget buys. The next cell asks what it is good for.")


# --- 07: the taught model ---------------------------------------------------------------------------------------------


def without_user(without: Any, kept: Any, told: pd.DataFrame) -> None:
    """One grade for each title, of all other users, and the share of the lead over a random order that it keeps.

    Args:
        without: for each row the title's mean grade in other users' lists.
        kept: (AUC without the user - one half) / (AUC - one half), means over lists.
        told: fold, user, item, score, relevant: what the taught model said.
    """
    _filled(without, kept)
    _require(len(told), "the taught model was not asked in this experiment; notebook 7 says why.")
    grades, everybody = told.groupby("item")["score"], told["score"].mean()
    mean, others = grades.transform("mean"), grades.transform("size") - 1
    alone = others == 0
    truth = ((mean * (others + 1) - told["score"]) / others).mask(alone, everybody)
    given = _series(without, "the grade", told.index)
    _require(not np.allclose(given, told["score"]), "these are the grades that were given to this very user.")
    _require(
        not np.allclose(given[~alone], mean[~alone]), "the user is still in this mean: take the *other* users' grades."
    )
    _require(np.allclose(given[~alone], truth[~alone]), "not the mean grade of the same title in other users' lists.")
    _require(np.allclose(given, truth), "a title that is in nobody else's list gets the mean of all grades.")
    before, after = (_mean_auc(told.assign(score=score)) for score in (told["score"], truth))
    mistakes = {
        "compare leads: what is above a random order.": after / before,
        "this is the share that is lost.": 1 - (after - 0.5) / (before - 0.5),
        "this is the lead itself. It is a share of what?": after - 0.5,
        "upside down: whose lead is the whole?": (before - 0.5) / (after - 0.5),
    }
    _equal(kept, (after - 0.5) / (before - 0.5), "the share", mistakes)
    _passed("so much of the lead needs no user.")


def _mean_auc(rows: pd.DataFrame) -> float:
    """Mean AUC of the lists: a user in a fold."""
    return float(metrics.auc_pairs(rows, ["fold", "user"]).eval("correct / pairs").mean())


def reads_user(difference: Any, interval: Any, verdict: Any, auc: pd.DataFrame, smallest: float) -> None:
    """What the own history adds, and what the interval says of it: also whether a difference that matters is left out.

    Args:
        difference, interval, verdict: the student's.
        auc: a row a user; by the own history and by another user's.
        smallest: the smallest difference that matters.
    """
    _filled(difference, interval, verdict)
    _interval(interval, _difference(difference, auc))
    low, high = interval
    words = (*auc.columns, "equivalent", "cannot tell")
    _require(verdict in words, f"answer with one of: {', '.join(map(repr, words))}.")
    within = -smallest < low and high < smallest
    _require(
        verdict != "cannot tell" or not within, f"more can be said: does this interval reach as far as ±{smallest:g}?"
    )
    _require(
        verdict != "equivalent" or within,
        f"this interval reaches beyond ±{smallest:g}, and a difference as large as that would matter.",
    )
    around = "equivalent" if within else "cannot tell"
    _verdict(verdict, {"above": words[0], "below": words[1], "around": around}, interval)
    _passed("the same lists, and nothing changed but the history.")


def item_means(answer: Callable[..., Any], told: pd.DataFrame, ratings: pd.DataFrame) -> None:
    """A ranker that knows what others think of an item, by ratings outside the fold that is tested.

    Args:
        answer: takes rows of one fold, all ratings and the fold; returns a score for each row.
        told: fold, user, item.
        ratings: user, item, rating, fold.
    """
    for fold, rows in told.groupby("fold"):
        tested = ratings["fold"] == fold
        turned = ratings.assign(rating=ratings["rating"].mask(tested, -ratings["rating"]))
        score, other = (answer(rows, table, fold) for table in (ratings, turned))
        given, moved = (_series(one, "the score", rows.index) for one in (score, other))
        _require(given.equals(moved), "a leak: these scores change with ratings of the fold that is tested.")
        known = ratings[~tested]
        truth = rows["item"].map(known.groupby("item")["rating"].mean())
        _require(np.allclose(given[truth.notna()], truth.dropna()), "not the mean of the known ratings of each item.")
        truth = truth.fillna(known["rating"].mean())
        _require(np.allclose(given, truth), "an item without a known rating gets the mean of all known ratings.")
    _passed("no model, no history, no leak. The next cell shows what it is worth.")


# --- 08: allocation ---------------------------------------------------------------------------------------------------


def hindsight(answer: Any, uplift: pd.DataFrame) -> None:
    """The mean gain over all lists if those that gain are handed over."""
    gain = uplift["uplift"]
    mistakes = {
        "take the mean over all lists, also those that stay.": gain[gain > 0].mean(),
        "this hands over everybody; only lists that gain are.": gain.mean(),
        "this is the share of lists that gain: how much do they?": (gain > 0).mean(),
    }
    _equal(answer, gain.clip(lower=0).mean(), "the gain with hindsight", mistakes, 0.002)
    _passed("what an oracle would gain. Nobody is one.")


def foresight(routed: Any, gain: Any, past: pd.DataFrame, future: pd.DataFrame) -> None:
    """Who is handed over by the past, and what all lists of the future gain."""
    users = _users(routed)
    mean, later = past.groupby("user")["uplift"].mean(), future.groupby("user")["uplift"].mean()
    _require(users != set(later[later > 0].index), "these users gain in the future, which nobody knows yet.")
    _require(users != set(past.loc[past["uplift"] > 0, "user"]), "take each user's mean over the past, not any fold.")
    _require(users == set(mean[mean > 0].index), "hand over the users whose mean uplift in the past is above 0.")
    inside = future["user"].isin(users)
    mistakes = {
        "take the mean over all lists of the future, also those that stay.": future.loc[inside, "uplift"].mean(),
        "this is the past, on which the users were picked.": past["uplift"].where(past["user"].isin(users), 0).mean(),
    }
    _equal(gain, future["uplift"].where(inside, 0.0).mean(), "the gain with foresight", mistakes, 0.002)
    _passed("picked on the past, judged on the future.")


def made_worse(answer: Any, routed: Any, future: pd.DataFrame) -> None:
    """The share of lists handed over that come out worse."""
    gain = future.loc[future["user"].isin(_users(routed)), "uplift"]
    mistakes = {
        "a list that comes out the same is not worse.": (gain <= 0).mean(),
        "this is the share that comes out better.": (gain > 0).mean(),
        "count only lists that are handed over.": (future["uplift"] < 0).mean(),
    }
    _equal(answer, (gain < 0).mean(), "the share made worse", mistakes)
    _passed("these pay for the others.")


def _users(answer: Any) -> set[Any]:
    _filled(answer)
    try:
        return set(answer)
    except TypeError:
        raise NotYet("the users to hand over must be a list of ids, such as an index.") from None
