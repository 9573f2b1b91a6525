"""Requests with pictures for `simulated_run.py`: the embedded model in vLLM, for real and in virtual time.

Pictures are prepared before a run's clock starts: behind `vllm serve` another process prepares them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from paceline.datasets.digits import digit_questions
from paceline.models.loading import EMBEDDED, load_model
from paceline.schedule import TraceRequest
from paceline.tune.workload import Workload
from paceline.vllm_plugin.checkpoints import write_for_vllm
from paceline.vllm_plugin.made_up import MadeUpImage, made_up_request
from paceline.vllm_plugin.relied_on import EngineRequest, SamplingParams
from paceline.vllm_plugin.replay import OfflineVllm
from paceline.vllm_plugin.virtual_replay import VirtualVllm

NAMES, TIERS, SEED, DRAWN = ("digits_read", "digits_count", "digits_exist"), ("low", "medium", "high"), 7, 9
ARGUMENTS = {"skip_tokenizer_init": False, "limit_mm_per_prompt": {"image": 1, "video": 0}, "max_model_len": 1024}


def write_digits(folder: Path) -> Path:
    """Write the embedded model as vLLM reads it."""
    return write_for_vllm(EMBEDDED["digits"], folder / "digits")


class Pictures:
    """A prompt with a picture for every request of a load, by its place, and what it comes to in tokens."""

    def __init__(self) -> None:
        model = load_model("digits", device="cpu", dtype="float32")
        questions = [each for name in NAMES for each in digit_questions(name, split="test", count=DRAWN, seed=SEED)]
        self.prompts: list[dict[str, Any]] = []
        self.tokens: list[int] = []
        self.images: list[tuple[int, int]] = []  # where the picture begins, and its tokens
        for number, question in enumerate(questions):
            tier = TIERS[number % len(TIERS)]
            plan = model.unencoded(question.picture, question.prompt, tier)
            ids = model.prepare(question.picture, question.prompt, tier).inputs["input_ids"][0].tolist()
            most = max(set(ids), key=ids.count)  # the placeholder of the picture
            self.tokens.append(len(ids))
            self.images.append((ids.index(most), ids.count(most)))
            self.prompts.append(
                {
                    "prompt": f"<|vision_start|><|image_pad|><|vision_end|>{question.prompt}<answer>",
                    "multi_modal_data": {"image": question.picture.convert("RGB")},
                    "mm_processor_kwargs": dict(plan.arguments),
                }
            )

    def place(self, request: TraceRequest) -> int:
        """Return which prompt a request has."""
        return int(request.request_id) % len(self.prompts) if request.request_id.isdigit() else 0

    def load(self, workload: Workload) -> Workload:
        """Return a load with the lengths of its prompts with their pictures."""
        sized = [replace(each, prompt_tokens=self.tokens[self.place(each)]) for each in workload.requests]
        return replace(workload, requests=tuple(sized))


class PictureVllm(OfflineVllm):
    """A real engine whose requests have pictures."""

    pictures: Pictures

    def _prompt(self, request: TraceRequest) -> Any:
        parameters = SamplingParams(
            temperature=0.0, max_tokens=request.output_tokens, ignore_eos=True, detokenize=False
        )
        asked = self.pictures.prompts[self.pictures.place(request)]
        tasks = self.engine.get_supported_tasks()
        return self.engine.input_processor.process_inputs(
            request.request_id, asked, parameters, supported_tasks=tasks, arrival_time=0.0
        )

    def _add(self, request: TraceRequest, prompt: Any, *, arrival_wall_seconds: float) -> str:
        prompt.arrival_time = arrival_wall_seconds
        return self.engine.add_request(request.request_id, prompt, prompt.params)


class VirtualPictureVllm(VirtualVllm):
    """vLLM's scheduler in virtual time, which knows of the pictures' places and tokens."""

    pictures: Pictures

    def _made_up(self, request: TraceRequest) -> EngineRequest:
        offset, tokens = self.pictures.images[self.pictures.place(request)]
        return made_up_request(
            request.request_id,
            [1] * request.prompt_tokens,
            output_tokens=request.output_tokens,
            block_tokens=self._config.cache_config.block_size,
            images=[MadeUpImage(offset=offset, tokens=tokens, content=request.request_id)],
            arrival_time=request.arrival_seconds,
        )
