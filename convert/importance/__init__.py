"""How much each column of a weight counts: the importance matrices that llama-imatrix makes.

    sum of squares of what flowed into a weight's columns ─┐
    how often, by expert                                   ─┴─▶ their mean: the importance of a column

data     an entry, which reads its values when asked, and all of a file's
read     from a GGUF file, or the older .dat
"""

from convert.importance.data import Importance, ImportanceEntry
from convert.importance.read import read_importance

__all__ = ["Importance", "ImportanceEntry", "read_importance"]
