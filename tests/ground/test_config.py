"""Recipes: typed, overridable, and helpful when wrong."""

from __future__ import annotations

import pytest

from medgraft import config
from medgraft.errors import UserError


def recipe(*words: str) -> config.Recipe:
    return config.load_recipe(None, ["data=somewhere", *words])


def test_overrides_reach_nested_fields_and_numbers_are_numbers() -> None:
    made = recipe("train.learning_rate=1e-4", "split.folds=3", "seeds=7", "models=[a, {model: b, start: random}]")
    assert made.train.learning_rate == 1e-4 and made.split.folds == 3 and made.seeds == [7]
    assert [arm.id for arm in made.models] == ["a · imagenet · finetune", "b · random · finetune"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian.epochs=3"], "did you mean 'train'?"),
        (["train.lerning_rate=3"], "did you mean 'learning_rate'?"),
        (["train.epochs=-3", "split.folds=1"], "train.epochs"),
        (["grid={learning_rte: [1]}"], "did you mean 'learning_rate'?"),
        (["grid={learning_rate: []}"], "nothing to search"),
        (["models=[a, a]"], "two models of one name"),
        (["models=[{model: a, train: {epoch: 2}}]"], "did you mean 'epochs'?"),
        (["seeds=[]"], "at least one"),
        (["folds"], "key=value"),
        (["compat=[trace_order]"], "unknown name"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(*words)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        recipe("train.epochs=-3", "split.folds=1", "nonsense=1")
    assert all(word in str(error.value) for word in ("train.epochs", "split.folds", "nonsense"))


def test_the_grid_is_every_combination_over_the_arms_own_setting() -> None:
    made = recipe(
        "models=[{model: a, train: {epochs: 5}}]", "grid={learning_rate: [1e-3, 1e-4], weight_decay: [0, 0.1, 0.2]}"
    )
    settings = made.arm_settings(made.models[0])
    assert len(settings) == 6 and {s.epochs for s in settings} == {5}
    assert [(s.learning_rate, s.weight_decay) for s in settings][:2] == [(1e-3, 0.0), (1e-3, 0.1)]


def test_a_dumped_recipe_loads_to_itself(tmp_path) -> None:
    made = recipe("models=[{model: a, grid: {epochs: [1, 2]}}]", "train.patience=3")
    (tmp_path / "r.yaml").write_text(config.dump_recipe(made), encoding="utf-8")
    assert config.load_recipe(tmp_path / "r.yaml") == made
    assert config.difference(made.model_dump(), recipe("train.patience=3").model_dump()) != []


def test_modifiers_show_in_the_name_of_an_arm() -> None:
    made = recipe("models=[{model: a, train: {l2sp: 0.1, layer_decay: 0.7}}]")
    assert made.models[0].id == "a · imagenet · finetune+layer_decay+l2sp"
