"""Weak users to the LLM, everyone else to the recommender: a replication and stress test of arXiv 2405.00824."""

import warnings

__version__ = "0.1.0"

# Cornac and transformers import a notebook progress bar that nothing here uses, and which warns in every notebook.
warnings.filterwarnings("ignore", message="IProgress not found")
