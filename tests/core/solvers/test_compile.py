"""torch.compile of the model and of whole solves: the same results, and one graph where nothing is read off a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rectiflow.control.guidance import Guidance
from rectiflow.flow import Flow
from rectiflow.predictions import Prediction
from rectiflow.sampling import integrate
from rectiflow.solvers.catalogue import ADAPTIVE, SOLVERS, STOCHASTIC
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.so3 import SO3

ONE_GRAPH = ["euler", "jump", "midpoint", "heun", "rk4", "ab2", "fireflow", "pseudo_corrector", "reversible_heun"]
IN_PARTS = sorted(set(SOLVERS) - ADAPTIVE - set(ONE_GRAPH) - {"rf_solver"})
DTYPE = torch.float32

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"  # torch's own imports
)


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch.compiler.reset()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=DTYPE)


WEIGHTS = normal(3, 2)


def model(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(torch.cat([x, t[:, None]], 1) @ WEIGHTS)


def solving(flow: Flow, method: str, **options: Any) -> Callable[..., Any]:
    def solve(x: Any, noise: torch.Generator | None = None) -> Any:
        return integrate(flow, x, steps=3, method=method, generator=noise, **options).x

    return solve


class Counting:
    """A compiler that leaves graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_a_whole_solve_is_one_graph(predicts: Prediction) -> None:
    solve, x, backend = (
        solving(Flow(model, predicts=predicts), "midpoint", check_finite=False),
        normal(5, 2),
        Counting(),
    )
    compiled = torch.compile(solve, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), solve(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(compiled(2 * x), solve(2 * x), atol=1e-6, rtol=0)
    assert backend.graphs == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ONE_GRAPH)
@pytest.mark.parametrize("predicts", ["velocity", "noise"])
def test_solves_in_one_graph_equal_plain_ones(method: str, predicts: Prediction) -> None:
    flow = Flow(lambda x, t: 0.1 * model(x, t), predicts=predicts)
    solve, x = solving(flow, method, check_finite=False), normal(5, 2)
    tolerance = 1e-5 if predicts == "velocity" else 1e-4  # a noise prediction is divided by 1e-3 at t = 0
    torch.testing.assert_close(torch.compile(solve, fullgraph=True)(x), solve(x), atol=tolerance, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["heun", *IN_PARTS])
def test_compiled_models_and_compiled_solves_equal_plain_ones(method: str) -> None:
    def start() -> tuple[Any, ...]:
        return (normal(5, 2), torch.Generator().manual_seed(0)) if method in STOCHASTIC else (normal(5, 2),)

    solve = solving(Flow(model), method)
    plain = solve(*start())
    torch.testing.assert_close(solving(Flow(torch.compile(model)), method)(*start()), plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.compile(solve)(*start()), plain, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_guided_solves_are_one_graph() -> None:
    def conditional(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.sin(x * label[:, None]) + t[:, None]

    label = torch.tensor([1, 2, 3, 1, 2])
    solve = solving(
        Flow(conditional, null={"label": 9}),
        "heun",
        check_finite=False,
        cond={"label": label},
        guidance=Guidance(2.5, (0.0, 0.6)),
    )
    x = normal(5, 2)
    compiled = torch.compile(solve, fullgraph=True, backend=Counting())
    torch.testing.assert_close(compiled(x), solve(x), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_solves_on_products_of_spaces_are_one_graph() -> None:
    def both(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        return {"a": model(x["a"], t), "q": torch.cat([x["a"], t[:, None]], 1)}

    space = Product(a=Euclidean(), q=SO3())
    x = {"a": normal(5, 2), "q": torch.nn.functional.normalize(normal(5, 4), dim=1)}
    for method in ("euler", "heun"):
        torch.compiler.reset()
        solve = solving(Flow(both, space=space), method, check_finite=False)
        compiled, plain = torch.compile(solve, fullgraph=True, backend=Counting())(x), solve(x)
        for name in x:
            torch.testing.assert_close(compiled[name], plain[name], atol=1e-5, rtol=0)
