"""How much each column of a weight counts: the importance matrices that llama-imatrix makes.

    sum of squares of what flowed into a weight's columns ─┐
    how often, by expert                                   ─┴─▶ their mean: the importance of a column

data     an entry, which reads its values when asked, and all of a file's
read     from a GGUF file, or the older .dat
statistics  what it says of a tensor, in a few numbers
"""

from convert.importance.data import Importance, ImportanceEntry
from convert.importance.read import is_importance, read_importance
from convert.importance.statistics import ImportanceStatistics, statistics_of

__all__ = [
    "Importance",
    "ImportanceEntry",
    "ImportanceStatistics",
    "is_importance",
    "read_importance",
    "statistics_of",
]
