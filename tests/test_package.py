from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from pathlib import Path

import ragkit

ROOT = Path(__file__).parent.parent


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_all_names_are_sorted_and_load() -> None:
    assert ragkit.__all__ == sorted(ragkit.__all__)
    for name in ragkit.__all__:
        assert getattr(ragkit, name).__module__.startswith("ragkit.")
    assert set(ragkit.__all__) == {name for names in ragkit._HOMES.values() for name in names}


def test_every_public_name_has_a_docstring() -> None:
    undocumented = [name for name in ragkit.__all__ if not getattr(ragkit, name).__doc__]
    assert undocumented == []


def test_importing_ragkit_loads_no_other_library() -> None:
    loaded = {name.split(".")[0] for name in modules_after("import ragkit")}
    assert not loaded & {
        "numpy",
        "qdrant_client",
        "qdrant_edge",
        "typer",
        "rich",
        "pydantic",
        "langchain_core",
        "llama_index",
    }


def test_the_command_line_loads_the_engine_only_when_it_works() -> None:
    loaded = {name.split(".")[0] for name in modules_after("import ragkit.cli")}
    assert not loaded & {
        "numpy",
        "qdrant_client",
        "qdrant_edge",
        "lxml",
        "langchain_text_splitters",
    }


def test_modules_import_in_one_direction() -> None:
    """No import of the package, at the top of a module or inside a function, closes a circle."""
    imports: dict[str, set[str]] = {}
    for path in (ROOT / "ragkit").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        imports[name] = {
            module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for module in (node.module, *(f"{node.module}.{each.name}" for each in node.names))
        }
    # Packages only pass names on, when these are first asked for.
    packages = {".".join(path.relative_to(ROOT).parent.parts)
                for path in (ROOT / "ragkit").rglob("__init__.py")}  # fmt: skip
    own = {
        name: needed.intersection(imports) - packages
        for name, needed in imports.items()
        if name not in packages
    }
    order = list(graphlib.TopologicalSorter(own).static_order())
    assert order.index("ragkit.errors") < order.index("ragkit.collection")
    assert order.index("ragkit.collection") < order.index("ragkit.cli")


def test_the_embedded_engine_is_pinned_to_a_minor_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = [each for each in project["dependencies"] if each.startswith("qdrant-edge-py")]
    assert ",<0." in pin


def test_the_measurements_are_there_without_an_import_of_their_own() -> None:
    program = "import ragkit, sys; assert 'ragkit.benchmark' not in sys.modules; "
    program += "print(ragkit.benchmark.recall_sweep.__name__, 'matplotlib' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert shown.stdout.split() == [b"recall_sweep", b"False"]
