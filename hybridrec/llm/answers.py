"""A model's text, read as a ranking: whatever it says, the result is a permutation of the candidates or a failure.

An answer is only ever read as a choice among the candidates, so no text, and no title inside it, can add an item.
Reading is strict about *what* is named and lenient about *how*. It goes in four steps: thoughts are taken off
(blocks.without_thoughts); the rest falls into lists (blocks.blocks); each entry is looked up among the candidates
(titles.CandidateNames); the last list that is an answer is the answer (``_final``).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridrec.llm.blocks import Block, blocks, entries, without_thoughts
from hybridrec.llm.titles import LABEL, CandidateNames

_REFUSAL = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable|not able)|I (?:can(?:['’]t|not| not)|won['’]t)|as an AI)\b", re.I
)
# Words in the heading of a list that is not the answer, and of one that is whatever else is said.
_GIVEN = re.compile(
    r"candidate|original|given|options|history|watched|rated|liked|draft|initial|first (?:try|attempt)", re.I
)
_ANSWER = re.compile(r"final|rank(?:ed|ing)|answer|recommend|revised", re.I)
_DRAFT = re.compile(r"draft|initial|first (?:try|attempt)|original", re.I)


@dataclass(frozen=True)
class ParsedRanking:
    """A text read as a ranking of ``n`` candidates.

    ``order`` holds candidate positions, best first, without repeats; ``invalid`` counts items named that are no
    candidates, ``duplicates`` candidates named again, ``missing`` those never named. ``failure`` says why there is
    nothing to repair ("empty", "only thoughts", "refusal", "names no candidate"), and is "" when at least one candidate
    was named. Thoughts, drafts, copies of the candidates and remarks beside the list count as nothing.
    """

    order: tuple[int, ...]
    invalid: int
    duplicates: int
    missing: int
    failure: str

    @property
    def repaired(self) -> bool:
        """Whether it is usable only because something was dropped or appended."""
        return not self.failure and bool(self.invalid or self.duplicates or self.missing)


def parse_ranking(
    text: str, titles: Sequence[str], labels: Sequence[str] = (), *, truncated: bool = False
) -> ParsedRanking:
    """Read a model's text as an order of the candidates.

    Args:
        text: the model's answer, whatever it says.
        titles: the candidates as shown, in the order shown.
        labels: the labels shown before them ("C1", ...), if any. An entry that begins with a label is read by it alone,
            so a title in it that looks like another item's label changes nothing.
        truncated: the answer was cut off, so an unreadable last item is not counted as invented, and one that may be
            the beginning of another title is not read.
    """
    names = CandidateNames(titles, labels)
    said = without_thoughts(text)
    found = blocks(said, names)
    lists = _joined(_named(found, names, truncated))
    final = _final(lists, truncated)
    if final:
        named = final.named
    else:
        prose = "\n".join(
            str(row[""]) for block in found if block.kind in ("prose", "", "inline") for row in block.rows
        )
        invented = max((len(block.named) for block in lists), default=0)
        named = list(dict.fromkeys(_in_prose(prose, names, len(labels)))) or [None] * invented
    chosen = [position for position in named if position is not None]
    order = tuple(dict.fromkeys(chosen))
    failure = "" if order else "only thoughts" if text.strip() and not said.strip() else _why_nothing(said)
    return ParsedRanking(order, len(named) - len(chosen), len(chosen) - len(order), len(titles) - len(order), failure)


def repair(parsed: ParsedRanking, n: int, rng: np.random.Generator) -> list[int]:
    """Complete an order: candidates the model left out follow in random order.

    Random, so that a repair adds no information: neither what the user liked nor how a recommender ranks. An answer
    that failed becomes a random order of all candidates; the caller should say so (``parsed.failure`` has the reason).

    Args:
        parsed: what ``parse_ranking`` made of the answer.
        n: how many candidates there are.
        rng: draws the order of what is missing.

    Returns:
        All positions from 0 to n - 1, best first.
    """
    missing = [position for position in range(n) if position not in parsed.order]
    return [*parsed.order, *(int(position) for position in rng.permutation(missing))]


def _why_nothing(text: str) -> str:
    if not text.strip():
        return "empty"
    return "refusal" if _REFUSAL.search(text) else "names no candidate"


# --- which list -----------------------------------------------------------------------------------------------------


def _named(found: list[Block], names: CandidateNames, truncated: bool) -> list[Block]:
    """The lists, with what each of their entries names; without a last one that was cut off and may be anything."""
    lists = [block for block in found if block.kind != "prose"]
    for block in lists:
        said = entries(block, names)
        block.cut = block.cut or (truncated and block is found[-1])
        block.named = _resolved(said, names)
        if block.cut and said and (block.named[-1] is None or names.begins_another(said[-1], block.named)):
            block.named.pop()
    return lists


def _resolved(said: list[str], names: CandidateNames) -> list[int | None]:
    """A candidate for each entry.

    A title behind which stands what may be the rest of a longer one is believed if entries are written like that. Of
    candidates that only the year tells apart, or nothing, all are meant where as many entries say the name.
    """
    meant = [names.all_of(one) for one in said]
    heads = [((), "", False) if found else names.head(one) for one, found in zip(said, meant, strict=True)]
    usual: dict[str, set[tuple[int, ...]]] = {}
    for found, sign, _ in heads:
        usual.setdefault(sign, set()).add(found)
    for place, (found, sign, sure) in enumerate(heads):
        if found and (sure or len(usual[sign]) >= max(2, 2 * len(said) / 3)):
            meant[place] = found
    taken = {found[0] for found in meant if len(found) == 1}
    named: list[int | None] = [found[0] if len(found) == 1 else None for found in meant]
    for group in {found for found in meant if len(found) > 1}:
        places = [place for place, found in enumerate(meant) if found == group]
        free = [position for position in group if position not in taken]
        if len(places) == len(free) or names.same(group):
            for n, place in enumerate(places):
                named[place] = free[n] if n < len(free) else group[0]
    return named


def _joined(lists: list[Block]) -> list[Block]:
    """Parts of one list put together: the numbers go on, or the same marks name other candidates.

    Lines between the items (a reason, a heading) part them. A list that names some of the same again is another one,
    but not a single line: that is a duplicate.
    """
    whole: list[Block] = []
    open_: dict[str, tuple[Block, set[int]]] = {}
    for block in lists:
        places = _places(block)
        before, named = open_.get(block.kind, (None, set()))
        if before and block.kind not in ("json", "table"):
            goes_on = 0 < before.numbers[1] == block.numbers[0] - 1
            same_list = not block.new and (named.isdisjoint(places) or len(block.named) == 1)
            if goes_on or same_list or (named and places and named.isdisjoint(places)):
                before.named += block.named
                before.numbers = (before.numbers[0], block.numbers[1])
                named |= places
                continue
        open_[block.kind] = block, places
        whole.append(block)
    return whole


def _places(block: Block) -> set[int]:
    return {position for position in block.named if position is not None}


def _final(lists: list[Block], truncated: bool) -> Block | None:
    """The answer: the last list that is more than a remark on the one before it."""
    final: Block | None = None
    for block in lists:
        if _places(block) and (final is None or _replaces(block, final, truncated and block is lists[-1])):
            final = block
    return final


def _replaces(block: Block, before: Block, broke_off: bool) -> bool:
    """Whether a later list is the answer instead: it repeats, corrects or begins it anew.

    A list that names some of the same in the same order says nothing new (reasons, one by one); one that names less
    than half as many is a remark, unless the answer broke off in it.
    """
    given, given_before = _is_given(block), _is_given(before)
    if given != given_before:
        return given_before
    order, order_before = (list(dict.fromkeys(p for p in one.named if p is not None)) for one in (block, before))
    if len(order) < len(order_before) and order == [p for p in order_before if p in set(order)]:
        return False
    return 2 * len(order) >= len(order_before) or broke_off


def _is_given(block: Block) -> bool:
    """Whether a list's heading says that it is what was given, or a draft."""
    return bool(_DRAFT.search(block.heading) or (_GIVEN.search(block.heading) and not _ANSWER.search(block.heading)))


def _in_prose(text: str, names: CandidateNames, labels: int) -> list[int | None]:
    """What sentences name, where there is no list: labels, else titles of several words."""
    found = [int(number) for number in LABEL.findall(text)] if labels else []
    return [number - 1 if 1 <= number <= labels else None for number in found] or [*names.mentions(text)]
