"""Rows on disk, as JSON that is read back whole and as CSV; and as a data frame."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from ragkit.benchmark.chunkings import ChunkingRow
from ragkit.benchmark.dimensions import DimensionRow
from ragkit.benchmark.qualities import QualityRow
from ragkit.benchmark.quantizations import QuantizationRow
from ragkit.benchmark.recall import RecallRow
from ragkit.benchmark.rows import About, Rows
from ragkit.errors import require

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]  # stubs are another package

FORMAT = 1  # of the JSON: another number, another meaning of the fields
KINDS: dict[str, type] = {
    "recall": RecallRow,
    "quantization": QuantizationRow,
    "dimensions": DimensionRow,
    "quality": QualityRow,
    "chunking": ChunkingRow,
}
_INTERVAL = ("difference", "low", "high")  # the columns of a difference


def write_rows(rows: Rows[Any], folder: str | Path) -> list[Path]:
    """Write a measurement as CSV, one line per row, and as JSON, with its circumstances.

    The files are named after the measurement, as `recall.csv` and `recall.json`, and replace those
    of an earlier one; each is there whole or not at all.

    Raises:
        ValueError: The rows are of no kind that is known, or hold a number that is not finite.
    """
    _row_type(rows.about.what)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"format": FORMAT, "about": asdict(rows.about), "rows": [asdict(r) for r in rows]}
    written = {".csv": _csv(rows), ".json": json.dumps(document, indent=2, allow_nan=False) + "\n"}
    paths = []
    for ending, content in written.items():
        path = folder / f"{rows.about.what}{ending}"
        write_whole(path, content.encode())
        paths.append(path)
    return paths


def read_rows(path: str | Path) -> Rows[Any]:
    """Read a measurement from its JSON, as the rows that were written.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, of another version of ragkit, or something else.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:  # not JSON, or not UTF-8
        raise _refused(path, f"not JSON ({exc})") from exc
    if not isinstance(document, dict) or not {"format", "about", "rows"} <= document.keys():
        raise _refused(path, "there is no format, about and rows in it")
    if document["format"] != FORMAT:
        version = f"its format is {document['format']!r}, this version of ragkit reads {FORMAT}"
        raise _refused(path, version)
    try:
        about: About = _as_type(About, document["about"], "about")
        row_type = _row_type(about.what)
        if not isinstance(document["rows"], list):
            raise ValueError("expected rows to be a list")
        rows = [_as_type(row_type, row, f"rows[{n}]") for n, row in enumerate(document["rows"])]
    except ValueError as exc:
        raise _refused(path, str(exc)) from exc
    return Rows(rows, about=about)


def frame(rows: Rows[Any]) -> pd.DataFrame:
    """The rows as a data frame of pandas, flat as in the CSV.

    Raises:
        MissingDependency: pandas is not installed.
    """
    made: pd.DataFrame = require("pandas", "bench").DataFrame(_flat(rows))
    return made


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
        try:
            temporary.write(content)
            temporary.flush()
            os.fsync(temporary.fileno())
            Path(temporary.name).chmod(0o666 & ~_umask())  # as any file, not as a secret one
            Path(temporary.name).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(temporary.name).unlink()
            raise


def _umask() -> int:
    """The process's: the only way to read it is to set it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _row_type(what: str) -> type:
    if what not in KINDS:
        raise ValueError(f"expected about.what to be one of {', '.join(KINDS)}, got {what!r}")
    return KINDS[what]


def _csv(rows: Rows[Any]) -> str:
    lines = _flat(rows)
    names = list(dict.fromkeys(name for line in lines for name in line))
    if not lines:
        names = [field.name for field in fields(_row_type(rows.about.what))]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(rows: Rows[Any]) -> list[dict[str, Any]]:
    """Each row as columns: a mapping's key behind a dot, a difference as its three numbers."""
    return [dict(_flattened(asdict(row))) for row in rows]


def _flattened(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    columns: list[tuple[str, Any]] = []
    for name, value in record.items():
        column = prefix + name
        if isinstance(value, Mapping):
            columns += _flattened(value, f"{column}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            columns += [(f"{column}.{part}", each) for part, each in zip(_INTERVAL, value)]  # noqa: B905  # none for the first row
        else:
            columns.append((column, value))
    return columns


def _as_type(wanted: Any, value: Any, name: str) -> Any:
    """A value out of JSON as the type of a field, checked."""
    if hasattr(wanted, "__dataclass_fields__"):
        return _as_record(wanted, value, name)
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return _as_one_of(parts, value, name)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: _as_type(parts[1], each, f"{name}.{key}") for key, each in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_as_type(parts[0], each, f"{name}[{n}]") for n, each in enumerate(value))
    if wanted is Any:
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in (str, int, float, bool, NoneType) and type(value) is wanted:
        return value
    raise ValueError(f"{name} holds {value!r:.40}")


def _as_record(wanted: Any, value: Any, name: str) -> Any:
    known = {field.name for field in fields(wanted)}
    if not isinstance(value, dict) or value.keys() != known:
        there = set(value) if isinstance(value, dict) else set()
        wrong = sorted(there ^ known) or [name]
        raise ValueError(f"{name} is not what it should be: {', '.join(map(str, wrong))}")
    hints = get_type_hints(wanted)
    return wanted(**{key: _as_type(hints[key], each, f"{name}.{key}")
                     for key, each in value.items()})  # fmt: skip


def _as_one_of(choices: tuple[Any, ...], value: Any, name: str) -> Any:
    """Exact types first, so that a whole number stays one where both are allowed."""
    exact = [each for each in choices if type(value) is each]
    for choice in (*exact, *choices):
        with suppress(ValueError):
            return _as_type(choice, value, name)
    raise ValueError(f"{name} holds {value!r:.40}")


def _refused(path: Path, why: str) -> ValueError:
    return ValueError(
        f"expected {path} to be a result that this version of ragkit bench wrote, but {why}: "
        "measure again, or remove it"
    )
