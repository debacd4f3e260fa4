"""READMEs of the folders below `components/`, from docstrings: `python -m components.cli.readmes`
writes them.

Sources are parsed, never imported, so this needs no torch.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

COMPONENTS = Path(__file__).resolve().parents[1]

_MARK = "<!-- Made from docstrings by `make golden`; change those. -->"
_FAILURES = """Exit status: 2 for what the user can mend (`UserError`), 3 for damaged data (`Corrupt`), 75 for a passing
fault (`Transient`), 1 for a bug, with its traceback. Every try leaves an attempt record with its error."""


def folders() -> list[Path]:
    """Every folder that gets a README."""
    return sorted(path.parent for path in COMPONENTS.glob("*/__init__.py"))


def readme(folder: Path) -> str:
    """The text of one folder's README: a step's contract, and what is in which file."""
    paths = sorted(folder.rglob("*.py"), key=lambda path: (len(path.parts), path))
    modules = {
        path.relative_to(folder).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in paths
    }
    pieces = [f"# {folder.name}", _MARK]
    pieces += (
        _step(folder.name, modules) if "step.py" in modules else _plain(modules["__init__.py"])
    )
    rows = [
        f"| `{name}` | {_first_line(module)} |"
        for name, module in modules.items()
        if ast.get_docstring(module)
    ]
    pieces += ["## Files", "\n".join(["| file | what is in it |", "|---|---|", *rows])]
    return "\n\n".join(pieces) + "\n"


def _plain(module: ast.Module) -> list[str]:
    text = ast.get_docstring(module)
    return [text] if text else []


def _step(name: str, modules: dict[str, ast.Module]) -> list[str]:
    step = modules["step.py"]
    inputs = next(
        node
        for node in step.body
        if isinstance(node, ast.ClassDef) and node.name.lower() == f"{name}inputs"
    )
    run = next(
        node for node in step.body if isinstance(node, ast.FunctionDef) and node.name == "run"
    )
    told, failures = _split_raises(ast.get_docstring(run) or "")
    return [
        ast.get_docstring(step) or "",
        "## Inputs",
        _fields(inputs),
        "## Outputs",
        told,
        "## Failure modes",
        "\n\n".join(filter(None, (failures, _FAILURES))),
        "## By hand",
        f"`python -m components.{name} --help`: the same step from a container, a job or a laptop. "
        f"{_first_line(modules['__main__.py'])}",
    ]


def _fields(inputs: ast.ClassDef) -> str:
    """The fields of a dataclass with the docstrings below them, as a list."""
    lines = []
    following = [*inputs.body[1:], None]
    for node, after in zip(inputs.body, following, strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            said = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else ""
            )
            text = f"- `{node.target.id}` ({ast.unparse(node.annotation).replace(' | ', ' or ')})"
            lines.append(f"{text}: {' '.join(str(said).split())}" if said else text)
    return "\n".join(lines)


def _split_raises(docstring: str) -> tuple[str, str]:
    """Return (contract, errors) of a docstring, whose errors come last.

    Errors are a section `Raises:`, which becomes a list, or a sentence that begins with Raises.
    """
    contract, section, entries = docstring.partition("\nRaises:\n")
    if section:
        # An entry begins at the section's indentation; its further lines are indented deeper.
        items = [" ".join(entry.split()) for entry in re.split(r"\n    (?=\S)", f"\n{entries}")]
        named = [item.partition(": ") for item in items if item]
        return contract.strip(), "\n".join(f"- `{name}`: {text}" for name, _, text in named)
    sentence = re.search(r"\bRaises\s", docstring)
    end = sentence.start() if sentence else len(docstring)
    return docstring[:end].strip(), " ".join(docstring[end:].split())


def _first_line(module: ast.Module) -> str:
    return (ast.get_docstring(module) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def main() -> None:
    """Write every README."""
    for folder in folders():
        (folder / "README.md").write_text(readme(folder), encoding="utf-8")


if __name__ == "__main__":
    main()
