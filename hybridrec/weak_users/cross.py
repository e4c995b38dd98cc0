"""Who is weak for each test fold of the protocol ``cross``, decided without that fold."""

from dataclasses import dataclass

import pandas as pd

from hybridrec import schema
from hybridrec.data import folds
from hybridrec.data.datasets import Dataset
from hybridrec.weak_users.triage import Thresholds, triage


@dataclass
class Scored:
    """Scores that are there already, as ``triage`` asks for them; of nothing else are there any."""

    name: str
    rows: pd.DataFrame

    def out_of_fold(self, data: Dataset) -> pd.DataFrame:
        """The scores, unchecked."""
        return self.rows

    def scores(self, data: Dataset, candidates: schema.Table) -> pd.DataFrame:
        """There are none."""
        raise NotImplementedError


def cross_triage(
    scores: pd.DataFrame,
    divided: pd.DataFrame,
    items: pd.DataFrame,
    like_threshold: float,
    thresholds: Thresholds | None = None,
) -> pd.DataFrame:
    """Every recommender's users, judged and routed once for each test fold (see ``triage``).

    Args:
        scores: ranker, test, fold, user, item, score (``recommenders.cross.scores``): of each fold but ``test``, by a
            recommender that saw neither. Rows of the test fold itself are left out.
        divided: user, item, rating, fold (``folds.divide``).
        items: the catalogue, with a column item.
        like_threshold: a rating at or above it makes an item relevant.
        thresholds: t_p and t_s; t_s left out is the mean S_I over users, of the ratings outside the test fold.

    Returns:
        recommender, test, and the columns of ``Triage.table``: P(u) of pairs within each fold but ``test``, and S_I(u)
        of the ratings outside it. Whoever has no rating outside a test fold is not in its rows.
    """
    limits, parts = thresholds or Thresholds(), []
    deciding = scores.loc[scores["fold"] != scores["test"], ["ranker", "test", "fold", "user", "item", "score"]]
    for (name, test), rows in deciding.groupby(["ranker", "test"], sort=False):
        known = Dataset(f"all folds but {test}", folds.without(divided, test), items, "the ratings", like_threshold)
        found = triage(
            known,
            Scored(str(name), rows),
            performance_threshold=limits.performance,
            sparsity_threshold=limits.sparsity,
        )
        parts.append(found.table.assign(recommender=name, test=test))
    table = pd.concat(parts, ignore_index=True)
    return table[["recommender", "test", *(column for column in table if column not in ("recommender", "test"))]]
