"""The settings of a study: typed, checked, and read from one small file per experiment."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from hybridrec.data.sources.form import RatingsFile
from hybridrec.errors import SettingError
from hybridrec.llm import modes as ways_to_ask
from hybridrec.llm import ways
from hybridrec.llm.models.settings import EndpointSettings, LocalSettings
from hybridrec.recommenders.recipes import RECIPES
from hybridrec.settings import Settings, check_name, checked, is_number, quoted
from hybridrec.study import paths

PUBLISHED_RECOMMENDERS = ("ItemKNN", "NeuMF", "BPR")
PUBLISHED_MODE = "listwise"
COMPARE = "compare"  # in cross_ways: the way to ask is chosen for each test fold on other folds


def compared_recommenders(names: Sequence[str]) -> list[str]:
    """Whom means, figures and claims are about: the paper's recommenders, or all where an experiment has none of them.

    Args:
        names: the experiment's recommenders.
    """
    return [name for name in PUBLISHED_RECOMMENDERS if name in names] or list(names)


# TOML has lists, and an experiment does not change, so a list becomes a tuple; the names in it are held to their type.
Names = Annotated[tuple[str, ...], Field(strict=False, description="a list of names")]


class LargerModel(Settings):
    """Another open model here, and how many inactive users it is asked for, by mode. A table ``[[larger_models]]``.

    ``another_history`` says how many of those who are asked by "likelihood" are also asked with another user's history.
    ``published_weak`` names modes in which the model is also asked for everybody whom a recommender of the paper calls
    weak on the test items: they were picked by the outcome, so they count under the published protocol alone.
    ``cross_way`` names the way in which it is asked under protocol ``cross`` for everybody whom a recommender of the
    paper hands over, or for every inactive user if ``cross_group`` says so; left out, it is not asked there.
    ``cross_users`` asks for so many of them, a seeded sample; ``cross_device`` is where it computes there.
    ``dtype`` and ``device`` left out are those of the first model; ``revision`` left out is the main branch.
    """

    model: str
    users: dict[str, Annotated[int, Field(ge=1, le=100_000)]] = Field(
        min_length=1, description="a table of one mode or more, each with a whole number of users from 1 to 100,000"
    )

    another_history: int = Field(0, ge=0, le=100_000)
    published_weak: Names = ()
    cross_way: str | None = None
    cross_group: Literal["weak", "inactive"] = "weak"
    cross_users: int | None = Field(None, ge=2, le=1_000_000)
    cross_device: str | None = None
    revision: str | None = None
    dtype: str | None = None
    writing_dtype: str | None = None
    device: str | None = None
    adapter: str | None = None

    @pydantic.field_validator("model")
    @classmethod
    def _is_a_model(cls, given: str) -> str:
        return _check_local(given)

    @pydantic.model_validator(mode="after")
    def _have_their_own_history(self) -> "LargerModel":
        if self.another_history > self.users.get("likelihood", 0):
            raise SettingError(
                f"another_history is {self.another_history}, more than the {self.users.get('likelihood', 0)} users of "
                "likelihood: it compares the two."
            )
        if self.cross_users is not None and self.cross_way is None:
            raise SettingError(f"cross_users is {self.cross_users}, but cross_way does not say how they are asked.")
        return self

    @pydantic.field_validator("cross_way")
    @classmethod
    def _is_a_way(cls, given: str | None) -> str | None:
        if given is not None:
            _known_way("cross_way", given)
        return given

    @pydantic.field_validator(*LocalSettings.model_fields)
    @classmethod
    def _is_as_in_local(cls, given: str | None, about: pydantic.ValidationInfo) -> str | None:
        if given is not None:
            checked(LocalSettings, {str(about.field_name): given}, "", ValueError)
        return given

    @pydantic.field_validator("users")
    @classmethod
    def _of_modes(cls, given: dict[str, int]) -> dict[str, int]:
        for name in given:
            _known_mode("users", name)
        return given

    @pydantic.field_validator("published_weak")
    @classmethod
    def _are_modes(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            _known_mode("published_weak", name)
        _check_once("published_weak", given)
        return given


class Taught(Settings):
    """The experiment's model once it is taught (``make teach``), asked under protocol ``cross``. A table ``[taught]``.

    ``way`` is how it was taught to be asked; ``users`` asks about so many inactive users, a seeded sample. ``sample``
    is how many of them the model is asked about untaught in the same way, and how many titles and taught users show
    what it remembers. ``adapter_of`` is the experiment that it was taught on, if not this one. ``device`` left out is
    that of the experiment's own model.
    """

    way: str = "rating lines"
    users: int | None = Field(None, ge=2, le=1_000_000)
    sample: int = Field(100, ge=2, le=100_000)
    adapter_of: str | None = None
    device: str | None = None

    @pydantic.field_validator("way")
    @classmethod
    def _is_a_way(cls, given: str) -> str:
        known = [way.name for way in ways.TAUGHT]
        if given not in known:
            raise SettingError(f"way is {quoted('', given)}; it must be {', '.join(known)}.")
        return given

    @pydantic.field_validator("adapter_of")
    @classmethod
    def _is_a_name(cls, given: str | None) -> str | None:
        return given if given is None else check_name("adapter_of", given)


class ScoreFiles(Settings):
    """Scores of the user's own recommender, from .parquet or .csv files. A table ``[scores.NAME]``.

    Without ``cross`` the recommender is left out of the protocol of that name.
    """

    test: str
    cross: str | None = None


class Experiment(Settings):
    """Every setting of a study. The files of notebooks/experiments/ hold these keys and no others."""

    name: str
    dataset: str
    ratings: dict[str, Any] | None = None
    users: int | None = Field(None, ge=50, le=1_000_000)
    noun: str
    like_threshold: float = Field(ge=-1e6, le=1e6)
    rating_scale: int = Field(ge=-1_000_000, le=1_000_000)
    seed: int = Field(ge=0, le=1_000_000)
    recommenders: Names
    grids: dict[str, Any] | None = None
    scores: dict[str, ScoreFiles] | None = None
    folds: int = Field(ge=3, le=20)
    top: int = Field(ge=10, le=1000)
    performance_threshold: float = Field(ge=0.0, le=1.0)
    sparsity_threshold: float | None = Field(None, ge=0.0, le=1.0)
    model: str
    local: LocalSettings | None = None
    endpoint: EndpointSettings | None = None
    modes: Names
    everybody_modes: Names
    live_users: int = Field(0, ge=0, le=1000)
    consent_above_usd: float = Field(1.0, ge=0, le=1_000_000)
    consent_above_minutes: float = Field(120.0, ge=0, le=1_000_000)
    history_length: int = Field(ge=1, le=200)
    shuffles: int = Field(ge=2, le=20)
    shuffled_users: int = Field(ge=2, le=100_000)
    topk_modes: Names
    topk_users: int = Field(ge=2, le=100_000)
    cross_ways: Names = ()
    cross_users: int | None = Field(None, ge=2, le=1_000_000)
    larger_models: Annotated[tuple[LargerModel, ...], Field(strict=False)] = ()
    taught: Taught | None = None
    bootstrap_samples: int = Field(ge=100, le=100_000)

    @pydantic.field_validator("name", "dataset")
    @classmethod
    def _is_a_name(cls, given: str, about: pydantic.ValidationInfo) -> str:
        return check_name(str(about.field_name), given)

    @pydantic.field_validator("ratings")
    @classmethod
    def _are_in_a_known_form(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        if given is not None:
            checked(RatingsFile, given, "ratings")
        return given

    @pydantic.field_validator("noun")
    @classmethod
    def _is_a_noun(cls, given: str) -> str:
        if not re.fullmatch(r"[^\W_](?:[^{}<>\"]{0,38}[^\s{}<>\"])?", given) or not given.isprintable():
            raise SettingError(
                f'noun is {quoted("noun", given)}; it must be a word or phrase like "film": no more than 40 '
                'characters in one line, beginning with a letter or digit, none of them among { } < > ".'
            )
        return given

    @pydantic.field_validator("recommenders")
    @classmethod
    def _are_recommenders(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if name not in RECIPES:
                raise SettingError(f"recommenders has {quoted('', name)}, which is none of {', '.join(RECIPES)}.")
        _check_once("recommenders", given)
        if len(given) < 2:
            raise SettingError(
                f"recommenders is {quoted('', list(given))}; it must have two or more, since the best other one is a "
                f"control. Known: {', '.join(RECIPES)}."
            )
        return given

    @pydantic.field_validator("scores")
    @classmethod
    def _are_other_names(cls, given: dict[str, ScoreFiles] | None) -> dict[str, ScoreFiles] | None:
        for name in given or {}:
            check_name("scores", name)
            if name in RECIPES:
                raise SettingError(f"scores has {quoted('', name)}, which is a recommender of this study: rename it.")
        return given

    @pydantic.field_validator("modes")
    @classmethod
    def _are_modes(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise SettingError(f"modes is empty. Known: {', '.join(ways_to_ask.BUILT_IN)}.")
        for name in given:
            _known_mode("modes", name)
        return given

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> "Experiment":
        _check_model(self)
        _check_grids(self)
        _check_modes(self)
        _check_cross(self)
        _check_ratings(self)
        return self


def mode(name: str) -> ways_to_ask.Mode:
    """A way to ask by its name, or from the TOML file at that path (from the repository's root on)."""
    return ways_to_ask.get(name)


def _known_mode(key: str, name: str) -> ways_to_ask.Mode:
    try:
        found = mode(name)
    except SettingError as error:
        raise SettingError(f"{key} has {quoted('', name)}: {error}") from None
    if found.uses_likes:
        raise SettingError(f"{key} has {quoted('', name)}, which tells likes: only cross_ways can.")
    return found


def _known_way(key: str, name: str) -> ways.Way:
    try:
        return ways.get(name)
    except SettingError as error:
        compare = f' Or ["{COMPARE}"].' if key == "cross_ways" else ""
        raise SettingError(f"{key} has {quoted('', name)}: {error}{compare}") from None


def _check_model(settings: Experiment) -> None:
    if settings.endpoint is None:
        _check_local(settings.model)
        return
    if settings.taught:
        raise SettingError("taught is there, and so is [endpoint]: only a model on this machine can be taught.")
    check_name("model", settings.model)
    if settings.local:
        raise SettingError(
            "local is there, and so is [endpoint]: the model answers on this machine or behind an endpoint. Leave one "
            "of the two tables out."
        )


def _check_local(model: str) -> str:
    """A name, an id of the hub or a path; whether there is such a model is seen when it is opened."""
    if 0 < len(model) <= 1000 and model.isprintable() and model == model.strip():
        return model
    raise SettingError(
        f"model is {quoted('model', model)}; it must be the name of a model, an id of the Hugging Face hub, or a path, "
        "in one line without blanks around it."
    )


def _check_grids(settings: Experiment) -> None:
    for name, values in (settings.grids or {}).items():
        recipe = RECIPES[name] if name in settings.recommenders else None
        if recipe is None or not recipe.grid:
            why = "nothing of it is tuned" if name in settings.recommenders else "it is not among recommenders"
            raise SettingError(f"grids has {quoted('', name)}, but {why}: leave it out.")
        kind, low, high = recipe.allowed
        if not isinstance(values, list) or not values or not all(is_number(one, *recipe.allowed) for one in values):
            what = f"one or more {'whole ' if kind is int else ''}numbers from {low:,} to {high:,}"
            raise SettingError(f"grids: {name} is {quoted('', values)}; it must be a list of {what}.")
        _check_once(f"grids: {name}", values)


def _check_modes(settings: Experiment) -> None:
    scored = [name for name in settings.modes if not mode(name).writes]
    if len(scored) == len(settings.modes):
        raise SettingError(
            f"modes has none in which the model writes the order, and notebook 04 reads what it writes: add "
            f"{PUBLISHED_MODE!r}, or a mode of your own of that kind."
        )
    if settings.endpoint and scored and not settings.endpoint.logprobs:
        raise SettingError(
            f"modes has {scored[0]!r}, but an endpoint answers in text, without probabilities: leave it out; or set "
            "logprobs = true in [endpoint], if its server gives log-probabilities."
        )
    for key, allowed in (("everybody_modes", settings.modes), ("topk_modes", scored)):
        strange = [name for name in getattr(settings, key) if name not in allowed]
        if strange:
            extra = " that read probabilities" if key == "topk_modes" else ""
            raise SettingError(f"{key} has {quoted('', strange[0])}, which is not among modes{extra}. Leave it out.")
    for key in ("modes", "everybody_modes", "topk_modes"):
        _check_once(key, getattr(settings, key))
    _check_once("larger_models", [larger.model for larger in settings.larger_models])


def _check_cross(settings: Experiment) -> None:
    names, folds = settings.cross_ways, settings.folds
    if not names and settings.cross_users is not None:
        raise SettingError(f"cross_users is {settings.cross_users}, but cross_ways is empty: nobody is asked.")
    found = [_known_way("cross_ways", name) for name in names if names != (COMPARE,)]
    if found and len(found) not in (1, folds):
        raise SettingError(
            f"cross_ways has {len(found)} ways; name one, or one for each of the {folds} folds, or write "
            f'["{COMPARE}"] to choose among them.'
        )
    scored = [way.name for way in found if not mode(way.mode).writes] or [one for one in names if one == COMPARE]
    if settings.endpoint and scored and not settings.endpoint.logprobs:
        raise SettingError(
            f"cross_ways has {scored[0]!r}, but an endpoint answers in text, without probabilities: name "
            f"{PUBLISHED_MODE!r}; or set logprobs = true in [endpoint], if its server gives log-probabilities."
        )


def _check_ratings(settings: Experiment) -> None:
    """The scale must have two ends with a like between them, and facts of the items must mean something on it."""
    scale, own = settings.rating_scale, settings.ratings or {}
    if settings.like_threshold > scale:
        raise SettingError(
            f"like_threshold is {settings.like_threshold:g}, above the highest rating (rating_scale = {scale}): "
            "nothing could be a like."
        )
    lowest = own.get("lowest", float("-inf"))
    if isinstance(lowest, int | float) and not lowest < scale:
        raise SettingError(
            f"lowest is {quoted('lowest', lowest)} in [ratings]; it must be below the highest rating (rating_scale "
            f"= {scale})."
        )
    if own.get("likes") and not scale == settings.like_threshold == 1:
        raise SettingError(
            f"like_threshold is {settings.like_threshold:g} and rating_scale {scale}, but with likes in [ratings] a "
            "like is 1 and anything else 0: set both to 1."
        )
    # Whoever compares ways compares one that tells such facts, too.
    named = [way for way in ways.WAYS if settings.cross_ways == (COMPARE,) or way.name in settings.cross_ways]
    facts = [("modes", name) for name in settings.modes if mode(name).uses_facts]
    facts += [("cross_ways", way.name) for way in named if mode(way.mode).uses_facts]
    if facts and (own.get("feedback") == "counts" or own.get("likes") or str(own.get("lowest")).startswith("-")):
        key, name = facts[0]
        remedy = "Leave it out" if key == "modes" else "In its place, or in that of 'compare', name another way"
        raise SettingError(
            f'{key} has {name!r}, which tells the model of a mean rating "of" the highest: that means '
            f'nothing with likes or feedback = "counts", or on a scale that goes below 0. {remedy}.'
        )


def _check_once(key: str, values: Sequence[Any]) -> None:
    twice = [value for at, value in enumerate(values) if value in values[:at]]
    if twice:
        raise SettingError(f"{key} has {twice[0]!r} twice: remove one of them.")


# --- reading ----------------------------------------------------------------------------------------------------------


def load(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        SettingError: no such file (lists those there are), or an unknown, missing or mistyped key.
    """
    check_name("experiment", name)
    path = paths.EXPERIMENTS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in paths.EXPERIMENTS.glob("*.toml")))
        raise SettingError(f"no experiment {name!r} in {paths.within_root(paths.EXPERIMENTS)}. There are: {known}.")
    return read(path)


def read(path: Path) -> Experiment:
    """The experiment written in a TOML file; its name is the file's."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SettingError(f"{path.name}: not UTF-8 text (byte {error.start + 1}). Save it as UTF-8.") from None
    except ValueError as error:  # no TOML, or a number of thousands of digits
        raise SettingError(f"{path.name}: {error}.") from None
    return build(path.stem, values, path.name)


def build(name: str, values: Mapping[str, Any], source: str) -> Experiment:
    """An experiment from a dictionary, every key and type checked.

    Raises:
        SettingError: names ``source``, the key, its value (never near secrets) and what is possible.
    """
    if "name" in values:
        raise SettingError(f"{source}: unknown key 'name': leave it out, an experiment is called like its file.")
    _check_places(values, source)
    return checked(Experiment, {"name": name, **values}, source)


_TABLES: dict[str, type[Settings]] = {
    "ratings": RatingsFile,
    "endpoint": EndpointSettings,
    "larger_models": LargerModel,
    "taught": Taught,
}


def _check_places(values: Mapping[str, Any], source: str) -> None:
    """In TOML a key belongs to the table above it, so a key after a table is not where it looks to be.

    Raises:
        SettingError: a key of the experiment in one of its tables, or the other way round.
    """
    for table, inside in values.items():
        for one in inside if isinstance(inside, list) else [inside]:
            own = _TABLES[table].model_fields if table in _TABLES else {}
            for key in one if isinstance(one, dict) else ():
                if key in Experiment.model_fields and key not in own:
                    raise SettingError(
                        f"{source}: {key} stands below [{table}], so it belongs to that table. Move it above the first "
                        "line in brackets."
                    )
    for key in values.keys() - Experiment.model_fields.keys():
        for table in ("ratings", "endpoint"):
            if key in _TABLES[table].model_fields:
                raise SettingError(f"{source}: {key} stands above all tables. Move it below the line [{table}].")


def parameters(experiment: Experiment) -> dict[str, Any]:
    """The settings as plain values, as papermill passes them to a notebook."""
    plain = experiment.model_dump()
    # As they are written in a file: what a larger model leaves out is the first model's.
    plain["larger_models"] = [one.model_dump(exclude_unset=True, mode="json") for one in experiment.larger_models]
    plain["local"] = experiment.local and experiment.local.model_dump(exclude_unset=True)
    plain["taught"] = experiment.taught and experiment.taught.model_dump(exclude_unset=True)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
