"""Which candidate a piece of text names: by keys from exact to lenient, and none where two candidates would fit.

A key says what two spellings of a title share. Each is used only where exactly one candidate has it; the last step
compares letters (RapidFuzz) and wants one candidate that is clearly nearest.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from rapidfuzz import process
from rapidfuzz.distance import OSA

from hybridrec.llm.prompts import one_line

REDACTED = "⟨history "  # how what was taken out of a recorded answer begins (redact.py)
_REDACTED = re.compile(rf"{REDACTED}\d{{1,6}}⟩")
# An answer may be hostile. None of these patterns may look twice at the same text, or a megabyte of it takes hours.
LIST_MARK = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,3}[.):]+)\s*")
YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
LABEL = re.compile(r"(?<![^\W_])[Cc](\d{1,4})(?![^\W_])")
_LOOSE_LABEL = re.compile(r"[Cc](?:\s?[-_.#]?\s?)(\d{1,4})(?!\d)[\s:.)\]>*-]*")
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_LETTERS = re.compile(r"[^\W_]+(?:[+#]+(?!\w))?")
_TOKEN = re.compile(r"[^\W_]+(?:[+#]+(?!\w))?|&|\+(?=\s)")
_YEAR_SAID = r"((?:1[89]|20)\d\d)"
_SAID_YEAR = re.compile(
    rf"^(.*\S)(?:\s*[(\[]\s*{_YEAR_SAID}(?!\d)[^()\[\]]{{0,40}}[)\]]|[\s,:|/-]+{_YEAR_SAID})[\s.*_]*$"
)
_BRACKETS = re.compile(r"\s*[(\[][^()\[\]]*[)\]]\s*$")
_AUTHOR = re.compile(r"\s+by(?:\s+[A-ZÀ-Þ][\w.'-]*){2,5}$")
_MOVED = re.compile(
    r"^(.*\S),\s*(the|an?|l[ae]|les|el|l[ao]s|il|lo|gli|une?|der|die|das|eine?|de|het|een|d[et]n|det|os|as|l')"
    r"(?=\s*(?:[(\[]|$))",
    re.I,
)
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)", re.I)
_SAME = str.maketrans(dict.fromkeys("‘’‛`´′ʼ", "'") | dict.fromkeys("“”„‟″", '"') | dict.fromkeys("‐‑‒–—―−", "-"))
_PAIRS = [
    pair.split("…") for pair in "**…** __…__ *…* _…_ `…` \"…\" '…' «…» ‹…› 《…》 〈…〉 「…」 『…』 【…】 […]".split()
]
_EDGE = " \t,;.:|*_`"
_LONGEST = 300  # characters of an entry that are looked at: twice a title's (prompts.py)
_YEARS_APART = 3  # what a model misremembers; another film of the same name is further away
_SHORT = 5  # letters; a word as short as that is another word with one letter changed
_SLIPS = 2
_NUMERAL = re.compile(r"\d|^[ivxlc]+$")
_PART = re.compile(r"\s*(?:(?:part|pt|vol|volume|no|season|episode|chapter)\b|[\divx]+\s*(?:[)\]]|$))", re.I)
_SCORE = re.compile(r"\s*\d+(?:[.]\d+|\s*%|(?:[.]\d+)?\s*/\s*\d)")
_IN_TITLES = {"the", "and", "for", "with", "from", "into", "und", "der", "die", "das", "les", "des", "del"}
# What may part a title from a remark, and titles in a line from each other.
_SPLIT = re.compile(r"\s+[-|/=>→]+\s+|-{2,}|\s*:\s*|[,;]\s*|\s*[(\[]|[.!?]\s+|\s(?=(?:is|because|by)\s)|\t")
_STRONG = re.compile(r"\s*(?:&gt;|[=-]?>|[→⇒➔➜›»])\s*")
_WEAK = re.compile(r"[,;、|\t·•]|\s+(?:/|&|and|und|et|y)\s+")
_DASH = re.compile(r"\s-\s")


class CandidateNames:
    """The candidates of one list, and what may be said for each."""

    def __init__(self, titles: Sequence[str], labels: Sequence[str] = ()) -> None:
        self._shown = [one_line(title) for title in titles]
        self._labels = len(labels)
        self._exact = _positions(enumerate(map(_signs, self._shown)))
        dated = [_undated(plain(html.unescape(title))) for title in self._shown]
        names, self._years = [name for name, _ in dated], [year for _, year in dated]
        glued = [(p, f"C{p + 1}{said}") for said_as in (self._shown, names) for p, said in enumerate(said_as)]
        spelled = (*enumerate(self._shown), *(glued if labels else ()))
        self._letters = _positions((position, _letters(said)) for position, said in spelled)
        self._keys = [
            _positions(enumerate(map(_joined, names))),
            _positions((p, _joined(_bare(name))) for p, name in enumerate(names)),
            _positions((p, _joined(_bare(_short(name)))) for p, name in enumerate(names)),
        ]
        self._shortened = {position for position, name in enumerate(names) if _short(name) != name}
        self._words = [_tokens(_bare(name)) for name in names]
        self._spelled = [" ".join(words) for words in self._words]
        self._looks = 1000 + 20 * len(titles)  # how many unknown items are compared letter by letter
        self._known = {word for title in self._shown for word in _words(title, _LETTERS)} | set(self._letters)
        self._known.update(f"c{number}" for number in range(1, len(labels) + 1))
        self._known.update(key for keys in self._keys for key in keys)
        self._mentions: dict[str, list[tuple[list[str], int]]] = {}
        for position, title in enumerate(self._shown):
            alone = len(self._keys[0].get(_joined(names[position]), ())) == 1
            for spelling in (title, *([names[position]] if alone else [])):
                words = _tokens(spelling)
                if len(words) > 1:  # inside a sentence "It" and "Kids" are words, too
                    self._mentions.setdefault(words[0], []).append((words, position))
        for known in self._mentions.values():
            known.sort(key=lambda one: -len(one[0]))
        self._cache: dict[str, tuple[int, ...]] = {}

    # --- a whole piece of text --------------------------------------------------------------------------------------

    def whole(self, text: str) -> int | None:
        """The one candidate that a text names as a whole, with or without a list mark before it."""
        found = self.all_of(text)
        return found[0] if len(found) == 1 else None

    def all_of(self, text: str) -> tuple[int, ...]:
        """The candidates that a whole text may mean: none, one, or those that differ in nothing it says."""
        if len(text) > _LONGEST or not self._may_name(text):
            return ()
        if REDACTED in text:  # by its label alone: a candidate called "History 3" is not a title that was redacted
            return self._labelled(LIST_MARK.sub("", _REDACTED.sub("", text), count=1)) or ()
        if text not in self._cache:
            self._cache[text] = self._all_of(text)
        return self._cache[text]

    def _may_name(self, text: str) -> bool:
        """False where, after many unknown items, a text shares no word with a title: an endless answer is not looked
        at as closely as one of the usual length.
        """
        words = _LETTERS.findall(text.casefold()) if self._looks <= 0 and text.isascii() else []
        return not words or not self._known.isdisjoint(words)

    def _all_of(self, text: str) -> tuple[int, ...]:
        once = LIST_MARK.sub("", text, count=1)
        spelled = [unwrapped(said) for said in dict.fromkeys((text, once, LIST_MARK.sub("", once, count=1)))]
        said = list(dict.fromkeys(one for spellings in spelled for one in spellings if one))
        for step in (self._labelled, self._exactly, self._by_letters, self._by_name, self._nearly):
            for spelling in said:
                found = step(spelling)
                if found is not None:
                    return found
        self._looks -= 1
        return ()

    def is_title(self, text: str) -> bool:
        """Whether a text, as it stands, is spelled as a candidate's title ("3. Liga")."""
        return len(text) <= _LONGEST and _signs(text) in self._exact

    def _labelled(self, said: str) -> tuple[int, ...] | None:
        """By the label that a text begins with, or that stands behind a word or the title; nobody's label is nobody.

        Titles were shown with anything like a label taken apart (prompts.py), so an echoed title holds none; "C 4" is a
        label only where it stands alone or before its own title.
        """
        if not self._labels:
            return None
        said = said.lstrip("([*_# ")
        tight = LABEL.match(said)
        if not tight and len(set(LABEL.findall(said))) == 1:
            tight = next(LABEL.finditer(said))
            before, after = said[: tight.start()].strip(" ([:-"), said[tight.end() :].strip(" )].:")
            if after or (len(before.split()) > 2 and not self._own(before, int(tight[1]))):
                tight = None
        loose = None if tight else _LOOSE_LABEL.match(said)
        if loose:
            number, rest = int(loose[1]), said[loose.end() :]
            if (rest and not self._own(rest, number)) or self._exact.get(_signs(said), [number - 1]) != [number - 1]:
                return () if not rest else None  # what is one candidate's label may be another's title
        elif tight:
            number = int(tight[1])
        else:
            return None
        return (number - 1,) if 1 <= number <= self._labels else ()

    def _own(self, title: str, number: int) -> bool:
        """Whether a candidate of this number is called so."""
        return number - 1 in (self._letters.get(_letters(title)) or self._by_name(title) or ())

    def _exactly(self, said: str) -> tuple[int, ...] | None:
        return tuple(self._exact[_signs(said)]) if _signs(said) in self._exact else None

    def _by_letters(self, said: str) -> tuple[int, ...] | None:
        found = self._alike(said, self._letters.get(_letters(said), []))
        return None if not found else tuple(found) if len(found) == 1 else ()

    def _by_name(self, said: str) -> tuple[int, ...] | None:
        """By the words of the name: other articles, "and" for "&", the year left out or nearly right."""
        for name, year, bracketed in _readings(said):
            bare = _joined(_bare(name))
            for keys, key in zip(self._keys, (_joined(name), bare, bare), strict=True):
                found = self._alike(said, keys.get(key, []))
                if found:
                    found = self._of_year(found, year, bracketed)
                    return tuple(found) if len(found) == 1 or (not year and self._one_name(found)) else ()
        return None

    def _of_year(self, positions: list[int], year: int | None, bracketed: bool) -> list[int]:
        """Those that are from a year or, if none is, from about then; of a name without a year any, if bracketed."""
        if not year:
            return positions
        apart = {p: abs(year - known) if (known := self._years[p]) else 0 if bracketed else year for p in positions}
        return [p for p in positions if apart[p] == min(apart.values()) <= _YEARS_APART]

    def _alike(self, said: str, positions: list[int]) -> list[int]:
        """Those whose emoji, if both have some, are those of the text."""
        symbols = _symbols(said)
        return [p for p in positions if not symbols or _symbols(self._shown[p]) in (set(), symbols)]

    def _one_name(self, positions: list[int]) -> bool:
        """Whether these candidates differ in nothing but their years."""
        return len({(self._spelled[p], frozenset(_symbols(self._shown[p]))) for p in positions}) == 1

    def _nearly(self, said: str) -> tuple[int, ...] | None:
        """The candidate that is a slip of the pen away, if no other is nearly as near."""
        name, year, bracketed = _readings(said)[-1]
        words = _tokens(_bare(name))
        if self._looks <= 0 or not any(len(word) > _SHORT for word in words):
            return None
        near = process.extract(" ".join(words), self._spelled, scorer=OSA.distance, score_cutoff=2 * _SLIPS, limit=2)
        if not near or near[0][1] > _SLIPS or (len(near) > 1 and near[1][1] < near[0][1] + 2):
            return None
        found = self._of_year(self._alike(said, [near[0][2]]), year, bracketed)
        return tuple(found) if found and _slip(words, self._words[found[0]]) else None

    def same(self, positions: Sequence[int]) -> bool:
        """Whether candidates are shown by the very same title."""
        return len({_signs(self._shown[position]) for position in positions}) == 1

    def begins_another(self, text: str, named: Sequence[int | None]) -> bool:
        """Whether a text that breaks off may go on to a candidate that is not yet named: "Alien", "Aliens"."""
        key = title_key(LIST_MARK.sub("", text))
        said = {named[-1]} | set(named)
        longer = (title_key(title) for place, title in enumerate(self._shown) if place not in said)
        return bool(key) and any(title.startswith(key) for title in longer)

    # --- a title with something behind it, a line with several, a sentence ------------------------------------------

    def head(self, text: str) -> tuple[tuple[int, ...], str, bool]:
        """The title that a text begins with, what parts it from the rest, and whether the rest is surely no title.

        "Muse - similar to Radiohead" is Muse; "Alien: Resurrection" may be another film than "Alien".
        """
        if not self._may_name(text[:_LONGEST]):
            return (), "", False
        body = LIST_MARK.sub("", text[:_LONGEST], count=1).strip()
        for opening, closing in _PAIRS if body and not body[0].isalnum() else ():
            end = body.find(closing, len(opening)) if body.startswith(opening) else -1
            if end > 0:
                inner, rest = body[len(opening) : end], body[end + len(closing) :].strip()
                year = re.match(r"[(\[]\s*\d{4}[^()\[\]]*[)\]]", rest)
                found = self.all_of(f"{inner.rstrip(_EDGE)} {year[0]}" if year else inner)
                if found and (not rest or not rest[0].isalnum() or rest[0].islower()):
                    return found, "quoted", True
        splits = [match for _, match in zip(range(12), _SPLIT.finditer(body), strict=False)]
        for split in reversed(splits):
            found = self.all_of(body[: split.start()]) if split.start() else ()
            sign, tail = split[0].strip()[:1] or " ", body[split.end() :]
            if found and self._may_follow(found, sign, tail):
                return found, sign, _reason(sign, tail)
        return (), "", False

    def _may_follow(self, found: tuple[int, ...], sign: str, tail: str) -> bool:
        """Whether what follows a name leaves it the candidate's: not another year, edition or author."""
        said = re.search(rf"\b{_YEAR_SAID}\b", tail[:40]) if sign in "([" else re.match(_YEAR_SAID, tail)
        if said and not any(self._of_year([p], int(said[1]), bracketed=True) for p in found):
            return False
        return not (sign in "([" or tail.startswith("by ")) or not any(p in self._shortened for p in found)

    def several(self, text: str) -> list[str]:
        """The pieces of a line that lists titles one after the other, or nothing if it is no such line."""
        if not self._may_name(text) or (not self._labels and self.all_of(text)):
            return []
        if (
            self._labels
            and len(LABEL.findall(text)) > 1
            and not re.search(r"\w", LABEL.sub("", re.sub(r"\b(?:and|then)\b", "", text)))
        ):
            return [match[0] for match in LABEL.finditer(text)]
        for separator in (_STRONG, _WEAK, _DASH):
            cuts = [0, *(at for match in separator.finditer(text) for at in match.span()), len(text)]
            spans = list(zip(cuts[::2], cuts[1::2], strict=True))
            if len(spans) > 1:
                pieces, found = self._pieces(text, spans, ends=separator is _STRONG)
                enough = len(pieces) if separator is _DASH else len(pieces) / 2
                if found > 1 and found >= enough and (separator is not _DASH or found > 2):
                    return pieces
        return []

    def _pieces(self, text: str, spans: list[tuple[int, int]], *, ends: bool) -> tuple[list[str], int]:
        """What stands between separators, joined where only together it is a title, and how many pieces are titles."""
        longest = 1 + max(len(_WEAK.findall(title)) for title in self._shown)
        pieces, named, at = [], 0, 0
        while at < len(spans):
            start = spans[at][0]
            piece, then = "", at + 1
            for to in range(min(at + longest, len(spans)), at, -1):
                said = text[start : spans[to - 1][1]]
                if len(said) <= _LONGEST and len(LABEL.findall(said)) < 2 and self.all_of(said):
                    piece, then = said, to
                    break
            if not piece:
                piece = text[start : spans[at][1]]
                if at == 0:
                    piece = self._end_of(piece, ends) or piece
                elif self.all_of(self._start_of(piece)):
                    piece = self._start_of(piece)
            if piece.strip(_EDGE):
                pieces.append(piece)
                named += bool(self.all_of(piece))
            at = then
        return pieces, named

    def _end_of(self, text: str, any_words: bool) -> str:
        """What stands behind a colon or, of a line parted by arrows, the longest title at its end."""
        after = text[-_LONGEST:].rpartition(":")[2]
        words = after.split()[-12:]
        tries = [after, *(" ".join(words[n:]) for n in range(len(words)))] if any_words else [after]
        return next((said for said in tries if self.all_of(said)), "")

    def _start_of(self, text: str) -> str:
        return re.split(r"[.!?]\s", text[:_LONGEST], maxsplit=1)[0]

    def mentions(self, text: str) -> list[int]:
        """The candidates whose titles of two words or more stand anywhere in a text, in the order in which they do."""
        words, found, at = _tokens(_REDACTED.sub(". ", text)), [], 0
        while at < len(words):
            known = self._mentions.get(words[at], ())
            hit = next(((w, p) for w, p in known if words[at : at + len(w)] == w), None)
            found += [hit[1]] if hit else []
            at += len(hit[0]) if hit else 1
        return found


# --- keys -----------------------------------------------------------------------------------------------------------


def title_key(text: str) -> str:
    """What two spellings of one title share: letters and digits, without case or accents."""
    # Character by character: sorting a long run of accents, which are dropped here anyway, takes quadratic time.
    plain = text if text.isascii() else "".join(unicodedata.normalize("NFKD", c) for c in text)
    return _NO_LETTER_OR_DIGIT.sub("", plain.casefold())


def any_of(spellings: Iterable[str]) -> str:
    """A pattern of any of these between words, the longest that fits."""
    longest_first = sorted(spellings, key=len, reverse=True)
    return rf"(?<!\w)(?:{'|'.join(re.escape(spelling) for spelling in longest_first)})(?!\w)"


def plain(text: str) -> str:
    """A text in compatible characters ("１．" is "1."), with one kind of quotes and dashes; nothing that is unseen."""
    if text.isascii():
        return text
    seen = (c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return "".join(unicodedata.normalize("NFKC", c) for c in seen).translate(_SAME)


def _signs(text: str) -> str:
    """All characters of a title, without case and with single blanks: "C#" and "!!!" are what they are."""
    return " ".join(plain(html.unescape(text)).casefold().split())


def _letters(text: str) -> str:
    """As title_key, with the signs that make another name of a word: C, C++ and C#."""
    return "".join(_words(text, _LETTERS))


def _words(text: str, pattern: re.Pattern[str]) -> list[str]:
    said = html.unescape(text)
    if not said.isascii():
        split = (c for whole in said for c in unicodedata.normalize("NFKD", whole))
        said = "".join(c for c in split if unicodedata.category(c) != "Mn").translate(_SAME)
    return pattern.findall(said.casefold().replace("'", ""))


def _tokens(text: str) -> list[str]:
    """The words of a name; "&", "+" and "n" are "and", and the "by" before an author is left out."""
    words = ["and" if n and word in ("&", "+", "n") else word for n, word in enumerate(_words(text, _TOKEN))]
    return [word for n, word in enumerate(words) if word != "by" or not n]


def _joined(name: str) -> str:
    return "".join(_tokens(name))


def _undated(title: str) -> tuple[str, int | None]:
    """A candidate's name and its year; an article behind a comma goes back to the front: "Matrix, The (1999)"."""
    dated = _SAID_YEAR.match(title)
    name, year = (dated[1], int(dated[2])) if dated and dated[2] else (title, None)
    return _MOVED.sub(r"\2 \1", name), year


def _readings(said: str) -> list[tuple[str, int | None, bool]]:
    """What is said as a name, as a name and a year, and whether that year is in brackets: "Alien - 1979"."""
    text = plain(html.unescape(said)).strip().strip(_EDGE)
    dated = _SAID_YEAR.match(text)
    found = [(text, None, False), *([(dated[1], int(dated[2] or dated[3]), bool(dated[2]))] if dated else [])]
    return [(_MOVED.sub(r"\2 \1", name.strip(_EDGE)), year, bracketed) for name, year, bracketed in found]


def _bare(name: str) -> str:
    """A name without the article before it."""
    return _ARTICLE.sub("", name)


def _short(name: str) -> str:
    """A name without what stands in brackets behind it, and without its author."""
    return _AUTHOR.sub("", _BRACKETS.sub("", name)) or name


def _symbols(text: str) -> set[str]:
    """The emoji and other pictures in a text. Titles may differ in nothing else."""
    return set() if text.isascii() else {c for c in text if unicodedata.category(c) == "So"}


def _slip(words: list[str], other: list[str]) -> bool:
    """Whether names differ by a slip of the pen: one letter in a long word; never a number or a plural."""

    def alike(one: str, two: str) -> bool:
        short, long = sorted((one, two), key=len)
        if one == two:
            return True
        if len(short) <= _SHORT or one[0] != two[0] or long in (f"{short}s", f"{short}es"):
            return False
        return not any(_NUMERAL.search(word) for word in (one, two)) and OSA.distance(one, two) == 1

    return len(words) == len(other) and all(map(alike, words, other))


def _reason(sign: str, tail: str) -> bool:
    """Whether what follows a title is surely a remark, and not the rest of a longer title ("Alien: Resurrection")."""
    if not re.search(r"\w", tail) or _SCORE.match(tail):
        return True
    if sign in "([" and not _PART.match(tail):
        return True
    first = _SPLIT.split(tail, maxsplit=1)[0]
    return any(len(word) > 2 and word[0].islower() and word not in _IN_TITLES for word in first.split())


def unwrapped(text: str) -> list[str]:
    """A text as it stands, without blanks and commas around it, and without quotes or stars."""
    bare = text.strip().strip(_EDGE)
    inner = next(
        (
            bare[len(a) : -len(b)]
            for a, b in _PAIRS
            if len(bare) > len(a + b) and bare.startswith(a) and bare.endswith(b)
        ),
        "",
    )
    return [text.strip(), bare, inner.strip()]


def _positions(spelled: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    """Positions by key, each once; an empty key names nothing."""
    found: dict[str, list[int]] = {}
    for position, key in spelled:
        if key and position not in found.setdefault(key, []):
            found[key].append(position)
    return found
