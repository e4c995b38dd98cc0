"""Figures of notebook 01: the ratings."""

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hybridrec.study.figures.style import BLUE, GREEN, GREY, RED, in_a_corner, panels, plain_logarithm


def data_portrait(
    ratings_per_user: pd.Series, ratings_per_item: pd.Series, ratings: pd.Series, like_threshold: float
) -> Figure:
    """How active users are, how popular items are, and how often each rating is given."""
    figure, (counts, values) = panels([2.5, 2.4])
    of = {"users": (ratings_per_user, BLUE), "items": (ratings_per_item, GREEN)}
    for one, colour in of.values():
        ordered = one.sort_values(ascending=False).to_numpy()
        counts.loglog(np.arange(1, len(ordered) + 1), ordered, color=colour, lw=2)
    plain_logarithm(counts.xaxis, counts.yaxis)
    in_a_corner(counts, [(f"{len(one):,} {name}", colour) for name, (one, colour) in of.items()], False, False)
    counts.set(xlabel="user or item, most ratings first", ylabel="ratings", title="Ratings of each user and item")
    liked = ratings >= like_threshold
    edges = _edges(ratings)
    for part, colour in ((~liked, GREY), (liked, BLUE)):
        weights = np.full(part.sum(), 1 / len(ratings))
        values.hist(ratings[part], edges, weights=weights, color=colour, rwidth=0.8)
    if len(edges) <= 21:
        shown = np.sort(ratings.unique())
        values.set_xticks(shown, [f"{value:g}" for value in shown])
    in_a_corner(values, [(f"liked ({like_threshold:g} or more): {liked.mean():.0%}", BLUE), ("others", GREY)], False)
    values.set(xlabel="rating", ylabel="share of ratings", title="How often each rating is given")
    return figure


def _edges(ratings: pd.Series) -> np.ndarray:
    """A bar for each rating there is, as far apart as the closest two are; 20 bars where there are more."""
    there = np.sort(ratings.unique())
    if len(there) > 20:
        return np.linspace(there[0], there[-1], 21)
    step = np.diff(there).min() if len(there) > 1 else 1.0
    return np.arange(there[0] - step / 2, there[-1] + step, step)


def sparsity_portrait(sparsity: pd.Series, threshold: float, items: int) -> Figure:
    """How many ratings are known of each user, their sparsity index, and the threshold that makes users inactive.

    Args:
        sparsity: S_I(u) of each user.
        threshold: t_s.
        items: how many the catalogue has.
    """
    figure, (axis,) = panels([3.2])
    known, inactive = ((1 - sparsity) * items).round().clip(lower=1), sparsity > threshold
    edges = np.unique(np.geomspace(known.min(), known.max() + 1, 36).round()) - 0.5
    axis.hist([known[inactive], known[~inactive]], edges, stacked=True, color=[BLUE, GREY])
    axis.set_xscale("log")
    plain_logarithm(axis.xaxis)
    axis.axvline((1 - threshold) * items, color=RED, lw=1.5)
    named = "t_s = mean of S_I" if np.isclose(threshold, sparsity.mean()) else "t_s"
    words = [
        (f"inactive: {inactive.sum():,} users", BLUE),
        (f"active: {(~inactive).sum():,} users", GREY),
        (f"{named}\n= {threshold:.4f}: {(1 - threshold) * items:,.1f} ratings", RED),
    ]
    in_a_corner(axis, words)
    index = axis.secondary_xaxis("top")
    index.set_xlabel("sparsity index S_I(u)")
    index.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 3)))
    index.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{1 - value / items:.4g}"))
    index.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axis.set(xlabel="ratings known of a user", ylabel="users", title="How much is known of each user")
    return figure


def candidates_portrait(sizes: pd.Series, inactive: pd.Series) -> Figure:
    """How many test items there are to rank, for active and inactive users."""
    figure, (axis,) = panels([2.7])
    most = int(np.clip(sizes.quantile(0.98), 8, 40))
    groups = {"inactive": (sizes[inactive], BLUE), "active": (sizes[~inactive], GREY)}
    axis.hist(
        [of.clip(upper=most) for of, _ in groups.values()], np.arange(0.5, most + 1), stacked=True, rwidth=0.85,
        color=[colour for _, colour in groups.values()],
    )  # fmt: skip
    words = [(f"{len(of):,} {name} users, median {of.median():.0f}", colour) for name, (of, colour) in groups.items()]
    in_a_corner(axis, words)
    axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axis.set(xlabel=f"test items of a user (more than {most} shown as {most})", ylabel="users")
    axis.set_title("Test items of active and inactive users")
    return figure
