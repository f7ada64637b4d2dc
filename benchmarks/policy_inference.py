"""How many actions a second a policy gives, one observation at a time: `python benchmarks/policy_inference.py [seconds]`.

The policy is that of the default recipe (three layers of 256, chunks of four actions of four numbers, 39 numbers seen) with
random weights, on one thread. The floor is the network alone, called with tensors that are ready.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch

from rectiflow.flow import Flow
from rectiflow.records import machine_info
from rectiflow_robotics.policies import PolicyNetwork
from rectiflow_robotics.rollout import flow_policy

CHUNK = (4, 4)
SEEN = (39,)
STEPS = (1, 4, 10)


def rate(act: Callable[[], object], seconds: float) -> float:
    """Calls a second, of the best of five rounds."""
    best = 0.0
    for _ in range(5):
        calls, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds / 5:
            act()
            calls += 1
        best = max(best, calls / spent)
    return best


def main() -> None:
    """Measure and print one json object."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    network = PolicyNetwork(
        observations=torch.randn(100, *SEEN, generator=generator),
        actions=CHUNK,
        width=256,
        depth=3,
        frequencies=32,
        until=False,
        generator=generator,
    )
    network.eval().requires_grad_(False)
    seen, noise, t = (
        torch.randn(1, *SEEN, generator=generator),
        torch.randn(1, *CHUNK, generator=generator),
        torch.zeros(1),
    )
    found: dict[str, object] = {"network": round(rate(lambda: network(noise, t, seen), seconds))}
    for steps in STEPS:
        policy = flow_policy(Flow(network), "push-v3", SEEN, CHUNK, steps=steps)
        chunks = rate(lambda policy=policy: policy.act(seen, noise), seconds)  # type: ignore[misc]
        found[f"k{steps}"] = {"chunks_per_second": round(chunks), "actions_per_second": round(chunks * CHUNK[0])}
    print(json.dumps({**found, "machine": machine_info()}, indent=2))


if __name__ == "__main__":
    main()
