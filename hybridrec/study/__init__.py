"""This repository's own experiments: their settings, files, notebooks, figures and verdicts.

Nothing of the library imports it; notebooks and the command line do.
"""

import warnings

from hybridrec import files
from hybridrec import progress as reports
from hybridrec.study import paths, progress

files.base = paths.ROOT
reports.listen(progress)
# Cornac and transformers import a notebook progress bar that nothing here uses, and which warns in every notebook.
warnings.filterwarnings("ignore", message="IProgress not found")
