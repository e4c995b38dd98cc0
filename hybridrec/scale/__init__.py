"""The same steps for more users than one machine holds: on Ray Data, or, for triage, in DuckDB on one machine.

``divide`` puts all rows of a user, from every table, into one of many shards. Each step then calls the library's own
function on one shard after the other, wherever there is a free core or GPU, and does in one place only what users
share: a mean, a threshold, a budget, a test.

    start()                                     a Ray of this machine's own, or start("ray://...")
    divided = divide("work", items, like=4, ratings="ratings/", out_of_fold=..., candidates=..., own=..., outcomes=...)
    weak = triage(divided)                      one row a user
    routed = allocate(weak, budget_users=...)   the library's own: a queue of one row a user is not divided
    rank(divided, llm, "answers.sqlite", users=routed)
    combine(divided, routed)
    print(compare(divided))

Needs ``pip install hybridrec[ray]``, and a folder that all machines of the cluster see.
"""

from hybridrec.allocation.budget import allocate as allocate
from hybridrec.scale.cluster import start as start
from hybridrec.scale.divided import Divided as Divided
from hybridrec.scale.divided import divide as divide
from hybridrec.scale.ranking import estimate as estimate
from hybridrec.scale.ranking import rank as rank
from hybridrec.scale.steps import combine as combine
from hybridrec.scale.steps import compare as compare
from hybridrec.scale.steps import triage as triage
