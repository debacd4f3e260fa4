"""READMEs of the folders below `components/`, made from docstrings.

`python -m components.cli.readmes` writes them. Sources are parsed, never imported, so this needs no
torch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

COMPONENTS = Path(__file__).resolve().parents[1]

_MARK = "<!-- Made from docstrings by `make golden`; change those. -->"
_FAILURES = (
    "Exit status: 2 for what the user can mend (`UserError`), 3 for damaged data (`Corrupt`), 75 "
    "for a passing\nfault (`Transient`), 1 for a bug, with its traceback. Every try leaves an "
    "attempt record with its error."
)


def folders() -> list[Path]:
    """Return every folder that gets a README."""
    return sorted(path.parent for path in COMPONENTS.glob("*/__init__.py"))


def readme(folder: Path) -> str:
    """Return the text of one folder's README: a step's contract, and a line for each file."""
    # The folder's own files first, then those of its subfolders.
    paths = sorted(folder.rglob("*.py"), key=lambda path: (len(path.parts), path))
    modules = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        modules[name] = _parse(path)
    rows = ["| file | what is in it |", "|---|---|"]
    for name, module in modules.items():
        if ast.get_docstring(module):
            summary = _first_paragraph(module)
            rows.append(f"| `{name}` | {summary} |")
    paragraphs = [
        f"# {folder.name}",
        _MARK,
        *_contract(folder.name, modules),
        "## Files",
        "\n".join(rows),
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _contract(name: str, modules: Mapping[str, ast.Module]) -> list[str]:
    if "step.py" in modules:
        return _describe_step(name, modules)
    return [_docstring(modules["__init__.py"])]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _docstring(node: ast.Module | ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _describe_step(name: str, modules: Mapping[str, ast.Module]) -> list[str]:
    """Return the paragraphs about a step: its inputs, outputs and failures."""
    step = modules["step.py"]
    contract, failures = _split_raises(_docstring(_run_function(step)))
    return [
        _docstring(step),
        "## Inputs",
        _fields(_inputs_class(step, name)),
        "## Outputs",
        contract,
        "## Failure modes",
        failures,
        _FAILURES,
        "## By hand",
        f"`python -m components.{name} --help`: the same step from a container, a job or a laptop. "
        f"{_first_paragraph(modules['__main__.py'])}",
    ]


def _run_function(step: ast.Module) -> ast.FunctionDef:
    for node in step.body:
        if isinstance(node, ast.FunctionDef) and node.name == "run":
            return node
    raise LookupError("the step has no function `run`")


def _inputs_class(step: ast.Module, name: str) -> ast.ClassDef:
    class_name = f"{name}inputs"
    for node in step.body:
        if isinstance(node, ast.ClassDef) and node.name.lower() == class_name:
            return node
    raise LookupError(f"{name} has no class {name.capitalize()}Inputs")


def _fields(inputs: ast.ClassDef) -> str:
    """Return the fields of a dataclass with the docstrings below them, as a list."""
    # Python keeps no docstring of a field: it is the string that stands alone below it.
    lines = []
    following_nodes = [*inputs.body[1:], None]
    for node, following_node in zip(inputs.body, following_nodes, strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        type_text = ast.unparse(node.annotation).replace(" | ", " or ")
        line = f"- `{node.target.id}` ({type_text})"
        meaning = _string_statement(following_node)
        lines.append(f"{line}: {meaning}" if meaning else line)
    return "\n".join(lines)


def _string_statement(node: ast.stmt | None) -> str:
    """Return the text of a string that stands alone, on one line; empty for any other statement."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def _split_raises(docstring: str) -> tuple[str, str]:
    """Return (contract, errors) of a docstring, whose errors come last.

    Errors are a section `Raises:`, which becomes a list, or a sentence that begins with Raises.
    """
    contract, section, entries = docstring.partition("\nRaises:\n")
    if section:
        return contract.strip(), _list_of_errors(entries)
    match = re.search(r"\bRaises\s", docstring)
    if match is None:
        return docstring.strip(), ""
    sentence = " ".join(docstring[match.start() :].split())
    return docstring[: match.start()].strip(), sentence


def _list_of_errors(section: str) -> str:
    lines = []
    # An entry begins at the section's indentation; its further lines are indented deeper.
    for entry in re.split(r"\n    (?=\S)", f"\n{section}"):
        line = " ".join(entry.split())
        name, _, meaning = line.partition(": ")
        if name:
            lines.append(f"- `{name}`: {meaning}")
    return "\n".join(lines)


def _first_paragraph(module: ast.Module) -> str:
    """Return the first paragraph of a docstring as a cell of a table."""
    paragraph, _, _ = _docstring(module).partition("\n\n")
    return paragraph.replace("\n", " ").replace("|", "\\|")


def main() -> None:
    """Write every README."""
    for folder in folders():
        (folder / "README.md").write_text(readme(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
