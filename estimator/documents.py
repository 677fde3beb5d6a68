"""Reading YAML and JSON documents, and writing files that are never half there."""

from __future__ import annotations

import copy
import io
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from estimator.problems import InputError, Problem


class _Constructor(SafeConstructor):
    """YAML 1.2 scalars, but ``1_49`` stays the text it is written as (an answer, not 149)."""

    def construct_yaml_int(self, node: Any) -> Any:
        """Return the integer, or the text where digits are grouped with underscores."""
        return node.value if "_" in node.value else super().construct_yaml_int(node)


_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)


def _yaml() -> YAML:
    yaml: Any = YAML(typ="safe", pure=True)  # YAML 1.2: `no` is a word, not False
    yaml.Constructor = _Constructor
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # keep the order a person reads in
    return yaml


def parse_document(text: str, name: str) -> dict[str, Any]:
    """Return the mapping that a YAML or JSON text holds (JSON is read as YAML).

    Args:
        text: The document.
        name: What to call it in problems, usually its path.

    Raises:
        InputError: The text does not parse, or its top level is not a mapping.
    """
    try:
        value = _yaml().load(text)
        _check_ends(value, name)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = f"{line}not valid YAML or JSON ({(error.problem or 'syntax error').strip()})"
        fix = "correct that line; keys are written `key: value`, indented with spaces"
        raise InputError(Problem(name, what, fix=fix)) from error
    except RecursionError as error:
        what = "is nested too deeply to be read"
        raise InputError(Problem(name, what, fix="write it flatter")) from error
    except (YAMLError, ValueError, TypeError) as error:
        what = f"not valid YAML or JSON ({' '.join(str(error).split())})"
        raise InputError(Problem(name, what, fix="save it as UTF-8 YAML or JSON")) from error
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        fix = "write one `key: value` per line"
        raise InputError(Problem(name, f"holds {found} at its top level", "a mapping", fix))
    return value


def _check_ends(value: Any, name: str) -> None:
    """Refuse keys that are collections, and values that lie within themselves."""
    above: set[int] = set()
    done: set[int] = set()  # an alias makes one value appear many times

    def check(part: Any) -> None:
        if not isinstance(part, dict | list) or id(part) in done:
            return
        if id(part) in above:
            what = "has an alias to something that it lies in"
            raise InputError(Problem(name, what, fix="write the value out in place of its alias"))
        above.add(id(part))
        is_mapping = isinstance(part, dict)
        for key in part if is_mapping else ():
            if isinstance(key, tuple):
                what = f"{list(key)!r} is not a key"
                raise InputError(Problem(name, what, "a word", "write `key: value`"))
        for inner in part.values() if is_mapping else part:
            check(inner)
        above.remove(id(part))
        done.add(id(part))

    check(value)


def is_there(path: Path) -> bool:
    """Return whether there is such a file or folder; not where its name can be none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, behind a folder that cannot be read, with a NUL
        return False


def read_document(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file.

    Raises:
        InputError: The file cannot be read, or does not hold a mapping.
    """
    return parse_document(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        InputError: The file is missing, unreadable, a folder or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(Problem(str(path), "no such file", fix="check the path")) from error
    except IsADirectoryError as error:
        raise InputError(Problem(str(path), "is a folder", fix="name a file in it")) from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start})"
        raise InputError(Problem(str(path), what, fix="save it as UTF-8")) from error
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise InputError(Problem(str(path), what, fix="check its permissions")) from error


def apply_overrides(document: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return ``document`` with ``key=value`` overrides laid over it.

    Keys may be dotted (``adapter.r=8``); values are read as YAML, so ``null``, numbers, lists
    and mappings work. The document itself is left as it was.

    Raises:
        InputError: An override has no ``=``, no key, a value that does not parse, or reaches
            into something that is not a mapping.
    """
    result = copy.deepcopy(document)
    problems = []
    for override in overrides:
        key, separator, text = override.partition("=")
        where = f"--set {override}"
        if not separator or not all(part.strip() for part in key.split(".")):
            problems.append(Problem(where, "is not an override", "key=value, adapter.r=8"))
            continue
        try:
            value = parse_document(f"value: {text}\n", where)["value"]
        except InputError:
            problems.append(Problem(where, f"{text!r} is not a YAML value", fix="quote it"))
            continue
        if not _set_dotted(result, [part.strip() for part in key.split(".")], value):
            problems.append(Problem(where, f"{key} does not lead into a mapping"))
    if problems:
        raise InputError(problems)
    return result


def _set_dotted(document: dict[str, Any], path: list[str], value: Any) -> bool:
    for part in path[:-1]:
        document = document.setdefault(part, {})
        if not isinstance(document, dict):
            return False
    document[path[-1]] = value
    return True


def to_yaml(value: dict[str, Any]) -> str:
    """Return a mapping as YAML, in its own order."""
    stream = io.StringIO()
    _yaml().dump(value, stream)
    return stream.getvalue()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Text is written as UTF-8, its line ends as they are.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as stream:  # permissions as any new file's
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_out(path: Path, content: str | bytes) -> None:
    """Write a file that a person asked for, with the folders it lies in.

    Raises:
        InputError: It cannot be written; what was there is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise InputError(
            Problem(str(path), what, fix="name a file in a writable folder")
        ) from error
