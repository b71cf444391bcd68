"""Settings from files and overrides: YAML 1.2, strict types, and one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wmtp.errors import ConfigError
from wmtp.loading import key_names, load_settings, ready_recipes, validate
from wmtp.settings import Config, Recipe


def mistake(*overrides: str, config: Path | None = None, recipe: str | Path | None = None) -> str:
    """The message of settings that are wrong."""
    with pytest.raises(ConfigError) as caught:
        load_settings(config, recipe, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ready_recipes())
def test_ready_recipes_are_valid(name: str) -> None:
    """Each ships, loads, and is named as its run."""
    _, recipe = load_settings(None, name)
    assert ready_recipes()[name].read_text().startswith("#")
    assert recipe.run.name


def test_defaults_stand_where_nothing_is_given() -> None:
    """No config is all defaults, no recipe the embedded one."""
    config, recipe = load_settings(None, None)
    assert (config, recipe.run.name) == (Config(), "embedded")


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    """`1e-3` is a number, `yes` and `on` are words; a whole number may stand for a rate."""
    path = tmp_path / "r.yaml"
    path.write_text("optim: {lr: 1e-3, betas: [0.8, 0.9]}\nloss: {weight_temperature: 1}\n")
    _, recipe = load_settings(None, path)
    assert (recipe.optim.lr, recipe.optim.betas, recipe.loss.weight_temperature) == (0.001, (0.8, 0.9), 1.0)
    assert "expected a valid boolean" in mistake("data.packing=yes")


def test_overrides_reach_config_and_recipe() -> None:
    """A dotted key goes where its first part belongs; the last one counts."""
    config, recipe = load_settings(None, None, ["seed=3", "checkpoint.every=7", "train.horizon=2", "train.horizon=5"])
    assert (config.seed, config.checkpoint.every, recipe.train.horizon) == (3, 7, 5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.max_steps=3", "--set trian.max_steps=3: no key 'trian.max_steps'; did you mean 'train.max_steps'?"),
        ("train.max_step=3", "embedded: unknown key 'train.max_step'; did you mean 'max_steps'?"),
        ("sede=3", "--set sede=3: no key 'sede'; did you mean 'seed'?"),
        ("train.gamma=1", "embedded: unknown key 'train.gamma'; did you mean 'critic.gamma'?"),
        ("train.max_steps=abc", "embedded: train.max_steps is 'abc': expected a valid integer"),
        ("train.max_steps=true", "embedded: train.max_steps is true: expected a valid integer"),
        ("train.max_steps=null", "embedded: train.max_steps is null: expected a valid integer"),
        ("train.max_steps=", "embedded: train.max_steps is null: expected a valid integer"),
        ("train.max_steps=2.5", "embedded: train.max_steps is 2.5: expected a valid integer"),
        ("train.max_steps.x=2", "embedded: train.max_steps is keys and values: expected a valid integer"),
        ("train.horizon=0", "embedded: train.horizon is 0: expected greater than or equal to 1"),
        ("data.max_length=1", "embedded: data.max_length is 1: expected greater than or equal to 2"),
        ("critic.gamma=1.1", "embedded: critic.gamma is 1.1: expected less than or equal to 1"),
        ("optim.schedule=cosin",
         "embedded: optim.schedule is 'cosin': expected 'constant', 'cosine' or 'linear'; did you mean 'cosine'?"),
        ("device=gpu", "config: device is 'gpu': expected auto, cpu, cuda or cuda:N"),
        ("run.name=a/b", "embedded: run.name is 'a/b': expected letters, digits, '_', '-' and '.'"),
        ("run.name=..", "embedded: run.name is '..': expected letters, digits, '_', '-' and '.'"),
        ('data.path="a\\0"', r"embedded: data.path is 'a\x00': expected a path"),
        ('paths.value_head=""', "config: paths.value_head is '': expected a path"),
        ("threads=1025", "config: threads is 1025: expected less than or equal to 1024"),
        ("sandbox.memory_mib=8", "config: sandbox.memory_mib is 8: expected greater than or equal to 64"),
        ("pretrain=5",
         "embedded: pretrain is 5: expected keys and values (trunk_steps, num_epochs, max_steps, lr, patience)"),
        ("abc", "--set abc: expected key=value, such as --set train.max_steps=100"),
        ("=3", "--set =3: expected key=value, such as --set train.max_steps=100"),
    ],
)  # fmt: skip
def test_override_is_refused_when_it_is_wrong(override: str, message: str) -> None:
    """The key, what it holds as YAML has it, what was expected, and the nearest choice."""
    assert mistake(override) == message


@pytest.mark.parametrize("value", ["0", "-1", ".nan", ".inf", "-.inf", "true", "abc", "null", "[1]"])
def test_temperature_is_refused_when_it_is_no_finite_number_above_0(value: str) -> None:
    """Never replaced by a default, and named by its key."""
    assert mistake(f"loss.weight_temperature={value}").startswith("embedded: loss.weight_temperature is ")


def test_width_is_refused_when_rotary_positions_cannot_turn_it() -> None:
    """A rule over two keys names both."""
    assert mistake("model.width=6").startswith(
        "embedded: model: width 6 must be a multiple of twice attention_heads (8): rotary positions turn pairs"
    )


def test_message_stays_short_when_the_value_is_long() -> None:
    """Nobody reads ten thousand characters of a mistake."""
    assert len(mistake(f"train.max_steps={'x' * 10_000}")) < 200
    assert len(mistake("x" * 10_000)) < 200
    assert len(mistake(f"train.max_steps={'9' * 10_000}")) < 400


def test_message_counts_the_other_mistakes() -> None:
    """The first is shown."""
    assert mistake("train.horizon=0", "train.max_steps=0").endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty, expected keys and values ({} leaves all defaults)"),
        (b"# nothing\n", "is empty, expected keys and values ({} leaves all defaults)"),
        (b"- a\n", "holds a list, expected keys and values"),
        (b"hello\n", "holds a str, expected keys and values"),
        (b"trian: {horizon: 3}\n", "unknown key 'trian'; did you mean 'train'?"),
        (b"seed: 3\n", "unknown key 'seed'; known here: run, data, model, pretrain, train, optim, loss, critic"),
        (b"1: 2\n", "key 1: expected a name, one of run, data, model, pretrain, train, optim, loss, critic"),
        (b"a: \xff\n", "not UTF-8 (byte 3)"),
        (b"train: &x {horizon: *x}\n", "a key that refers to itself, or is nested too deep"),
        (b"a: " + b"[" * 600, "nested too deep"),
        (b"a: 2020-13-45\n", "not YAML: month must be in 1..12"),
    ],
)
def test_file_is_refused_when_it_is_wrong(text: bytes, message: str, tmp_path: Path) -> None:
    """The file is named first."""
    path = tmp_path / "r.yaml"
    path.write_bytes(text)
    assert mistake(recipe=path) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("seed: 3\nseed: 4\n", 2, 'found duplicate key "seed" with value "4" (original value: "3")'),
        ("a: [1\nb: }\n", 2, "expected ',' or ']', but got ':'"),
        ("a: !!python/object/apply:os.system [ls]\n", 1,
         "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
    ],
)  # fmt: skip
def test_file_is_refused_with_its_line_when_it_is_no_plain_yaml(
    text: str, line: int, message: str, tmp_path: Path
) -> None:
    """A key given twice, broken brackets, a tag that would run code."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert mistake(config=path) == f"{path}:{line}: {message}"


def test_file_is_found_by_its_nearest_name_when_it_is_missing(tmp_path: Path) -> None:
    """Files of the folder and ready recipes are offered."""
    (tmp_path / "mine.yaml").write_text("{}")
    assert mistake(recipe=tmp_path / "mine2.yaml").endswith("No such file or directory; did you mean 'mine.yaml'?")
    assert mistake(config=tmp_path / "none" / "c.yaml").endswith("No such file or directory")
    assert mistake(config=tmp_path).endswith("Is a directory")
    assert mistake(recipe="embeded").endswith("; did you mean 'embedded'?")
    assert mistake(recipe="x" * 5000).startswith("--recipe xxx")


def test_saved_settings_stand_where_no_file_is_given(tmp_path: Path) -> None:
    """A resumed run has its own; overrides and files still win."""
    config, recipe = load_settings(None, None, ["seed=5", "train.horizon=2"])
    saved = (config.model_dump_json(), recipe.model_dump_json())
    assert load_settings(None, None, saved=saved) == (config, recipe)
    path = tmp_path / "c.yaml"
    path.write_text("seed: 6\n")
    changed, longer = load_settings(path, None, ["train.max_steps=9"], saved=saved)
    assert (changed.seed, longer.train.horizon, longer.train.max_steps) == (6, 2, 9)


def test_every_key_has_a_line_in_its_sections_docstring() -> None:
    """What can be set is described where it is set."""
    for model in (Config, Recipe):
        for name, field in model.model_fields.items():
            section = field.annotation
            documented = (section.__doc__ or "") if hasattr(section, "model_fields") else (model.__doc__ or "")
            keys = section.model_fields if hasattr(section, "model_fields") else [name]
            assert [key for key in keys if len(keys) > 2 and f"{key}:" not in documented] == []


def test_keys_have_dotted_names() -> None:
    """All leaves, sections left out."""
    names = list(key_names(Recipe))
    assert ("optim.lr" in names, "optim" in names) == (True, False)


def test_settings_survive_json() -> None:
    """What a checkpoint holds is what was set."""
    _, recipe = load_settings(None, "gpu")
    assert validate(Recipe, json.loads(recipe.model_dump_json()), "saved") == recipe
