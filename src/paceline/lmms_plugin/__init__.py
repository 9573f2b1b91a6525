"""Paceline as a chat model of lmms-eval: any of its tasks under a latency budget. Only `manifest` and `model` name lmms-eval."""
