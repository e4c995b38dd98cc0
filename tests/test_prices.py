"""Prices stand in a dated file; what cannot be read there is named, and nothing is priced by a guess."""

import tomllib
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from hybridrec.errors import PriceError
from hybridrec.evaluation.prices import Price, Prices, read_prices
from hybridrec.study import paths

LOCAL = 'date = "2026-01-01"\n[local]\nusd_per_hour = 3.6\n'
MODEL = '[models."org/toy-4.1"]\nprompt = 2\ncached = 0.5\ncompletion = 8.0\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prices.toml"


# --- what things cost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "cached", "completion", "usd"),
    [
        (1_000_000, 0, 0, 2.0),
        (1_000_000, 1_000_000, 0, 0.5),  # cached tokens are among those of the prompt
        (1_000_000, 400_000, 0, 1.4),
        (0, 0, 1_000_000, 8.0),
        (500, 100, 30, 0.00109),
        (0, 0, 0, 0.0),
    ],
)
def test_tokens_are_priced_by_the_million_and_by_their_kind(prompt, cached, completion, usd):
    usage = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": completion, "seconds": 999.0}
    assert Price(prompt=2.0, cached=0.5, completion=8.0).usd(usage) == pytest.approx(usd)


def test_a_machine_is_priced_by_the_hour_whatever_it_writes():
    usage = {"prompt_tokens": 10**9, "cached_tokens": 5, "completion_tokens": 10**9, "seconds": 1800.0}
    assert Price(hour=3.6).usd(usage) == pytest.approx(1.8)


def test_a_tables_row_is_priced_like_a_dictionary():
    usage = {"prompt_tokens": 500, "cached_tokens": 100, "completion_tokens": 30, "seconds": 7.0}
    price = Price(1.0, 2.0, 0.5, 8.0)
    assert price.usd(pd.Series(usage)) == pytest.approx(price.usd(usage))
    assert price.usd(usage) > 0


def test_a_model_without_a_price_is_named_with_the_remedy():
    prices = Prices("2026-01-01", Price(hour=1.0), {"toy": Price(prompt=1.0)})
    assert prices.of_endpoint("toy") == Price(prompt=1.0)
    with pytest.raises(PriceError, match=r"no price for 'org/other': add \[models\.'org/other'\].*data/prices\.toml"):
        prices.of_endpoint("org/other")


def test_what_the_error_says_to_write_can_be_read(file):
    with pytest.raises(PriceError) as caught:
        Prices("2026-01-01", Price(hour=1.0)).of_endpoint("org/other-4.1")
    header = str(caught.value).split("add ")[1].split(" with")[0]
    file.write_text(f"{LOCAL}{header}\nprompt = 1\ncached = 0\ncompletion = 2\n", encoding="utf-8")
    assert read_prices(file).of_endpoint("org/other-4.1") == Price(prompt=1.0, completion=2.0)


# --- the file -------------------------------------------------------------------------------------------------------


def test_prices_are_read_with_their_date(file):
    file.write_text(LOCAL, encoding="utf-8")
    assert read_prices(file) == Prices("2026-01-01", Price(hour=3.6))


def test_a_day_may_be_written_as_one(file):
    file.write_text("date = 2026-01-01\n[local]\nusd_per_hour = 3.6\n", encoding="utf-8")
    assert read_prices(file).date == "2026-01-01"


def test_models_are_read_by_name(file):
    file.write_text(LOCAL + MODEL + "[models.own]\nprompt = 0\ncached = 0\ncompletion = 0\n", encoding="utf-8")
    assert read_prices(file).models == {"org/toy-4.1": Price(0.0, 2.0, 0.5, 8.0), "own": Price()}


def test_the_committed_prices_can_be_read():
    prices = read_prices(paths.PRICES)
    assert prices.local.hour > 0
    assert len(prices.models) == len(tomllib.loads(paths.PRICES.read_text(encoding="utf-8")).get("models", {}))
    date.fromisoformat(prices.date)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[local]\nusd_per_hour = 0.1", "missing key 'date'"),
        ('date = "2026-01-01"', "missing key 'local'"),
        ('date = "2026-01-01"\n[local]\n', "local: missing key 'usd_per_hour'"),
        ('date = "2026-01-01"\nlocal = 3', "local is 3; it must be a table"),
        ('date = "2026-01-01"\n[local]\nusd_per_hour = -0.1', "local: usd_per_hour is -0.1; .* above 0"),
        ('date = "2026-01-01"\n[local]\nusd_per_hour = 0', "local: usd_per_hour is 0; it must be a number above 0"),
        ('date = "2026-01-01"\n[local]\nusd_per_hour = nan', "local: usd_per_hour is nan"),
        ('date = "2026-01-01"\n[local]\nusd_per_hour = inf', "local: usd_per_hour is inf"),
        ('date = "2026-01-01"\n[local]\nusd_per_hour = "cheap"', "local: usd_per_hour is 'cheap'"),
        ('date = "2026-01-01"\n[local]\nusd_per_hour = true', "local: usd_per_hour is True"),
        ('date = "today"\n[local]\nusd_per_hour = 1', "date is 'today'; it must be a day like"),
        ("date = 86400\n[local]\nusd_per_hour = 1", "date is 86400; it must be a day like"),
        ("date = true\n[local]\nusd_per_hour = 1", "date is True"),
        (f'date = "2026-01-01"\n[local]\nusd_per_hour = 1{"0" * 400}', "local: usd_per_hour is 10"),
        (f'date = "2026-01-01"\n[local]\nusd_per_hour = {"1" * 5000}', "digits"),
        ("date is today", "line 1"),
        ("", "missing key 'date'"),
        ("models = 3\n" + LOCAL, "models is 3; it must be a table"),
        (LOCAL + "[models]\ntoy = 3", "models: toy is 3; it must be a table"),
        (LOCAL + "[models.toy]\nprompt = 1\ncompletion = 1", "models: toy: missing key 'cached'"),
        (LOCAL + "[models.toy]\nprompt = 1\ncached = 1\ncompletion = 1\nhour = 1",
         "models: toy: unknown key 'hour'.*Known: cached, completion, prompt"),
        (LOCAL + "[models.toy]\nprompt = 1\ncached = -1\ncompletion = 1",
         "models: toy: cached is -1; it must be a number from 0 to 1,000,000"),
        (LOCAL + '[models.toy]\nprompt = "1"\ncached = 0\ncompletion = 1', "models: toy: prompt is '1'"),
        (LOCAL + "[models.toy]\nprompt = 1\ncached = 0\ncompletion = nan", "models: toy: completion is nan"),
        (LOCAL.replace("[local]", "hour = 2\n[local]"), "unknown key 'hour'.*Known: date, local, models"),
    ],
    ids=["no date", "no table", "no price", "no table but a number", "negative", "zero", "nan", "infinite", "text",
         "boolean", "no day", "a number as day", "a boolean day", "too large", "too long", "not TOML", "empty",
         "models a number", "a model a number", "a kind missing", "a kind too many", "negative tokens",
         "tokens as text", "tokens nan", "an unknown key"],
)  # fmt: skip
def test_a_price_file_that_cannot_be_used_is_named_with_the_key(file, text, why):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PriceError, match=rf"prices\.toml: .*{why}"):
        read_prices(file)
