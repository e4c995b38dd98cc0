"""Figures of notebook 01: the ratings."""

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import BLUE, GREEN, GREY, ORANGE, RED, new_axes


def _plain_logarithm(*axes: mpl.axis.Axis) -> None:
    """Label a logarithmic axis at 1, 3, 10, 30, ... with plain numbers."""
    for axis in axes:
        axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
        axis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(mpl.ticker.NullFormatter())


def data_portrait(ratings_per_user: pd.Series, ratings_per_item: pd.Series, ratings: pd.Series) -> Figure:
    """How active users are, how popular items are, and how generous the ratings."""
    figure, (users, items, values) = new_axes(3, 3.6, 3.1)
    for axis, counts, name, colour in (
        (users, ratings_per_user, "user", BLUE),
        (items, ratings_per_item, "item", ORANGE),
    ):
        ordered = counts.sort_values(ascending=False).to_numpy()
        axis.loglog(np.arange(1, len(ordered) + 1), ordered, color=colour, lw=2)
        _plain_logarithm(axis.xaxis, axis.yaxis)
        axis.xaxis.set_major_locator(mpl.ticker.LogLocator())  # powers of ten: more would touch in a narrow panel
        axis.set(xlabel=f"{name}s, most ratings first", ylabel="ratings", title=f"Ratings per {name}")
    shares = ratings.value_counts(normalize=True).sort_index()
    if len(shares) <= 20:
        values.bar([f"{value:g}" for value in shares.index], shares, color=GREEN)
    else:
        values.hist(ratings, bins=20, weights=np.full(len(ratings), 1 / len(ratings)), color=GREEN)
    values.set(xlabel="rating", ylabel="share of ratings", title="How often each rating is given")
    return figure


def sparsity_portrait(sparsity: pd.Series, threshold: float) -> Figure:
    """The distribution of S_I(u) and the threshold that splits active from inactive users."""
    figure, (axis,) = new_axes(1, 6, 3.1)
    axis.hist(sparsity, bins=60, color=BLUE)
    axis.axvline(threshold, color=RED, lw=2)
    share = (sparsity > threshold).mean()
    named = "t_s = mean" if np.isclose(threshold, sparsity.mean()) else "t_s"
    axis.annotate(
        f"{named} = {threshold:.3f}\n{share:.0%} of users are sparser", (threshold, axis.get_ylim()[1] * 0.9),
        xytext=(-8, 0), textcoords="offset points", ha="right", va="top", color=RED,
    )  # fmt: skip
    axis.set(xlabel="sparsity index S_I(u): share of the catalogue not rated", ylabel="users")
    axis.set_title("How much of the catalogue users have not rated")
    return figure


def candidates_portrait(sizes: pd.Series, inactive: pd.Series) -> Figure:
    """How many test items there are to rank, for active and inactive users."""
    figure, (axis,) = new_axes(1, 6, 3.1)
    bins = np.arange(0.5, 41.5)
    groups = [sizes[~inactive].clip(upper=40), sizes[inactive].clip(upper=40)]
    axis.hist(groups, bins=bins, color=[GREY, ORANGE], stacked=True, label=["active", "inactive"])
    axis.set(xlabel="test items of a user (more than 40 shown as 40)", ylabel="users")
    axis.set_title("Test items of active and inactive users")
    axis.legend()
    return figure
