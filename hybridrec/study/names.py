"""What rankers, arms and policies are called in the tables, figures and metrics.json of more than one module.

Nothing is imported, so that what must be quick (``answers``) can say the names, too.
"""

LLM = "language model"
BAR = "the bar"
OWN_RECOMMENDER = "own recommender"
OTHER_RECOMMENDER = "best other recommender"
RANDOM_ORDER = "random order"  # no arm: what anybody could do without knowing anything

# Of notebook 07.
TAUGHT, TAUGHT_ANOTHERS, UNTAUGHT = "taught", "taught, another's history", "untaught, same way"
IN_CONTEXT = f"{LLM}, best way in context"
TAUGHT_MEAN = "item-mean, taught users"

# Policies of notebook 08; OF_LLM stands after the name of one that chooses between a language model's arms alone.
PUBLISHED, WORST_FIRST, PREDICTED = "published rule", "best single arm, worst served first", "predicted uplift"
OF_LLM = ", LLM only"
