"""What transformers says under the knobs of one request, by a model that was built for them alone."""

import torch
from transformers import AutoModelForCausalLM


class Transformers:
    """The oracle: for each configuration a model of fewer layers and experts a token, without any cache or hook."""

    def __init__(self, folder, ranking):
        self.folder, self.ranking, self.models = folder, ranking, {}
        self.whole = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")

    def model(self, knobs):
        if knobs not in self.models:
            config = self.whole.config.__class__.from_pretrained(self.folder)
            layers = config.num_hidden_layers
            skipped = set(self.ranking[: layers - (knobs.num_active_blocks or layers)])
            kept = [layer for layer in range(layers) if layer not in skipped]
            config.num_hidden_layers = len(kept)
            if knobs.top_k is not None and hasattr(config, "num_experts_per_tok"):
                config.num_experts_per_tok = knobs.top_k
            made = type(self.whole)(config)
            weights = {}
            for name, value in self.whole.state_dict().items():
                parts = name.split(".")
                if parts[1] != "layers":
                    weights[name] = value
                elif int(parts[2]) in kept:
                    weights[".".join([*parts[:2], str(kept.index(int(parts[2]))), *parts[3:]])] = value
            made.load_state_dict(weights)
            self.models[knobs] = made.eval()
        return self.models[knobs]

    @torch.no_grad()
    def logprobs(self, knobs, prompt, tokens):
        """Return the log-probabilities before each of the tokens that follow a prompt."""
        row = torch.tensor([[*prompt, *tokens]])
        return self.model(knobs)(row, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)

    @torch.no_grad()
    def greedy(self, knobs, prompt, count):
        """Return the likeliest tokens after a prompt."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.model(knobs)(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        return tokens[len(prompt) :]
