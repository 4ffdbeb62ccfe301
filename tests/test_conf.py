"""Configuration without Hydra: filled from signatures, held against annotations, built."""

from __future__ import annotations

import textwrap
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gcoord import conf
from gcoord.arguments import arguments_of, described, fits, nearest

PARTS = """
from __future__ import annotations
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal
if TYPE_CHECKING:
    from nowhere import Unknown

class Base:
    def __init__(self, spec: Any, lr: float = 3e-4, clip: float | None = None) -> None:
        self.spec, self.lr, self.clip = spec, lr, clip

class Learner(Base):
    def __init__(self, spec: Any, gamma: float = 0.99, **base: Any) -> None:
        super().__init__(spec, **base)
        self.gamma = gamma

class Encoder:
    def __init__(self, own_dim: int, dim: int = 64, kind: Literal["sum", "mean"] = "sum",
                 sizes: tuple[int, ...] = (1, 2), act: Callable[..., Any] | None = None, edge_dim: int = 0,
                 bias: bool = True, label: str = "e",
                 lr_of: dict[str, float] | None = None, odd: Unknown = None) -> None:
        self.own_dim, self.dim, self.kind, self.sizes, self.act, self.label = own_dim, dim, kind, sizes, act, label
        self.lr_of = lr_of

def pair(left: Any = None, right: Any = None) -> tuple[Any, Any]:
    return left, right

def refuse(n: int = 1) -> None:
    raise KeyError("my own message")

def takes_all(**others: Any) -> dict[str, Any]:
    return others

def world(n_agents: int | None = None, num_envs: int = 1, device: str = "cpu", seed: int = 0, max_steps: int = 100,
          density: Literal["fixed", "arena"] = "fixed") -> dict[str, Any]:
    return dict(n_agents=n_agents, num_envs=num_envs, device=device, seed=seed, max_steps=max_steps, density=density)

constant = 3
"""


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "confparts.py").write_text(PARTS)
    (tmp_path / "brokenpart.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def part(name: str, **values: object) -> dict[str, object]:
    return {"_target_": f"confparts.{name}", **values}


# build


def test_build_makes_nested_parts_first_and_gives_extra_arguments_to_the_outermost_only() -> None:
    node = part("pair", left=part("Encoder", own_dim=3), right=[part("pair", left=1), {"inner": part("pair")}])
    left, right = conf.build(node)
    assert (left.own_dim, left.dim) == (3, 64)
    assert right == [(1, None), {"inner": (None, None)}]
    inner, outer = conf.build(part("pair", left=part("pair")), right="extra")
    assert (inner, outer) == ((None, None), "extra")


def test_partial_nodes_wait_for_what_only_the_program_knows() -> None:
    made = conf.build(part("Encoder", _partial_=True, dim=8))
    assert isinstance(made, partial)
    assert (made(own_dim=5).own_dim, made(own_dim=5).dim) == (5, 8)
    assert conf.build(part("Encoder", dim=8), 5).own_dim == 5


def test_build_accepts_a_colon_a_config_and_leaves_its_node_as_it_was() -> None:
    node = OmegaConf.create({"_target_": "confparts:pair", "left": "${right}", "right": 2})
    assert conf.build(node) == (2, 2)
    assert node["_target_"] == "confparts:pair"


def test_lists_become_tuples_where_a_tuple_is_annotated() -> None:
    assert conf.build(part("Encoder", own_dim=1, sizes=[4, 5])).sizes == (4, 5)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"dim": 3}, r"expected a mapping with _target_ \(got \{'dim': 3\}\)"),
        (
            part("Encodr"),
            r"expected _target_ to name something in confparts \(got 'confparts.Encodr'\); did you",
        ),
        ({"_target_": "nowhere.to.be.found"}, r"expected _target_ to be importable.*\(got 'nowhere.to.be.found'\)"),
        ({"_target_": "nowhere:found"}, r"expected _target_ to be importable"),
        ({"_target_": "Encoder"}, r"expected _target_ to be importable"),
        (part("constant"), r"expected _target_ to name a class or a function \(got 'confparts.constant'\)"),
        (
            part("Encoder", own_dim=1, dimm=3),
            r"expected an argument of confparts.Encoder: dim, kind.*\(got 'dimm'\);",
        ),
        (part("Encoder"), r"expected confparts.Encoder to be given own_dim \(got nothing\)"),
        (part("pair", left=part("pair", lft=1)), r"expected an argument of confparts.pair: left, right \(got 'lft'\)"),
    ],
)
def test_build_names_the_target_in_one_line(node: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        conf.build(node)
    assert "\n" not in str(caught.value)


def test_what_a_target_raises_itself_passes_through() -> None:
    with pytest.raises(KeyError, match="my own message"):
        conf.build(part("refuse"))
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        conf.build({"_target_": "brokenpart.Anything"})


def test_only_trusted_modules_are_imported_and_called() -> None:
    assert conf.build(part("pair"), trust=("confparts",)) == (None, None)
    for path in (
        "os.getcwd",
        "confpartsx.pair",
        "gcoord.conf.Path",
        "gcoord.conf.functools.partial",
        "gcoord.conf:Path.cwd",
    ):
        with pytest.raises(ValueError, match=r"expected _target_ to lie in gcoord or confparts \(got"):
            conf.build({"_target_": path}, trust=("gcoord", "confparts"))
    with pytest.raises(ValueError, match="expected _target_ to lie in confparts"):
        conf.build(part("pair", left=[{"inner": {"_target_": "os.getcwd"}}]), trust=("confparts",))


def test_an_untrusted_module_is_not_even_imported(tmp_path: Path) -> None:
    (tmp_path / "traps.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\ndef trap(): ...\n")
    with pytest.raises(ValueError, match="expected _target_ to lie in gcoord"):
        conf.build({"_target_": "traps.trap"}, trust=("gcoord",))
    assert not (tmp_path / "sprung").exists()


# fill


def test_fill_names_every_plain_default_and_leaves_out_what_the_program_gives() -> None:
    filled = conf.fill({"a": {"b": [part("Encoder", dim=8, _partial_=True)]}, "n": "${a.b[0].dim}"})
    node = OmegaConf.to_container(filled)["a"]["b"][0]
    assert node == part("Encoder", _partial_=True, dim=8, kind="sum", sizes=[1, 2], act=None, bias=True, label="e",
                        lr_of=None, odd=None)  # fmt: skip
    assert filled.n == 8


def test_keyword_arguments_of_a_class_are_its_parents() -> None:
    filled = conf.fill(part("Learner"))
    # What a parent has by default stays with the parent: the class may hand on a value of its own.
    assert dict(filled) == part("Learner", gamma=0.99)
    assert conf.build(filled, spec="s").lr == 3e-4
    assert conf.build({**filled, "lr": 0.5}, spec="s").lr == 0.5
    with pytest.raises(ValueError, match=r"\(got 'l.lrr'\); did you mean 'lr'"):
        conf.check({"l": part("Learner", lrr=1)})


def test_fill_changes_neither_its_node_nor_what_is_built() -> None:
    node = part("Encoder", own_dim=2)
    assert vars(conf.build(conf.fill(node))) == vars(conf.build(node))
    assert node == part("Encoder", own_dim=2)


# check


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": "four"}, "expected model.encoder.dim to be a whole number (got 'four')"),
        ({"dim": 2.5}, "expected model.encoder.dim to be a whole number (got 2.5)"),
        ({"dim": True}, "expected model.encoder.dim to be a whole number (got True)"),
        ({"dim": None}, "expected model.encoder.dim to be a whole number (got None)"),
        ({"kind": "max"}, "expected model.encoder.kind to be one of 'sum', 'mean' (got 'max')"),
        ({"sizes": [1, "x"]}, "expected model.encoder.sizes to be a list of whole numbers (got [1, 'x'])"),
        ({"sizes": 3}, "expected model.encoder.sizes to be a list of whole numbers (got 3)"),
        ({"bias": 1}, "expected model.encoder.bias to be true or false (got 1)"),
        ({"label": 1}, "expected model.encoder.label to be text (got 1)"),
        ({"act": "relu"}, "expected model.encoder.act to be a part with a _target_ or null (got 'relu')"),
        (
            {"lr_of": {"critic": "fast"}},
            "expected model.encoder.lr_of to be a mapping or null (got {'critic': '",
        ),
        ({"dim": {"_target_": "confparts.pair"}}, "expected model.encoder.dim to be a whole number (got {'_target_'"),
    ],
)
def test_check_names_the_full_key_and_what_was_expected(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        conf.check(OmegaConf.create({"model": {"encoder": part("Encoder", **values)}}))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_check_accepts_what_the_annotations_allow() -> None:
    conf.check(
        {
            "a": part("Encoder", dim=3, kind="mean", sizes=[], act=part("pair"), lr_of={"critic": 1}, odd="anything"),
            "b": [part("Learner", gamma=1, clip=None, lr=1e-3), part("takes_all", whatever=[1])],
        }
    )


def test_check_names_parts_inside_lists() -> None:
    with pytest.raises(ValueError, match=r"expected a\[1\].dim to be a whole number"):
        conf.check({"a": [part("Encoder"), part("Encoder", dim="x")]})


def test_annotations_in_words_and_what_fits_them() -> None:
    assert described(float | None) == "a number or null"
    assert described(tuple[float, float]) == "a list of 2 numbers"
    assert described(list[str]) == "a list of texts"
    assert fits([1, 2.5], tuple[float, float])
    assert not fits([1, 2, 3], tuple[float, float])
    assert not fits("ab", list[str])
    assert not fits(float, int | None) and fits(None, int | None)
    assert [argument.name for argument in arguments_of(conf.make_env)][:2] == ["name", "n_agents"]
    assert nearest("navigation", ["vmas/navigation", "sisl/pursuit"]) == "; did you mean 'vmas/navigation'?"


# team sizes


@pytest.mark.parametrize(("value", "sizes"), [(4, [4]), ([2, 4, 8], [2, 4, 8]), (OmegaConf.create([3]), [3])])
def test_team_sizes_are_a_list(value: object, sizes: list[int]) -> None:
    assert conf.team_sizes(value) == sizes


@pytest.mark.parametrize("value", ["four", -1, 0, 2.5, True, None, [], [4, 0], [4, "x"], {"a": 1}])
def test_anything_else_is_refused_as_a_team_size(value: object) -> None:
    with pytest.raises(ValueError) as caught:
        conf.team_sizes(value)
    assert str(caught.value) == f"expected n_agents to be a positive whole number or a list of them (got {value!r})"


def test_one_size_where_one_is_needed() -> None:
    assert conf.one_team_size(4) == 4
    with pytest.raises(ValueError, match=r"expected n_agents to be one positive whole number \(got \[4, 8\]\)"):
        conf.one_team_size([4, 8])


# where the YAML files lie, and worlds from them


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf" / "env" / "toy"
    folder.mkdir(parents=True)
    (folder / "meadow.yaml").write_text("_target_: confparts.world\nmax_steps: 50\n")
    (folder / "extra.yaml").write_text("_target_: needsextra.world\n")
    (tmp_path / "needsextra.py").write_text("def world(**all):\n    raise ImportError('pip install gcoord[toy]')\n")
    monkeypatch.setattr(conf, "conf_dir", lambda: tmp_path / "conf")


@pytest.mark.usefixtures("worlds")
def test_make_env_builds_a_world_by_name_with_its_options() -> None:
    env = conf.make_env("toy/meadow", n_agents=4, num_envs=3, seed=7, density="arena")
    assert env == dict(n_agents=4, num_envs=3, device="cpu", seed=7, max_steps=50, density="arena")
    assert conf.make_env("toy/meadow")["n_agents"] is None


@pytest.mark.usefixtures("worlds")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            dict(name="toy/meadw"),
            r"expected env to be a world of conf/env \(got 'toy/meadw'\); did you mean 'toy",
        ),
        (dict(name="meadow"), r"\(got 'meadow'\); did you mean 'toy/meadow'\?"),
        (dict(name="../env/toy/meadow"), r"expected env to be a world"),
        (
            dict(name="toy/meadow", max_step=3),
            r"of confparts.world: max_steps, density \(got 'max_step'\); did",
        ),
        (dict(name="toy/meadow", max_steps="x"), r"expected env.max_steps to be a whole number \(got 'x'\)"),
        (dict(name="toy/meadow", density="high"), r"expected env.density to be one of 'fixed', 'arena' \(got 'high'\)"),
        (dict(name="toy/meadow", n_agents=[4, 8]), r"expected n_agents to be one positive whole number"),
        (dict(name="toy/meadow", n_agents="four"), r"expected n_agents to be a positive whole number"),
    ],
)
def test_make_env_refuses_in_one_line(call: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        conf.make_env(**call)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("worlds")
def test_a_missing_extra_is_named_by_the_world_itself() -> None:
    with pytest.raises(ImportError, match=r"pip install gcoord\[toy\]"):
        conf.make_env("toy/extra")


def test_a_checkout_reads_its_own_files_and_an_installed_package_those_it_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "gcoord"
    for folder in (package / "_conf", tmp_path / "site" / "conf"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(conf, "__file__", str(package / "conf.py"))
    assert conf.conf_dir() == package / "_conf"
    (tmp_path / "site" / "pyproject.toml").write_text("")
    assert conf.conf_dir() == tmp_path / "site" / "conf"


def test_every_yaml_file_here_names_parts_that_exist_and_take_their_arguments() -> None:
    for file in sorted(conf.conf_dir().rglob("*.yaml")):
        node = OmegaConf.to_container(OmegaConf.load(file))
        assert isinstance(node, dict), file
        # What a user has to give, other values refer to.
        node |= {name: "given" for name, value in node.items() if value == "???"}
        conf.check(conf.fill(node), textwrap.shorten(str(file.relative_to(conf.conf_dir())), 60))
