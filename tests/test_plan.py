"""The plan and the code that judges by it cannot drift apart without a dated line in the plan's log."""

import datetime
import hashlib
import re

import pytest

from hybridrec.evaluation import cross, verdicts
from hybridrec.study import config, paths

PLAN = (paths.ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
LOG = re.findall(r"^\| (\d{4}-\d\d-\d\d) \| `(\w{64})` \| (.+) \|$", PLAN.split("## Log")[1], re.M)


def code_hash() -> str:
    files = [paths.ROOT / "hybridrec" / "evaluation" / name for name in ("verdicts.py", "cross.py")]
    return hashlib.sha256(b"".join(file.read_bytes().replace(b"\r\n", b"\n") for file in files)).hexdigest()


def test_the_log_ends_with_the_hash_of_the_code():
    if LOG[-1][1] != (found := code_hash()):
        today = datetime.date.today()
        pytest.fail(f"the judging code has changed: say what and why in docs/plan.md: | {today} | `{found}` | ... |")


def test_the_log_is_in_order_and_says_what_changed():
    dates = [datetime.date.fromisoformat(date) for date, *_ in LOG]
    assert dates == sorted(dates)
    assert len({code for _, code, _ in LOG}) == len(LOG)


def test_the_plans_numbers_are_the_codes():
    assert f"| smallest effect of interest | {verdicts.SMALLEST_EFFECT:g} AUC |" in PLAN
    assert f"at {verdicts.LEVEL:.0%} on each".replace("%", " %") in PLAN
    assert f"with {verdicts.POWER:.0%} power".replace("%", " %") in PLAN
    assert verdicts.FEWEST_USERS == 10 and "fewer than ten users" in PLAN
    assert all(f"**{word}**" in PLAN for word in verdicts.VERDICTS)
    assert all(name in PLAN for name in config.PUBLISHED_RECOMMENDERS)
    for code in re.findall(r"`(cross|verdicts)\.(\w+)`", PLAN):
        assert hasattr({"cross": cross, "verdicts": verdicts}[code[0]], code[1])
