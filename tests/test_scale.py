"""docs/scale.md: its SQL computes our P(u), and its sums are those of the price file."""

import re
import sqlite3

import numpy as np
import pandas as pd
import pytest

from hybridrec.evaluation import metrics, prices
from hybridrec.study import paths

PAGE = (paths.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_sql_gives_every_users_auc():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"user": rng.integers(300, size=4000), "score": rng.integers(6, size=4000) / 7})
    rows["relevant"] = rng.random(len(rows)) < 0.5 * (rows["user"] > 5)  # a few users like nothing
    (query,) = re.findall(r"```sql\n(.*?)```", PAGE, re.S)
    with sqlite3.connect(":memory:") as database:
        rows.astype({"relevant": int}).to_sql("judged", database, index=False)
        found = pd.read_sql(query, database).set_index("user")["auc"]
    ours = metrics.auc(rows)
    assert found.isna().sum() == ours.isna().sum() >= 5
    pd.testing.assert_series_equal(found.astype(float), ours, check_names=False)


@pytest.mark.parametrize(("users", "routed"), [("1 million", 76_000), ("100 million", 7_600_000)])
def test_the_bill_is_the_price_files(users, routed):
    usage = {"prompt_tokens": 380 * routed, "cached_tokens": 0, "completion_tokens": 57 * routed, "seconds": 0}
    dollars = prices.read_prices(paths.PRICES).of_endpoint("gpt-4o-mini").usd(usage)
    (shown,) = re.findall(rf"^\| {users} \|(?:[^|]*\|){{3}} ([\d.]+) \|$", PAGE, re.M)
    assert float(shown) == pytest.approx(dollars, rel=0.01)
