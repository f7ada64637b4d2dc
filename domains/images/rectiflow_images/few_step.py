"""The few-step study on digits: every method of the core from the same teacher."""

from __future__ import annotations

from rectiflow.study import Entry, Stage, Study

JUMPS = ("jump-1", "jump-2", "jump-4")
LAYERS = "method.layers=[middle.0,middle.1]"
SLOW = "model.time_scale=10"  # the teacher's time embedding waves fast, which would rule the derivatives in time
SMALL = ("fresh=true", "model.width=16", "model.head_width=32")

FEW_STEP = Study(
    summary="few-step students of one digit generator, at equal cost",
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
            (Stage("slim_flow", SMALL, share=0.7), Stage("guided_distillation", share=0.3)),
            ("euler-1",),
            pairs=True,
        ),
        Entry(
            "phased",
            "straightened on BOSS's grid",
            (Stage("phased", ("method.solver_steps=1", "method.times=@boss-4")),),
            ("boss-4",),
        ),
        Entry(
            "marginal_transport",
            "MDT-dist",
            (Stage("marginal_transport", (SLOW,)),),
            ("euler-1", "reinterpolate-2", "reinterpolate-4"),
        ),
        Entry("mean_flow", "MeanFlow", (Stage("mean_flow", (SLOW,)),), JUMPS),
        Entry(
            "dm1",
            "MeanFlow + dispersive (DM1)",
            (Stage("dispersive", (LAYERS, SLOW)),),
            JUMPS,
        ),
        Entry("shortcut", "shortcut model", (Stage("shortcut", ("method.bootstrap=0.75",)),), JUMPS),
        Entry("flow_map", "flow map (Lagrangian)", (Stage("flow_map", (SLOW,)),), JUMPS),
        Entry(
            "flow_turbo", "FlowTurbo", (Stage("flow_turbo", ("model.refiner=8",)),), ("flow_turbo-4", "flow_turbo-13")
        ),
    ),
)
