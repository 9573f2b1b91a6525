"""The profile store: what a run measured, kept so that nothing is lost, doubled or silently dropped.

Not here: percentiles, fronts and tables of it (`paceline.analyze`, `paceline.fit`), and how it was measured.
"""

from paceline.profiles.core_exp_writing import write_core_exp
from paceline.profiles.fields import CONFIGURATION, SCHEMA, LeftOut
from paceline.profiles.importing import import_profile
from paceline.profiles.merging import MergedProfile, merge_profiles
from paceline.profiles.reading import Profile, read_profile
from paceline.profiles.splits import SampleParts, Split, split_samples
from paceline.profiles.store import ProfileStore

__all__ = [
    "CONFIGURATION",
    "SCHEMA",
    "LeftOut",
    "MergedProfile",
    "Profile",
    "ProfileStore",
    "SampleParts",
    "Split",
    "import_profile",
    "merge_profiles",
    "read_profile",
    "split_samples",
    "write_core_exp",
]
