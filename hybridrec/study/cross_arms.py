"""What orders the lists of protocol ``cross``, and what of it the plan compares.

Controls without a language model, the language models' rankings, and every recommender's fusion with each.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hybridrec.evaluation import arms, fusion
from hybridrec.evaluation import cross as evaluation
from hybridrec.evaluation.lists import Lists, Scores
from hybridrec.study import families, paths


def title_embeddings(items: pd.DataFrame) -> np.ndarray:
    """A vector for each item (title, genres), by the sentence encoder, which is fetched if need be."""
    from hybridrec.llm.models.encoder import embed  # torch: only who needs it waits for it

    return embed(arms.texts(items), folder=paths.RAW, search=paths.data_folders(), cache=paths.CACHE)


def controls(
    divided: Lists, items: pd.DataFrame, embeddings: np.ndarray, recommenders: Scores
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """The controls of protocol ``cross`` that are not a recommender: their scores, and the weights of the stack.

    Args:
        divided: the ratings, of which ``folds.divide`` made folds.
        items: the catalogue.
        embeddings: what ``title_embeddings`` returned.
        recommenders: scores of all recommenders (``Lists.read``).
    """
    stacked, weights = arms.stack(divided, recommenders)
    titles, ids = arms.texts(items), items["item"]
    found = {
        arms.POPULARITY: arms.popularity(divided),
        arms.ITEM_MEAN: arms.item_mean(divided),
        arms.TF_IDF: arms.similarity(divided, ids, arms.tf_idf(titles)),
        arms.EMBEDDING: arms.similarity(divided, ids, embeddings),
        arms.STACK: stacked,
    }
    return found, weights


@dataclass(frozen=True)
class Arms:
    """Everything that orders the lists of protocol ``cross``, and how well.

    Attributes:
        lists: what ``evaluation.cross.lists`` returned; of fusions the judged lists only.
        controls: names of what could take the language model's place.
        of_model: names of the language models' rankers.
        fusions: recommender, arm, test, weight, ... (``fusion.fuse``).
        stack: the weights of the stack.
    """

    lists: pd.DataFrame
    controls: list[str]
    of_model: list[str]
    fusions: pd.DataFrame
    stack: pd.DataFrame

    def fused(self, arm: str) -> pd.DataFrame:
        """Each recommender's fusion with an arm, as a ranker of protocol ``cross``."""
        rows = self.fusions[self.fusions["arm"] == arm]
        names = [fusion.name(one, arm) for one in rows["recommender"]]
        return rows[["recommender", "test"]].assign(ranker=names)


def assemble(
    ratings: pd.DataFrame,
    candidates: pd.DataFrame,
    like_threshold: float,
    items: pd.DataFrame,
    embeddings: np.ndarray,
    scores: pd.DataFrame,
    answers: pd.DataFrame,
    triage: pd.DataFrame,
) -> Arms:
    """The controls of protocol ``cross``, the language model's arms, and every recommender's fusion with each.

    Args:
        ratings: of which ``folds.divide`` made folds.
        candidates: fold, user, item, relevant.
        like_threshold: a rating at or above it makes an item relevant.
        items: the catalogue.
        embeddings: what ``title_embeddings`` returned.
        scores: ``lists.COLUMNS``, of all recommenders.
        answers: ``lists.COLUMNS`` and failure, of language models; it may lack users and folds, and be empty. A list
            whose request failed is left out: it keeps the recommender's order.
        triage: of the compared recommenders: recommender, test, user, inactive.
    """
    divided = Lists(ratings, like_threshold)
    usable = answers[answers["failure"] == ""]
    names = list(scores["ranker"].unique())
    parts = [evaluation.lists(one, candidates) for one in (scores, evaluation.random_order(candidates), usable)]
    recommenders = divided.read(scores)
    added, weights = controls(divided, items, embeddings, recommenders)
    parts += [evaluation.lists(divided.write({name: values}), candidates) for name, values in added.items()]
    of_model = divided.read(usable)
    deciding = set(usable.loc[usable["fold"] != usable["test"], "ranker"])  # without them there is no weight to choose
    tuned = {name: values for name, values in of_model.items() if name in deciding}
    users = triage.loc[triage["inactive"], ["test", "user"]].drop_duplicates()
    chosen = []
    for recommender in triage["recommender"].unique():  # one by one: fusions of all would need gigabytes
        for arm, values in {**added, **tuned}.items():
            fused, one = fusion.fuse(divided, {recommender: recommenders[recommender]}, {arm: values}, users)
            parts.append(evaluation.lists(divided.write(fused), candidates))
            chosen.append(one)
    lists = pd.concat([part for part in parts if len(part)], ignore_index=True)
    lists["ranker"] = lists["ranker"].astype("category")
    fusions = pd.concat(chosen, ignore_index=True)
    return Arms(lists, [evaluation.RANDOM, *added, *names], list(of_model), fusions, weights)


def judged_by_plan(arms_of: Arms, triage: pd.DataFrame, answers: pd.DataFrame, model: str) -> families.Judged:
    """What docs/plan.md compares: the bar, the ways to ask, the primary comparison.

    Args:
        arms_of: what ``assemble`` returned.
        triage: of the compared recommenders.
        answers: model, ranker, test, fold, user, ...
        model: the experiment's own.
    """
    lists, triage = arms_of.lists, triage[["recommender", "test", "user", "performance", "inactive", "weak"]]
    asked = families.judged_lists(answers, model)
    ways = families.existing_ways(lists) if len(asked) else []
    of_itself = [one for one in (families.NO_HISTORY, families.ANOTHERS) if families.decides(lists, one)]
    names = [*arms_of.controls, *of_itself]
    drawn = families.sample(lists, triage, asked)
    primary = evaluation.primary(lists, triage, ways, names, drawn.asked) if ways else None
    larger = {str(one): families.judged_lists(answers, one) for one in answers["model"].unique() if one != model}
    whose = {name: next((one for one in larger if name.startswith(f"{one}: ")), "") for name in arms_of.of_model}
    plain = {
        name: (name, whose[name]) for name in arms_of.of_model
        if not name.endswith((families.NO_HISTORY, families.ANOTHERS))
    }  # fmt: skip
    fused = {
        fusion.name("recommender", arm): (arms_of.fused(arm), whose.get(arm, ""))
        for arm in arms_of.fusions["arm"].unique()
    }
    bar = primary.bar if primary else evaluation.bar(lists, triage, names)
    return families.Judged(lists, triage, names, ways, larger, {**plain, **fused}, drawn, primary, bar)
