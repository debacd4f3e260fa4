"""Measures of style of the product code, as a Markdown table: `python -m tests.style_meter [PATH …]`.

With `--page` the table goes into docs/development.md; `make golden` does that. Each figure stands
for a rule of how code is written here. Other projects can be measured with the same rules by naming
their folders.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.marked_text import with_part

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "development.md"
MAX_COLUMNS = 100

_VAGUE = {
    "an adjective or pronoun, without its noun": (
        "one ones own other others rest whole most least some few thing things"
    ),
    "a participle: what happened to a value, not what it is": (
        "found told made given said seen shown known asked taken wanted kept done left"
    ),
    "a question, where the answer has a name (reason, path, kind)": "why what where how who",
    "a point in time or space, which moves as the code around it does": (
        "before after now then here there place places about"
    ),
}
VAGUE_NAMES = frozenset(" ".join(_VAGUE.values()).split())
"""Names that say nothing about the value they are bound to."""

_QUESTION = re.compile(r"\s*(what|how|of|where|whether)\b", re.IGNORECASE)
_LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@dataclass
class Counts:
    """Sums over all files."""

    lines: int = 0
    code_lines: int = 0
    """Lines with code; docstrings and comments are none."""
    long_lines: int = 0
    comment_lines: int = 0
    """Lines with nothing but a comment."""
    fmt_skips: int = 0
    nodes: int = 0
    """Statements and expressions."""
    names: int = 0
    """Bindings of a name: assignments, loops, arguments; `self`, `cls` and `_` are not counted."""
    vague_names: int = 0
    anys: int = 0
    docstrings: int = 0
    question_docstrings: int = 0
    function_lines: list[int] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Count one file."""
        lines, documented = text.splitlines(), set[int]()
        self.lines += len(lines)
        self.long_lines += sum(len(line) > MAX_COLUMNS for line in lines)
        for node in ast.walk(ast.parse(text)):
            self.nodes += isinstance(node, ast.stmt | ast.expr)
            self.anys += isinstance(node, ast.Name) and node.id == "Any"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.function_lines.append(
                    (node.end_lineno or node.lineno) - node.lineno + 1
                )
            name = _bound_name(node)
            if name and name not in {"self", "cls", "_"}:
                self.names += 1
                self.vague_names += name in VAGUE_NAMES
            if (
                isinstance(node, ast.Expr)
                and (docstring := _docstring(node)) is not None
            ):
                self.docstrings += 1
                self.nodes -= 2  # the statement and the string: they are no code
                self.question_docstrings += bool(_QUESTION.match(docstring))
                documented |= set(
                    range(node.lineno, (node.end_lineno or node.lineno) + 1)
                )
        code = set[int]()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                self.fmt_skips += bool(re.search(r"\bfmt:\s*skip\b", token.string))
                self.comment_lines += token.line.lstrip().startswith("#")
            elif token.type not in _LAYOUT:
                code |= set(range(token.start[0], token.end[0] + 1))
        self.code_lines += len(code - documented)

    def rates(self) -> dict[str, float]:
        """Name of a measure, with its unit → its value."""
        functions = sorted(self.function_lines)
        return {
            "syntax nodes per code line": self.nodes / self.code_lines,
            "vague names, %": 100 * self.vague_names / self.names,
            "`Any` per 1,000 lines": 1000 * self.anys / self.lines,
            "`# fmt: skip`": self.fmt_skips,
            "comment lines, %": 100 * self.comment_lines / self.lines,
            "docstrings that begin with a question word, %": (
                100 * self.question_docstrings / max(1, self.docstrings)
            ),
            "lines of a function, median": statistics.median(functions),
            "lines of a function, 90th percentile": functions[
                int(0.9 * (len(functions) - 1))
            ],
            "lines of a function, most": functions[-1],
            f"lines over {MAX_COLUMNS} columns, %": 100 * self.long_lines / self.lines,
        }


def _bound_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return node.arg if isinstance(node, ast.arg) else None


def _docstring(node: ast.Expr) -> str | None:
    """Text of a string that stands alone as a statement, be it for a module, function or field."""
    value = node.value.value if isinstance(node.value, ast.Constant) else None
    return value if isinstance(value, str) else None


def product_files() -> list[Path]:
    """All Python files that are shipped or build what is shipped."""
    components, docker = ROOT / "components", ROOT / "docker"
    return [
        ROOT / "pipeline.py",
        *sorted(components.rglob("*.py")),
        *sorted(docker.glob("*.py")),
    ]


def measure(files: Iterable[Path]) -> Counts:
    """Counts over these files."""
    counts = Counts()
    for file in files:
        counts.add(file.read_text(encoding="utf-8"))
    return counts


def table(files: Iterable[Path]) -> str:
    """Return the measures of these files as a Markdown table."""
    lines = ["| measure | value |", "|---|---|"]
    for name, value in measure(files).rates().items():
        lines.append(f"| {name} | {value:.3g} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.style_meter", description=__doc__
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, help="folders; default: the product code"
    )
    parser.add_argument(
        "--page", action="store_true", help="write it into docs/development.md"
    )
    options = parser.parse_args()
    files = [file for path in options.paths for file in sorted(path.rglob("*.py"))]
    measured = table(files or product_files())
    if options.page:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_part(page, "style", measured), encoding="utf-8")
    else:
        print(measured)


if __name__ == "__main__":
    main()
