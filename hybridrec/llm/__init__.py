"""Ranking with a language model: prompts, a local model, recordings of every answer, and the rankers built on them."""
