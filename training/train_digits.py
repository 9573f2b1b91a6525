"""Train the embedded `digits` model from nothing: a small Qwen3-VL-MoE that reads, counts and looks for digits.

    python training/train_digits.py --out src/paceline/models/digits --work build/digits

glibc hands large blocks back to the system at every free and faults them in again; MALLOC_MMAP_THRESHOLD_=4294967296
MALLOC_TRIM_THRESHOLD_=8589934592 in the environment saves about a quarter of the time.

Two stages. First the vision tower alone: every merged token is told which digit covers it (without this stage nothing
is read in the same time). Then the whole model: each picture is asked eight questions at once, packed behind one image
prefix under a block-diagonal mask, so one costly picture gives eight lessons. Every step draws a tier; some steps draw
fewer experts or fewer decoder blocks, so that every configuration works and fewer of anything still costs accuracy.

A checkpoint is written every 100 steps; the same command goes on from it. Each step's data depends on (seed, stage,
step) alone, so an interrupted run sees the same pictures as an uninterrupted one.

Shapes: B batch, L sequence, P patches of the batch, D patch width, T merged tokens of the batch, A answer tokens.
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from paceline.datasets.digits import CANVAS_SHAPES, PROMPTS, DigitScene, compose_scene, digit_questions, digit_scans
from paceline.models.importance import block_influence, rank_blocks
from paceline.models.knobs import applied
from paceline.models.loading import SETTINGS_FILE, load_model
from paceline.models.structure import find_parts
from paceline.records import KnobConfig

PATCH, MERGE, HIDDEN = 8, 2, 128
PIXELS_PER_TOKEN = (PATCH * MERGE) ** 2
TIER_TOKEN_CAPS = {"low": 16, "medium": 49, "high": 100}
BATCH = {"low": 40, "medium": 32, "high": 24}
TIER_OF_STEP = ("low", "medium", "high", "medium", "high")
DEFAULT_GRID = {"default_top_ks": [1, 4, 8], "default_block_counts": [8, 12, 16]}
CALIBRATION_QUESTIONS = 24
NO_DIGIT = 10
EXIST_LESSONS = 3  # of each answer, a picture
NAMING_WEIGHT, NAMING_SHARPNESS = 0.5, 12.0
PRESENCE_WEIGHT, PRESENCE_BLOCK = 0.5, 8
SPECIAL = (
    "<pad>",
    "<eos>",
    "<unk>",
    "<|vision_start|>",
    "<|image_pad|>",
    "<|vision_end|>",
    "<|video_pad|>",
    "<answer>",
)
CHAT_TEMPLATE = (
    "{%- for message in messages %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{%- else %}{{ part.text }}{%- endif %}"
    "{%- endfor %}{%- endfor %}{%- if add_generation_prompt %}<answer>{%- endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer over the prompts' own words; anything else becomes `<unk>`."""
    words = " ".join(text.format(digit="") for texts in PROMPTS.values() for text in texts).lower()
    pieces = sorted({piece for piece in words.replace("?", " ? ").replace(".", " . ").replace(",", " , ").split()})
    vocabulary = [*SPECIAL, *map(str, range(10)), "yes", "no", *pieces]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[3:]),
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLMoeConfig:
    """Return the 5.0 M parameter architecture: tower 4 x 96, decoder 16 x 128, 16 experts of 32, 8 of them active."""
    token = tokenizer.convert_tokens_to_ids
    return Qwen3VLMoeConfig(
        text_config=dict(
            vocab_size=64,
            hidden_size=HIDDEN,
            intermediate_size=256,
            moe_intermediate_size=32,
            num_hidden_layers=16,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_experts=16,
            num_experts_per_tok=8,
            max_position_embeddings=4096,
            rope_parameters=dict(
                rope_type="default", mrope_section=[6, 5, 5], mrope_interleaved=True, rope_theta=10000.0
            ),
            tie_word_embeddings=True,
            decoder_sparse_step=1,
            bos_token_id=None,
            eos_token_id=token("<eos>"),
            pad_token_id=token("<pad>"),
        ),
        vision_config=dict(
            depth=4,
            hidden_size=96,
            intermediate_size=256,
            num_heads=4,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            out_hidden_size=HIDDEN,
            num_position_embeddings=400,
            deepstack_visual_indexes=[1, 2],
        ),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build_image_processor() -> Qwen2VLImageProcessorPil:
    """Return the PIL image processor, capped at the `high` tier."""
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 4 * PIXELS_PER_TOKEN, "longest_edge": TIER_TOKEN_CAPS["high"] * PIXELS_PER_TOKEN},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """One training batch: scenes of one shape at one tier, seen through the real image processor."""

    scenes: list[DigitScene]
    pixels_PD: torch.Tensor
    grid_B3: torch.Tensor

    @property
    def rows_columns(self) -> tuple[int, int]:
        """Merged token rows and columns of every picture in the batch."""
        return int(self.grid_B3[0, 1]) // MERGE, int(self.grid_B3[0, 2]) // MERGE


def draw_lessons(processor: Qwen2VLImageProcessorPil, tier: str, random: np.random.Generator) -> Lessons:
    """Compose a batch of training scenes of one canvas shape."""
    shape = CANVAS_SHAPES[int(random.integers(len(CANVAS_SHAPES)))]
    scenes = [compose_scene(digit_scans("train"), random, shape) for _ in range(BATCH[tier])]
    size = {"shortest_edge": 4 * PIXELS_PER_TOKEN, "longest_edge": TIER_TOKEN_CAPS[tier] * PIXELS_PER_TOKEN}
    seen = processor([scene.picture for scene in scenes], size=size, return_tensors="pt")
    return Lessons(scenes=scenes, pixels_PD=seen["pixel_values"], grid_B3=seen["image_grid_thw"])


def covering_digits(lessons: Lessons) -> torch.Tensor:
    """Label every merged token with the digit that covers its centre, or NO_DIGIT; shape (T,)."""
    rows, columns = lessons.rows_columns
    labels = np.full((len(lessons.scenes), rows, columns), NO_DIGIT)
    for picture, scene in zip(labels, lessons.scenes, strict=True):
        width, height = scene.picture.size
        x = (np.arange(columns) + 0.5) * width / columns
        y = (np.arange(rows) + 0.5) * height / rows
        reach = 0.5 * min(width / columns, height / rows)  # a digit smaller than a token still labels its token
        for each in scene.placed:
            grow = max(0.0, reach - each.side / 2)
            inside_x = (x > each.left - grow) & (x < each.left + each.side + grow)
            inside_y = (y > each.top - grow) & (y < each.top + each.side + grow)
            picture[np.ix_(inside_y, inside_x)] = each.digit
    return torch.from_numpy(labels.reshape(-1))


def eight_questions(scene: DigitScene, random: np.random.Generator) -> list[tuple[str, str]]:
    """Ask one read, one count and six exist questions (three yes, three no), each in a random wording."""
    wording = {name: texts[int(random.integers(len(texts)))] for name, texts in PROMPTS.items()}
    present = sorted(set(scene.digits))
    absent = sorted(set(range(10)) - set(present))
    asked = [(wording["digits_read"], " ".join(map(str, scene.digits)))]
    asked.append((wording["digits_count"], str(len(scene.digits))))
    for pool, answer in ((present, "yes"), (absent, "no")):
        for digit in random.choice(pool, size=EXIST_LESSONS):
            text = PROMPTS["digits_exist"][int(random.integers(3))]
            asked.append((text.format(digit=digit), answer))
    return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Token ids (B, L), answer targets (B, L; -100 elsewhere), positions (3, B, L) and attention mask (B, 1, L, L)."""

    ids_BL: torch.Tensor
    targets_BL: torch.Tensor
    positions_3BL: torch.Tensor
    mask_B1LL: torch.Tensor


def pack(lessons: Lessons, tokenizer: PreTrainedTokenizerFast, random: np.random.Generator) -> Packed:
    """Lay eight questions behind one image prefix; each sees the picture and itself, at the positions it would have alone."""
    rows, columns = lessons.rows_columns
    start, image, end, answer = (tokenizer.convert_tokens_to_ids(t) for t in (*SPECIAL[3:6], "<answer>"))
    prefix = [start, *[image] * (rows * columns), end]
    grid = np.stack([np.zeros(rows * columns), *np.divmod(np.arange(rows * columns), columns)]).astype(int) + 1
    after = 1 + max(rows, columns)
    prefix_positions = np.concatenate([np.zeros((3, 1), int), grid, np.full((3, 1), after)], axis=1)
    packed: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for scene in lessons.scenes:
        ids, targets, segments, offsets = list(prefix), [-100] * len(prefix), [0] * len(prefix), []
        for segment, (prompt, reply) in enumerate(eight_questions(scene, random), start=1):
            question = [*tokenizer.encode(prompt, add_special_tokens=False), answer]
            reply_ids = [*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]
            ids += question + reply_ids
            targets += [-100] * (len(question) - 1) + reply_ids + [-100]
            segments += [segment] * (len(question) + len(reply_ids))
            offsets += range(after + 1, after + 1 + len(question) + len(reply_ids))
        packed.append((ids, targets, segments, offsets))
    return _tensors(packed, prefix_positions, tokenizer.pad_token_id)


def _tensors(packed, prefix_positions: np.ndarray, pad: int) -> Packed:
    longest = max(len(ids) for ids, *_ in packed)
    batch, prefix = len(packed), prefix_positions.shape[1]
    ids_BL = np.full((batch, longest), pad)
    targets_BL = np.full((batch, longest), -100)
    segments_BL = np.full((batch, longest), -1)
    positions_3BL = np.zeros((3, batch, longest), int)
    positions_3BL[:, :, :prefix] = prefix_positions[:, None]
    for row, (ids, targets, segments, offsets) in enumerate(packed):
        ids_BL[row, : len(ids)], targets_BL[row, : len(ids)] = ids, targets
        segments_BL[row, : len(ids)] = segments
        positions_3BL[:, row, prefix : len(ids)] = offsets
    segment = torch.from_numpy(segments_BL)
    own_or_prefix = (segment[:, None, :] == segment[:, :, None]) | (segment[:, None, :] == 0)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    return Packed(
        ids_BL=torch.from_numpy(ids_BL),
        targets_BL=torch.from_numpy(targets_BL),
        positions_3BL=torch.from_numpy(positions_3BL),
        mask_B1LL=(own_or_prefix & causal)[:, None],
    )


def answer_loss(
    model: Qwen3VLMoeForConditionalGeneration, lessons: Lessons, packed: Packed, digit_ids: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss over answer tokens and image tokens, and the share of answer tokens predicted right."""
    seen = model.model.get_image_features(lessons.pixels_PD, lessons.grid_B3)
    naming = naming_loss(model, torch.cat(list(seen.pooler_output)), covering_digits(lessons), digit_ids)
    embeds = model.get_input_embeddings()(packed.ids_BL)
    image_BL = packed.ids_BL == model.config.image_token_id
    embeds = embeds.masked_scatter(image_BL[..., None], torch.cat(list(seen.pooler_output)))
    out = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=packed.mask_B1LL,
        position_ids=packed.positions_3BL,
        visual_pos_masks=image_BL,
        deepstack_visual_embeds=[torch.cat(list(level)) for level in seen.deepstack_features],
        use_cache=False,
    )
    answered = packed.targets_BL != -100
    logits_AV = model.lm_head(out.last_hidden_state[answered])
    targets_A = packed.targets_BL[answered]
    loss = F.cross_entropy(logits_AV, targets_A) + NAMING_WEIGHT * naming
    return loss, (logits_AV.argmax(-1) == targets_A).float().mean()


def naming_loss(
    model: Qwen3VLMoeForConditionalGeneration, features_TH: torch.Tensor, labels_T: torch.Tensor, digit_ids: list[int]
) -> torch.Tensor:
    """Pull each image token that shows a digit towards that digit's own word embedding.

    Without it "is there a 7?" stays at chance: the question's 7 has nothing in the picture to match with.
    """
    words_VH = F.normalize(model.get_input_embeddings().weight[digit_ids], dim=-1)
    shows = labels_T < NO_DIGIT
    cosine_TV = F.normalize(features_TH[shows], dim=-1) @ words_VH.T
    return F.cross_entropy(NAMING_SHARPNESS * cosine_TV, labels_T[shows])


def dense_experts(
    experts: torch.nn.Module, hidden_TH: torch.Tensor, chosen_TK: torch.Tensor, weight_TK: torch.Tensor
) -> torch.Tensor:
    """Compute every expert for every token and weight the unchosen by 0: equal results, a third less time in training."""
    weight_TE = hidden_TH.new_zeros(len(hidden_TH), experts.num_experts).scatter(1, chosen_TK, weight_TK)
    both_TEI = F.linear(hidden_TH, experts.gate_up_proj.flatten(0, 1)).unflatten(1, (experts.num_experts, -1))
    gate_TEI, up_TEI = both_TEI.chunk(2, dim=-1)
    active_TEI = experts.act_fn(gate_TEI) * up_TEI * weight_TE[..., None]
    return active_TEI.flatten(1) @ experts.down_proj.transpose(1, 2).flatten(0, 1)


class PresenceLoss:
    """Asks, halfway through the decoder and where yes or no is due, which digits are shown and which one is asked for.

    "Is there a 7?" then only has to compare the two; from yes and no alone it stays at chance for long, for neither is
    worth knowing before the other is known. The head is thrown away.
    """

    def __init__(self, model: Qwen3VLMoeForConditionalGeneration, digit_ids: list[int], yes_no: list[int]) -> None:
        self.head = torch.nn.Linear(HIDDEN, 20)  # ten for presence, ten for the digit asked
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=3e-3)
        self.digit_ids, self.yes_no = digit_ids, torch.tensor(yes_no)
        self.hidden_BLH: torch.Tensor | None = None
        model.model.language_model.layers[PRESENCE_BLOCK].register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        self.hidden_BLH = output

    def loss(self, lessons: Lessons, packed: Packed) -> torch.Tensor:
        """Return both cross entropies, over all yes-or-no positions of the last forward pass."""
        assert self.hidden_BLH is not None
        rows, columns = torch.isin(packed.targets_BL, self.yes_no).nonzero(as_tuple=True)
        shown_BD = torch.zeros(len(lessons.scenes), 10)
        for row, scene in enumerate(lessons.scenes):
            shown_BD[row, list(scene.digits)] = 1.0
        asked = [self._asked(packed.ids_BL[row, : column + 1]) for row, column in zip(rows, columns, strict=True)]
        logits = self.head(self.hidden_BLH[rows, columns])
        presence = F.binary_cross_entropy_with_logits(logits[:, :10], shown_BD[rows])
        return presence + F.cross_entropy(logits[:, 10:], torch.tensor(asked))

    def _asked(self, ids_L: torch.Tensor) -> int:
        """Return the last digit before the answer: the one the question names."""
        return next(self.digit_ids.index(token) for token in reversed(ids_L.tolist()) if token in self.digit_ids)


class RouterBalance:
    """Collects router logits during a forward pass and gives the Switch load-balancing loss over them."""

    def __init__(self, routers: list[torch.nn.Module]) -> None:
        self.routers, self.seen = routers, []
        for router in routers:
            router.register_forward_hook(lambda _module, _args, output: self.seen.append(output[0]))

    def loss(self) -> torch.Tensor:
        """Return experts x sum(share routed x mean probability), averaged over layers; forget what was collected."""
        losses = []
        for logits_TE in self.seen:
            probability_TE = logits_TE.softmax(-1)
            chosen = probability_TE.topk(self.routers[0].top_k, dim=-1).indices
            share_E = F.one_hot(chosen, logits_TE.shape[-1]).float().sum(1).mean(0) / self.routers[0].top_k
            losses.append(logits_TE.shape[-1] * (share_E * probability_TE.mean(0)).sum())
        self.seen = []
        return torch.stack(losses).mean()


def draw_configuration(random: np.random.Generator) -> tuple[int, list[int]]:
    """Return the experts a token takes and the blocks to pass through: all of both in three steps of four."""
    kind = random.random()
    if kind < 0.12:
        return int(random.choice([4, 6])), []
    if kind < 0.25:
        return 8, (1 + random.permutation(15)[: int(random.choice([2, 4, 6, 8]))]).tolist()
    return 8, []


class Checkpoint:
    """The state of one stage on disk: written whole under another name, then renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, parts: dict[str, torch.nn.Module | torch.optim.Optimizer]) -> int:
        """Restore every part and return the steps already done (0 without a checkpoint)."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])

    def save(self, step: int, parts: dict[str, torch.nn.Module | torch.optim.Optimizer]) -> None:
        """Write every part and the step count."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".tmp")
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, fresh)
        fresh.replace(self.path)


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Return the linear warm-up and linear decay schedule's rate at `step`."""
    return peak * min(1.0, (step + 1) / warmup) * (1 - step / steps) + 1e-5


def train_tower(model, processor, *, steps: int, seed: int, checkpoint: Checkpoint) -> None:
    """First stage: the vision tower and a throw-away head learn which digit covers each merged token."""
    head = torch.nn.Linear(HIDDEN, NO_DIGIT + 1)
    trained = [*model.model.visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.98), weight_decay=0.01)
    weight = torch.tensor([1.0] * NO_DIGIT + [0.3])  # most tokens are empty
    parts = {"tower": model.model.visual, "head": head, "optimizer": optimizer}
    started, first = time.monotonic(), checkpoint.load(parts)
    for step in range(first, steps):
        random = np.random.default_rng([seed, 1, step])
        lessons = draw_lessons(processor, ("medium", "medium", "high")[step % 3], random)
        labels_T = covering_digits(lessons)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 2e-3, 100)
        seen = model.model.get_image_features(lessons.pixels_PD, lessons.grid_B3)
        logits = head(torch.cat(list(seen.pooler_output)))
        loss = F.cross_entropy(logits, labels_T, weight=weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            digit = labels_T < NO_DIGIT
            right = (logits.argmax(-1)[digit] == labels_T[digit]).float().mean().item()
            report("tower", step + 1, steps, first, started, loss=loss.item(), digit_tokens=right)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            checkpoint.save(step + 1, parts)


def train_model(model, processor, tokenizer, *, steps: int, seed: int, checkpoint: Checkpoint) -> None:
    """Second stage: the whole model answers eight questions a picture, under a random tier and configuration."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    balance = RouterBalance([block.mlp.gate for block in model.model.language_model.layers])
    digit_ids = tokenizer.convert_tokens_to_ids([str(digit) for digit in range(10)])
    presence = PresenceLoss(model, digit_ids, tokenizer.convert_tokens_to_ids(["yes", "no"]))
    parts = {"model": model, "optimizer": optimizer}
    parts |= {"presence": presence.head, "presence_optimizer": presence.optimizer}
    parts_of = find_parts(model)
    started, first, losses, seen_losses, rights = time.monotonic(), checkpoint.load(parts), [], [], []
    for step in range(first, steps):
        random = np.random.default_rng([seed, 2, step])
        tier = TIER_OF_STEP[step % len(TIER_OF_STEP)]
        lessons = draw_lessons(processor, tier, random)
        top_k, skipped = draw_configuration(random)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 1.5e-3, 150)
        with applied(parts_of, KnobConfig(tier=tier, top_k=top_k, num_active_blocks=16 - len(skipped)), skipped):
            packed = pack(lessons, tokenizer, random)
            loss, right = answer_loss(model, lessons, packed, digit_ids)
        shown = presence.loss(lessons, packed)
        optimizer.zero_grad(set_to_none=True)
        presence.optimizer.zero_grad(set_to_none=True)
        (loss + PRESENCE_WEIGHT * shown + 0.01 * balance.loss()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        presence.optimizer.step()
        seen_losses.append(shown.item())
        losses.append(loss.item())
        rights.append(right.item())
        if (step + 1) % 25 == 0:
            report(
                "model",
                step + 1,
                steps,
                first,
                started,
                loss=np.mean(losses[-25:]),
                presence=np.mean(seen_losses[-25:]),
                answers_right=np.mean(rights[-25:]),
            )
        if (step + 1) % 100 == 0 or step + 1 == steps:
            checkpoint.save(step + 1, parts)


def report(stage: str, step: int, steps: int, first: int, started: float, **figures: float) -> None:
    """Print one line of progress with the time left."""
    left = (time.monotonic() - started) / max(1, step - first) * (steps - step)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print(f"{stage} {step}/{steps}  {shown}  {left / 60:.1f} min left", flush=True)


def save_package(model, processor, tokenizer, out: Path, provenance: dict[str, object]) -> None:
    """Write weights (float16), configuration, tokenizer, processor settings and block ranking where `paceline` loads them."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    tokenizer.save_pretrained(out)
    settings = {"tier_token_caps": TIER_TOKEN_CAPS, **DEFAULT_GRID, "training": provenance}
    _write_settings(out, settings)
    saved = load_model(str(out), device="cpu")
    asked = [
        each for name in PROMPTS for each in digit_questions(name, split="validation", count=CALIBRATION_QUESTIONS)
    ]
    influence = block_influence(saved.parts, (saved.prepare(q.picture, q.prompt, "high").inputs for q in asked))
    settings["block_influence"] = [round(each, 5) for each in influence]
    _write_settings(out, {**settings, "block_ranking": list(rank_blocks(influence))})


def _write_settings(out: Path, settings: dict[str, object]) -> None:
    (out / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Parse the command line and run both stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the finished model")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--tower-steps", type=int, default=2200)
    parser.add_argument("--model-steps", type=int, default=1650)
    parser.add_argument("--seed", type=int, default=3407)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tokenizer, processor = build_tokenizer(), build_image_processor()
    model = Qwen3VLMoeForConditionalGeneration(build_config(tokenizer))
    for block in model.model.language_model.layers:
        block.mlp.experts.forward = partial(dense_experts, block.mlp.experts)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    started = time.monotonic()
    stages = {"seed": arguments.seed, "steps": arguments.tower_steps}
    train_tower(model, processor, **stages, checkpoint=Checkpoint(arguments.work / "tower.pt"))
    stages["steps"] = arguments.model_steps
    train_model(model, processor, tokenizer, **stages, checkpoint=Checkpoint(arguments.work / "model.pt"))
    provenance = {
        "seed": arguments.seed,
        "tower_steps": arguments.tower_steps,
        "model_steps": arguments.model_steps,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "torch": torch.__version__,
    }
    save_package(model, processor, tokenizer, arguments.out, provenance)


if __name__ == "__main__":
    main()
