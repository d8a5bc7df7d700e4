"""The house rules: which way the arrows run, where asyncio lives, and what wire code may not touch.

The rules are read from the source with ast, so a rule holds for code that no test imports. Every rule is
first broken on purpose in a small house of paper, to show that the reading finds it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

HOUSE = Path(__file__).parent.parent

PACKAGES = {
    "afactors": "afactors",
    "afactors_channels": "channels/afactors_channels",
    "afactors_store": "store/afactors_store",
}
UPWARD = {
    "afactors": set[str](),
    "afactors_channels": {"afactors", "afactors_store"},
    "afactors_store": {"afactors", "afactors_channels"},
}
# A module with one of these names speaks a wire format, and does nothing else.
PURE = {"codec", "contents", "events", "fields", "framing", "ids", "items", "parse", "render", "signatures"}
PURE |= {"compaction", "conversations", "drafts", "frames", "listing", "output", "parts", "presentation", "settings"}
PURE |= {"calls", "emission", "sse", "stored_items", "stored_parts", "transcript", "wire", "workflows"}
PURE |= {"encoding", "points", "retention", "squeezing"}
PURE |= {"addresses", "verdicts"}
PURE |= {"addressing", "answers", "inputs", "messages", "phrases", "texts", "updates", "window"}
IMPURE = {"anyio", "asyncio", "httpx", "hypercorn", "quart", "quart_trio", "socket", "trio"}


class Import(NamedTuple):
    """One import: who asks (a path from the house's root, and the line) for which top-level module."""

    by: str
    line: int
    top: str

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.top}"


def modules(house: Path, package: str) -> list[Path]:
    return sorted((house / PACKAGES[package]).rglob("*.py"))


def imports(house: Path, path: Path) -> Iterator[Import]:
    """Every absolute import in a file, wherever it stands: inside functions and `if TYPE_CHECKING`, too.

    A relative import cannot leave its own package, so it breaks no rule.
    """
    by = path.relative_to(house).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=by)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(by, node.lineno, name.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield Import(by, node.lineno, node.module.partition(".")[0])


def all_imports(house: Path, package: str) -> Iterator[Import]:
    for path in modules(house, package):
        yield from imports(house, path)


def arrows_upward(house: Path) -> list[str]:
    return [str(i) for package, above in UPWARD.items() for i in all_imports(house, package) if i.top in above]


def asyncio_modules(house: Path) -> set[str]:
    return {i.by for package in PACKAGES for i in all_imports(house, package) if i.top == "asyncio"}


def is_the_bridge(path: str) -> bool:
    return path == "afactors/bridge.py" or path.startswith("afactors/bridge/")


def wire_modules(house: Path) -> list[Path]:
    return [path for path in modules(house, "afactors_channels") if path.stem in PURE]


def impure_wire_code(house: Path) -> list[str]:
    return [str(i) for path in wire_modules(house) for i in imports(house, path) if i.top in IMPURE]


def untyped_packages(house: Path) -> list[str]:
    return [folder for folder in PACKAGES.values() if not (house / folder / "py.typed").is_file()]


# --- this house ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "module"),
    [("afactors", "bridge"), ("afactors_channels", "contract"), ("afactors_store", "protocol")],
)
def test_the_reading_reaches_every_package(package: str, module: str) -> None:
    found = {path.relative_to(HOUSE / PACKAGES[package]).parts[0] for path in modules(HOUSE, package)}
    assert found & {module, f"{module}.py"}


def test_arrows_run_downward_only() -> None:
    assert arrows_upward(HOUSE) == []


def test_the_runtime_is_where_channels_and_store_meet() -> None:
    tops = {i.top for i in all_imports(HOUSE, "afactors")}
    assert {"afactors_channels", "afactors_store"} <= tops


def test_asyncio_lives_in_the_bridge_and_in_one_module_of_it() -> None:
    found = asyncio_modules(HOUSE)
    assert len(found) == 1, found
    assert is_the_bridge(found.pop())


def test_wire_code_does_no_io() -> None:
    assert {"parse", "render"} <= {path.stem for path in wire_modules(HOUSE)}
    assert impure_wire_code(HOUSE) == []


def test_every_package_ships_its_types() -> None:
    assert untyped_packages(HOUSE) == []


# --- a house of paper ------------------------------------------------------------------------------------


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """A house that keeps every rule."""
    files = {
        "afactors/actor.py": "import afactors_store\nfrom afactors_channels.contract import Channel\n",
        "afactors/bridge.py": "import asyncio\n",
        "afactors/py.typed": "",
        "channels/afactors_channels/contract.py": "import trio\nfrom .errors import BadRequest\n",
        "channels/afactors_channels/py.typed": "",
        "channels/afactors_channels/responses/parse.py": "import json\nfrom .. import contract\n",
        "store/afactors_store/protocol.py": "from afactors_store import errors\n",
        "store/afactors_store/py.typed": "",
    }
    for name, text in files.items():
        write(tmp_path, name, text)
    return tmp_path


def write(house: Path, name: str, text: str) -> None:
    path = house / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_house_that_keeps_the_rules_passes(paper: Path) -> None:
    assert arrows_upward(paper) == []
    assert asyncio_modules(paper) == {"afactors/bridge.py"}
    assert impure_wire_code(paper) == []
    assert untyped_packages(paper) == []


@pytest.mark.parametrize(
    ("module", "text", "top"),
    [
        ("store/afactors_store/lmdb/writer.py", "import afactors", "afactors"),
        ("store/afactors_store/protocol.py", "from afactors_channels import Channel", "afactors_channels"),
        ("channels/afactors_channels/push.py", "def late():\n    import afactors.actor", "afactors"),
        ("channels/afactors_channels/push.py", "if T:\n    from afactors_store import A", "afactors_store"),
    ],
)
def test_an_upward_arrow_is_found(paper: Path, module: str, text: str, top: str) -> None:
    write(paper, module, text)
    assert arrows_upward(paper) == [f"{module}:{text.count(chr(10)) + 1} imports {top}"]


@pytest.mark.parametrize("text", ["import asyncio", "from asyncio import Task", "import os, asyncio.tasks as t"])
@pytest.mark.parametrize("module", ["afactors/actor.py", "channels/afactors_channels/contract.py"])
def test_asyncio_elsewhere_is_found(paper: Path, module: str, text: str) -> None:
    write(paper, module, text)
    assert asyncio_modules(paper) == {"afactors/bridge.py", module}
    assert not is_the_bridge(module)


def test_the_bridge_may_be_a_package() -> None:
    assert is_the_bridge("afactors/bridge/thread.py")
    assert not is_the_bridge("afactors/bridges.py")


@pytest.mark.parametrize("name", ["parse", "render", "events", "sse", "ids"])
@pytest.mark.parametrize("top", ["trio", "quart", "quart_trio"])
def test_impure_wire_code_is_found(paper: Path, name: str, top: str) -> None:
    module = f"channels/afactors_channels/telegram/{name}.py"
    write(paper, module, f"from {top} import thing")
    assert impure_wire_code(paper) == [f"{module}:1 imports {top}"]


def test_a_missing_type_marker_is_found(paper: Path) -> None:
    (paper / "store/afactors_store/py.typed").unlink()
    assert untyped_packages(paper) == ["store/afactors_store"]
