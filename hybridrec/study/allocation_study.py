"""The steps of notebook 08: every arm on every list, who may be handed over, and the policies that are compared.

The tables that are made of them are in ``allocation_report``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hybridrec.allocation import policy
from hybridrec.evaluation import arms as controls
from hybridrec.evaluation import costs, cross, fusion
from hybridrec.evaluation.lists import Lists, Scores
from hybridrec.evaluation.prices import Price
from hybridrec.study import families
from hybridrec.study.names import OF_LLM, PREDICTED, PUBLISHED, RANDOM_ORDER, TAUGHT, WORST_FIRST

BEST_OTHER, STACK, LLM = "best other", controls.STACK, "llm"
ALL = "all recommenders"
TAUGHT_ARM = f"{TAUGHT}: {families.OWN_HISTORY}"


def fused_with(arm: str) -> str:
    """What the fusion of a user's own recommender with an arm is called, whichever recommender that is."""
    return fusion.name("recommender", arm)


@dataclass(frozen=True)
class Allocation:
    """All that an allocation is learned from and judged by.

    Attributes:
        features, uplifts: ``policy.features`` and ``policy.uplifts``, the same rows.
        able: which of these rows are of users who may be handed over: inactive, and asked if only some were.
        weight: how many users a row stands for, where a sample was asked; 0 for users it stands for.
        of_model: the arms for which a language model has to be asked; the others cost nothing but a fit.
        chosen: test, recommender, arm, ranker, weight: what was chosen for each test fold on the other folds.
    """

    features: pd.DataFrame
    uplifts: pd.DataFrame
    able: np.ndarray
    weight: np.ndarray
    of_model: list[str]
    chosen: pd.DataFrame

    @property
    def arms(self) -> list[str]:
        """Names of all arms between which a policy may choose."""
        return list(self.uplifts.columns.drop([*policy.KEYS, RANDOM_ORDER]))

    @property
    def judged(self) -> np.ndarray:
        """Which rows are of the test fold itself."""
        return (self.uplifts["fold"] == self.uplifts["test"]).to_numpy()

    @property
    def outcomes(self) -> pd.DataFrame:
        """The judged lists of everybody who counts: CASE, weight, and the uplift of each arm."""
        rows = self.uplifts.assign(weight=self.weight)[self.judged & (self.weight > 0)]
        return rows.drop(columns="fold").reset_index(drop=True)

    @property
    def cases(self) -> pd.DataFrame:
        """The judged lists that may be handed over: CASE."""
        return self.uplifts.loc[self.judged & self.able, policy.CASE].reset_index(drop=True)

    @property
    def teaching(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Features and uplifts of those who may be handed over."""
        known, gained = self.features[self.able], self.uplifts.loc[self.able, [*policy.KEYS, *self.arms]]
        return known.reset_index(drop=True), gained.reset_index(drop=True)


def with_taught(answers: pd.DataFrame, taught: pd.DataFrame, model: str) -> pd.DataFrame:
    """The answers of all language models: in context, and of the taught one by the own history (the arm TAUGHT_ARM).

    If the taught model was asked about a part only of those whom the model in context was asked about, it is left out:
    the others would count as if they gained nothing.

    Args:
        answers: the table cross_answers.
        taught: the table taught_answers; it may be empty.
        model: the experiment's own.
    """
    own = taught[taught["ranker"] == TAUGHT]
    asked = families.judged_lists(answers, model)
    if asked.empty or len(asked.merge(own[["test", "user"]].drop_duplicates())) < len(asked):
        return answers
    return pd.concat([answers, own.assign(model=TAUGHT, ranker=TAUGHT_ARM)], ignore_index=True)


def prepare(
    divided: Lists, scores: pd.DataFrame, answers: pd.DataFrame, triage: pd.DataFrame, model: str, catalogue: int
) -> Allocation:
    """Every arm on every list of protocol ``cross``; whatever is chosen for test fold k is chosen on the other folds.

    Arms are the best other recommender, the stack, the recommender fused with item means, and every language model that
    was asked with users' histories: itself, and, where it has ranked lists of other folds, its fusion with the
    recommender. Of the experiment's own model the way to ask is chosen, too.

    Args:
        divided: the ratings, in folds.
        scores: ``lists.COLUMNS``, of all recommenders.
        answers: ``with_taught``; it may be empty. Lists whose request failed have no uplift.
        triage: of the recommenders whose users may be handed over.
        model: the experiment's own.
        catalogue: how many items there are.
    """
    own = list(triage["recommender"].unique())
    recommenders = divided.read(scores)
    usable = answers[answers["failure"] == ""]
    said = divided.read(usable) if len(usable) else {}
    inactive = triage.loc[triage["inactive"], ["test", "user"]].drop_duplicates()
    mask = divided.mask(inactive)
    stack, _ = controls.stack(divided, recommenders)
    llms, chosen = _language_models(divided, said, answers, mask, model)
    found: dict[str, dict[str, np.ndarray]] = {BEST_OTHER: {}, STACK: dict.fromkeys(own, stack)}
    for name in own:
        others = {one: values for one, values in recommenders.items() if one != name}
        values, picked = _best(divided, others, mask)
        found[BEST_OTHER][name] = values
        chosen.append(picked.assign(arm=BEST_OTHER, recommender=name))
    for arm, values in {controls.ITEM_MEAN: controls.item_mean(divided), **llms}.items():
        if arm in llms:
            found[arm] = dict.fromkeys(own, values)
        if np.isnan(values[~divided.judged]).all():
            continue  # no list of another fold, by which a weight could be chosen
        mixed, weights = _fused(divided, {name: recommenders[name] for name in own}, arm, values, inactive)
        found[fused_with(arm)] = mixed
        chosen.append(weights.assign(arm=fused_with(arm)))
    known = policy.features(divided, recommenders, own, found, catalogue)
    found[RANDOM_ORDER] = dict.fromkeys(own, np.zeros(stack.shape))
    gained = policy.uplifts(divided, recommenders, own, found)
    asked = families.judged_lists(answers, model)["user"] if llms else pd.Series(dtype=divided.users.dtype)
    able, weight = _who_counts(known, inactive, asked)
    of_model = [arm for one in llms for arm in (one, fused_with(one)) if arm in found]
    return Allocation(known, gained, able, weight, of_model, pd.concat(chosen, ignore_index=True))


def _language_models(
    divided: Lists, said: Scores, answers: pd.DataFrame, mask: np.ndarray, model: str
) -> tuple[dict[str, np.ndarray], list[pd.DataFrame]]:
    """The scores of each language model that read users' histories, by arm; and what was chosen of the own model's."""
    asked = [name for name in families.WAYS if name in said]
    ways = [name for name in asked if families.decides(answers, name)] or asked[:1]
    found, chosen = {}, []
    if ways:
        found[LLM], picked = _best(divided, {name: said[name] for name in ways}, mask)
        chosen.append(picked.assign(arm=LLM, recommender=ALL))
    for one in answers["model"].unique():
        ranker = f"{one}: {families.OWN_HISTORY}"
        if one != model and ranker in said:
            found[ranker] = said[ranker]
    return found, chosen


def _best(divided: Lists, rankers: Scores, mask: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
    """The scores of the ranker that is best on the other folds, and which it is: test, ranker.

    What decides is the mean AUC of the lists of other folds that all of the rankers have scored.
    """
    names = list(rankers)
    correct = np.stack([divided.correct(values) for values in rankers.values()])
    correct[:, np.isnan(correct).any(axis=0)] = np.nan
    auc = np.stack([np.diagonal(divided.decided(one, mask)) for one in correct])
    best = np.where(np.isnan(auc), -1, auc).argmax(axis=0)
    values = np.stack([rankers[names[at]][test] for test, at in enumerate(best)])
    return values, pd.DataFrame({"test": range(divided.folds), "ranker": [names[at] for at in best]})


def _fused(
    divided: Lists, recommenders: Scores, arm: str, values: np.ndarray, users: pd.DataFrame
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Each recommender fused with an arm, on the lists of every fold, by the weight chosen for the test fold."""
    _, weights = fusion.fuse(divided, recommenders, {arm: values}, users)
    found = {}
    for name, own in recommenders.items():
        weight = weights.loc[weights["recommender"] == name].sort_values("test")["weight"].to_numpy()
        found[name] = fusion.ranks(divided, own) + weight[:, None] * fusion.ranks(divided, values)
    return found, weights[["recommender", "test", "weight"]].assign(ranker=arm)


def _who_counts(known: pd.DataFrame, inactive: pd.DataFrame, asked: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are of users who may be handed over, and how many users each row stands for."""
    listed = known.loc[known["fold"] == known["test"], ["test", "user"]].drop_duplicates()
    everyone = pd.Index(listed.merge(inactive)["user"].unique())
    sample = families.Sample(everyone, pd.Index(asked.unique()) if len(asked) else None)
    kept = sample.represent(known[["user"]].assign(weight=1.0))
    able = pd.MultiIndex.from_frame(known[["test", "user"]]).isin(pd.MultiIndex.from_frame(inactive))
    if sample.asked is not None:
        able &= known["user"].isin(sample.asked).to_numpy()
    return able, kept["weight"].reindex(known.index, fill_value=0.0).to_numpy()


# --- who is compared --------------------------------------------------------------------------------------------------

NOBODY, RANDOM, BEST_ARM = "nobody", "random users", "best single arm"


def policies(of: Allocation, prediction: pd.DataFrame, triage: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every policy that is compared, by name; those that hand over to a language model where one was asked.

    Args:
        of: what is allocated.
        prediction: what ``policy.predict`` made of ``of.teaching``.
        triage: recommender, test, user, weak, shrunken.
    """
    cases, (_, known) = of.cases, of.teaching
    found = {NOBODY: policy.nobody(cases)}
    asked = [arm for arm in of.of_model if known.loc[known["fold"] != known["test"], arm].notna().any()]
    if of.of_model:
        first = of.of_model[0]
        found |= {RANDOM: policy.everybody(cases, first), PUBLISHED: policy.published(cases, triage, first)}
        found[f"{PUBLISHED}, {RANDOM_ORDER}"] = policy.published(cases, triage, RANDOM_ORDER)
        for arm in of.of_model[1:]:
            if not arm.startswith(fused_with("")):
                found[f"{PUBLISHED}, {arm}"] = policy.published(cases, triage, arm)
    for among, suffix in ((of.arms, ""), (asked, OF_LLM)):
        if among:
            best = policy.best_single(cases, known, among)
            found |= {
                BEST_ARM + suffix: best,
                WORST_FIRST + suffix: policy.worst_first(best, triage),
                PREDICTED + suffix: policy.predicted(prediction, among),
            }
    return found


def of_other_models(policies: Mapping[str, pd.DataFrame]) -> list[str]:
    """Names of the published rule with a language model other than the experiment's own, as far as there are any."""
    names = [name for name in policies if name.startswith(f"{PUBLISHED}, ")]
    return [name for name in names if name != f"{PUBLISHED}, {RANDOM_ORDER}"]


def groups(triage: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Whose gain is shown; each is decided for a test fold on the other folds."""
    found = cross.groups(triage)
    return {name: found[name] for name in ("weak", "worst decile", "everybody")}


def price_per_list(of: Allocation, rankings: pd.DataFrame, inactive: pd.Index, price: Price) -> dict[str, float]:
    """Dollars that an arm's list costs: nothing without a language model, else the mean measured call.

    Calls are those to the experiment's own model for inactive users, in the way to ask that costs least. Other models
    were not measured, so they have no price here.

    Args:
        of: what is allocated.
        rankings: ranker, user, and what each call took, of the experiment's own model.
        inactive: the users.
        price: what the model costs.
    """
    found = {arm: 0.0 for arm in (*of.arms, RANDOM_ORDER) if arm not in of.of_model}
    usage = costs.usage_per_user(rankings[rankings["user"].isin(inactive) & (rankings["ranker"] != "likelihood-prior")])
    usage = usage.assign(inactive=True)
    if LLM not in of.arms or usage.empty:
        return found
    bills = [costs.cost_of(one, one[["user", "inactive"]], price) for _, one in usage.groupby("ranker")]
    least = min(bill["usd"] / bill["calls"] for bill in bills if bill)
    return found | {LLM: least, fused_with(LLM): least}
