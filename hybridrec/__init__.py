"""Weak users to the LLM, everyone else to the recommender: a replication and stress test of arXiv 2405.00824."""

__version__ = "0.1.0"
