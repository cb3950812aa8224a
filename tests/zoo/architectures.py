"""Every published architecture of the zoo, by name."""

from tests.zoo import audio, text, vision
from tests.zoo.architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = dict(
    sorted({**text.MODELS, **vision.MODELS, **audio.MODELS}.items())
)
