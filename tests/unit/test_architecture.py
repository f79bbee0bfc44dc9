"""Who may import whom, downward only; what stays pure; how long a module may be. Read from the source, not run."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 500

LAYERS: tuple[str, ...] = (
    "",  # the version
    "errors",
    "os_errors",
    "backoff",
    "clocks",
    "model",
    "orderbook",
    "redact",
    "keys",
    "symbols",
    "market_hours",
    "candles",
    "timeframes",
    "record_check",
    "record_wire",
    "kinds",
    "config",
    "command_database",
    "lakes",
    "plugin",
    "protocol",
    "plugin_folders",
    "registry",
    "net",
    "metrics",
    "log",
    "private_file",
    "data_folder_lock",
    "control_socket",
    "feed",
    "testing",
    "journal",
    "bus",
    "stream",
    "store.pg_binary",
    "store.rows",
    "store.series",
    "store.seq_times",
    "store.scan",
    "store.candle_table",
    "store.recompute_candles",
    "store.connection",
    "store.tables",
    "store.embedded",
    "store.open_database",
    "store.recurring_gaps",
    "store.gap_ledger",
    "store.live",
    "store.history",
    "store.query",
    "store.lake",
    "store.upkeep",
    "store.store",
    "store",
    "web.access",
    "web.server",
    "web.stream",
    "web.api",
    "web.udf",
    "web.page",
    "web.app",
    "web",
    "backfill",
    "commands",
    "daemon",
    "kit",
    "cli",
    "__main__",
)
"""Each room and its layer, lowest first: a module imports from its own room and from those before it."""

SPLIT = ("store", "web")
"""Rooms whose own rooms are layers too."""

PURE = (
    "backoff",
    "clocks",
    "candles",
    "errors",
    "journal.format",
    "keys",
    "kinds",
    "market_hours",
    "model",
    "orderbook",
    "protocol",
    "record_check",
    "record_wire",
    "redact",
    "symbols",
    "timeframes",
)
IMPURE_LIBRARIES = frozenset(
    (
        "trio",
        "anyio",
        "asyncio",
        "socket",
        "ssl",
        "psycopg",
        "psycopg_pool",
        "httpx2",
        "hypercorn",
        "quart",
        "threading",
    )
)
IMPURE_CALLS = frozenset(
    ("open", "pread", "pwrite", "read", "write", "fsync", "stat", "unlink", "replace", "listdir")
)
"""Of the module ``os``."""

PLUGINS_MAY_IMPORT = ("", "errors", "market_hours", "model", "net", "orderbook", "plugin", "symbols")
PLUGIN_TESTS_MAY_IMPORT = (*PLUGINS_MAY_IMPORT, "testing")

SERVER = sorted(ROOT.glob("mdserver/**/*.py"))
PLUGINS = sorted(path for path in ROOT.glob("plugins/*/**/*.py") if ".venv" not in path.parts)


def dotted(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, also inside functions."""
    name = dotted(path, root)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            # "from . import x" may name modules or what is in the package: take what is there
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if is_module(inner, root) else module


def is_module(name: str, root: Path) -> bool:
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def part(name: str) -> str:
    """Return the top-level part of one of our modules: ``web`` of ``mdserver.web.app``, "" of the package."""
    return [*name.split("."), ""][1]


def room(name: str) -> str:
    """Return the room of one of our modules: ``web.stream`` of ``mdserver.web.stream.sink``."""
    parts = name.split(".")[1:]
    return ".".join(parts[: 2 if parts and parts[0] in SPLIT else 1])


def layer(name: str) -> int:
    if room(name) not in LAYERS:
        pytest.fail(f"{name} is in no layer: name its room in LAYERS of {Path(__file__).name}")
    return LAYERS.index(room(name))


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "mdserver"}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SERVER, ids=ids)
def test_imports_go_downward(path: Path) -> None:
    name = dotted(path)
    upward = sorted(other for other in ours(path) if layer(other) > layer(name))
    assert not upward, f"{name} imports from above: {upward}"


def test_no_cycles() -> None:
    graph = {dotted(path): ours(path) - {dotted(path)} for path in SERVER}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"cycle: {' -> '.join([*above[above.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def is_pure(path: Path) -> bool:
    inner = dotted(path).removeprefix("mdserver.")
    return path.name == "codec.py" or (
        path in SERVER and any(inner == pure or inner.startswith(pure + ".") for pure in PURE)
    )


@pytest.mark.parametrize("path", [path for path in (*SERVER, *PLUGINS) if is_pure(path)], ids=ids)
def test_pure_modules_do_no_io(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)} & IMPURE_LIBRARIES
    assert not used, f"{ids(path)} is pure and imports {sorted(used)}"
    calls = {
        node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert not calls & IMPURE_CALLS, f"{ids(path)} is pure and calls os.{sorted(calls & IMPURE_CALLS)}"
    if path in PLUGINS:
        assert "net" not in {part(name) for name in ours(path)}, "a codec does not know the network"


@pytest.mark.parametrize("path", PLUGINS, ids=ids)
def test_plugins_import_only_the_public_parts(path: Path) -> None:
    for_tests = "tests" in path.parts or path.name == "conformance.py" or path.name.startswith("fake_")
    allowed = PLUGIN_TESTS_MAY_IMPORT if for_tests else PLUGINS_MAY_IMPORT
    found = {part(name) for name in imports(path, path.parents[1]) if name.split(".")[0] == "mdserver"}
    assert found <= set(allowed), f"imports mdserver.{sorted(found - set(allowed))}"


def test_the_server_imports_no_plugin() -> None:
    plugins = {path.parent.name for path in ROOT.glob("plugins/*/mdserver_*/__init__.py")}
    assert plugins, "there are plugins"
    for path in SERVER:
        assert not {name.split(".")[0] for name in imports(path)} & plugins, ids(path)


@pytest.mark.parametrize("path", [*SERVER, *(p for p in PLUGINS if "tests" not in p.parts)], ids=ids)
def test_modules_are_short_and_say_what_they_are(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: ask what second thing the module does"
    if lines:
        assert ast.get_docstring(tree(path)), "no docstring"


def public_definitions(module: ast.Module) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in module.body if isinstance(node, kinds) and not node.name.startswith("_")]


def exported(module: ast.Module) -> list[str] | None:
    for node in module.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


@pytest.mark.parametrize("path", [path for path in SERVER if public_definitions(tree(path))], ids=ids)
def test_public_names_are_deliberate(path: Path) -> None:
    names = exported(tree(path))
    assert names is not None, "no __all__"
    assert len(names) == len(set(names)), "a name twice in __all__"
    documented = {
        node.name: ast.get_docstring(node)
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    without = [name for name in names if name in documented and not documented[name]]
    assert not without, f"exported without a docstring: {without}"
