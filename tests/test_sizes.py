"""The size budget of CONTRIBUTING.md. What does not fit is two things: give the second one a name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
PROTOCOL_METHODS_MAX = 4

FILES = sorted(path for package in ("psf", "executors", "store") for path in (ROOT / package).rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())

Function = ast.FunctionDef | ast.AsyncFunctionDef


def function_lines(function: Function) -> int:
    """From `def` to the last line, without the docstring: explaining must not cost anything."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is None or first.end_lineno is None:
        return lines
    return lines - (first.end_lineno - first.lineno + 1)


def is_protocol(node: ast.ClassDef) -> bool:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return any(ast.unparse(base).split(".")[-1] == "Protocol" for base in bases)


def too_long_functions(tree: ast.AST) -> list[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    return [f"{node.name}: {function_lines(node)}" for node in functions if function_lines(node) > FUNCTION_LINES_MAX]


def too_wide_protocols(tree: ast.AST) -> list[str]:
    protocols = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and is_protocol(node)]
    methods = {node.name: sum(isinstance(item, Function) for item in node.body) for node in protocols}
    return [f"{name}: {count}" for name, count in methods.items() if count > PROTOCOL_METHODS_MAX]


def test_there_are_files_to_measure() -> None:
    assert FILES


@each_file
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX


@each_file
def test_a_function_fits_on_a_screen(path: Path) -> None:
    assert too_long_functions(ast.parse(path.read_text())) == []


@each_file
def test_a_protocol_asks_for_little(path: Path) -> None:
    assert too_wide_protocols(ast.parse(path.read_text())) == []


def test_the_docstring_is_not_counted() -> None:
    body = "    x = 1\n" * (FUNCTION_LINES_MAX - 1)
    assert too_long_functions(ast.parse(f'def f():\n    """One.\n\n    Two."""\n{body}')) == []
    assert too_long_functions(ast.parse(f"async def f():\n{body}    x = 1\n")) == [f"f: {FUNCTION_LINES_MAX + 1}"]


def test_a_generic_protocol_is_one_too() -> None:
    methods = "    def a(self): ...\n" * (PROTOCOL_METHODS_MAX + 1)
    assert too_wide_protocols(ast.parse(f"class P(typing.Protocol[T]):\n{methods}")) == ["P: 5"]
