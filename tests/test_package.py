"""The package as a whole: imports point one way, importing is light, the wheel carries conf/, versions are pinned."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gcoord"

LAYERS = {
    "base": {
        "spec",
        "trajectory",
        "graph",
        "neighbours",
        "strips",
        "candidates",
        "hashing",
        "planes",
        "edges",
        "returns",
    },
    "conf": {"arguments", "conf"},
    "checkpoint": {"checkpoint"},
    "models": {"models"},
    "envs": {"envs"},
    "policy": {"policy"},
    "learners": {"learners"},
    "data": {"data"},
    "run": {"run", "run_folder", "warm_start", "fitting", "callbacks", "lock"},
    "scaleup": {"scaleup"},
    "commands": {"command", "train", "evaluate", "record", "compare", "worlds"},
}
SEES = {
    "base": {"base"},
    "conf": {"conf"},
    "checkpoint": {"checkpoint"},
    "models": {"base", "models"},
    "envs": {"base", "envs"},
    "policy": {"base", "models", "conf", "checkpoint", "policy"},
    "learners": {"base", "models", "learners"},
    "data": {"base", "models", "learners", "envs", "checkpoint", "data"},
    "run": set(LAYERS) - {"scaleup", "commands"},
    "scaleup": set(LAYERS) - {"commands"},
    "commands": set(LAYERS),
}
# Which files may import these, by their path below gcoord/ or the layer's name.
ONLY_IN = {
    "hydra": {"commands"},
    "lightning": {"learners/base.py", "run"},
    "omegaconf": {"conf", "run", "scaleup", "commands"},
    "torch_geometric": {"models/kernels.py"},
}
PLAIN = {"torch", "tensordict", "jaxtyping", "gcoord"}


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer_of(name: str) -> str:
    layers = [layer for layer, members in LAYERS.items() if name in members]
    assert layers, f"expected gcoord/{name} to belong to a layer of this test"
    return layers[0]


def layer_of_file(path: Path) -> str:
    if path.name == "__main__.py":
        return "commands"
    return layer_of(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree: ast.AST, *, inside: bool = True) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module, names) of each import but those for type checkers; `inside`: also those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "expected absolute imports"
            yield str(node.module), tuple(alias.name for alias in node.names)
        elif is_for_types(node):
            yield from imports(ast.Module(node.orelse, []), inside=inside)
        elif inside or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(node, inside=inside)


def modules_of(tree: ast.AST, known: set[str], *, inside: bool = True) -> set[str]:
    """Modules of gcoord that a file imports; `from gcoord import conf` counts as gcoord.conf."""
    found = set()
    for module, names in imports(tree, inside=inside):
        if module == "gcoord" or module.startswith("gcoord."):
            submodules = {f"{module}.{name}" for name in names} & known
            found |= submodules or {module}
    return found


def known_modules() -> set[str]:
    return {module_name(path) for path in sources()}


def test_imports_point_one_way() -> None:
    known = known_modules()
    wrong = []
    for path in sources():
        layer = layer_of_file(path)
        for module in modules_of(ast.parse(path.read_text()), known) - {"gcoord"}:
            if layer_of(module.split(".")[1]) not in SEES[layer]:
                wrong.append(f"{module_name(path)} ({layer}) imports {module}")
    assert not wrong


def test_no_module_imports_itself_over_others() -> None:
    known = known_modules()
    graph = {
        module_name(path): modules_of(ast.parse(path.read_text()), known, inside=False) & known for path in sources()
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"expected no cycle (got {' -> '.join([*above, module])})"
        if module not in done:
            for one in sorted(graph[module] - {module}):
                visit(one, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_models_and_graphs_need_torch_and_tensordict_alone() -> None:
    for path in sources():
        if layer_of_file(path) in ("base", "models"):
            tree = ast.parse(path.read_text())
            foreign = {module.split(".")[0] for module, _ in imports(tree)} - PLAIN - set(sys.stdlib_module_names)
            assert foreign <= {"torch_geometric"}, path
            others = ast.Module([node for node in tree.body if getattr(node, "name", "") != "ConvKernel"], [])
            assert "torch_geometric" not in {module.split(".")[0] for module, _ in imports(others)}, path


def test_heavy_packages_are_imported_only_where_they_belong() -> None:
    for path in sources():
        here = {path.relative_to(PACKAGE).as_posix(), layer_of_file(path)}
        for module, _ in imports(ast.parse(path.read_text())):
            package = module.split(".")[0].replace("pytorch_lightning", "lightning")
            assert package not in ONLY_IN or here & ONLY_IN[package], f"{path.relative_to(ROOT)} imports {module}"


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    names = {"utils", "util", "common", "helpers", "misc", "registry"}
    assert not [path for path in sources() if path.stem in names or path.parent.name in names]


def test_the_walker_sees_what_it_must(tmp_path: Path) -> None:
    text = (
        "from typing import TYPE_CHECKING\nimport gcoord.models.heads\nfrom gcoord import conf, load\n"
        "if TYPE_CHECKING:\n    import gcoord.run\nelse:\n    import gcoord.spec\n"
        "try:\n    import hydra\nexcept ImportError:\n    pass\n"
        "def late():\n    from gcoord.data import collect\n"
    )
    tree = ast.parse(text)
    known = {"gcoord.models.heads", "gcoord.conf", "gcoord.run", "gcoord.spec", "gcoord.data.collect"}
    early = {"gcoord.models.heads", "gcoord.conf", "gcoord.spec"}
    assert modules_of(tree, known, inside=False) == early
    assert modules_of(tree, known) == early | {"gcoord.data.collect"}
    assert "hydra" in {module for module, _ in imports(tree)}


# Importing is light


def loaded_by(code: str) -> tuple[set[str], float]:
    script = (
        "import sys, time\nbegan = time.perf_counter()\n"
        f"{code}\nprint(time.perf_counter() - began)\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120, check=True
    )
    seconds, names = done.stdout.splitlines()[-2:]
    return set(names.split()), float(seconds)


HEAVY = {"lightning", "pytorch_lightning", "hydra", "torch_geometric", "tensorboard", "matplotlib", "wandb", "mlflow"}
WORLDS = {"vmas", "pettingzoo", "gymnasium", "gym", "mpe2", "supersuit", "magent2", "ale_py", "pygame"}


def test_importing_gcoord_is_quick_and_loads_neither_trainer_nor_world() -> None:
    loaded, seconds = loaded_by("import gcoord")
    assert not loaded & (HEAVY | WORLDS | {"torch"})
    assert seconds < 1.5


@pytest.mark.parametrize("code", ["from gcoord import load, make_env, TeamSpec", "import gcoord.models, gcoord.graph"])
def test_policies_and_layers_need_neither_trainer_nor_world(code: str) -> None:
    loaded, _ = loaded_by(code)
    assert not loaded & (HEAVY | WORLDS)


# What is installed


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "expected nothing but name==version"
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def test_every_dependency_is_pinned_at_a_version_it_allows() -> None:
    pinned = pins()
    extras = project()["optional-dependencies"]
    for text in [*project()["dependencies"], *(one for group in extras.values() for one in group)]:
        needed = Requirement(text)
        if needed.name != "gcoord":
            assert needed.specifier.contains(pinned[needed.name.lower().replace("_", "-")]), text


def test_pins_name_no_place_and_no_build_for_one_device() -> None:
    assert not [one for one in pins().values() if any(mark in one for mark in "+/:@")]


def test_torchvision_is_not_in_the_core_environment() -> None:
    assert "torchvision" not in pins()
    assert not [text for text in project()["dependencies"] if "torchvision" in text]


def test_every_extra_that_is_promised_is_there() -> None:
    assert set(project()["optional-dependencies"]) >= {"vmas", "petting", "magent", "atari", "all", "test", "dev"}


def hatch(code: str, folder: Path) -> Path:
    pytest.importorskip("hatchling")
    script = f"from hatchling import build; print(build.{code}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def test_the_wheel_carries_conf_and_reads_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(hatch("build_wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    ours = {f"gcoord/_conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert ours <= names and "gcoord/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"gcoord"}
    script = "from gcoord.conf import conf_dir; print(conf_dir())"
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert Path(done.stdout.strip()) == (tmp_path / "site" / "gcoord" / "_conf").resolve()


def test_an_editable_install_copies_no_conf(tmp_path: Path) -> None:
    with zipfile.ZipFile(hatch("build_editable", tmp_path)) as wheel:
        assert not [name for name in wheel.namelist() if "conf" in name]
        (pth,) = [name for name in wheel.namelist() if name.endswith(".pth")]
        assert Path(wheel.read(pth).decode().strip()) == ROOT


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("train", ["-m venv .venv", "-c constraints.txt", "-e '.[vmas]'", "-m gcoord.train n_agents=4"]),
        ("test", ["-m venv .venv", "-c constraints.txt", "-e '.[test]'", "OMP_NUM_THREADS=1", "-m pytest -n 2"]),
        ("test-all", ["-e '.[test]'", "-m pytest -n 2"]),
        ("lint", ["-e '.[dev]'", "ruff check", "ruff format --check", "mypy gcoord"]),
        ("bench", ["benchmarks/run.py"]),
    ],
)
def test_make_installs_first_on_a_fresh_machine(tmp_path: Path, target: str, wanted: list[str]) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    places = [done.stdout.find(text) for text in wanted]
    assert -1 not in places and places == sorted(places), done.stdout
