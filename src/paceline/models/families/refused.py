"""Families that cannot work here, each with the reason."""

NEEDS_TORCHVISION = "its image processor exists for torchvision only, and Paceline reads pictures with Pillow"
NEEDS_TIMM = "its vision tower is a model of timm, which is not part of transformers"
CROSS_ATTENTION = (
    "its decoder looks at the picture by cross-attention in some blocks, so there are no image tokens to cap"
)
QUERIES = "its queries turn every picture into the same few embeddings, with no `get_image_features` beside a decoder to steer"
PICTURE_CODES = (
    "its pictures become codes of its own vocabulary, which it also draws with; they are not features of an encoder"
)
RESIDUAL_STREAMS = (
    "its decoder hands several residual streams from block to block, and skipping one is not shown to be right yet"
)
SHARED_BLOCKS = "its blocks read keys or chosen tokens of earlier ones, and skipping those is not shown to be right yet"
SPEECH = (
    "its `generate()` runs a second decoder that speaks, so one time to the first token does not describe a request"
)
ENCODER_DECODER = "it reads the prompt in an encoder, so no key-value cache of a decoder grows while blocks are skipped"

THINKER = "it is one part of a checkpoint of two decoders, which is loaded whole and speaks"

REFUSED: dict[str, str] = {
    "apertus1p5": PICTURE_CODES,
    "blip": CROSS_ATTENTION,
    "blip-2": QUERIES,
    "chameleon": PICTURE_CODES,
    "cohere2_vision": NEEDS_TORCHVISION,
    "deepseek_ocr2": "its tiles and its whole picture are of two sizes, which no tier rule here counts yet",
    "diffusion_gemma": "it writes tokens by diffusion, a block at once, so there is no first token to wait for",
    "emu3": PICTURE_CODES,
    "evolla": "it reads proteins, not pictures",
    "fast_vlm": NEEDS_TIMM,
    "florence2": ENCODER_DECODER,
    "fuyu": "it has no image encoder whose time could be told: a linear layer puts patches of pixels into the decoder",
    "gemma3n": NEEDS_TIMM,
    "gemma4_unified": NEEDS_TORCHVISION,
    "git": "its pictures stand before the prompt without tokens of their own, so there are none to cap",
    "glm5_next": RESIDUAL_STREAMS,
    "hy_v4_vl": RESIDUAL_STREAMS,
    "hunyuan_vl": NEEDS_TORCHVISION,
    "idefics": CROSS_ATTENTION,
    "inkling2": NEEDS_TORCHVISION,
    "inkling2_loop": NEEDS_TORCHVISION,
    "inkling_mm_model": NEEDS_TORCHVISION,
    "instructblip": QUERIES,
    "instructblipvideo": QUERIES,
    "kimi_k25": NEEDS_TORCHVISION,
    "kosmos-2": QUERIES,
    "kosmos-2.5": QUERIES,
    "lfm2_vl": NEEDS_TORCHVISION,
    "llama4": NEEDS_TORCHVISION,
    "minicpm_ocr": NEEDS_TORCHVISION,
    "minimax_m3_vl": NEEDS_TORCHVISION,
    "mistral4": "it only reads text",
    "mistral_large4": SHARED_BLOCKS,
    "mllama": CROSS_ATTENTION,
    "molmo2": f"{NEEDS_TORCHVISION} (transformers has the family since 5.20)",
    "muse_glimmer": NEEDS_TORCHVISION,
    "muse_spark": NEEDS_TORCHVISION,
    "nemotron_h_omni": NEEDS_TORCHVISION,
    "perception_lm": NEEDS_TIMM,
    "phi4_multimodal": NEEDS_TORCHVISION,
    "pi0": NEEDS_TORCHVISION,
    "pix2struct": ENCODER_DECODER,
    "pp_formulanet": NEEDS_TORCHVISION,
    "qwen2_5_omni": SPEECH,
    "qwen2_5_omni_thinker": THINKER,
    "qwen3_omni_moe": SPEECH,
    "qwen3_omni_moe_thinker": THINKER,
    "qwen4_exp": RESIDUAL_STREAMS,
    "shieldgemma2": "it judges pictures and generates nothing",
    "step3p7": NEEDS_TORCHVISION,
    "t5gemma2": ENCODER_DECODER,
    "udop": ENCODER_DECODER,
    "unlimited_ocr": NEEDS_TORCHVISION,
    "vision-encoder-decoder": CROSS_ATTENTION,
}
