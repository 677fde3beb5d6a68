"""Compare what a recipe's train.py calls with the signatures in Unsloth's sources: no import."""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path

from said import each_recipe


def _signatures() -> dict[str, set[str]]:
    """The parameters of FastLanguageModel's two methods, by name."""
    (wheel,) = Path(sys.argv[1]).glob("unsloth-*.whl")
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for file, owner, method in (
            ("unsloth/models/loader.py", "FastLanguageModel", "from_pretrained"),
            ("unsloth/models/llama.py", "FastLlamaModel", "get_peft_model"),
        ):
            tree = ast.parse(archive.read(file))
            classes = {one.name: one for one in tree.body if isinstance(one, ast.ClassDef)}
            functions = (one for one in classes[owner].body if isinstance(one, ast.FunctionDef))
            (function,) = (one for one in functions if one.name == method)
            given = [*function.args.args, *function.args.kwonlyargs]
            found[method] = {one.arg for one in given}
    found["get_peft_model"].add("use_dora")  # read from **kwargs, which models/llama.py says
    return found


SIGNATURES = _signatures()


def read(folder: Path) -> str:
    """Return what is called; a keyword that is not in the signature is refused."""
    del folder
    tree = ast.parse(Path("train.py").read_text(encoding="utf-8"))
    seen = []
    for call in (one for one in ast.walk(tree) if isinstance(one, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name in SIGNATURES:
            unknown = {one.arg for one in call.keywords} - SIGNATURES[name]
            if unknown:
                raise ValueError(f"{name} has no {sorted(map(str, unknown))}")
            seen.append(f"{name} ({len(call.keywords)} keywords)")
    if not seen:
        raise ValueError("Unsloth is not called")
    return f"compared: {', '.join(seen)}"


each_recipe(read)
