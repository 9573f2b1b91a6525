"""What lmms-eval reads to know the model: an entry point of the group `lmms_eval.models`. It imports nothing heavy."""

from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

MANIFEST = ModelManifest(model_id="paceline", chat_class_path="paceline.lmms_plugin.model.BudgetedChat")
