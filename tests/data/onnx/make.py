"""Writes attention.safetensors: every node case of ONNX's operator `Attention`.

Needs Python 3.11 or later and exactly:

    onnx==1.23.2  numpy==2.4.6  ml_dtypes==0.6.0  safetensors==0.8.0

    python tests/data/onnx/make.py

The cases come from the onnx wheel: its own models, inputs, expected outputs and tolerances, unchanged. A case's
tensors are named `case/in/NAME` and `case/out/NAME` by the operator's names, in their own dtypes. The metadata's key
`cases` is a JSON list of objects: name, opset, rtol, atol, attributes, inputs and outputs (names, in the operator's
order). The cases that expand the operator into primitive ones (`_expanded`) have no node `Attention` and are left out.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.case import node
from safetensors.numpy import save

EXPECTED_CASES = 93


def plain(value):
    """An attribute's value as JSON has it; a float as the shortest decimal that is the same f32."""
    if isinstance(value, float):
        return float(str(np.float32(value)))
    return value


def attention_cases():
    """The cases whose model is one node `Attention`, by name."""
    with warnings.catch_warnings():
        # Other operators' cases divide by zero on purpose.
        warnings.simplefilter("ignore")
        cases = node.collect_testcases(None)
    found = [
        case
        for case in cases
        if case.name.startswith("test_attention_")
        and [n.op_type for n in case.model.graph.node] == ["Attention"]
    ]
    return sorted(found, key=lambda case: case.name)


def describe(case, tensors):
    """The case's entry of the list; its tensors go to `tensors`."""
    (operator,) = case.model.graph.node
    ((inputs, outputs),) = case.data_sets
    schema = onnx.defs.get_schema("Attention", case.model.opset_import[0].version)
    names = {}
    for side, given, formal, values in (
        ("in", operator.input, schema.inputs, inputs),
        ("out", operator.output, schema.outputs, outputs),
    ):
        # The case's values skip what the node leaves empty.
        names[side] = [formal[at].name for at, name in enumerate(given) if name]
        assert len(names[side]) == len(values), case.name
        for name, value in zip(names[side], values):
            tensors[f"{case.name}/{side}/{name}"] = np.ascontiguousarray(value)
    return {
        "name": case.name,
        "opset": case.model.opset_import[0].version,
        "rtol": case.rtol,
        "atol": case.atol,
        "attributes": {
            a.name: plain(onnx.helper.get_attribute_value(a)) for a in operator.attribute
        },
        "inputs": names["in"],
        "outputs": names["out"],
    }


def main():
    assert onnx.__version__ == "1.23.2", onnx.__version__
    tensors = {}
    cases = [describe(case, tensors) for case in attention_cases()]
    assert len(cases) == EXPECTED_CASES, len(cases)
    # A single key, for several would come in any order.
    data = save(tensors, metadata={"cases": json.dumps(cases)})
    path = Path(__file__).with_name("attention.safetensors")
    path.write_bytes(data)
    print(f"{path.name}: {len(cases)} cases, {len(tensors)} tensors, {len(data)} bytes")


if __name__ == "__main__":
    main()
