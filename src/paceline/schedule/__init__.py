"""Scheduling to a budget: policies, the step planner, and the records that hosts exchange; pure.

Not here: an engine, a clock or a loop; hosts bring those (`paceline.simulate`, `paceline.vllm_plugin`).
"""

from paceline.schedule.encoder import EncoderBudget, PromptImage
from paceline.schedule.load_control import LoadCandidate, LoadController, LoadDecision, LoadSettings
from paceline.schedule.look_ahead import LookAhead, Outlook, PrefillWork, StepPace
from paceline.schedule.planner import StepPlan, plan_step
from paceline.schedule.policies import (
    POLICIES,
    PolicyWeights,
    aging_priority,
    deadline_seconds,
    overtaking_ends_seconds,
    request_order,
)
from paceline.schedule.queue import PolicyQueue
from paceline.schedule.request_times import REQUEST_METRICS, RequestTimes, ttft_adherence, ttft_goodput_per_second
from paceline.schedule.requests import DecodeLoad, PrefillRequest
from paceline.schedule.server_load import ServerLoad
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_log import PrefillChunk, StepRecord, read_step_log
from paceline.schedule.step_time import EngineTime, LinearStepTime, StepLoad, StepTimeModel
from paceline.schedule.trace_request import TraceRequest

__all__ = [
    "POLICIES",
    "REQUEST_METRICS",
    "DecodeLoad",
    "EncoderBudget",
    "EngineTime",
    "LinearStepTime",
    "LoadCandidate",
    "LoadController",
    "LoadDecision",
    "LoadSettings",
    "LookAhead",
    "Outlook",
    "PlannerSettings",
    "PolicyQueue",
    "PolicyWeights",
    "PrefillChunk",
    "PrefillRequest",
    "PrefillWork",
    "PromptImage",
    "RequestTimes",
    "ServerLoad",
    "StepLoad",
    "StepPace",
    "StepPlan",
    "StepRecord",
    "StepTimeModel",
    "TraceRequest",
    "aging_priority",
    "deadline_seconds",
    "overtaking_ends_seconds",
    "plan_step",
    "read_step_log",
    "request_order",
    "ttft_adherence",
    "ttft_goodput_per_second",
]
