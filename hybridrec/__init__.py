"""Find the users whom a recommender serves badly, and give only them to a language model that ranks their items.

The method in a dozen names, in the order in which they are used; each is loaded when it is first asked for:

    data = Dataset.read(...)      ratings, with your own ids
    mine = FromTable(...)         a recommender: its scores from a file, or Cornac("EASE"), or any Scorer
    weak = triage(data, mine)     who is served badly, and how many of them luck alone would have shown
    llm = HuggingFace(...)        an open model on this machine, or Endpoint(...)
    teach(llm, data, "adapter")   if it is to learn from others' ratings; HuggingFace(..., adapter="adapter") then
    ranker = Ranker(llm)          ranks a user's candidates from their history; every answer is recorded
    routed = allocate(weak)       who is handed over, within a budget
    final = combine(...)          final lists: the model's for those users, the recommender's for all others
    compare(final, ...)           whether that helps, harms, makes no difference, or cannot be told, beside CONTROLS

For more users than one machine holds, ``hybridrec.scale`` has the same steps.

Source: Kaur & Shah 2024 (arXiv 2405.00824), replicated and tested in this repository's notebooks.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridrec.allocation.budget import allocate as allocate
    from hybridrec.data.datasets import Dataset as Dataset
    from hybridrec.evaluation.compare import compare as compare
    from hybridrec.evaluation.controls import CONTROLS as CONTROLS
    from hybridrec.evaluation.hybrid import combine as combine
    from hybridrec.llm.models.endpoint import Endpoint as Endpoint
    from hybridrec.llm.models.local import HuggingFace as HuggingFace
    from hybridrec.llm.ranker import Ranker as Ranker
    from hybridrec.llm.teach import teach as teach
    from hybridrec.recommenders.scorer import Cornac as Cornac
    from hybridrec.recommenders.scorer import FromTable as FromTable
    from hybridrec.recommenders.scorer import Scorer as Scorer
    from hybridrec.weak_users.triage import triage as triage

__version__ = "0.2.0"

_WHERE = {
    "Dataset": "data.datasets",
    "Scorer": "recommenders.scorer",
    "FromTable": "recommenders.scorer",
    "Cornac": "recommenders.scorer",
    "triage": "weak_users.triage",
    "HuggingFace": "llm.models.local",
    "Endpoint": "llm.models.endpoint",
    "Ranker": "llm.ranker",
    "teach": "llm.teach",
    "allocate": "allocation.budget",
    "combine": "evaluation.hybrid",
    "compare": "evaluation.compare",
    "CONTROLS": "evaluation.controls",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
