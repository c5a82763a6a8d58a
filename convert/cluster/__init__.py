"""One plan, many machines: it is cut into units, whoever carries one out writes pieces, and one process publishes all.

    job      a plan and its units, what it is made from, and a key: plain data (`job`), which is sent or lies in a file
    carry    a unit's slices to their offsets in hidden files beside the outputs; then a record that says so
    finish   when every unit has its record: headers, and all files under their final names together
    by Ray   the units as tasks of a cluster; by a queue of batch jobs it is `convert plan`, `work` and `finish`

A unit done twice gives the same bytes, and so does one that is done anew where it was left: nobody has to know whether
another is at it, and a run that is cut short goes on from the records.
"""

from convert.cluster.by_ray import carry_out_by_ray
from convert.cluster.carry import carry_out_units, share
from convert.cluster.finish import finish
from convert.cluster.job import Job, make_job
from convert.cluster.job_file import read_job, write_job
from convert.cluster.pieces import units_to_do
from convert.cluster.units import Unit, nbytes_of

__all__ = [
    "Job",
    "Unit",
    "carry_out_by_ray",
    "carry_out_units",
    "finish",
    "make_job",
    "nbytes_of",
    "read_job",
    "share",
    "units_to_do",
    "write_job",
]
