"""--config: a YAML file whose keys are a script's flags, read strictly."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def config_flags(parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """The flags that a YAML file stands for. Nested sections are only headings."""
    import yaml

    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_strict_loader())
    except OSError as error:
        parser.error(f"cannot read --config {path}: {error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"--config {path} is not valid YAML: {' '.join(str(error).split())}")
    if not isinstance(document or {}, dict):
        parser.error(f"--config {path} must hold `flag: value` lines, found {type(document).__name__}")
    actions = {
        option[2:]: action for action in parser._actions for option in action.option_strings if option[:2] == "--"
    }
    flags: list[str] = []
    seen: set[str] = set()
    for key, value in _flatten(parser, path, document or {}, ()):
        name = key.replace("_", "-")
        if name in seen:
            parser.error(f"--config {path}: the key '{key}' stands twice")
        seen.add(name)
        if name not in actions or name in ("config", "help"):
            parser.error(f"--config {path}: unknown key '{key}'{did_you_mean(name, actions)}")
        flags += _as_flags(parser, path, name, value, actions[name])
    return flags


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to add to an error about a mistyped `word`; nothing where nothing known is like it."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _strict_loader() -> type:
    """A YAML loader that refuses a key given twice and leaves every scalar but null as it is written.

    What a value means is the flag's to say: YAML 1.1 reads 0010 as eight and off as false.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
            if twice is not None:
                raise yaml.YAMLError(f"the key '{twice}' stands twice, line {node.start_mark.line + 1} and on")
            return super().construct_mapping(node, deep)

    return Loader


def _flatten(
    parser: argparse.ArgumentParser, path: Path, document: dict, outer: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    if id(document) in outer:
        parser.error(f"--config {path}: a section contains itself")
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flatten(parser, path, value, (*outer, id(document)))
        else:
            yield str(key), value


def _as_flags(parser: argparse.ArgumentParser, path: Path, name: str, value: Any, action: argparse.Action) -> list[str]:
    if value is None:
        return []
    if action.nargs == 0:
        if str(value).lower() not in SWITCH:
            parser.error(f"--config {path}: '{name}' is a switch and takes true or false, found {value!r}")
        return [f"--{name}"] if SWITCH[str(value).lower()] else []
    if isinstance(value, list):
        if action.nargs is None:
            parser.error(f"--config {path}: '{name}' takes one value, found the list {value}")
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]
