"""Text to graph.  The grammar stands in `plait.ir.text`."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from plait.ir.dims import parse_dim
from plait.ir.errors import PlaitError, VerifyError, did_you_mean
from plait.ir.graph import DimRange, Graph
from plait.ir.loc import Loc, Origin
from plait.ir.op import REGISTRY, FieldSpec, Op
from plait.ir.region import Region
from plait.ir.text.printer import VERSION, region_keyword
from plait.ir.text.scanner import (
    FILE,
    GLOBAL,
    INTEGER,
    LOCAL,
    OPNAME,
    STRING,
    VALUE,
    WORD,
    Scanner,
)
from plait.ir.types import TYPE_PATTERN, Type, parse_type
from plait.ir.value import Value

_NUMBER = re.compile(r"-?(?:inf|nan|\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|\.\d+)(?![\w.])", re.IGNORECASE)
_WHOLE = re.compile(r"-?\d+(?=\s*[,\]}])")
_DIM = re.compile(r"[^,\]}\n]+")


def parse(
    text: str, *, file: str = "<text>", constants: Mapping[str, np.ndarray] | None = None, verify: bool = True
) -> Graph:
    """Parse the dump of a graph.

    Args:
        text: IR text.
        file: name used in error messages.
        constants: data by constant name; without it constants carry only their hash.
        verify: check all invariants afterwards.

    Raises:
        VerifyError: with file:line:column and a caret, on the first mistake.
    """
    import plait.ir.ops  # noqa: F401  # registers the op families

    # All objects made here stay alive: collecting among them would only make the time grow with the square.
    collecting = gc.isenabled()
    gc.disable()
    try:
        graph = _Parser(text, file, constants or {}).module()
    finally:
        if collecting:
            gc.enable()
    if verify:
        graph.verify()
    return graph


class _Parser:
    def __init__(self, text: str, file: str, constants: Mapping[str, np.ndarray]) -> None:
        self.scan = Scanner(text, file)
        self.data = constants
        self.graph = Graph()
        self.visible: dict[str, Value] = {}
        self.hidden: set[str] = set()  # names of regions that ended
        self.defined: dict[str, Op] = {}  # op by its first result, for the loc section

    # -- module ------------------------------------------------------------------
    def module(self) -> Graph:
        scan = self.scan
        scan.expect("plait.ir", "at the start of IR text")
        at = scan.position
        version = scan.take(re.compile(r"\d+\.\d+"), "a version such as 1.0")
        if version.split(".")[0] != VERSION.split(".")[0]:
            raise scan.error(
                f"IR version {version} is not supported",
                at=at,
                width=len(version),
                why=f"this plait reads version {VERSION.split('.')[0]}.x",
                remedy="print the graph again with this version of plait",
            )
        while not scan.peek("func"):
            if scan.accept_word("dim"):
                self._dim()
            elif scan.accept_word("const"):
                self._constant()
            else:
                raise scan.error(f"expected 'dim', 'const' or 'func', found {scan.found()}")
        scan.accept_word("func")
        self._function()
        if scan.position < len(scan.text):
            raise scan.error(
                f"expected the end of the text, found {scan.found()}", why="a file holds one function"
            )
        return self.graph

    def _dim(self) -> None:
        scan, at = self.scan, self.scan.position
        name = scan.take(WORD, "a dim name")
        if name in self.graph.dims:
            raise scan.error(f"dim {name} is declared twice", at=at, width=len(name), invariant=6)
        if scan.accept("="):
            low = int(scan.take(INTEGER, "a whole number"))
            high: int | None = low
        else:
            if not scan.accept_word("in"):
                raise scan.error(
                    f"expected 'in LOW..HIGH' or '= VALUE' after dim {name}, found {scan.found()}"
                )
            low = int(scan.take(INTEGER, "the lower bound"))
            scan.expect("..", f"in the range of dim {name}")
            high = None if scan.accept("*") else int(scan.take(INTEGER, "the upper bound or *"))
        if high is not None and high < low:
            raise scan.error(f"dim {name} in {low}..{high} is empty", at=at, width=len(name), invariant=6)
        self.graph.dims[name] = DimRange(low, high)

    def _constant(self) -> None:
        scan, at = self.scan, self.scan.position
        name = scan.take(GLOBAL, "a constant name such as @conv1.weight")
        scan.expect(":", f"after {name}")
        kind = self._type()
        scan.expect("=", f"after the type of {name}")
        scan.expect("blob", f"after '=' of {name}")
        scan.expect("(", "after blob")
        content_hash = json.loads(scan.take(STRING, "a content hash in quotes"))
        scan.expect(")", "after the content hash")
        if name[1:] in self.visible or name[1:] in self.graph.constants:
            raise scan.error(f"{name} is defined twice", at=at, width=len(name), invariant=1)
        array = self.data.get(name[1:])
        with self._located(at, len(name)):
            constant = self.graph.add_constant(name[1:], array, kind, content_hash=content_hash)
        self.visible[name] = constant

    def _function(self) -> None:
        scan = self.scan
        self.graph.name = scan.take(GLOBAL, "a function name such as @main")[1:]
        self._params(self.graph.body)
        scan.expect("->", "after the parameters")
        declared = [] if scan.peek("{") else self._types()
        scan.expect("{", "before the body")
        at = self._body(self.graph.body, "return")
        actual = [value.type for value in self.graph.body.results]
        if declared != actual:
            raise scan.error(
                f"@{self.graph.name} returns {_listed(actual)} but declares {_listed(declared)}",
                at=at,
                width=6,
                invariant=10,
            )
        scan.expect("}", "after return")
        if scan.accept_word("loc"):
            scan.expect("{", "after loc")
            while not scan.accept("}"):
                self._loc()

    def _params(self, region: Region) -> None:
        scan = self.scan
        scan.expect("(", "before the parameters")
        while not scan.accept(")"):
            if region.params:
                scan.expect(",", "between parameters")
            at = scan.position
            name = scan.take(LOCAL, "a parameter such as %x")
            scan.expect(":", f"after {name}")
            kind = self._type()
            with self._located(at, len(name)):
                value = region.add_param(Value(self.graph.take_name(name[1:]), kind))
            self.visible[name] = value

    def _body(self, region: Region, word: str) -> int:
        """Ops up to `return` or `yield`; gives the position of that word."""
        scan = self.scan
        while True:
            at = scan.position
            if scan.accept_word(word):
                break
            if not scan.peek("%"):
                raise scan.error(f"expected an op or '{word}', found {scan.found()}")
            self._op(region)
        results = []
        while scan.peek("%") or scan.peek("@"):
            results.append(self._value())
            if not scan.accept(","):
                break
        region.set_results(results)
        return at

    # -- ops -----------------------------------------------------------------------
    def _op(self, region: Region) -> None:
        scan, start = self.scan, self.scan.position
        names = [scan.take(LOCAL, "a result such as %x")]
        while scan.accept(","):
            names.append(scan.take(LOCAL, "a result such as %x"))
        width = scan.position - start
        scan.expect("=", "after the results of an op")
        at = scan.position
        opname = scan.take(OPNAME, "an op name such as nn.conv2d")
        cls = REGISTRY.get(opname)
        if cls is None:
            raise scan.error(
                f"unknown op '{opname}'{did_you_mean(opname, REGISTRY)}",
                at=at,
                width=len(opname),
                invariant=4,
            )
        fields = self._arguments(cls, at)
        if scan.peek("{"):
            self._attributes(cls, fields)
        scan.expect(":", f"and the result type after {opname}(...)")
        types_at = scan.position
        types = self._types()
        for spec in cls.schema.regions:
            fields[spec.name] = self._region(spec)
        with self._located(at, len(opname)):
            op, inferred = _with_declared_result(self._construct(cls, fields, types), types)
        if len(inferred) != len(names) or len(types) != len(names):
            raise scan.error(
                f"{opname} has {len(inferred)} results, not {len(names)} names and {len(types)} types",
                at=start,
                width=width,
                invariant=3,
            )
        for name, annotated, computed in zip(names, types, inferred, strict=True):
            if annotated != computed:
                raise scan.error(
                    f"{opname}: {name} is annotated {annotated} but the op computes {computed}",
                    at=types_at,
                    width=len(str(annotated)),
                    invariant=3,
                )
        with self._located(start, width):
            bare = [self.graph.take_name(name[1:]) for name in names]
        self.graph.attach(op, bare, types, region)
        self.visible.update(zip(names, op.results, strict=True))
        self.defined[names[0]] = op

    def _construct(self, cls: type[Op], fields: dict[str, Any], types: list[Type]) -> Op:
        spec = cls.schema.result_type
        if spec is not None and spec.required:
            fields = {**fields, spec.name: types[0]}
        return cls(**fields)

    def _arguments(self, cls: type[Op], at: int) -> dict[str, Any]:
        scan, operands = self.scan, cls.schema.operands
        fields: dict[str, Any] = {spec.name: () for spec in operands if spec.role == "variadic"}
        scan.expect("(", f"after {cls.opname}")
        index, count = 0, 0
        while not scan.accept(")"):
            if count:
                scan.expect(",", "between operands")
            count += 1
            here = scan.position
            name = scan.accept_pattern(WORD)
            if name is not None:
                self._named_argument(cls, fields, name, here)
                continue
            value = self._value()
            if index >= len(operands):
                raise scan.error(
                    f"{cls.opname} takes {len(operands)} operands: {', '.join(s.name for s in operands)}",
                    at=here,
                    width=len(value.name) + 1,
                    invariant=4,
                )
            spec = operands[index]
            if spec.role == "variadic":
                fields[spec.name] = (*fields[spec.name], value)
            else:
                fields[spec.name] = value
                index += 1
        missing = [s.name for s in operands if s.role == "operand" and s.name not in fields]
        if missing:
            raise scan.error(
                f"{cls.opname} lacks operand {', '.join(missing)}", at=at, width=len(cls.opname), invariant=4
            )
        return fields

    def _named_argument(self, cls: type[Op], fields: dict[str, Any], name: str, at: int) -> None:
        scan = self.scan
        spec = next((s for s in cls.schema.operands if s.name == name), None)
        if spec is None:
            known = [s.name for s in cls.schema.operands]
            raise scan.error(
                f"{cls.opname} has no operand '{name}'; it has: {', '.join(known)}",
                at=at,
                width=len(name),
                invariant=4,
            )
        scan.expect("=", f"after operand name {name}")
        if spec.role != "variadic":
            fields[name] = self._value()
            return
        scan.expect("[", f"around the values of {name}")
        values: list[Value] = []
        while not scan.accept("]"):
            if values:
                scan.expect(",", "between operands")
            values.append(self._value())
        fields[name] = tuple(values)

    def _attributes(self, cls: type[Op], fields: dict[str, Any]) -> None:
        scan = self.scan
        known = {spec.name: spec for spec in cls.schema.attributes}
        scan.expect("{", "before the attributes")
        first = True
        while not scan.accept("}"):
            if not first:
                scan.expect(",", "between attributes")
            first = False
            at = scan.position
            name = scan.take(WORD, "an attribute name")
            if name not in known:
                has = f"it has: {', '.join(known)}" if known else "it has none"
                raise scan.error(
                    f"{cls.opname} has no attribute '{name}'; {has}{did_you_mean(name, known)}",
                    at=at,
                    width=len(name),
                    invariant=5,
                )
            scan.expect("=", f"after attribute {name}")
            value_at = scan.position
            given = self._literal()
            self._check_attribute(cls, known[name], given, value_at)
            fields[name] = given

    def _check_attribute(self, cls: type[Op], spec: FieldSpec, given: Any, at: int) -> None:
        if spec.check is None:
            return
        try:
            spec.check(given)
        except ValueError:
            raise self.scan.error(
                f"{cls.opname}: attribute {spec.name} must be {spec.expects}",
                at=at,
                width=max(1, len(self.scan.text[at : self.scan.position].rstrip())),
                invariant=5,
            ) from None

    def _literal(self) -> Any:
        scan = self.scan
        if scan.accept("["):
            items: list[Any] = []
            while not scan.accept("]"):
                if items:
                    scan.expect(",", "between list items")
                items.append(self._literal())
            return tuple(items)
        text = scan.accept_pattern(_WHOLE)
        if text is not None:
            return int(text)
        text = scan.accept_pattern(STRING)
        if text is not None:
            return json.loads(text)
        text = scan.accept_pattern(_NUMBER)
        if text is not None:
            return float(text)
        for word, meaning in (("true", True), ("false", False), ("none", None)):
            if scan.accept_word(word):
                return meaning
        at = scan.position
        text = scan.take(_DIM, "an attribute value").rstrip()
        try:
            return parse_dim(text)
        except ValueError as problem:
            raise scan.error(str(problem), at=at, width=len(text), invariant=5) from None

    def _region(self, spec: FieldSpec) -> Region:
        scan, keyword = self.scan, region_keyword(spec.name)
        if not scan.accept_word(keyword):
            raise scan.error(f"expected region '{keyword} (...) {{ ... }}', found {scan.found()}")
        outer = dict(self.visible)
        region = Region()
        self._params(region)
        scan.expect("{", f"before the body of '{keyword}'")
        self._body(region, "yield")
        scan.expect("}", "after yield")
        self.hidden |= self.visible.keys() - outer.keys()
        self.visible = outer
        return region

    # -- small things ----------------------------------------------------------------
    def _value(self) -> Value:
        scan, at = self.scan, self.scan.position
        name = scan.take(VALUE, "a value such as %x or @w")
        value = self.visible.get(name)
        if value is None:
            why = (
                "it belongs to a region that ended"
                if name in self.hidden
                else "a value is defined before it is used"
            )
            raise scan.error(
                f"{name} is not defined{did_you_mean(name, self.visible)}",
                at=at,
                width=len(name),
                why=why,
                invariant=2,
            )
        return value

    def _type(self) -> Type:
        scan, at = self.scan, self.scan.position
        text = scan.take(TYPE_PATTERN, "a type such as f32[B,3,224,224]")
        try:
            kind = parse_type(text)
        except ValueError as problem:
            raise scan.error(str(problem), at=at, width=len(text), invariant=3) from None
        for symbol in kind.symbols - self.graph.dims.keys():
            raise scan.error(
                f"dim {symbol} is not declared{did_you_mean(symbol, self.graph.dims)}",
                at=at,
                width=len(text),
                remedy=f"add 'dim {symbol} in 1..64' at the top",
                invariant=6,
            )
        return kind

    def _types(self) -> list[Type]:
        types = [self._type()]
        while self.scan.accept(","):
            types.append(self._type())
        return types

    def _loc(self) -> None:
        scan, at = self.scan, self.scan.position
        name = scan.take(LOCAL, "a value such as %x")
        op = self.defined.get(name)
        if op is None:
            raise scan.error(
                f"no op defines {name}{did_you_mean(name, self.defined)}",
                at=at,
                width=len(name),
                invariant=11,
            )
        origins = [self._origin()]
        while scan.accept("+"):
            origins.append(self._origin())
        passes: list[str] = []
        if scan.accept_word("via"):
            passes.append(scan.take(WORD, "a pass name"))
            while scan.accept("+"):
                passes.append(scan.take(WORD, "a pass name"))
        op.loc = Loc(tuple(o for o in origins if o != Origin("")), tuple(passes))

    def _origin(self) -> Origin:
        scan = self.scan
        path = json.loads(scan.take(STRING, "a module path in quotes"))
        file = scan.accept_pattern(FILE)
        if file is None:
            return Origin(path)
        scan.expect(":", "between file and line")
        return Origin(path, file, int(scan.take(INTEGER, "a line number")))

    def _located(self, at: int, width: int) -> _Located:
        return _Located(self.scan, at, width)


class _Located:
    """Gives errors raised inside the place in the text."""

    def __init__(self, scan: Scanner, at: int, width: int) -> None:
        self.scan, self.at, self.width = scan, at, width

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PlaitError) and error.where is None:
            raise self.scan.error(
                error.what,
                at=self.at,
                width=self.width,
                why=error.why,
                remedy=error.remedy,
                invariant=error.invariant if isinstance(error, VerifyError) else None,
            ) from None


def _listed(types: list[Type]) -> str:
    return ", ".join(map(str, types)) or "nothing"


def _with_declared_result(op: Op, types: list[Type]) -> tuple[Op, tuple[Type, ...]]:
    """An op and the types it computes, its result declared where that is what the annotation takes.

    An op may be valid only with a declared result, as a quantised product with an activation.
    Raises VerifyError where it is valid neither way: what is wrong without the declaration.
    """
    problem: VerifyError | None = None
    inferred: tuple[Type, ...] = ()
    try:
        inferred = op.infer()
    except VerifyError as error:
        problem = error
    if op.schema.result_type is not None and len(types) == 1 and inferred != tuple(types):
        declared = op.evolve(out=types[0])
        try:
            return declared, declared.infer()
        except VerifyError as error:
            raise (problem or error) from None
    if problem is not None:
        raise problem
    return op, inferred
