"""The few-step study on digits: every method of the core from the same teacher."""

from __future__ import annotations

from rectiflow.study import Entry, Stage, Study

JUMPS = ("jump-1", "jump-2", "jump-4")
LAYERS = "method.layers=[middle.0,middle.1]"
SLOW = "model.time_scale=10"  # the teacher's time embedding waves fast, which would rule the derivatives in time
ENDS = "times=u_shaped"  # of two uniform times, 2 in 100 are within a tenth of both ends, between which one step jumps
CHEAP = "derivative=difference"  # two passes without a gradient are cheaper on a processor than tangents in one with it
SMALL = ("fresh=true", "model.width=15", "model.head_width=30")  # at 16 it would have 0.263 of the parameters

FEW_STEP = Study(
    summary="few-step students of one digit generator, with the same number of updates",
    recipe="digits",
    metrics={
        "fd_digitsnet": "fd",
        "kid_digitsnet": "KID",
        "diversity_digitsnet": "diversity",
        "accuracy_digitsnet": "accuracy",
    },
    bar=("teacher", "euler-10"),
    training=("training.batch=128", "training.learning_rate=4e-3", "training.warmup=20"),
    entries=(
        Entry(
            "teacher",
            "teacher",
            samplers=("euler-1", "euler-2", "euler-4", "euler-10", "heun-2", "heun-5", "midpoint-20"),
        ),
        Entry("boss", "teacher on BOSS's grid", samplers=("boss-2", "boss-4")),
        Entry("reflow", "reflow (2-RF)", (Stage("rectified_flow"),), pairs=True),
        Entry("reflow_plus", "2-RF++", (Stage("rectified_flow_plus"),), pairs=True),
        Entry(
            "instaflow",
            "InstaFlow",
            (Stage("rectified_flow_plus", share=0.6), Stage("one_step", share=0.4)),
            ("euler-1",),
            pairs=True,
        ),
        Entry(
            "slim_flow",
            "SlimFlow, a quarter of the size",
            (
                Stage("slim_flow", (*SMALL, "method.annealing.steps=300", f"method.{ENDS}"), share=0.6),
                Stage("guided_distillation", share=0.4),
            ),
            ("euler-1",),
            pairs=True,
        ),
        Entry("one_step", "distillation of the pairs", (Stage("one_step"),), ("euler-1",), pairs=True),
        Entry(
            "phased",
            "straightened on BOSS's grid",
            (Stage("phased", ("method.solver_steps=1", "method.times=@boss-4")),),
            ("boss-4",),
            cost=1.5,
        ),
        # Its distillation pulls all noises of a class alike, and one-step samples further apart from data (benchmarks/README.md).
        Entry(
            "marginal_transport",
            "MDT-dist, matching alone",
            (
                Stage(
                    "marginal_transport",
                    (SLOW, f"method.{ENDS}", "method.power=0.5", f"method.{CHEAP}", "method.distillation=0"),
                ),
            ),
            ("euler-1", "reinterpolate-2", "reinterpolate-4"),
            cost=1.9,
        ),
        # A teacher's velocity is met from the start where r = t: at power 1 those samples would count for many that jump.
        Entry(
            "mean_flow",
            "MeanFlow",
            (Stage("mean_flow", (SLOW, f"method.{ENDS}", "method.power=0.5", f"method.{CHEAP}")),),
            JUMPS,
            cost=1.8,
        ),
        Entry(
            "dm1",
            "MeanFlow + dispersive (DM1)",
            (
                Stage(
                    "dispersive",
                    (
                        LAYERS,
                        SLOW,
                        f"method.base.{ENDS}",
                        "method.base.power=0.5",
                        f"method.base.{CHEAP}",
                        "method.weight=0.1",
                    ),
                ),
            ),
            JUMPS,
            cost=1.9,
        ),
        Entry(
            "shortcut",
            "shortcut model",
            (Stage("shortcut", ("method.bootstrap=0.75", "method.levels=4")),),
            JUMPS,
            cost=1.7,
        ),
        Entry(
            "flow_map",
            "flow map (Lagrangian)",
            (
                Stage("flow_map", (SLOW, f"method.{ENDS}", "method.jumps=0.5")),
            ),  # a jump's derivative has a gradient: dear
            JUMPS,
            cost=2.4,
        ),
        Entry(
            "flow_turbo",
            "FlowTurbo",
            (Stage("flow_turbo", ("model.refiner=8", "method.reach=0.25")),),
            ("flow_turbo-4", "flow_turbo-13"),  # 4 and 10 evaluations of the flow
        ),
    ),
)
