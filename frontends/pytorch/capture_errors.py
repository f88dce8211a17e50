"""What went wrong in torch.export, said in terms of the user's model."""

from __future__ import annotations

import re

from plait.ir.errors import LoweringError

_SPECIALISED = re.compile(
    r"You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)"
)
_VIOLATED = re.compile(r"Constraints violated \(([^)]*)\)")


def is_specialised(error: BaseException) -> bool:
    """Whether torch.export made a dynamic dim constant."""
    return _SPECIALISED.search(str(error)) is not None


def is_violated(error: BaseException | None) -> bool:
    """Whether a range is wider than what the code of the model allows."""
    return _VIOLATED.search(str(error)) is not None


def speaks_of_sizes(error: BaseException) -> bool:
    """Whether an error is about sizes or data, so that no other way of capturing can help."""
    return is_specialised(error) or is_violated(error) or "data-dependent" in str(error)


def explain(error: Exception, model: str) -> LoweringError:
    """A LoweringError for whatever torch.export raised."""
    if isinstance(error, LoweringError):
        return error
    text = str(error)
    specialised = _SPECIALISED.search(text)
    if specialised:
        name, constant = specialised.groups()
        return LoweringError(
            f"dynamic dim {name} of {model} is always {constant}",
            why=f"the code of the model fixes it, so torch.export specialised it: {_trim(text)}",
            remedy=f"take sizes from tensor.shape and not {constant}, or drop {name} from dynamic=",
        )
    violated = _VIOLATED.search(text)
    if violated:
        return LoweringError(
            f"dynamic dim {violated[1]} of {model} cannot take every value of its range",
            why=f"the code of the model holds for some sizes only: {_trim(text)}",
            remedy="narrow the range, for instance ('B', 4, 64), or change what torch suggests above",
        )
    if "data-dependent" in text:
        return LoweringError(
            f"{model} takes a decision that depends on the data of a tensor",
            why=_trim(text),
            remedy="write it with torch.where or torch.cond, or compute it outside the model",
        )
    return LoweringError(
        f"torch.export cannot capture {model}",
        why=f"{type(error).__name__}: {_trim(text)}",
        remedy="make model(*inputs) run first, and remove Python side effects and data-dependent branches",
    )


def _trim(text: str, lines: int = 6, width: int = 200) -> str:
    """The informative lines of a torch message."""
    noise = ("For ", "If you suspect", "The error above", "consider using", "from user code")
    text = re.sub(r" For more information, run with .*| If you're using mark_dynamic.*", "", text)
    found = [
        line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(noise)
    ]
    kept = [line if len(line) <= width else line[: width - 3] + "..." for line in dict.fromkeys(found)]
    marks = [i for i, line in enumerate(kept) if i >= lines and line.startswith(("Suggested", "File "))]
    tail = kept[marks[0] : marks[0] + 3] if marks else []
    return "\n    ".join(kept[:lines] + tail)
