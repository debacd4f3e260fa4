"""The recipe that the user writes: one YAML file, checked before anything runs.

Each section is one frozen model; an unknown key is an error that names the nearest key. The
resolved recipe is stored with the run, and its digest names the run.
"""

from components.contracts.recipe.augmentation import Augmentation
from components.contracts.recipe.data import (
    BUILTIN_TASK_NAMES,
    DataSection,
    DataSource,
    Fractions,
    Ladder,
    TaskSource,
    TextBlocks,
)
from components.contracts.recipe.decide import ComparedBy, DecideSection, Goal, Metric
from components.contracts.recipe.evaluate import Harness
from components.contracts.recipe.generate import EngineName, Hints, Vllm
from components.contracts.recipe.model import ModelSection, Scratch
from components.contracts.recipe.parameters import parameter_values
from components.contracts.recipe.pipeline_text import pipeline_document
from components.contracts.recipe.recipe import Recipe
from components.contracts.recipe.section import Section
from components.contracts.recipe.select import (
    InfluenceChoice,
    JudgeScorer,
    Keep,
    RewardScorer,
    SelectSection,
)
from components.contracts.recipe.train import (
    HOW_TO_TRAIN,
    LayersSection,
    LayerStructure,
    LoraSection,
    LoraStructure,
    TrainSection,
)

__all__ = [
    "BUILTIN_TASK_NAMES",
    "HOW_TO_TRAIN",
    "Augmentation",
    "ComparedBy",
    "DataSection",
    "DataSource",
    "DecideSection",
    "EngineName",
    "Fractions",
    "Goal",
    "Harness",
    "Hints",
    "InfluenceChoice",
    "JudgeScorer",
    "Keep",
    "Ladder",
    "LayerStructure",
    "LayersSection",
    "LoraSection",
    "LoraStructure",
    "Metric",
    "ModelSection",
    "Recipe",
    "RewardScorer",
    "Scratch",
    "Section",
    "SelectSection",
    "TaskSource",
    "TextBlocks",
    "TrainSection",
    "Vllm",
    "parameter_values",
    "pipeline_document",
]
