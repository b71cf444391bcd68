"""Functions of a trainer that seed one generator of random numbers and draw from another."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import assignments_in, is_true

OF_PYTHON = (
    *("shuffle", "choice", "choices", "sample", "random", "randint", "randrange", "uniform", "gauss"),
    *("normalvariate", "betavariate", "expovariate", "getrandbits", "triangular"),
)
OF_TORCH = (
    *("rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "rand_like", "randn_like"),
    *("random_split", "RandomSampler", "randint_like"),
)
NOT_DRAWN = ("seed", "default_rng", "RandomState", "Generator", "SeedSequence", "get_state", "set_state")
OTHERS_DRAW = re.compile(  # calls that may draw from a generator of the whole program
    r"^(train_test_split|\w*KFold|DataLoader|dropout|apply|init\w*|\w*_init|reset\w*|make|build\w*|create\w*|\w*model\w*"
    r"|fit|train|rvs)$"
)
ENTRY = re.compile(r"^(main|run|train|fit|cli|app|entry|launch|start|<module>)(_|$|ing)|seed|determinis|worker")
FRAMEWORKS = ("torch", "sklearn", "lightning", "transformers", "gym", "scipy", "pandas", "tensorflow", "jax", "keras")
MADE = ("random.Random", "numpy.random.default_rng", "numpy.random.RandomState")
STARTS = ("__init__", "reset", "setup", "__post_init__")
DEPTH = 3


def other_seeds(own: Places) -> Iterator[tuple[Place, ast.Call, ast.Call, str]]:
    """Where a generator is seeded: the function, that call, and the draws from another one, which is `random`,
    `numpy` or `torch`, of a function that draws nothing from the one it seeds."""
    for place in own.all:
        if not place.file.has("seed(", "Random(", "default_rng(", "RandomState("):
            continue
        modules = _modules(place.file)
        calls = [node for node in place.nodes if isinstance(node, ast.Call)]
        seeds = [(generator, node) for node in calls if (generator := _seeded(node, modules))]
        unused = [*_unused(place, modules)]
        if not seeds and not unused:
            continue
        reached = _reached(place, own)
        drawn = [(generator, node) for each in reached for generator, node in _drawn(each, _modules(each.file))]
        told = {generator for generator, _ in seeds}
        others = [(generator, node) for generator, node in drawn if generator not in told]
        if not others:
            continue
        if seeds and not any(generator in told for generator, _ in drawn) and _is_closed(place, reached, told):
            yield place, seeds[0][1], others[0][1], others[0][0]
        elif unused and not seeds:
            yield place, unused[0], others[0][1], others[0][0]


def _modules(file: File) -> dict[str, str]:
    """The modules of random numbers by the names that a file gives them, and the functions that it takes out of one."""
    found: dict[str, str] = {}
    for node in file.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in ("random", "numpy", "torch"):
                    found[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy", "torch"):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _full(node: ast.expr, modules: dict[str, str]) -> str:
    """The whole name of what is called, by the names that its file gives modules."""
    first, _, rest = dotted(node).partition(".")
    return ".".join(filter(None, (modules.get(first, ""), rest))) if first in modules else ""


def _seeded(node: ast.Call, modules: dict[str, str]) -> str:
    """The generator that a call seeds; empty: none."""
    if not (node.args or node.keywords):
        return ""
    of = {"random.seed": "random", "numpy.random.seed": "numpy", "torch.manual_seed": "torch"}
    return of.get(_full(node.func, modules), "")


def _drawn(place: Place, modules: dict[str, str]) -> Iterator[tuple[str, ast.Call]]:
    """The draws of a function from generators of the whole program."""
    for node in place.nodes:
        if not isinstance(node, ast.Call) or any(w.arg in ("generator", "random_state") for w in node.keywords):
            continue
        before, _, last = _full(node.func, modules).rpartition(".")
        if before == "random" and last in OF_PYTHON:
            yield "random", node
        elif before == "numpy.random" and last not in NOT_DRAWN:
            yield "numpy", node
        elif (before == "torch" and last in OF_TORCH) or _shuffles(node):
            yield "torch", node


def _shuffles(node: ast.Call) -> bool:
    return called_name(node) == "DataLoader" and any(w.arg == "shuffle" and is_true(w.value) for w in node.keywords)


def _unused(place: Place, modules: dict[str, str]) -> Iterator[ast.Call]:
    """The generators of its own that a function makes with a seed, and that nothing reads."""
    read = [dotted(node) for node in place.nodes if isinstance(getattr(node, "ctx", None), ast.Load)]
    for target, value in assignments_in(place.nodes):
        if not isinstance(value, ast.Call) or not value.args or _full(value.func, modules) not in MADE:
            continue
        if isinstance(target, ast.Name) and not place.is_top and target.id not in read:
            yield value


def _reached(place: Place, own: Places) -> list[Place]:
    """A function and those that it calls; with a class that it sets up, the methods of that."""
    found, waiting = [place], [(place, DEPTH)]
    if place.owner is not None and place.name in STARTS:
        waiting += [(each, DEPTH - 1) for each in own.methods_of(place.owner)]
    if place.is_top:
        waiting += [(each, DEPTH - 1) for each in own.functions if each.file is place.file]
    found += [each for each, _ in waiting[1:]]
    while waiting:
        here, depth = waiting.pop()
        for call in (node for node in here.nodes if isinstance(node, ast.Call) and depth):
            called = own.called(call, here)
            if called is not None and called not in found:
                found.append(called)
                waiting.append((called, depth - 1))
    return found


def _is_closed(place: Place, reached: Sequence[Place], told: set[str]) -> bool:
    """Whether nothing else that a function calls may draw from what it seeds."""
    if ENTRY.search("<module>" if place.is_top else place.name) and _imports(place.file, FRAMEWORKS):
        return False
    for each in reached:
        for node in each.nodes:
            if isinstance(node, ast.Call) and OTHERS_DRAW.search(called_name(node)):
                return False
            if isinstance(node, ast.Call) and "torch" in told and called_name(node)[:1].isupper():
                return False  # layers draw their weights
    return True


def _imports(file: File, names: Sequence[str]) -> bool:
    for node in file.nodes:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(module.partition(".")[0] in names for module in modules):
            return True
    return False
