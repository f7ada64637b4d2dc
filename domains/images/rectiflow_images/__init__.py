"""Images: class-conditional generation in pixel space, the first domain of rectiflow. Free of torch until a verb runs."""

from __future__ import annotations

from rectiflow.domain import DomainSpec
from rectiflow_images.settings import DATA, MODELS, LabelSettings

SPEC = DomainSpec(
    name="images",
    summary="class-conditional images: digits, MNIST, Fashion-MNIST, emoji or a folder of your own",
    implementation="rectiflow_images.domain:Images",
    recipes="rectiflow_images.conf",
    default_recipe="digits",
    groups={"data": DATA, "model": MODELS},
    conditions=LabelSettings,
    datasets={
        "mnist": "70 000 handwritten digits, 28x28",
        "fashion-mnist": "70 000 pictures of clothes, 28x28 (MIT)",
        "emoji": "Noto and Twemoji, 3 x 32x32, paired and captioned (Apache-2.0, CC-BY-4.0)",
    },
    fetcher="rectiflow_images.fetching:fetch",
    studies={"few-step": "rectiflow_images.few_step:FEW_STEP"},
    requires={"sklearn": "images", "mlxtend": "images", "efficientnet_lite_pytorch": "images"},
)
