"""Cached prefixes of requests under different knobs are kept apart, whatever a client says."""

from typing import Any

from paceline.vllm_plugin.relied_on import EngineRequest, SchedulerMixin
from paceline.vllm_plugin.request_knobs import NATIVE, asked_knobs, salted


class SaltedPrefixes(SchedulerMixin):
    """Mixin before one of vLLM's schedulers: a request with knobs of its own has a salt of its own."""

    def add_request(self, request: Any) -> None:
        """Queue a request, the hashes of its blocks made anew where they would stand for another configuration's."""
        salt_prefixes(request)
        super().add_request(request)


def salt_prefixes(request: EngineRequest) -> None:
    """Salt the hashes of a request's blocks by its knobs; one without knobs is left as it is."""
    knobs = asked_knobs(request.sampling_params)
    if knobs != NATIVE:
        request.cache_salt = salted(request.cache_salt, knobs)
        request.block_hashes = []
        request.update_block_hashes()
