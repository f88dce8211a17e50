"""Op definition: one typed dataclass per op, the annotation of a field decides its role.

    @op("nn.conv2d")
    class Conv2d(Op):
        \"\"\"2-D convolution ...\"\"\"
        x: Value                         # operand
        w: Value
        b: Value | None = None           # optional operand
        _: KW_ONLY
        stride: tuple[int, int] = (1, 1) # attribute
        out: Type | None = None          # declared result type, printed after the colon

        def infer(self) -> tuple[Type, ...]: ...

`Value`, `Value | None` and `tuple[Value, ...]` are operands, `Region` a region,
a field `out` annotated `Type` (or `Type | None`) the declared result type, and
every other field an attribute.  A type checker sees the constructor, so a
misspelt attribute or a missing operand is found before anything runs.  All else
about an op (reference semantics, cost, emission) is a row in a table elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from typing_extensions import dataclass_transform

from plait.ir.dims import Dim, IntLike
from plait.ir.errors import VerifyError
from plait.ir.loc import UNKNOWN, Loc
from plait.ir.region import Region
from plait.ir.types import DTYPES, DType, ShapedType, Type
from plait.ir.value import Value

O = TypeVar("O", bound="Op")
Role = Literal["operand", "optional", "variadic", "region", "attribute", "result_type"]


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """One field of an op: its role, and for attributes how to check a value."""

    name: str
    role: Role
    default: Any
    required: bool
    expects: str = ""
    check: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Schema:
    """The fields of an op by role, in declaration order."""

    fields: tuple[FieldSpec, ...]

    def __post_init__(self) -> None:
        by_role: dict[str, list[FieldSpec]] = {}
        for spec in self.fields:
            by_role.setdefault(spec.role, []).append(spec)
        operands = [f for f in self.fields if f.role in ("operand", "optional", "variadic")]
        object.__setattr__(self, "operands", tuple(operands))
        object.__setattr__(self, "attributes", tuple(by_role.get("attribute", ())))
        object.__setattr__(self, "regions", tuple(by_role.get("region", ())))
        object.__setattr__(self, "result_type", next(iter(by_role.get("result_type", ())), None))
        object.__setattr__(self, "names", frozenset(f.name for f in self.fields))

    operands: tuple[FieldSpec, ...] = dataclasses.field(init=False, repr=False)
    attributes: tuple[FieldSpec, ...] = dataclasses.field(init=False, repr=False)
    regions: tuple[FieldSpec, ...] = dataclasses.field(init=False, repr=False)
    result_type: FieldSpec | None = dataclasses.field(init=False, repr=False)
    names: frozenset[str] = dataclasses.field(init=False, repr=False)


class Op:
    """Base of all ops.  An op is detached until a graph adds it, which infers its results."""

    opname: ClassVar[str]
    schema: ClassVar[Schema]
    #: Without side effects and with a result that depends on operands and attributes only.
    pure: bool = True

    results: tuple[Value, ...] = ()
    loc: Loc = UNKNOWN
    parent: Region | None = None  # the region that holds the op
    previous: Op | None = None
    next: Op | None = None
    _operands: tuple[Value, ...] | None = None
    _built: bool = False

    def __post_init__(self) -> None:
        for spec in self.schema.fields:
            given = getattr(self, spec.name)
            if spec.check is not None:
                try:
                    checked = spec.check(given)
                except ValueError:
                    raise VerifyError(
                        f"{self.opname}: attribute {spec.name} is {_show(given)}",
                        why=f"it must be {spec.expects}",
                        invariant=5,
                    ) from None
                if checked is not given:
                    setattr(self, spec.name, checked)
            elif spec.role == "variadic":
                if not isinstance(given, tuple):
                    setattr(self, spec.name, tuple(given))
            elif spec.role == "operand" and not isinstance(given, Value):
                raise VerifyError(
                    f"{self.opname}: operand {spec.name} is {_show(given)}", why="it must be a value"
                )
        self._built = True

    def __setattr__(self, name: str, new: object) -> None:
        if self._built and name in self.schema.names:
            raise AttributeError(
                f"{self.opname}.{name} is read only: use op.evolve({name}=...) and graph.replace(), "
                "or graph.replace_uses() for operands"
            )
        object.__setattr__(self, name, new)

    # -- views ----------------------------------------------------------------
    @property
    def operands(self) -> tuple[Value, ...]:
        """All operand values in field order, absent optional ones left out."""
        if self._operands is None:
            found: list[Value] = []
            for spec in self.schema.operands:
                given = getattr(self, spec.name)
                if spec.role == "variadic":
                    found.extend(given)
                elif given is not None:
                    found.append(given)
            object.__setattr__(self, "_operands", tuple(found))
        return self._operands or ()

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions of the op in field order; empty for nearly all ops."""
        return tuple(getattr(self, spec.name) for spec in self.schema.regions)

    @property
    def result(self) -> Value:
        """The only result.  Raises ValueError when there are several."""
        if len(self.results) != 1:
            raise ValueError(f"{self.opname} has {len(self.results)} results, not one")
        return self.results[0]

    @property
    def name(self) -> str:
        """Name of the first result, which names the op in dumps and reports."""
        return self.results[0].name if self.results else self.opname

    def attributes(self) -> dict[str, Any]:
        """Attributes that differ from their default, in declaration order."""
        found = {}
        for spec in self.schema.attributes:
            given = getattr(self, spec.name)
            if spec.required or given != spec.default:
                found[spec.name] = given
        return found

    # -- sizes that depend on data ----------------------------------------------
    @property
    def bound_dim(self) -> str | None:
        """The dim of the graph that takes its value when the op runs; None for nearly all ops."""
        return None

    def bound_limit(self) -> IntLike | None:
        """The largest value that `bound_dim` can take, or None where nothing limits it."""
        return None

    # -- to be written by each op ---------------------------------------------
    def infer(self) -> tuple[Type, ...]:
        """Types of the results.  Raises VerifyError (through `self.error`) on wrong operands."""
        raise AttributeError(f"{type(self).__name__} lacks infer()")

    def error(self, what: str, *, why: str | None = None, remedy: str | None = None) -> VerifyError:
        """A VerifyError about this op, for `raise self.error(...)`."""
        return VerifyError(f"{self.opname}: {what}", why=why, remedy=remedy, invariant=4)

    # -- change ---------------------------------------------------------------
    def evolve(self: O, **changes: Any) -> O:
        """A detached op of the same class with some fields changed; the location is kept."""
        fields = {spec.name: getattr(self, spec.name) for spec in self.schema.fields}
        unknown = set(changes) - set(fields)
        if unknown:
            raise AttributeError(f"{self.opname} has no field {sorted(unknown)}; it has {sorted(fields)}")
        new = type(self)(**{**fields, **changes})
        new.loc = self.loc
        return new

    def set_operands(self, change: Callable[[Value], Value]) -> None:
        """Replace each operand by `change(operand)`, keeping use lists; graph mutation calls this."""
        linked = self.parent is not None
        for spec in self.schema.operands:
            given = getattr(self, spec.name)
            if given is None:
                continue
            old = given if spec.role == "variadic" else (given,)
            new = tuple(change(value) for value in old)
            if new == old:
                continue
            if linked:
                for value in old:
                    value.drop_use(self)
                for value in new:
                    value.add_use(self)
            object.__setattr__(self, spec.name, new if spec.role == "variadic" else new[0])
        object.__setattr__(self, "_operands", None)

    def __repr__(self) -> str:
        return f"<{self.opname} {', '.join(map(str, self.results)) or '(detached)'}>"


REGISTRY: dict[str, type[Op]] = {}


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
def op(name: str, *, pure: bool = True) -> Callable[[type[O]], type[O]]:
    """Class decorator that makes a dataclass an op called `name` and registers it."""

    def define(cls: type[O]) -> type[O]:
        made = dataclasses.dataclass(eq=False, repr=False)(cls)
        made.opname = name
        made.pure = pure
        made.schema = _schema_of(made)
        if not inspect.getdoc(cls) or cls.__doc__ is None or cls.__doc__.startswith(cls.__name__ + "("):
            raise TypeError(f"op {name} lacks a docstring")
        if name in REGISTRY:
            raise TypeError(f"op {name} is defined twice")
        REGISTRY[name] = made
        return made

    return define


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
def abstract(cls: type[O]) -> type[O]:
    """Class decorator for a base that lends fields to ops but is none itself."""
    return dataclasses.dataclass(eq=False, repr=False)(cls)


def _schema_of(cls: type[Op]) -> Schema:
    hints = _annotations_of(cls)
    specs = []
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint = hints[item.name]
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        default = None if required else item.default
        role = _role_of(item.name, hint)
        if role == "attribute":
            expects, check = _attribute_check(hint)
            specs.append(FieldSpec(item.name, role, default, required, expects, check))
        else:
            specs.append(FieldSpec(item.name, role, default, required))
    return Schema(tuple(specs))


def _annotations_of(cls: type[Op]) -> dict[str, Any]:
    """Annotations of a class and its bases by name, evaluated in the module of each.

    `typing.get_type_hints` refuses `KW_ONLY` on Python 3.10.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        namespace = vars(sys.modules[base.__module__])
        for name, annotation in inspect.get_annotations(base).items():
            if name != "_" and base is not Op:
                found[name] = eval(annotation, namespace) if isinstance(annotation, str) else annotation
    return found


def _role_of(name: str, hint: Any) -> Role:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if hint is Value:
        return "operand"
    if Value in options:
        return "optional"
    if get_origin(hint) is tuple and get_args(hint)[0] is Value:
        return "variadic"
    if hint is Region:
        return "region"
    if name == "out" and any(isinstance(o, type) and issubclass(o, Type) for o in options):
        return "result_type"
    return "attribute"


# -- attribute checks, compiled once per op class ------------------------------
def _attribute_check(hint: Any) -> tuple[str, Callable[[Any], Any]]:
    """What an attribute annotation expects, in words, and a function that checks and normalises."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments)), _one_of(arguments)
    if origin in (Union, types.UnionType) and set(arguments) == {int, Dim}:
        return "a whole number or a dim", _dim
    if origin in (Union, types.UnionType) and set(arguments) <= {int, float, bool}:
        return "a number", _scalar
    if origin in (Union, types.UnionType):
        kept = [a for a in arguments if a is not type(None)]
        expects, check = _attribute_check(functools.reduce(operator.or_, kept))
        return f"{expects} or none", lambda v: None if v is None else check(v)
    if origin is tuple:
        expects, check = _attribute_check(arguments[0])
        if arguments[-1] is Ellipsis:
            return f"a list, each {expects}", _sequence(check, None)
        return f"a list of {len(arguments)}, each {expects}", _sequence(check, len(arguments))
    simple: dict[Any, tuple[str, Callable[[Any], Any]]] = {
        bool: ("true or false", _exactly(bool)),
        int: ("a whole number", _whole),
        float: ("a number", _number),
        str: ("a string", _exactly(str)),
        DType: ("an element type such as f32", _element),
    }
    if hint not in simple:
        raise TypeError(f"an op field cannot be annotated {hint}")
    return simple[hint]


def _one_of(options: tuple[Any, ...]) -> Callable[[Any], Any]:
    def check(given: Any) -> Any:
        if given not in options:
            raise ValueError
        return given

    return check


def _exactly(kind: type) -> Callable[[Any], Any]:
    def check(given: Any) -> Any:
        if not isinstance(given, kind):
            raise ValueError
        return given

    return check


def _whole(given: Any) -> int:
    if isinstance(given, bool) or not hasattr(given, "__index__"):
        raise ValueError
    return int(given.__index__())


def _number(given: Any) -> float:
    if isinstance(given, (bool, str)) or not hasattr(given, "__float__"):
        raise ValueError
    return float(given)


def _scalar(given: Any) -> float | int | bool:
    if isinstance(given, (bool, int)):
        return given
    return _number(given)


def _dim(given: Any) -> IntLike:
    return given if isinstance(given, Dim) else _whole(given)


def _element(given: Any) -> DType:
    if isinstance(given, DType):
        return given
    if isinstance(given, str) and given in DTYPES:
        return DTYPES[given]
    raise ValueError


def _sequence(check: Callable[[Any], Any], length: int | None) -> Callable[[Any], Any]:
    def check_all(given: Any) -> tuple[Any, ...]:
        if not isinstance(given, (tuple, list)) or (length is not None and len(given) != length):
            raise ValueError
        return tuple(check(item) for item in given)

    return check_all


def _show(given: object) -> str:
    text = repr(list(given)) if isinstance(given, tuple) else repr(given)
    return text if len(text) <= 60 else text[:57] + "..."


def check_shape_dims(op: Op, dims: Iterable[IntLike]) -> None:
    """Raise unless each constant dim is zero or more."""
    for dim in dims:
        if isinstance(dim, int) and dim < 0:
            raise op.error(f"result dim {dim} is negative", why="the input is smaller than the window")


def shaped(op: Op, value: Value, name: str) -> ShapedType:
    """The tensor type of an operand.  Raises VerifyError for a graph."""
    if not isinstance(value.type, ShapedType):
        raise op.error(f"operand {name} ({value}) is {value.type}", why="a tensor is wanted")
    return value.type
