"""docs/scale.md: its SQL is the package's, its Python runs, and its sums are those of the price file."""

import re

import pytest

from hybridrec.evaluation import prices
from hybridrec.scale import duck
from hybridrec.study import paths

PAGE = (paths.ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["judged", "pairs", "performance", "sparsity", "controls"])
def test_the_page_shows_the_sql_that_is_run(name):
    assert f"```sqlite3\n{duck.sql(name)}```" in PAGE


@pytest.mark.parametrize(("users", "routed"), [("1 million", 75_000), ("100 million", 7_500_000)])
def test_the_bill_is_the_price_files(users, routed):
    usage = {"prompt_tokens": 380 * routed, "cached_tokens": 0, "completion_tokens": 57 * routed, "seconds": 0}
    dollars = prices.read_prices(paths.PRICES).of_endpoint("gpt-4o-mini").usd(usage)
    (shown,) = re.findall(rf"^\| {users} \|(?:[^|]*\|){{3}} ([\d.]+) \|$", PAGE, re.M)
    assert float(shown) == pytest.approx(dollars, rel=0.01)
