"""Whose scores are judged: fits of Cornac's recommenders, or scores that somebody else's recommender gave."""
