"""Command lines: tyro reads the options and prints the help, pydantic checks the experiment's values, a fault becomes one sentence."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import tyro
from pydantic.fields import FieldInfo
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from mtrl.config import ExperimentConfig, Section, parse_config, read_scalar, warn_of_former_name
from mtrl.errors import UserError, did_you_mean
from mtrl.machine import PROJECT_ROOT

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)
else:
    Options = TypeVar("Options")

REGISTRY = re.compile(r"(?:one|any) of `(mtrl(?:\.\w+)+)\.([A-Z]+)`")  # in the description of a field
_explaining: ContextVar[bool] = ContextVar("explaining", default=False)  # whether help is wanted: registries are not imported otherwise

SHORT_NAMES = {"num_env_runners": "--num-env-runners", "lambda_": "--learner.lambda"}  # further names of fields


def parse(default: Options, arguments: Sequence[str], program: str, description: str) -> Options:
    """Reads `arguments` into a copy of `default`, a dataclass whose docstrings are the help; `--help` prints that and exits.

    Raises:
        UserError: an option is unknown, or lacks its value.
    """
    if (word := _searched(arguments)) is not None:
        print(_matching(word, _command_options(default)))
        raise SystemExit(0)
    return _read(default, arguments, program, description, _field_options(default))


def parse_with_experiment(
    default: Options, arguments: Sequence[str], program: str, description: str, base: Callable[[Options], ExperimentConfig]
) -> tuple[Options, ExperimentConfig]:
    """Like `parse`, but every value of an experiment may be given as well, as `--section.field VALUE`.

    The line is read twice: the first time to find out from `base` which experiment it starts from, the second time to change that one.

    Raises:
        UserError: as `parse`, or the experiment is at fault.
    """

    def read(experiment: ExperimentConfig, given: Sequence[str]) -> Any:
        both = dataclasses.make_dataclass(
            "Both",
            [
                ("options", Annotated[type(default), tyro.conf.arg(name="")], dataclasses.field(default=default)),
                ("experiment", Annotated[ExperimentConfig, tyro.conf.arg(name="")], dataclasses.field(default=experiment)),
            ],
        )
        known = [*_field_options(default), *SHORT_NAMES.values(), *_section_options(ExperimentConfig, "--")]
        return _read(both(), given, program, description, known)

    arguments = [_present_name(argument) for argument in arguments]
    if (word := _searched(arguments)) is not None:
        given = [argument for argument in arguments if argument not in ("-h", "--help", word)]
        options = read(ExperimentConfig(), given).options
        print(_matching(word, itertools.chain(_command_options(options), _experiment_options(base(options)))))
        raise SystemExit(0)
    _explaining.set("--help" in arguments or "-h" in arguments)
    others = [argument for argument in arguments if argument not in ("-h", "--help")]
    first = read(ExperimentConfig(), others)
    # By itself, since tyro's help leaves out what the line has already given.
    second = read(base(first.options), arguments if others == list(arguments) else ["--help"])
    return second.options, parse_config(second.experiment)


def _present_name(argument: str) -> str:
    """The argument, with the present name of an option of the experiment in the place of a former one."""
    option, equals, value = argument.partition("=")
    section, _, field = option.removeprefix("--").replace("-", "_").partition(".")
    annotation: Any = ExperimentConfig.model_fields[section].annotation if section in ExperimentConfig.model_fields else None
    if not option.startswith("--") or not _is_section(annotation) or field not in annotation.RENAMED:
        return argument
    present = annotation.RENAMED[field]
    warn_of_former_name(option, f"--{section}.{present.replace('_', '-')}")
    return f"--{section}.{present.replace('_', '-')}{equals}{value}"


def _read(default: Options, arguments: Sequence[str], program: str, description: str, known: list[str]) -> Options:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options, unknown = tyro.cli(
                type(default),
                default=default,
                args=arguments,
                prog=program,
                description=description,
                registry=_registry(),
                return_unknown_args=True,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(_sentence(complaint.getvalue())) from None
    if unknown:
        raise UserError(_explain_unknown(unknown[0], known))
    return options


def _registry() -> ConstructorRegistry:
    """Makes tyro turn sections into mappings of unchecked values: pydantic checks them together, and its messages have the whole path."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def section_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        return StructConstructorSpec(dict, _fields(info.type, info.default)) if _is_section(info.type) else None

    return registry


def _fields(section: type[Section], default: Any) -> tuple[StructFieldSpec, ...]:
    # tyro also asks what the type looks like by itself, without a value.
    values = default if isinstance(default, Section) else section()
    return tuple(
        StructFieldSpec(
            name=name,
            type=field.annotation if _is_section(field.annotation) else _option_type(name, field.annotation),  # type: ignore[arg-type]
            default=getattr(values, name),
            helptext=with_choices(field.description) if _explaining.get() else field.description,
        )
        for name, field in section.model_fields.items()
    )


def _option_type(name: str, annotation: Any) -> Any:
    spec = PrimitiveConstructorSpec(
        nargs=1,
        metavar=_metavar(annotation),
        instance_from_str=lambda arguments: arguments[0] if annotation is str else _value(arguments[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [_text(value)],
    )
    short = SHORT_NAMES.get(name)
    return Annotated[object, spec, tyro.conf.arg(aliases=(short,))] if short else Annotated[object, spec]


def _value(text: str) -> Any:
    # Python's spelling of null is what tyro's users type.
    return None if text == "None" else read_scalar(text)


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)


def _metavar(annotation: Any) -> str:
    """The placeholder of a value in the help: `INT`, `NUMBER|null`, `adam|rmsprop`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return "|".join(map(_metavar, arguments))
    return {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT", type(None): "null"}.get(annotation, "VALUE")


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def with_choices(description: str | None) -> str | None:
    """A field's description with the names in a registry in the place of the registry."""
    if description is None or (found := REGISTRY.search(description)) is None:
        return description
    names = ", ".join(_registered(found[1], found[2]))
    return description[: found.start()] + found[0].split("`")[0] + names + description[found.end() :]


def _registered(module: str, registry: str) -> list[str]:
    """The names in a registry, read from its source: importing it may take a second, which a help need not wait for."""
    path = PROJECT_ROOT.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == registry:
            assert isinstance(node.value, ast.Dict)
            return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    raise AssertionError(f"{module} has no {registry}")


def _searched(arguments: Sequence[str]) -> str | None:
    """The word behind `--help`, if there is one."""
    for flag in ("--help", "-h"):
        if flag in arguments:
            rest = list(arguments)[arguments.index(flag) + 1 :]
            if rest and not rest[0].startswith("-"):
                return rest[0]
    return None


def _matching(word: str, options: Iterable[tuple[str, str]]) -> str:
    """The options, each with its description, that have a word in either."""
    found = []
    for option, text in options:
        if word.lower() in f"{option} {text}".lower():
            found.append("\n".join([option, *textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ")]))
    return "\n".join(found) if found else f"no option has the word {word!r} in its name or description; --help lists them all"


def _experiment_options(experiment: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """The experiment's options with the values that this experiment has, and their descriptions."""
    for option, field, value in _all_fields(experiment, "--"):
        text = " ".join((with_choices(field.description) or "").split())
        yield f"{option} {_metavar(field.annotation)} (default: {_text(value)})", text


def _command_options(options: Any) -> Iterator[tuple[str, str]]:
    """The options of a command, which are the fields of a dataclass, and the docstrings behind them."""
    hints = get_type_hints(type(options), include_extras=True)
    (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(type(options)))).body if isinstance(node, ast.ClassDef))
    for node, behind in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(behind, ast.Expr):
            name, text = node.target.id, getattr(behind.value, "value", "")
            if tyro.conf.Positional not in getattr(hints[name], "__metadata__", ()):
                yield f"--{name.replace('_', '-')}", " ".join(str(text).split())


def _all_fields(section: Section, prefix: str) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Every option of the experiment with its field and its value."""
    for name, field in type(section).model_fields.items():
        option, value = prefix + re.sub("_(?!$)", "-", name), getattr(section, name)
        if isinstance(value, Section):
            yield from _all_fields(value, option + ".")
        else:
            yield option, field, value


def _field_options(options: Any) -> list[str]:
    """Every option of a dataclass, as it is typed."""
    return ["--" + field.name.replace("_", "-") for field in dataclasses.fields(options)]


def _section_options(section: type[Section], prefix: str) -> list[str]:
    names: list[str] = []
    for name, field in section.model_fields.items():
        annotation: Any = field.annotation
        option = prefix + re.sub("_(?!$)", "-", name)  # tyro leaves an underscore at the end
        names += _section_options(annotation, option + ".") if _is_section(annotation) else [option]
    return names


def _explain_unknown(token: str, known: list[str]) -> str:
    if not token.startswith("-"):
        return f"{token!r} is one argument too many"
    option = token.partition("=")[0]
    return f"there is no option {option}; {did_you_mean(option.replace('_', '-'), known) or '--help lists them'}"


def _sentence(box: str) -> str:
    """The first paragraph under the title of the box that tyro draws around an error, in one line."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]

    def is_empty(line: str) -> bool:
        return not line.strip("─- ")

    paragraph = itertools.takewhile(lambda line: not is_empty(line), itertools.dropwhile(is_empty, lines))
    return " ".join(paragraph).removesuffix(" Expected 1 values.")
