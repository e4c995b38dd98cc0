"""Every error that explains itself: its message says what was expected, what was found, and what to do next.

All derive from ``HybridrecError``, so a program can tell them from faults of its own. Anything else that is raised is a
fault in this package.
"""


class HybridrecError(Exception):
    """Something the user can put right; the message says how."""


# --- what is given ----------------------------------------------------------------------------------------------------


class SettingError(HybridrecError, ValueError):
    """A setting that does not exist or has the wrong type or value; the message says which and what is possible."""


class DatasetError(HybridrecError, ValueError):
    """Ratings or items that cannot be used; the message names the file, the line or the user, and the remedy."""


class SplitError(HybridrecError, ValueError):
    """A split or a candidate list that would make results meaningless."""


class ScoresError(HybridrecError, ValueError):
    """Scores that do not fit the ratings or the candidates: unknown ids, two for one pair, missing or not finite."""


class PriceError(HybridrecError, ValueError):
    """A price file that cannot be used, or a model without a price; the message names the file and the key."""


class MissingTableError(HybridrecError, FileNotFoundError):
    """A table that an earlier step has not written yet."""


# --- what is computed -------------------------------------------------------------------------------------------------


class RecommenderError(HybridrecError, ValueError):
    """A recommender that is not known, or that gave scores that are not finite, or a fit that cannot be kept."""


class BudgetError(HybridrecError, ValueError):
    """A budget that buys nothing, or that is not one."""


# --- files and downloads ----------------------------------------------------------------------------------------------


class DownloadError(HybridrecError, RuntimeError):
    """A file could not be had, or is not the file it should be."""


class ScaleError(HybridrecError, RuntimeError):
    """Ray or DuckDB is not installed or gave up, or a folder of divided tables that cannot be used."""


class LockError(HybridrecError, RuntimeError):
    """A lock file that cannot be locked here; the message names it and says what to do."""


# --- language models --------------------------------------------------------------------------------------------------


class ModelError(HybridrecError, ValueError):
    """A model that is not known or not to be had."""


class RecordingError(HybridrecError, RuntimeError):
    """A recording that is damaged, that cannot be written, or that replay needs and does not have."""


class ResponseError(HybridrecError, RuntimeError):
    """A response that the run cannot go on without does not fit its request, or was not to be had."""


class EndpointError(HybridrecError, RuntimeError):
    """The endpoint cannot be used, so the run ends; says what it answered and what to check."""


class SpendingCapError(HybridrecError, RuntimeError):
    """The next request might cost more than what is left of the spending cap."""


class BatchError(HybridrecError, ValueError):
    """A batch file that cannot be used; the message names the file and the line."""


# --- the command line -------------------------------------------------------------------------------------------------


class CommandError(HybridrecError):
    """A command that cannot be carried out as it was given."""


class NotebookError(HybridrecError):
    """A notebook that did not run to its end; the message names the cell."""
