"""Ratings in any shape: datasets and their sources, splits, candidates and folds."""
