"""Robotics: flow policies cloned from demonstrations and fine-tuned in a simulator. Free of torch until a verb runs."""

from __future__ import annotations

from rectiflow.domain import DomainSpec, Verb
from rectiflow_robotics.finetune_settings import FinetuneSettings
from rectiflow_robotics.settings import DATA, MODELS, CollectSettings, DemoSettings, ObservationSettings, VideoSettings

SPEC = DomainSpec(
    name="robotics",
    summary="flow policies: demonstrations of a simulated task, cloned, then fine-tuned by reinforcement",
    implementation="rectiflow_robotics.domain:Robotics",
    recipes="rectiflow_robotics.conf",
    default_recipe="push",
    groups={"data": DATA, "model": MODELS},
    conditions=ObservationSettings,
    demo_runs=("cloned", "finetuned"),
    verbs={
        "collect": Verb("rectiflow_robotics.collecting:run", CollectSettings),
        "demo": Verb("rectiflow_robotics.demo:run", DemoSettings),
        "finetune": Verb("rectiflow_robotics.finetuning:run", FinetuneSettings),
        "video": Verb("rectiflow_robotics.video:run", VideoSettings, section="sampling"),
    },
    peers={
        "advantages": "rectiflow_robotics.peers:advantages",
        "actions": "rectiflow_robotics.peers:actions",
    },
    requires={"gymnasium": "robotics", "metaworld": "robotics", "gymnasium_robotics": "robotics"},
)
