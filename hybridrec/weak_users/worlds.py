"""What the published protocol reports in worlds whose truth is known: one without weak users, and two with some.

The protocol flags users on some items and scores a language model on the same ones. Two effects of that are kept apart:

* selection on the outcome: whoever is flagged was partly unlucky with these items, so a random order of the same items
  seems to help (``gain``).
* fresh items: on others the same users are served better by the same recommender, with nothing changed (``rise``), and
  what a random order gains there is all that is true of the gain (``gain_fresh``).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from hybridrec.errors import ScoresError
from hybridrec.evaluation import metrics
from hybridrec.randomness import generator
from hybridrec.weak_users import luck, nulls
from hybridrec.weak_users.performance import evidence

VALUES = ("flagged", "before_auc", "gain", "fresh_auc", "rise", "gain_fresh")
WEAK_SHARE, WEAK_AUC = 0.1, 0.45
_BANDS = [f"{value}{part}" for value in VALUES for part in ("", "_mean", "_low", "_high")]
_COLUMNS = ["recommender", "world", "mean_auc", "weak", "users", *_BANDS, "flagged_sd", "flagged_z"]


@dataclass(frozen=True)
class World:
    """The true AUC of a user is drawn from the values ``auc`` with the probabilities ``weight``, both of shape (n,)."""

    name: str
    auc: np.ndarray
    weight: np.ndarray

    def weak(self, threshold: float) -> float:
        """The share of users whose true AUC is <= t_p."""
        return float(self.weight[self.auc <= threshold].sum())


def alike(mean: float) -> World:
    """Nobody is weak: all users are served with the recommender's mean AUC."""
    return World("all alike", np.array([mean]), np.array([1.0]))


def some_weak(mean: float, share: float = WEAK_SHARE, auc: float = WEAK_AUC) -> World:
    """A share of the users has a true AUC of ``auc``, all others one and the same, such that the mean is ``mean``.

    Raises:
        ScoresError: no AUC of the others makes that mean.
    """
    others = (mean - share * auc) / (1 - share)
    if not 0 <= others <= 1:
        raise ScoresError(f"no mean of {mean} has a share of {share} at {auc}: the others would need {others:.3f}.")
    return World(f"{share:.0%} at {auc:g}", np.array([auc, others]), np.array([share, 1 - share]))


def spread(truth: luck.Truth, mean: float) -> World:
    """True AUCs differ between users as the deconvolution of P(u) has it (``luck.truth``), around this mean.

    The distribution is moved along the probit scale: it was estimated on other fits, of fewer ratings.
    """
    place = stats.norm.ppf(truth.auc)
    off = optimize.brentq(lambda by: truth.weight @ stats.norm.cdf(place + by) - mean, -8, 8)
    return World("spread as estimated", stats.norm.cdf(place + off), truth.weight)


def draw(
    counts: pd.DataFrame, world: World, rng: np.random.Generator, draws: int, times: int = 1
) -> list[pd.DataFrame]:
    """P(u) of every user in a world, drawn again and again.

    Args:
        counts: user, relevant, irrelevant (both at least 1), one row a user, or one a (user, fold): pairs are then
            formed within a fold.
        world: the true AUCs.
        rng: draws true AUCs and scores (binormal, ``nulls.simulate_auc``).
        draws: how many worlds.
        times: on how many sets of items, of the same numbers, the same users are judged.

    Returns:
        ``times`` tables of P(u), indexed by user, one column a draw.
    """
    place, users = pd.factorize(counts["user"], sort=True)
    true = rng.choice(world.auc, (len(users), draws), p=world.weight)
    pairs = (counts["relevant"] * counts["irrelevant"]).to_numpy()
    correct = np.zeros((times, len(users), draws))
    alike = ["relevant", "irrelevant", *(["fold"] if "fold" in counts else [])]  # within a fold a user stands once
    for (relevant, irrelevant, *_), rows in counts.groupby(alike).indices.items():
        of = true[place[rows]]
        for each in correct:
            auc = nulls.simulate_auc(int(relevant), int(irrelevant), of.ravel(), rng, of.size)
            each[place[rows]] += auc.reshape(of.shape) * relevant * irrelevant
    total = np.bincount(place, pairs)[:, None]
    return [pd.DataFrame(each / total, index=pd.Index(users, name="user")) for each in correct]


def simulate(
    counts: pd.DataFrame, world: World, threshold: float, rng: np.random.Generator, draws: int = 500
) -> pd.DataFrame:
    """What the protocol reports of a random order in the model's place, world by world.

    Args:
        counts, world, rng, draws: as in ``draw``; the eligible (inactive) users only.
        threshold: t_p; a user with P(u) <= t_p is flagged.

    Returns:
        One row a draw, with columns VALUES: flagged (users), before_auc (their mean AUC by the recommender, on the
        items that they were flagged on), gain (a random order's on these: 0.5 - before_auc), fresh_auc (the
        recommender's on as many other items), rise (fresh_auc - before_auc) and gain_fresh (a random order's on the
        other items). NaN but for flagged where nobody is flagged.
    """
    picked, fresh = draw(counts, world, rng, draws, times=2)
    weak = picked <= threshold + 1e-9
    return _values(weak.sum(), picked[weak].mean(), fresh[weak].mean())


def _values(flagged: pd.Series, before: pd.Series, fresh: pd.Series) -> pd.DataFrame:
    parts = (flagged, before, 0.5 - before, fresh, fresh - before, 0.5 - fresh)
    return pd.DataFrame(dict(zip(VALUES, parts, strict=True)))


def bands(
    judged: pd.DataFrame, users: pd.Index, threshold: float, seed: int, fresh: pd.DataFrame | None = None,
    draws: int = 500,
) -> pd.DataFrame:  # fmt: skip
    """What each recommender's real scores come to, beside the 95 % band of every world.

    Args:
        judged: recommender, user, score, relevant: the test items of the published protocol.
        users: the eligible (inactive) users.
        threshold: t_p.
        seed: the experiment's root seed.
        fresh: recommender, user, score, relevant (and fold): other items of the same users, scored by a fit that has
            not seen them, such as the folds of protocol ``cross`` without the test items. They also give the world
            "spread as estimated"; None: that world is made from the test items, and nothing is observed on fresh ones.
        draws: worlds behind each band.

    Returns:
        One row a recommender and world: recommender, world, mean_auc, weak (share of users truly <= t_p in it), users
        (with a pair), then for each of VALUES NAME (observed), NAME_mean, NAME_low, NAME_high (in the world), and
        flagged_sd and flagged_z = (observed - mean) / sd. No row for a world that cannot be: one whose weak users leave
        no such mean to the others, the estimated spread of a recommender without ``fresh`` items, and any world of a
        recommender none of whose users has a pair.
    """
    rows = []
    for name, own in judged.groupby("recommender", sort=False):
        auc = metrics.auc(own)
        mean = float(auc.mean())
        mine = own[own["user"].isin(users)]
        counts = nulls.candidate_counts(mine).query("relevant > 0 and irrelevant > 0")
        others = mine if fresh is None else fresh[(fresh["recommender"] == name) & fresh["user"].isin(users)]
        known = evidence(others).dropna()
        flagged = auc[auc.index.isin(users) & (auc <= threshold)]
        elsewhere = np.nan if fresh is None else known["performance"].reindex(flagged.index).mean()
        seen = _values(pd.Series([len(flagged)]), pd.Series([flagged.mean()]), pd.Series([elsewhere])).iloc[0]
        for world in _possible(mean, known, threshold) if len(counts) else []:
            table = simulate(counts, world, threshold, generator(seed, "worlds", name, world.name), draws)
            row = {"recommender": name, "world": world.name, "mean_auc": mean, "weak": world.weak(threshold)}
            row |= {"users": len(counts)}
            for value in VALUES:
                low, high = table[value].quantile([0.025, 0.975])
                row |= {value: seen[value], f"{value}_mean": table[value].mean()}
                row |= {f"{value}_low": low, f"{value}_high": high}
            sd = float(table["flagged"].std())
            row |= {"flagged_sd": sd, "flagged_z": (row["flagged"] - row["flagged_mean"]) / sd if sd else np.nan}
            rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else _COLUMNS)


def _possible(mean: float, known: pd.DataFrame, threshold: float) -> list[World]:
    """The worlds that there can be around this mean, given what is known of the users (none may be)."""
    highest = (1 - WEAK_SHARE) + WEAK_SHARE * WEAK_AUC
    some = [some_weak(mean)] if WEAK_SHARE * WEAK_AUC <= mean <= highest else []
    return [alike(mean), *some, *([] if known.empty else [spread(luck.truth(known, threshold), mean)])]
