"""An answer's text while its tokens come: what can be handed on at once, cut at the first stop sequence."""

from collections.abc import Callable, Sequence

HALF = "\N{REPLACEMENT CHARACTER}"  # the bytes of a letter may lie in several tokens
WINDOW = 8  # tokens decoded again before new ones, so that a decoder sees what they stand behind


class AnswerText:
    """Joins the texts of tokens; the parts that `add` and `rest` return are together the answer, without spaces around it.

    `decode` turns token ids into text. `stopped` says that a stop sequence was met: what follows it is left out, and so is it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._written, self._held = 0, ""  # tokens whose text was taken over, and text that may yet be cut
        self._begun, self.stopped = False, False

    def add(self, token_id: int) -> str:
        """Take the next token and return the text that is certain now."""
        if self.stopped:
            return ""
        self._ids.append(token_id)
        new = self._new_text()
        if new.endswith(HALF):
            return ""
        self._written = len(self._ids)
        return self._certain(new)

    def rest(self) -> str:
        """Return what is left when no token follows."""
        if self.stopped:
            return ""
        text = self._certain(self._new_text())
        last, self._held = self._held.rstrip(), ""
        return text if self.stopped else text + last

    def _new_text(self) -> str:
        start = max(0, self._written - WINDOW)
        before = self._decode(self._ids[start : self._written])
        return self._decode(self._ids[start:])[len(before) :]

    def _certain(self, new: str) -> str:
        text = self._held + new
        if not self._begun:
            text = text.lstrip()
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)].rstrip()
        kept = len(text) - max(self._may_be_cut(text), len(text) - len(text.rstrip()))
        certain = text[:kept].rstrip()
        self._held = text[len(certain) :]
        self._begun = self._begun or bool(certain)
        return certain

    def _may_be_cut(self, text: str) -> int:
        """Return how many letters at the end may be the beginning of a stop sequence."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
