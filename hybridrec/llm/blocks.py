"""The lists in a model's text: JSON, tables, marked lines, lines of their own, one line with several titles.

A text may hold thoughts, a copy of the candidates, a draft and remarks beside the list that is its answer. Here they
are told apart; which list is the answer is decided in answers.py.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import json_repair

from hybridrec.llm.titles import CandidateNames, plain, title_key

_TAG = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)"
# <think>, [THINK], ◁think▷, <seed:think>, <|begin_of_thought|>
_THOUGHT = re.compile(rf"[<\[◁](/)?(?:\w+:)?{_TAG}[>\]▷]|<\|(?:begin|(end))_of_{_TAG}\|>", re.I)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,40}<\|message\|>")
_CONTROL = re.compile(r"<\|\w+\|>")
_BARE_CHANNELS = re.compile(r"\A\s*analysis(?=[A-Z])")  # the same where the control tokens were left out
_INLINE_TAG = re.compile(r"</?(?:b|i|u|em|strong|span|a|code|sub|sup)(?:\s[^<>\n]{0,80})?>", re.I)
_OPEN_TAG = re.compile(r"<([a-zA-Z][\w-]{0,20})(?:\s[^<>\n]{0,80})?>")
_OTHER_TAG = re.compile(r"</[a-zA-Z][\w-]{0,20}>|<br ?/?>|<[?!][^<>\n]{0,80}>", re.I)

_JSON_START = re.compile(r"[\[{]\s*(?:[\"'“\[{\]}]|\d+\s*[,:\]])")
_BRACKET = re.compile(r"[\[\]{}]")
_DEEPEST, _LONGEST_REPAIR = 12, 100_000  # what the repairer is given: it takes quadratic time on deep nonsense
_RANK = re.compile(r"rank|position|place|order|priority|^(?:#|no\.?|nr\.?|number|n)$", re.I)
_SCORE = re.compile(r"score|rating|prob|relevan|stars|match|confiden|points|weight|preferen|likel", re.I)
_NUMBER = re.compile(r"\D{0,12}(\d{1,9}(?:\.\d{1,9})?)\D{0,12}")

_DIGITS = "[\u2460-\u249b\u24f5-\u24fe\u2776-\u2793\u3220-\u3229\u3280-\u3289🥇🥈🥉]"  # ① ❶ ㊀, medals
_KEYCAP = re.compile(rf"^(\W{{0,9}})(?:{_DIGITS}|([0-9])\ufe0f?\u20e3)\s*")
_HAN = "一二三四五六七八九十百"
_LEAD = r"^[\s>#*_•-]*"
_NUMBERED = re.compile(
    rf"{_LEAD}(?:[(\[]?#?\s*(\d{{1,3}})(?:st|nd|rd|th|º|ª|°|位|名|위)?(?:\s*[*_]*[.):\]、]+(?!\d)|\s*[*_]*\s-+\s|-\s)"
    rf"|#(\d{{1,3}})\s|(?:第\s*)?[(]?([{_HAN}]{{1,3}})(?:\s*[、.):]|[位名][:、\s]?)|第?(\d{{1,3}})[位名][:、\s]?)"
    r"[*_]*\s*"
)
_WORDED = re.compile(rf"{_LEAD}[^\W\d_]{{2,12}}\.?\s*#?(\d{{1,3}})\s*[*_]*(?:[:.)]|\s-+\s)[*_]*\s*")
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_SPELLED = re.compile(
    rf"{_LEAD}({'|'.join(_ORDINALS)}|last|finally)(?:ly)?(?:\s+(?:place|choice|pick))?\s*[:,.-]\s*", re.I
)
_BULLET = re.compile(r"^\s*(?:[^\w\s\"'“‘«《「『【(\[<⟨|#]{1,3}(?:\s+\[[ xX✓]?\])?\s+|[-•*](?=[^\W_]))")
_WEAK_NUMBER = re.compile(r"^\s*(\d{1,3})(?:\s*,\s*|\s+)(?=\S)")
_WEAK_LETTER = re.compile(r"^\s*\(?([^\W\d_])[.):]\s*(?=\S)")
_WEAK_ROMAN = re.compile(r"^\s*\(?([ivxIVX]{1,5})[.):]\s*(?=\S)")
_ROMANS = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx".split()
_ONE_LINE = re.compile(r"(?:^|(?<=[\s,;]))[(#*]{0,3}(\d{1,3})(?:[.):]+\s?|\s?-\s)")
_FIELD = re.compile(r"^\s*(?:[-*•]\s+)?[*_\"]*([^\W\d]\w{1,20})[*_\"]*\s*[:=]\s*(?=\S)")
_HEADING = re.compile(r"[:：]\s*[*_]*$|^\s*#{1,6}\s|^\s*(?:\*\*|__)[^*_]+(?:\*\*|__)\s*$")
_TOPIC = re.compile(r"rank|order|list|answer|final|candidate|recommend|draft|choice|pick|top", re.I)
_LOOKED_AT = 500  # characters of a line by which its kind is told
_BLANKS = re.compile(r"[^\S\n\r]{9,}")
_QUOTES = "\"'()[]*_.,;:!?"
_SENTENCE = re.compile(r"[.!?。]\W*$")
_SMALL = {"with", "from", "into", "over", "under", "upon"}


@dataclass
class Block:
    """Entries that belong together.

    ``rows`` are records: a line is ``{"": line}``, of JSON and tables every field has its name. ``heading`` stands
    before it; ``numbers`` are those of its first and last item (0: none); ``new`` says that a heading parts it from
    what is before. ``cut``: the text broke off in it.
    """

    kind: str
    rows: list[dict[str, Any]]
    heading: str = ""
    numbers: tuple[int, int] = (0, 0)
    new: bool = True
    cut: bool = False
    header: list[str] = field(default_factory=list)
    named: list[int | None] = field(default_factory=list)


# --- thoughts -------------------------------------------------------------------------------------------------------


def without_thoughts(text: str) -> str:
    """What a text says after, before and between its thoughts; nothing if it never got beyond them."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = next((found for found in reversed(channels) if found[1] == "final"), None)
        text = text[final.end() :] if final else ""
    elif _BARE_CHANNELS.match(text):
        text = text.rpartition("assistantfinal")[2] if "assistantfinal" in text else ""
    kept, depth, at = [], 0, 0
    for tag in _THOUGHT.finditer(text):
        if not depth:
            kept.append(text[at : tag.start()])
        if tag[1] or tag[2]:
            kept = kept if depth else []  # a closing tag alone: all before it was thought
            depth = 0
        else:
            depth = 1
        at = tag.end()
    return _CONTROL.sub("\n", "\n".join(kept if depth else [*kept, text[at:]]))


# --- JSON -----------------------------------------------------------------------------------------------------------


def blocks(text: str, names: CandidateNames) -> list[Block]:
    """All lists of a text, in its order."""
    found, at = [], 0
    for start, end, values, cut in _json_values(text, names):
        found += _from_lines(text[at:start], names)
        inner = [block for value in values for block in _from_json(value, names, "")]
        found += [*inner[:-1], *(_with_cut(block, cut) for block in inner[-1:])]
        at = end
    return found + _from_lines(text[at:], names)


def _with_cut(block: Block, cut: bool) -> Block:
    block.cut = cut
    return block


def _json_values(text: str, names: CandidateNames) -> Iterator[tuple[int, int, list[Any], bool]]:
    """Where JSON stands in a text, and what it says; objects one after the other (JSON lines) are one list."""
    at = 0
    waiting: tuple[int, int, list[Any], bool] | None = None
    value: Any
    while start := _JSON_START.search(text, at):
        if names.all_of(_line_at(text, start.start())):
            at = start.end()  # brackets in a title, or behind a label
            continue
        value, at, cut = _decoded(text, start.start())  # at is behind start, whatever was read
        if not isinstance(value, (dict, list)):
            continue
        if waiting and isinstance(value, dict) and not text[waiting[1] : start.start()].strip(" \n\t\r,"):
            waiting = (waiting[0], at, [*waiting[2], value], cut)
            continue
        if waiting:
            yield _as_one(waiting)
        waiting = (start.start(), at, [value], cut)
    if waiting:
        yield _as_one(waiting)


def _line_at(text: str, place: int) -> str:
    """The line around a place; a part of it, longer than any title, if it is long."""
    before, after = text[max(0, place - 400) : place], text[place : place + 400]
    return before.rpartition("\n")[2] + after.partition("\n")[0]


def _as_one(found: tuple[int, int, list[Any], bool]) -> tuple[int, int, list[Any], bool]:
    start, end, values, cut = found
    return start, end, [values] if len(values) > 1 and all(isinstance(v, dict) for v in values) else values, cut


def _decoded(text: str, start: int) -> tuple[Any, int, bool]:
    """The value that begins at a place, where it ends, and whether it was cut off; repaired where that is needed."""
    try:
        found: tuple[Any, int] = json.JSONDecoder().raw_decode(text, start)
        return *found, False
    except (ValueError, RecursionError):
        pass
    depth, deepest, end = 0, 0, len(text)
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket[0] in "[{" else -1
        deepest = max(deepest, depth)
        if depth <= 0 or deepest > _DEEPEST:
            end = bracket.end()
            break
    if depth > 0:
        fence = text.find("```", start, end)
        end = fence if fence >= 0 else end
    if deepest > _DEEPEST:
        return None, len(text), True
    if end - start > _LONGEST_REPAIR:
        return None, end, True
    try:
        return json_repair.loads(text[start:end], skip_json_loads=True), end, depth > 0
    except (ValueError, RecursionError):
        return None, end, True


def _from_json(value: Any, names: CandidateNames, heading: str) -> Iterator[Block]:
    """The lists within a JSON value; a text in it is read as a text."""
    if isinstance(value, list):
        rows = [_record(one) for one in value]
        deep = [one for one in value if isinstance(one, dict) and any(isinstance(v, list) for v in one.values())]
        if deep:
            for one in deep:
                yield from _from_json(one, names, heading)
        elif rows:
            if len(rows) > 1 and all(len(row) == 1 for row in rows) and len(set(map(tuple, rows))) > 1:
                rows = [{"key": key, "value": said} for row in rows for key, said in row.items()]
            yield Block("json", rows, heading)
    elif isinstance(value, dict):
        inner: dict[str, Any] = {key: one for key, one in value.items() if isinstance(one, (dict, list))}
        flat = {key: one for key, one in value.items() if key not in inner}
        if len(inner) > 1 and all(isinstance(one, dict) for one in inner.values()):
            yield Block("json", [{"key": key, **_record(one)} for key, one in inner.items()], heading)
            inner = {}
        if flat and not inner:
            yield Block("json", [{"key": key, "value": one} for key, one in flat.items()], heading)
        for key, one in flat.items():
            if isinstance(one, str) and len(flat) < 6 and names.whole(one) is None:
                yield from _from_lines(one, names, heading=key)
        for key, one in inner.items():
            yield from _from_json(one, names, f"{heading} {key}".strip())


def _record(value: Any) -> dict[str, Any]:
    """A list's element as a record."""
    if isinstance(value, dict):
        return {str(key): one for key, one in value.items() if not isinstance(one, (dict, list))}
    if isinstance(value, list):
        return {str(place): one for place, one in enumerate(value)}
    return {"": value}


def entries(block: Block, names: CandidateNames) -> list[str]:
    """What a block's rows say of a candidate each, best first: by a rank or a score where there is one.

    Of records it is the field in which most candidates are named, so it matters neither how it is called nor what
    else is said.
    """
    columns = list(dict.fromkeys(key for row in block.rows for key in row))
    if not columns:
        return []
    if len(columns) == 1:
        column = columns[0]
    else:
        texts = {key: {str(row[key]) for row in block.rows if key in row} for key in columns}
        column = max(columns, key=lambda key: len({p for said in texts[key] for p in names.all_of(said)}))
    rows = [row for row in block.rows if row.get(column) not in (None, "")]
    return [str(row[column]) for row in _in_order(rows, column, columns)]


def _in_order(rows: list[dict[str, Any]], column: str, columns: list[str]) -> list[dict[str, Any]]:
    for key in columns:
        numbers = [number for row in rows if (number := _number(row.get(key))) is not None]
        if key == column or len(numbers) < len(rows):
            continue
        rising = [rows[place] for place in sorted(range(len(rows)), key=numbers.__getitem__)]
        falling = [rows[place] for place in sorted(range(len(rows)), key=[-number for number in numbers].__getitem__)]
        if key == "key" or _RANK.search(key):
            return rising
        if key == "value" and {"key", "value"} == set(columns):  # a map from titles to numbers: ranks, or scores
            if rows in (rising, falling):
                return rows
            return rising if sorted(numbers) == list(range(1, len(rows) + 1)) else falling
        if _SCORE.search(key):
            return falling
    return rows


def _number(value: Any) -> float | None:
    """The number that a field holds: 3, "3", "#3", "rank 3"."""
    if isinstance(value, (int, float)):
        return float(value) if abs(value) < 1e12 else None
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) if found else None


# --- lines ----------------------------------------------------------------------------------------------------------


@dataclass
class _Line:
    kind: str
    said: str
    number: int = 0
    indent: int = 0


def _from_lines(text: str, names: CandidateNames, heading: str = "") -> list[Block]:
    """The lists that lines are: a new one begins at another kind of mark, a heading, a number 1, or an empty line."""
    found: list[Block] = []
    new, gap, parent = True, False, None
    for line in _lines(text, names):
        if line.kind == "blank":
            gap = True
            continue
        if line.kind == "prose":
            heading, new, parent = line.said, new or bool(_HEADING.search(line.said)), None
            found.append(Block("prose", [{"": line.said}]))
            gap = True
            continue
        if parent and line.indent > parent.indent and line.kind != "number" and names.whole(line.said) is None:
            if not line.kind.startswith("field"):
                continue  # a remark on the item above
        elif line.kind in ("number", "bullet"):
            parent = line if names.head(line.said)[0] or names.whole(line.said) is not None else None
        last = found[-1] if found else None
        again = last is not None and line.number == 1 and last.numbers[1] > 1
        if last is None or last.kind != line.kind or again or (gap and line.kind in ("", "bullet", "inline")):
            found.append(Block(line.kind, [], heading, (line.number, 0), new or again))
            new = False
        block = found[-1]
        block.rows += _rows(line, block, names)
        block.numbers = (block.numbers[0], line.number)
        gap = False
    return [block for block in found if block.rows]


def _rows(line: _Line, block: Block, names: CandidateNames) -> list[dict[str, Any]]:
    if line.kind == "table":
        cells = [cell.strip() for cell in line.said.strip().strip("|").split("|")]
        if _is_rule(line.said):
            block.header = [str(cell) for cell in block.rows.pop().values()] if block.rows else []
            return []
        return [dict(zip([*block.header, *map(str, range(len(block.header), len(cells)))], cells, strict=False))]
    pieces = names.several(line.said)
    if line.kind == "inline" or (pieces and all(names.all_of(piece) for piece in pieces)):
        return [{"": piece} for piece in pieces]
    return [{"": line.said}]


def _lines(text: str, names: CandidateNames) -> list[_Line]:
    """The lines of a text, each with its mark; one that holds a whole numbered list is as many."""
    text = _BLANKS.sub(" " * 8, _untagged(text))
    raw = [_KEYCAP.sub(_as_number, line) for line in text.splitlines()]
    raw = [piece for line in raw for piece in _numbered_apart(plain(line))]
    weak = _weak_marks(raw)
    fields = _fields(raw, names)
    piped = any("|" in line and _is_rule(line) for line in raw)
    lines = [_line(line, weak[n], fields, piped, names) for n, line in enumerate(raw)]
    for line, one in zip(lines, raw, strict=True):
        line.indent = len(one) - len(one.lstrip())
    return lines


def _line(line: str, weak: tuple[int, int] | None, fields: set[str], piped: bool, names: CandidateNames) -> _Line:
    start = line[:_LOOKED_AT]
    if names.is_title(line.strip()):
        return _Line("", line)
    if ("|" in line and (piped or start.lstrip().startswith("|"))) or (piped and _is_rule(line)):
        return _Line("table", line)
    if (not title_key(_NUMBERED.sub("", start)) and not names.all_of(start)) or start.lstrip().startswith("```"):
        return _Line("blank", "")
    if mark := _NUMBERED.match(start):
        number = mark[1] or mark[2] or mark[4] or (mark[3] == "一")
        return _Line("number", _unlabelled_field(line[mark.end() :], fields, names), int(number))
    known = names.whole(start) is not None or bool(names.head(start)[0])
    if not known and (mark := _WORDED.match(start)):
        return _Line("worded", line[mark.end() :], int(mark[1]))
    if not known and (mark := _SPELLED.match(start)):
        return _Line("worded", line[mark.end() :])
    if weak and names.whole(start) is None:
        return _Line("number", _unlabelled_field(line[weak[1] :], fields, names), weak[0])
    said = _FIELD.match(start)
    if said and said[1].casefold() in fields:
        return _Line(f"field {said[1].casefold()}", line[said.end() :])
    if mark := _BULLET.match(start):
        return _Line("bullet", _unlabelled_field(line[mark.end() :], fields, names))
    if names.several(line):
        return _Line("inline", line)
    if names.whole(start) is not None:
        return _Line("", line)
    return _Line("prose" if _is_prose(start, names) else "", line)


def _is_rule(line: str) -> bool:
    """Whether a line parts a table's header from its rows."""
    return len(line) < _LOOKED_AT and not line.strip("|-: \t") and "--" in line


def _is_prose(line: str, names: CandidateNames) -> bool:
    """Whether a line without a mark is a heading or a sentence, and not an item."""
    if _HEADING.search(line) and not names.head(line)[0]:
        return line.rstrip(" *_").endswith(":") or bool(_TOPIC.search(line))
    if names.head(line)[1] not in ("", ",", " ", "."):
        return False
    words = [word.strip(_QUOTES) for word in line.split()]
    plain_words = sum(len(word) > 3 and word[0].islower() and word not in _SMALL for word in words)
    return len(words) > 25 or "。" in line or (bool(_SENTENCE.search(line)) and len(words) > 2 and plain_words > 1)


def _unlabelled_field(said: str, fields: set[str], names: CandidateNames) -> str:
    """What is behind "Artist:" in an item, if that is how items are written."""
    found = _FIELD.match(said)
    return said[found.end() :] if found and found[1].casefold() in fields and names.whole(said) is None else said


def _fields(lines: list[str], names: CandidateNames) -> set[str]:
    """The words that stand before a colon again and again ("title", "reason"), if a candidate follows one of them."""
    said: dict[str, list[str]] = {}
    for line in (one[:_LOOKED_AT] for one in lines):
        mark = _NUMBERED.match(line) or _BULLET.match(line)
        found = _FIELD.match(line, mark.end() if mark else 0) or _FIELD.match(line[mark.end() if mark else 0 :])
        if found and names.whole(found[1]) is None:
            said.setdefault(found[1].casefold(), []).append(found.string[found.end() :])
    often = {word: rests for word, rests in said.items() if len(rests) > 1}
    if any(names.all_of(rest) or names.head(rest)[0] for rests in often.values() for rest in rests):
        return set(often)
    return set()


def _as_number(mark: re.Match[str]) -> str:
    sign = mark[0].strip()[-1] if not mark[2] else mark[2]
    medal = "🥇🥈🥉".find(sign) + 1
    return f"{mark[1]}{medal or int(unicodedata.numeric(sign))}. "


def _numbered_apart(line: str) -> list[str]:
    """The items of a line that numbers several: 1., 2., 3. in this order, whatever other numbers are in it."""
    starts, expected = [], 1
    for mark in _ONE_LINE.finditer(line):
        if int(mark[1]) == expected:
            starts.append(mark.start())
            expected += 1
    if len(starts) < 2:
        return [line]
    cuts = [0, *starts, len(line)]
    return [line[a:b].strip(" ,;") for a, b in pairwise(cuts) if line[a:b].strip(" ,;")]


def _weak_marks(lines: list[str]) -> list[tuple[int, int] | None]:
    """Marks that are marks only one after the other: "1 Alien", "a) Alien", "ii. Alien". Their numbers and ends."""
    found: list[tuple[int, int] | None] = [None] * len(lines)
    for pattern, value in (
        (_WEAK_NUMBER, int),
        (_WEAK_ROMAN, lambda said: _ROMANS.index(said.lower()) + 1 if said.lower() in _ROMANS else 0),
        (_WEAK_LETTER, lambda said: ord(said.lower()) if len(said.lower()) == 1 else 0),
    ):
        marks = [
            (n, value(mark[1]), mark.end())
            for n, line in enumerate(lines)
            if (mark := pattern.match(line[:_LOOKED_AT]))
        ]
        for (n, number, end), (m, then, then_end) in pairwise(marks):
            if number and then == number + 1 and (found[n] or number == 1 or pattern is _WEAK_LETTER):
                first = found[n] or (1 if pattern is _WEAK_LETTER else number, end)
                found[n], found[m] = first, found[m] or (first[0] + 1, then_end)
    return found


def _untagged(text: str) -> str:
    """A text without XML: elements that come again are fields, the others headings."""
    if "</" not in text and "<br" not in text:
        return text
    text = _INLINE_TAG.sub("", text)
    counts = Counter(tag.lower() for tag in _OPEN_TAG.findall(text))
    opened = _OPEN_TAG.sub(lambda tag: f"\n{tag[1]}:{' ' if counts[tag[1].lower()] > 1 else chr(10)}", text)
    return _OTHER_TAG.sub("\n", opened)
