"""Records: named values that never change, checked when they are made. Cheap to define.

A frozen dataclass is compiled at each start of a program: importing ``dataclasses`` and making two
classes of settings took 20 ms, and all messages together took 12 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, ClassVar, NamedTuple, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform as dataclass_transform  # noqa: PLC0414  (re-exported)
else:  # it means something to type checkers only

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        return lambda cls: cls


_REQUIRED = object()  # in place of a default, as is the next one ...
LEFT_OUT = object()  # ... of a value that may be missing, on the wire too: it reads as None then
Check = Callable[[Any], bool]
_Record = TypeVar("_Record", bound="Record")


class Field(NamedTuple):
    """What one value of a record must be, in code and in words, and its default, if any."""

    accepts: Check
    wants: str
    default: object
    shown: bool  # by repr(); secrets are not

    @property
    def required(self) -> bool:
        """Whether the value must be given."""
        return self.default is _REQUIRED


def field(accepts: Check, wants: str, default: Any = _REQUIRED, *, shown: bool = True) -> Any:
    """Declare a field; ``wants`` ends the sentence "the value must be"."""
    return Field(accepts, wants, default, shown)


def whole(low: int, high: int, default: Any = _REQUIRED) -> Any:
    return field(lambda v: is_whole(v, low, high), f"a number from {low} to {high}", default)


def flag(default: Any = _REQUIRED) -> Any:
    return field(lambda v: isinstance(v, bool), "true or false", default)


def unchecked(*, default: Any, shown: bool = True) -> Any:
    """Declare a field that takes any value: ``name: int = 4`` alone does the same."""
    return field(lambda _: True, "", default, shown=shown)


def is_whole(value: object, low: int, high: int) -> bool:
    # type() and not isinstance(): a bool is an int to Python, not on the wire or in a file
    return type(value) is int and low <= value <= high


class _DataclassFields:
    """What ``dataclasses.fields`` and ``dataclasses.replace`` look for, made when they do."""

    def __get__(self, _: object, owner: type[Record]) -> dict[str, Any]:
        import dataclasses  # noqa: PLC0415  (20 ms with all that it loads, and no run needs it)

        made = dataclasses.make_dataclass(
            owner.__name__,
            [
                (name, Any, dataclasses.field(default=item.default, repr=item.shown))
                for name, item in owner.FIELDS.items()
            ],
        )
        return vars(made)["__dataclass_fields__"]  # type: ignore[no-any-return]


@dataclass_transform(frozen_default=True, field_specifiers=(field, whole, flag, unchecked))
class Record:
    """Named values that are checked when the record is made, and never change after it.

    A subclass declares a field as ``name: type = whole(1, 9)`` or with another function that
    returns a ``Field``. Type checkers take it for a frozen dataclass, and so does ``dataclasses``.
    """

    FIELDS: ClassVar[dict[str, Field]] = {}
    WANTED: ClassVar[set[str]] = set()  # the names of those that every record has
    REQUIRED: ClassVar[set[str]] = set()  # the names of those that must be given
    __dataclass_fields__: ClassVar[Any] = _DataclassFields()

    def __init_subclass__(cls) -> None:
        own = [(name, vars(cls)[name]) for name in cls.__annotations__ if name in vars(cls)]
        cls.FIELDS = {name: item if isinstance(item, Field) else unchecked(default=item)
                      for name, item in own}  # fmt: skip
        cls.WANTED = {name for name, item in cls.FIELDS.items() if item.default is not LEFT_OUT}
        cls.REQUIRED = {name for name, item in cls.FIELDS.items() if item.required}
        for name in cls.FIELDS.keys() - cls.WANTED:
            setattr(cls, name, None)

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take the values by position or by name. ``ValueError`` says which one is wrong."""
        fields = self.FIELDS
        given = {**dict(zip(fields, values)), **named} if values else named
        twice = len(given) < len(values) + len(named)  # or there are more values than fields
        if twice or not self.REQUIRED <= given.keys() <= fields.keys():
            raise TypeError(f"{type(self).__name__} takes {', '.join(fields) or 'nothing'}")
        own = vars(self)
        for name, (accepts, wants, default, _) in fields.items():
            value = given.get(name, default)
            if value is LEFT_OUT:
                continue
            if not accepts(value):
                raise ValueError(f"{name} must be {wants}")
            own[name] = value

    def __setattr__(self, name: str, _: object) -> None:
        _refuse(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        _refuse(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        shown = [(name, value) for name, value in vars(self).items() if self.FIELDS[name].shown]
        values = ", ".join(f"{name}={value!r}" for name, value in shown)
        return f"{type(self).__name__}({values})"

    def replace(self: _Record, **changes: Any) -> _Record:
        """Return a checked copy with some values changed."""
        return type(self)(**{**vars(self), **changes})


def _refuse(reason: str) -> NoReturn:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415  (see above)

    raise FrozenInstanceError(reason)
