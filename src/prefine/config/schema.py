"""The JSON schema of a configuration, in which every component stands with its options."""

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo

from prefine.config.base import Component, LabelSource, Section, WeighedSource, marks_of
from prefine.config.components import TABLES, Kind, Nested, lookup, settable_options
from prefine.config.sections import RunConfig

Schema = dict[str, Any]
_REFERENCE = "#/$defs/"


def json_schema() -> Schema:
    """Return the schema; its `$defs` have one for every kind of component.

    Raises:
        ConfigError: A component needs a package that is not installed.
    """
    schema: Schema = RunConfig.model_json_schema()
    definitions = schema["$defs"]
    for model in dict.fromkeys(_sections(RunConfig)):
        target = schema if model is RunConfig else definitions[model.__name__]
        for name, field in model.model_fields.items():
            for mark in marks_of(field, Nested):
                _point(target["properties"][name], mark.kind)
    for kind, names in TABLES.items():
        definitions[kind] = _component(kind, list(names), definitions)
    for model in (WeighedSource, LabelSource):
        definitions[model.__name__] = _extended(definitions["source"], model)
    for name, found in list(definitions.items()):
        # A section with a name, such as an adapter, may be written as that name.
        if "const" in found.get("properties", {}).get("name", {}):
            definitions[name] = {"anyOf": [found["properties"]["name"], found]}
    return schema


def _sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        yield from _sections_in(field.annotation)


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield from _sections(annotation)
    for part in get_args(annotation):
        yield from _sections_in(part)


def _point(schema: Any, kind: Kind) -> None:
    """Let what refers to any component refer to those of a kind."""
    if isinstance(schema, dict) and schema.get("$ref") == f"{_REFERENCE}{Component.__name__}":
        schema["$ref"] = f"{_REFERENCE}{kind}"
    inner = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, dict | list):
        for item in inner:
            _point(item, kind)


def _component(kind: Kind, names: list[str], definitions: Schema) -> Schema:
    """Return the ways to write a component: a name of ours, a text, a mapping with options."""
    own = {"type": "string", "pattern": r"^[\w.]+:[\w.]+$"}
    return {
        "description": f"A {kind}: a name, {{name: …}} with options, or my_module:my_{kind}.",
        "anyOf": [
            {"enum": names},
            {"type": "string"},
            *(_mapping(kind, name, definitions) for name in names),
            {"type": "object", "properties": {"name": own}, "required": ["name"]},
        ],
    }


def _extended(ways: Schema, model: type[Component]) -> Schema:
    """Return the ways to write a component that has fields beside its options."""
    fields = model.model_json_schema()["properties"]
    added = {name: field for name, field in fields.items() if name not in Component.model_fields}
    return ways | {
        "anyOf": [
            way | {"properties": way["properties"] | added} if "properties" in way else way
            for way in ways["anyOf"]
        ]
    }


def _mapping(kind: Kind, name: str, definitions: Schema) -> Schema:
    function = lookup(kind, name, where=kind)
    numbers_move = kind in ("loss", "regularizer")
    fields = settable_options(function, schedules=numbers_move).model_fields
    return {
        "type": "object",
        "description": (inspect.getdoc(function) or "").partition("\n")[0],
        "properties": {
            "name": {"const": name},
            **{option: _option(field, definitions) for option, field in fields.items()},
        },
        "required": ["name", *(o for o, field in fields.items() if field.is_required())],
        "additionalProperties": False,
    }


def _option(field: FieldInfo, definitions: Schema) -> Schema:
    """Return the schema of an option; one that is no plain value may be anything."""
    kinds = [mark.kind for mark in marks_of(field, Nested)]
    if kinds:
        one = {"$ref": f"{_REFERENCE}{kinds[0]}"}
        several = str(field.annotation).startswith("tuple")
        return {"type": "array", "items": one} if several else one
    annotation: Any = field.annotation
    for mark in field.metadata:
        annotation = Annotated[annotation, mark]
    try:
        found: Schema = TypeAdapter(annotation).json_schema()
    except PydanticInvalidForJsonSchema:
        return {}
    definitions.update(found.pop("$defs", {}))
    if not field.is_required() and isinstance(field.default, str | int | float | None):
        found["default"] = field.default
    return found
