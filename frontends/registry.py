"""Registering lowering rules, for this package and for others.

    from plait.frontends import register

    @register("aten.my_op")                 # PyTorch: every overload; or one, "my_lib.my_op.default"
    def my_op(build, x): ...

    @register("onnx::Foo", since=13)        # ONNX: domain::operator; "onnx" and "ai.onnx" are one domain
    def foo(call): ...

    @register("tf::Foo")                    # TensorFlow
    def foo(call): ...

A package that ships rules names the module that registers them under the entry point
group `plait.lowerings`; it is imported before the first lowering of the process:

    [project.entry-points."plait.lowerings"]
    acme = "acme.plait_rules"
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from plait.ir.errors import InputError

#: Entry point group whose modules register rules when they are imported.
ENTRY_POINT_GROUP = "plait.lowerings"

R = TypeVar("R", bound=Callable[..., Any])


def register(*operators: object, **options: Any) -> Callable[[R], R]:
    """Decorator that makes a function the lowering rule of operators.

    Args:
        operators: `domain::Operator` for ONNX (`onnx::Relu`, `com.acme::Foo`), `tf::Operator`
            for TensorFlow, and otherwise a PyTorch overload (`aten.relu.default`, or the
            overload object) or a packet of overloads (`aten.relu`).
        **options: `replace` for PyTorch and TensorFlow; `since` and `until`, versions of the
            operator set, for ONNX.

    Raises:
        InputError: a name that belongs to no frontend.
        LoweringError: a PyTorch or TensorFlow operator has a rule and `replace` is not set.
    """
    if not operators:
        raise InputError(
            "register() was given no operator",
            why="a rule is entered under the operators that it lowers",
            remedy='name them: @register("aten.relu.default")',
        )

    def define(rule: R) -> R:
        for operator in operators:
            _enter(str(operator), rule, options)
        return rule

    return define


def _enter(name: str, rule: Callable[..., Any], options: dict[str, Any]) -> None:
    domain, separator, operator = name.rpartition("::")
    if separator and not (domain and operator.isidentifier()):
        raise InputError(
            f"'{name}' names no operator",
            why="ONNX operators are written domain::Operator and TensorFlow ones tf::Operator",
            remedy="write for instance onnx::Relu, com.acme::Foo or tf::Relu",
        )
    if domain in ("tf", "tensorflow"):
        from plait.frontends.tensorflow.registry import lowers as lowers_tensorflow

        lowers_tensorflow(operator, **options)(rule)
    elif separator:
        from plait.frontends.onnx.registry import lowers as lowers_onnx

        lowers_onnx(operator, domain="" if domain == "onnx" else domain, **options)(rule)
    elif "." in name:
        from plait.frontends.pytorch.registry import register as register_overload

        register_overload(name, **options)(rule)
    else:
        raise InputError(
            f"'{name}' names no operator",
            why="it has neither the library of a PyTorch operator nor the domain of another",
            remedy=f"write aten.{name} (PyTorch), onnx::{name} (ONNX) or tf::{name} (TensorFlow)",
        )


@lru_cache(maxsize=1)
def load_extensions() -> tuple[str, ...]:
    """Import the modules under the entry point group, once a process; the names of those that loaded.

    One that fails is reported as a warning: a broken extension does not stop lowerings
    that need nothing from it.
    """
    loaded = []
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            entry.load()
        except Exception as error:  # whatever the import of foreign code raises
            owner = entry.dist.name if entry.dist is not None else "an unknown package"
            warnings.warn(
                f"the lowering rules '{entry.name}' ({entry.value}) of {owner} did not load: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
        else:
            loaded.append(entry.name)
    return tuple(loaded)
