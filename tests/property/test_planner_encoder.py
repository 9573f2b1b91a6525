"""`plan_step` alone with an encoder of images: what one step may cost, and that many steps end every request."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.schedule import (
    POLICIES,
    DecodeLoad,
    EncoderBudget,
    PlannerSettings,
    PrefillRequest,
    PromptImage,
    StepPlan,
    plan_step,
    request_order,
)

LARGEST = 24


@dataclass(frozen=True)
class Picture:
    """An image by its place in a prompt; those of one content are the same to the encoder."""

    content: str
    start: int
    end: int

    @property
    def embeds(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Step:
    """What a plan was asked for, and the plan."""

    settings: PlannerSettings
    partial: tuple[PrefillRequest, ...]
    waiting: tuple[PrefillRequest, ...]
    room: int
    encoder: EncoderBudget
    plan: StepPlan

    @property
    def requests(self) -> dict[str, PrefillRequest]:
        return {each.request_id: each for each in (*self.partial, *self.waiting)}

    @property
    def ordered(self) -> list[PrefillRequest]:
        return sorted(self.requests.values(), key=request_order(self.settings.policy, self.settings.weights))


def planned(own: PlannerSettings, partial, waiting, room: int, encoder: EncoderBudget, decodes: int = 0) -> Step:
    order = request_order(own.policy, own.weights)
    waiting = tuple(sorted(waiting, key=order))
    plan = plan_step(
        settings=own,
        decodes=DecodeLoad(tokens=decodes, context_tokens=0),
        partial=partial,
        waiting=waiting,
        room=room,
        encoder=encoder,
    )
    return Step(own, tuple(partial), waiting, room, encoder, plan)


def touched(request: PrefillRequest, chunk: int) -> list[PromptImage]:
    end = request.context_tokens + chunk
    return [image for image in request.images if image.start < end and request.context_tokens < image.end]


def within(encoder: EncoderBudget, images: Iterable[PromptImage]) -> bool:
    """Whether an encoder computes and keeps these in one step, each content once."""
    once = {image.identifier: image for image in images}.values()
    computed, kept = (sum(getattr(image, name) for image in once) for name in ("compute_embeds", "cache_embeds"))
    return computed <= encoder.compute_embeds and kept <= encoder.cache_embeds


def allowed(step: Step, before: Sequence[PromptImage], request: PrefillRequest, chunk: int) -> bool:
    """Whether the encoder goes along with a chunk after those images, and no image that must be whole is split."""
    end = request.context_tokens + chunk
    split = any(image.start < end < image.end for image in request.images)
    whole = step.settings.indivisible_tokens == 0 or not split
    return whole and within(step.encoder, [*before, *touched(request, chunk)])


def could_start(step: Step, request: PrefillRequest) -> bool:
    """Whether a request could compute anything in a step of its own."""
    most = min(request.remaining_tokens, step.settings.chunk_size)
    return any(allowed(step, [], request, chunk) for chunk in range(1, most + 1))


@st.composite
def pictures(draw: st.DrawFn, name: str) -> tuple[int, list[Picture]]:
    """A prompt's length and its images, some of a content that others have too."""
    tokens, found = draw(st.integers(0, 12)), []
    for index in range(draw(st.integers(0, 3))):
        size = draw(st.integers(1, LARGEST))
        content = f"shared {size}" if draw(st.integers(0, 4)) == 0 else f"{name} {index}"
        found.append(Picture(content, tokens, tokens + size))
        tokens += size + draw(st.integers(0, 12))
    return max(1, tokens), found


@st.composite
def planner_settings(draw: st.DrawFn) -> PlannerSettings:
    chunk_size = draw(st.integers(LARGEST, 64))
    return PlannerSettings(
        policy=draw(st.sampled_from(sorted(POLICIES))),
        chunk_size=chunk_size,
        min_chunk_threshold=draw(st.integers(0, (3 * chunk_size - 1) // 10)),
        min_chunk_tokens=draw(st.integers(0, chunk_size)),
        max_partial_prefills=draw(st.none() | st.integers(1, 3)),
        indivisible_tokens=draw(st.sampled_from([0, LARGEST])),
    )


@st.composite
def steps(draw: st.DrawFn, *, plain: bool = False) -> Step:
    own = draw(planner_settings())
    if plain:
        own = PlannerSettings(policy=own.policy, chunk_size=own.chunk_size)
    known = draw(st.dictionaries(st.integers(1, LARGEST), st.booleans()))  # shared contents that are cached already
    partial, waiting = [], []
    for index in range(draw(st.integers(1, 7))):
        length, images = draw(pictures(str(index)))
        is_partial = length > 1 and draw(st.booleans())
        context = draw(st.integers(1, length - 1)) if is_partial else 0
        if own.indivisible_tokens:
            context = next((image.start for image in images if image.start < context < image.end), context)
            is_partial = context > 0
        request = PrefillRequest(
            request_id=str(index),
            queue_number=index,
            arrival_seconds=float(index),
            prompt_tokens=length,
            remaining_tokens=length - context,
            context_tokens=context,
            images=tuple(
                prompt_image(
                    image,
                    # what a request is inside of is kept for it
                    held=image.start < context
                    or (image.content.startswith("shared") and known.get(image.embeds, False)),
                )
                for image in images
                if image.end > context
            ),
        )
        (partial if is_partial else waiting).append(request)
    encoder = EncoderBudget(
        compute_embeds=draw(st.integers(0, 3 * LARGEST)), cache_embeds=draw(st.integers(0, 3 * LARGEST))
    )
    room, decodes = draw(st.integers(0, 5)), draw(st.sampled_from([0, 0, 5]))
    return planned(own, partial, _with_one_price(partial, waiting), room, encoder, decodes)


def _with_one_price(partial: list[PrefillRequest], waiting: list[PrefillRequest]) -> list[PrefillRequest]:
    """Make a shared content that is kept for a partial request cost nothing to all."""
    held = {image.identifier for each in partial for image in each.images if not image.cache_embeds}
    for group in (partial, waiting):
        for index, request in enumerate(group):
            images = tuple(
                PromptImage(identifier=i.identifier, start=i.start, end=i.end, compute_embeds=0, cache_embeds=0)
                if i.identifier in held
                else i
                for i in request.images
            )
            group[index] = PrefillRequest(
                **{name: getattr(request, name) for name in PrefillRequest.__slots__ if name != "images"}, images=images
            )
    return waiting


def prompt_image(image: Picture, *, held: bool) -> PromptImage:
    embeds = 0 if held else image.embeds
    return PromptImage(
        identifier=image.content, start=image.start, end=image.end, compute_embeds=embeds, cache_embeds=embeds
    )


@settings(deadline=None, max_examples=400)
@given(steps())
def test_no_chunk_costs_more_than_the_encoder_has_and_no_image_that_must_be_whole_is_split(step: Step) -> None:
    before: list[PromptImage] = []
    for name, chunk in step.plan.chunks.items():
        request = step.requests[name]
        assert 1 <= chunk <= request.remaining_tokens
        # so that a chunk ends inside an image only where the encoder computes and keeps that image
        assert allowed(step, before, request, chunk)
        before += touched(request, chunk)
    assert step.plan.decode_tokens + step.plan.prefill_tokens <= step.settings.chunk_size


@settings(deadline=None, max_examples=400)
@given(steps())
def test_a_step_is_empty_only_where_nothing_could_run(step: Step) -> None:
    if step.plan.chunks or step.plan.decode_tokens:
        return
    assert not any(could_start(step, request) for request in step.partial)
    if step.room and step.waiting and step.settings.max_partial_prefills is None:
        assert not could_start(step, step.waiting[0])


@settings(deadline=None, max_examples=400)
@given(steps(plain=True))
def test_a_request_inside_an_image_gets_on_before_any_that_the_order_puts_behind_it(step: Step) -> None:
    behind = False
    for request in step.ordered:
        inside = request in step.partial and request.image_tokens_ahead and not touched(request, 1)[0].cache_embeds
        if behind:
            assert request.request_id not in step.plan.chunks
        behind |= bool(inside) and request.request_id not in step.plan.chunks
    if any(request.image_tokens_ahead for request in step.partial) and not step.plan.decode_tokens:
        held = [each for each in step.partial if each.image_tokens_ahead and not touched(each, 1)[0].cache_embeds]
        assert step.plan.chunks or not held


@settings(deadline=None, max_examples=400)
@given(steps(plain=True))
def test_every_chunk_is_the_largest_that_budget_and_encoder_allow(step: Step) -> None:
    left, before, room = step.settings.chunk_size - step.plan.decode_tokens, list[PromptImage](), step.room
    for request in step.ordered:
        most = min(left, request.remaining_tokens)
        reached = 0  # the encoder's images come in order: it ends at the first that it does not take
        for chunk in range(1, most + 1):
            if not within(step.encoder, [*before, *touched(request, chunk)]):
                break
            reached = chunk
        if request not in step.partial and (room == 0 or not reached):
            room = 0  # none of those that wait passes it
            assert request.request_id not in step.plan.chunks
            continue
        assert step.plan.chunks.get(request.request_id, 0) == reached
        if reached:
            left, before = left - reached, [*before, *touched(request, reached)]
            room -= request not in step.partial


@dataclass(eq=False)
class Live:
    number: int
    length: int
    images: list[Picture]
    context: int = 0
    held: set[str] = field(default_factory=set)


@dataclass
class Encoder:
    """A cache of images as vLLM has one: kept for a request from where it is computed until the request is beyond it."""

    compute_embeds: int
    cache_embeds: int

    def budget(self, running: Sequence[Live]) -> EncoderBudget:
        kept = {image.content: image.embeds for live in running for image in live.images if image.content in live.held}
        left = self.cache_embeds - sum(kept.values())
        assert left >= 0, "more is kept than there is room for"
        return EncoderBudget(compute_embeds=self.compute_embeds, cache_embeds=left)


def record(live: Live, running: Sequence[Live], seen: int) -> PrefillRequest:
    kept = {content for each in running for content in each.held}
    return PrefillRequest(
        request_id=str(live.number),
        queue_number=live.number,
        arrival_seconds=float(live.number),
        prompt_tokens=live.length,
        remaining_tokens=live.length - live.context,
        context_tokens=live.context,
        images=tuple(
            prompt_image(image, held=image.content in kept)
            for image in live.images
            if image.end > live.context and image.start < live.context + seen
        ),
    )


@settings(deadline=None, max_examples=300)
@given(planner_settings(), st.lists(pictures("x"), min_size=1, max_size=8), st.data())
def test_every_prompt_ends_and_no_step_is_empty(own: PlannerSettings, prompts, data: st.DataObject) -> None:
    encoder = Encoder(
        data.draw(st.integers(LARGEST, 2 * LARGEST), label="compute"),
        data.draw(st.integers(LARGEST, 60), label="cache"),
    )
    random, room = Random(data.draw(st.integers(0, 99))), data.draw(st.integers(1, 6), label="running at most")
    waiting = [
        Live(number, length, [Picture(f"{number} {image.content}", image.start, image.end) for image in images])
        for number, (length, images) in enumerate(prompts)
    ]
    running: list[Live] = []
    while waiting or running:
        arrived = waiting if not running else [live for live in waiting if random.random() < 0.7]
        step = planned(
            own,
            [record(live, running, own.chunk_size) for live in running],
            [record(live, running, own.chunk_size) for live in arrived],
            room - len(running),
            encoder.budget(running),
        )
        assert step.plan.chunks, "nothing is planned though something could run"
        for live in [*running, *arrived]:
            _advance(live, step.plan.chunks.get(str(live.number), 0))
        running += [live for live in arrived if live.context]
        waiting = [live for live in waiting if not live.context]
        encoder.budget(running)
        for live in running:
            live.held -= {image.content for image in live.images if image.end <= live.context}
        running = [live for live in running if live.context < live.length]


def _advance(live: Live, chunk: int) -> None:
    end = live.context + chunk
    live.held |= {image.content for image in live.images if image.start < end and live.context < image.end and chunk}
    live.context = end
