"""Function bodies: of model functions, and of operators that onnx defines by others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx

from plait.frontends.onnx.elements import code_of
from plait.frontends.onnx.operand import Operand
from plait.frontends.onnx.registry import canonical_domain
from plait.ir import Dim


@dataclass(frozen=True)
class Body:
    """A function: formal names, nodes, the operator sets they use, and attribute defaults."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    opsets: dict[str, int]
    defaults: dict[str, onnx.AttributeProto] = field(default_factory=dict)


def model_functions(model: onnx.ModelProto) -> dict[tuple[str, str, str], Body]:
    """The functions of a model by domain, name and overload."""
    found = {}
    for function in model.functions:
        key = (canonical_domain(function.domain), str(function.name), str(function.overload))
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        found[key] = _body(function, {}, defaults)
    return found


def _body(
    function: onnx.FunctionProto, opsets: dict[str, int], defaults: dict[str, onnx.AttributeProto]
) -> Body:
    own = {canonical_domain(o.domain): int(o.version) for o in function.opset_import}
    return Body(
        tuple(function.input), tuple(function.output), tuple(function.node), {**opsets, **own}, defaults
    )


def _schema(domain: str, op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def has_schema_body(domain: str, op_type: str, version: int) -> bool:
    """Whether onnx defines the operator by others."""
    schema = _schema(domain, op_type, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def schema_body(
    node: onnx.NodeProto, opsets: dict[str, int], inputs: Sequence[Operand | None]
) -> Body | None:
    """The body by which onnx defines the operator of a node; None where it defines none.

    A body may depend on the node's attributes and on the types of its inputs.
    """
    domain = canonical_domain(node.domain)
    version = opsets.get(domain, 1)
    schema = _schema(domain, node.op_type, version)
    if schema is None:
        return None
    defaults = {
        name: attribute.default_value
        for name, attribute in schema.attributes.items()
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    }
    if schema.has_context_dependent_function:
        bodies = schema.context_dependent_function_opset_versions
        chosen = max((v for v in bodies if v <= version), default=min(bodies))
        types = [_type_proto(operand).SerializeToString() for operand in inputs]
        data = schema.get_context_dependent_function_with_opset_version(
            chosen, node.SerializeToString(), types
        )
    elif schema.has_function:
        bodies = schema.function_opset_versions
        chosen = max((v for v in bodies if v <= version), default=min(bodies))
        data = schema.get_function_with_opset_version(chosen)
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(data)
    return _body(function, {**opsets, domain: version}, defaults) if function.node else None


def _type_proto(operand: Operand | None) -> onnx.TypeProto:
    """The ONNX type of an operand; dims that are expressions stay unnamed."""
    if operand is None:
        return onnx.TypeProto()
    shape = [str(dim) if isinstance(dim, Dim) else int(dim) for dim in operand.shape]
    return onnx.helper.make_tensor_type_proto(code_of(operand.element), shape)
