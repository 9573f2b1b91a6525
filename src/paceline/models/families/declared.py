"""The families, a few lines each. A new one is an entry here and a tiny model in tests/families."""

from paceline.models.families.family import Family
from paceline.models.families.tier_rules import area

AREA = Family(tiers=area())
AREA_AND_FRAMES = Family(tiers=area(frames=True))

FAMILIES: dict[str, Family] = {
    "exaone4_5": AREA,
    "glm46v": AREA_AND_FRAMES,
    "glm4v": AREA_AND_FRAMES,
    "qwen2_5_vl": AREA,
    "qwen2_vl": AREA,
    "qwen3_5": AREA,
    "qwen3_5_moe": AREA,
    "qwen3_vl": AREA,
    "qwen3_vl_moe": AREA,
}
