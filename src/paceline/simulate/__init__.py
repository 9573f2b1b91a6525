"""Engines in virtual time: Vidur's, vLLM's and Paceline's scheduling rules over a step-time model.

Not here: a clock, and policies of its own; it runs those of `paceline.schedule`, as vLLM does.
"""

from paceline.simulate.choosing import (
    ArrivingRequest,
    Candidate,
    Choice,
    Choices,
    EngineState,
    ExecutedSteps,
    PromptColumns,
)
from paceline.simulate.engine_settings import RULES, SimulatedEngine
from paceline.simulate.exact import exact_first_token_seconds
from paceline.simulate.load import RequestColumns
from paceline.simulate.load_choices import LoadChooser
from paceline.simulate.replayed import ReplayedCost
from paceline.simulate.replicas import ReplicaRun, simulate_replicas
from paceline.simulate.result import SimulatedRun, StepColumns, step_records
from paceline.simulate.routers import ROUTERS
from paceline.simulate.simulation import ENGINES, simulate
from paceline.simulate.step_work import LinearCost, StepCost, StepWork
from paceline.simulate.tables import VidurTables
from paceline.simulate.varying import VaryingCost

__all__ = [
    "ENGINES",
    "ROUTERS",
    "RULES",
    "ArrivingRequest",
    "Candidate",
    "Choice",
    "Choices",
    "EngineState",
    "ExecutedSteps",
    "LinearCost",
    "LoadChooser",
    "PromptColumns",
    "ReplayedCost",
    "ReplicaRun",
    "RequestColumns",
    "SimulatedEngine",
    "SimulatedRun",
    "StepColumns",
    "StepCost",
    "StepWork",
    "VaryingCost",
    "VidurTables",
    "exact_first_token_seconds",
    "simulate",
    "simulate_replicas",
    "step_records",
]
