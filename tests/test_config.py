"""A table becomes a dataclass or a message that says what was found, expected and to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from dmedge.config import apply_overrides, find_recipe, load_config, read_toml, recipe_names
from dmedge.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    width: int = 32
    kind: Literal["transformer", "bag"] = "transformer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    steps: int
    learning_rate: float = 1e-3
    name: str = "x"
    is_causal: bool = False
    languages: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    limit: float | None = None
    schemes: Mapping[str, str] = field(default_factory=dict)
    model: Inner = field(default_factory=Inner)
    layers: tuple[Inner, ...] = ()
    data: Path = Path("data")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")


def test_every_kind_of_value() -> None:
    table = {
        "steps": 3,
        "learning_rate": 1,
        "languages": ["de", "ja"],
        "pair": [2, 3],
        "limit": 5,
        "schemes": {"text": "int8"},
        "model": {"width": 8, "kind": "bag"},
        "layers": [{"width": 1}, {}],
        "data": "elsewhere",
    }
    settings = load_config(Settings, table)
    assert settings == Settings(
        steps=3,
        learning_rate=1.0,
        languages=("de", "ja"),
        pair=(2, 3.0),
        limit=5.0,
        schemes={"text": "int8"},
        model=Inner(width=8, kind="bag"),
        layers=(Inner(width=1), Inner()),
        data=Path("elsewhere"),
    )
    assert isinstance(settings.learning_rate, float)


def test_a_config_read_back_from_its_own_table_is_the_same() -> None:
    settings = Settings(steps=7, languages=("sr-Latn",), model=Inner(width=5))
    assert load_config(Settings, asdict(settings)) == settings


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"steps": 1, "lerning_rate": 1.0}, "unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ({"steps": 1, "zzz": 1}, "unknown key 'zzz'; expected one of"),
        ({}, "Settings: missing key 'steps'"),
        ({"steps": 0}, "Settings: steps is 0; expected at least 1"),
        ({"steps": "many"}, "Settings.steps: found 'many'; expected int"),
        ({"steps": 1.5}, "Settings.steps: found 1.5; expected int"),
        ({"steps": True}, "Settings.steps: found True; expected int"),
        ({"steps": 1, "is_causal": 1}, "Settings.is_causal: found 1; expected bool"),
        ({"steps": 1, "languages": "de"}, "found 'de'; expected an array"),
        ({"steps": 1, "languages": ["de", 1]}, r"Settings.languages\[1\]: found 1; expected str"),
        ({"steps": 1, "pair": [1]}, "found 1 items; expected 2"),
        ({"steps": 1, "limit": "x"}, "Settings.limit: found 'x'; expected float or found 'x'; expected NoneType"),
        ({"steps": 1, "model": {"kind": "bagg"}}, "Settings.model.kind: 'bagg'; did you mean 'bag'"),
        ({"steps": 1, "model": {"widht": 1}}, "Settings.model: unknown key 'widht'; did you mean 'width'"),
        ({"steps": 1, "model": 3}, "Settings.model: found 3; expected a table"),
        ({"steps": 1, "layers": [{"width": "a"}]}, r"Settings.layers\[0\].width: found 'a'; expected int"),
        ({"steps": 1, "schemes": {"text": 8}}, "Settings.schemes.text: found 8; expected str"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_wrong_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Settings, table)


def test_all_problems_of_a_table_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match="missing key 'steps'.*unknown key 'stepz'.*Settings.name: found 1"):
        load_config(Settings, {"stepz": 1, "name": 1})


def test_where_names_the_table() -> None:
    with pytest.raises(ConfigError, match=r"^stage\[0\]: missing key 'steps'$"):
        load_config(Settings, {}, where="stage[0]")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a = ", "not TOML: .*end of document"), (b"\xff", "not TOML"), (b"a = 1\na = 2", "not TOML")],
    ids=["cut", "not-utf8", "twice"],
)
def test_broken_toml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_toml(path)


def test_missing_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file.*expected a TOML file"):
        read_toml(tmp_path / "nowhere.toml")


def test_recipe_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "emoji.toml").write_text("")
    monkeypatch.setattr("dmedge.config.RECIPES", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").write_text("a file of the same name is not the recipe")
    (tmp_path / "own.toml").write_text("")
    assert recipe_names() == ["emoji"]
    assert find_recipe("emoji") == tmp_path / "shipped" / "emoji.toml"
    assert find_recipe("own.toml") == Path("own.toml")
    assert find_recipe(str(tmp_path / "own.toml")) == tmp_path / "own.toml"
    with pytest.raises(ConfigError, match="no recipe 'emojy'; did you mean 'emoji'"):
        find_recipe("emojy")
    with pytest.raises(ConfigError, match="there.toml: no such recipe file; name a .toml file"):
        find_recipe("not/there.toml")


def test_overrides_leave_the_table_alone() -> None:
    table = {"stage": [{"kind": "train", "steps": 10}], "budget": {"size": 0.3}}
    changed = apply_overrides(table, ["stage.0.steps=20", "budget.size = 0.5", "budget.recall=3e-1", "new.name=a b"])
    assert changed == {
        "stage": [{"kind": "train", "steps": 20}],
        "budget": {"size": 0.5, "recall": 0.3},
        "new": {"name": "a b"},
    }
    assert table == {"stage": [{"kind": "train", "steps": 10}], "budget": {"size": 0.3}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ("no", "no"),
        ('"3"', "3"),
        ('["de", "ja"]', ["de", "ja"]),
        ("{a = 1}", {"a": 1}),
        ("", ""),
        ("a=b", "a=b"),
        ("1\nother = 2", "1\nother = 2"),
    ],
    ids=repr,
)
def test_override_values_are_toml_or_text(text: str, value: object) -> None:
    assert apply_overrides({}, [f"key={text}"]) == {"key": value}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        ("stage.1.steps=3", "cannot reach '1' in an array of 1"),
        ("stage.first=3", "cannot reach 'first' in an array of 1"),
        ("stage.0.steps.x=3", "cannot reach 'x' in 10"),
    ],
    ids=repr,
)
def test_override_that_leads_nowhere(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"stage": [{"steps": 10}]}, [override])


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'\xef\xbb\xbfname = "a"\n')
    assert read_toml(tmp_path / "a.toml") == {"name": "a"}


def test_a_nested_problem_names_its_place_once() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(Settings, {"steps": 1, "model": {"width": "wide"}}, where="a.toml: stage 0 (train)")
    assert str(error.value) == "a.toml: stage 0 (train).model.width: found 'wide'; expected int"
