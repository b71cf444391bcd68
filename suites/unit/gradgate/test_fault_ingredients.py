"""What a trainer's own source gives to a repair, and which change is tried first."""

from __future__ import annotations

import ast
from textwrap import dedent

from gradgate.faults.ingredients import Pantry, gather
from gradgate.faults.operators import Variant, functions, statements
from gradgate.faults.order import CHEAPEST, Relevance, bits, cost, words

SOURCE = """
    class Critic:
        gamma: float = 0.99
        coefficient: float = 0.1
        value_lr: float = 0.01

    def returns(reward_BS, *, gamma=0.9, horizon=3):
        return reward_BS * gamma

    class One:
        def step(self, batch):
            self.update.zero_grad()
            with evaluating(self.model):
                loss = self.loss(batch)
            loss.backward()
            self.update.step()

    class Two:
        def step(self, batch, critic):
            self.update.note(f"{critic.gamma}")
            with torch.no_grad():
                target_BS = returns(batch)
            rate = critic.lr
            loss = self.model(batch) + target_BS
            loss.backward()
            self.scheduler.last = critic.gamma
            self.update.step()

    def evaluating(model):
        return model
"""


def of_second() -> list[Variant]:
    """Every ingredient for `Two.step`."""
    tree = ast.parse(dedent(SOURCE))
    found = gather([tree])
    path, node = next((path, node) for path, node in functions(tree) if path == ("Two", "step"))
    pantry = Pantry(path, node, found, {"returns", "evaluating", "torch"})
    return [variant for statement in statements(node) for variant in pantry.of_statement(statement)]


def made(operator: str) -> set[str]:
    return {variant.after for variant in of_second() if variant.operator == operator}


def test_calls_that_a_namesake_makes_are_put_before_each_statement():
    """What clears the gradients there is tried here, at every place; what a function makes already is not."""
    calls = [after.split("\n")[0] for after in made("insert-call")]
    assert calls.count("self.update.zero_grad()") == len(list(statements_of_second()))
    assert "self.scheduler.step()" in calls
    assert "self.update.step()" not in calls


def statements_of_second() -> list[ast.stmt]:
    tree = ast.parse(dedent(SOURCE))
    return list(statements(next(node for path, node in functions(tree) if path == ("Two", "step"))))


def test_a_call_is_left_out_when_the_function_lacks_its_names():
    """`self.update` is known in both classes, a name of another function is not."""
    tree = ast.parse(
        "class A:\n    def f(self, x):\n        self.log.note(y)\n    def g(self):\n        self.log.close()\n"
    )
    found = gather([tree])
    path, node = next((path, node) for path, node in functions(tree) if path[-1] == "g")
    assert not list(Pantry(path, node, found, ()).of_statement(node.body[0]))
    assert list(Pantry(path, node, found, {"y"}).of_statement(node.body[0]))


def test_settings_that_are_not_read_are_factors_arguments_and_stand_for_others():
    """An object of which only fields of one class are read has the class's other fields too."""
    assert "target_BS = returns(batch, gamma=critic.gamma)" in made("add-argument")
    assert "loss = self.model(batch) + target_BS" not in made("use-read")
    spare = "class C:\n    a: int\n    b: int\n\ndef f(c, x, y):\n    z = c.a\n    return x + y\n"
    tree = ast.parse(spare)
    path, node = next(iter(functions(tree)))
    variants = list(Pantry(path, node, gather([tree]), ()).of_statement(node.body[1]))
    assert [(one.operator, one.after) for one in variants] == [("use-read", "return x + c.b * y")]


def test_contexts_of_the_source_stand_for_one_another():
    """`no_grad` where another function evaluates in eval mode."""
    assert any(after.startswith("with evaluating(self.model):") for after in made("other-context"))


def test_texts_are_left_alone():
    """Nothing inside an f-string is exchanged."""
    assert all("f'" in variant.after for variant in of_second() if "note" in variant.before)


def test_words_have_no_endings_and_no_short_ones():
    """`self.zero_grad` and `clears gradients` share nothing but what both are about."""
    assert words("stepping_ScheduleHTTP of") == {"stepp", "schedul", "http"}


def test_relevance_is_highest_where_the_rare_words_of_the_finding_stand():
    """What each line has tells nothing, and the rule's page counts less than the finding."""
    lines = ["loss = model(batch)", "clip_norm(loss)", "scheduler.step(loss)", "x = loss"]
    relevance = Relevance(lines, "the norm is not clipped", "scheduler loss")
    ranked = sorted(lines, key=relevance, reverse=True)
    assert ranked[:2] == ["clip_norm(loss)", "scheduler.step(loss)"]
    assert relevance("y = 1") == 0.0
    assert 0.0 < relevance("scheduler") < relevance("clip_norm") <= 1.0
    assert Relevance([], "norm")("norm") <= 1.0


def test_bits_tell_what_is_tried_first():
    """Shallow before deep, what steps before what builds, the named line and the fitting operator before others."""
    relevance = Relevance(["a"], "")
    near = bits("a", relevance, 0, building=False, named=False)
    assert near < bits("a", relevance, 1, building=False, named=False)
    assert near < bits("a", relevance, 0, building=True, named=False)
    assert bits("a", relevance, 0, building=False, named=True) < near
    assert cost("insert-call", "GG206") < cost("insert-call", "GG401") < cost("call-twice", "GG401")
    assert cost("skip-statement", "GG210") == CHEAPEST
