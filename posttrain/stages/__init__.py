"""The table of stages: one row a kind. A new stage is one file and one line here."""

from collections.abc import Mapping

from posttrain.chain.stage import Stage
from posttrain.stages.base import BASE
from posttrain.stages.data import DATA
from posttrain.stages.distill import DISTILL
from posttrain.stages.dpo import DPO
from posttrain.stages.export import EXPORT
from posttrain.stages.generate import GENERATE
from posttrain.stages.judge import JUDGE
from posttrain.stages.pairs import PAIRS
from posttrain.stages.samples import SAMPLES
from posttrain.stages.sft import SFT

ALL = (BASE, DATA, DISTILL, GENERATE, SFT, PAIRS, DPO, EXPORT, SAMPLES, JUDGE)
STAGES: Mapping[str, Stage] = {stage.kind: stage for stage in ALL}
