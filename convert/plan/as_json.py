"""A plan as JSON, for programs that ask what a run would do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from convert.remote import said

if TYPE_CHECKING:
    from convert.plan.data import Plan


def plan_as_json(plan: Plan) -> str:
    """Give the whole plan as JSON: every output and every tensor's type, offset and length."""
    outputs = [
        {
            "path": str(output.path),
            "type": output.label,
            "nbytes": output.nbytes,
            "part": None if output.part is None else output.part.number,
            "parts": None if output.part is None else output.part.count,
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": tensor.shape,
                    "type": tensor.type.name,
                    "offset": tensor.offset,
                    "nbytes": tensor.nbytes,
                    "reason": output.reasons.get(tensor.name),
                }
                for tensor in output.tensors
            ],
        }
        for output in plan.outputs
    ]
    document = {
        "source": said(str(plan.source)),
        "architecture": plan.architecture,
        "n_parameters": plan.n_parameters,
        "source_nbytes": plan.source_nbytes,
        "nbytes": plan.nbytes,
        "definition": plan.definition,
        "notes": [said(note) for note in plan.notes],
        "left_out": [
            {
                "group": group.group,
                "reason": group.reason,
                "other_file": group.other_file,
                "nbytes": group.nbytes,
                "tensors": [name for name, _ in group.tensors],
            }
            for group in plan.left_out
        ],
        "outputs": outputs,
    }
    return json.dumps(document, indent=2)
