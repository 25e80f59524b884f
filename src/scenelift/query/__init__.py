"""Open-vocabulary queries: any phrase held against the features of points and pixels.

`asking` gives similarities, `things` where a phrase is meant and which things that makes, `files` what is
written.
"""

from scenelift.query.asking import Asker, NetworkAsker, Query, TeacherAsker
from scenelift.query.files import write_queries
from scenelift.query.things import Instance, instances, own_threshold

__all__ = [
    "Asker",
    "Instance",
    "NetworkAsker",
    "Query",
    "TeacherAsker",
    "instances",
    "own_threshold",
    "write_queries",
]
