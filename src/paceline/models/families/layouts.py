"""How a picture's tokens stand in the prompt: runs of image tokens between the family's own markers.

A layout returns marker text and the lengths of runs, in order. Markers are written as the families' own processors write them.
"""

from paceline.models.families.plans import ImagePlan, Layout


def bare(plan: ImagePlan) -> tuple[str | int, ...]:
    """Image tokens alone: the chat template writes what stands around them."""
    return (plan.tokens,)


def wrapped(before: str, after: str) -> Layout:
    """All image tokens between one marker before and one after."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        return (before, plan.tokens, after)

    return layout


def rows(row_end: str, picture_end: str) -> Layout:
    """One run a row of tokens with a marker after each; the last row ends with the picture's."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        lines = [(plan.columns, row_end)] * (plan.rows - 1) + [(plan.columns, picture_end)]
        return tuple(part for line in lines for part in line)

    return layout


def numbered_tiles(start: str, tile: str, whole: str, end: str) -> Layout:
    """Tiles numbered from 1, the whole picture last: `tile` has one `{number}`."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        *tiles, last = plan.pieces
        tagged = [(tile.format(number=number), tokens) for number, tokens in enumerate(tiles, 1)]
        return (start, *(part for pair in tagged for part in pair), whole, last, end)

    return layout


def rows_and_columns(fence: str, tile: str, whole: str) -> Layout:
    """Tiles tagged by row and column, a line a row, the whole picture last: `tile` has `{row}` and `{column}`."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        *tiles, last = plan.pieces
        parts: list[str | int] = []
        for index, tokens in enumerate(tiles):
            row, column = divmod(index, plan.columns)
            parts += [fence, tile.format(row=row + 1, column=column + 1), tokens]
            if column == plan.columns - 1:
                parts.append("\n")
        newline = ["\n"] if parts else []
        return (*parts, *newline, fence, whole, last, fence)

    return layout


def lone_tile(fence: str, tile: str, several: Layout) -> Layout:
    """A picture of one tile is tagged as such and ends its line, several are laid out by `several`: as Granite Docling does."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        return several(plan) if len(plan.pieces) > 1 else (fence, tile, plan.tokens, "\n")

    return layout


def fenced_pieces(fence: str) -> Layout:
    """A marker before each piece and after the last."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        return (*(part for tokens in plan.pieces for part in (fence, tokens)), fence)

    return layout


def sentences(before: str, one: Layout, between: str, after_first: str) -> Layout:
    """Each piece laid out by `one`; several are told apart in words, as Gemma 3 does its crops."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        whole, *crops = (one(ImagePlan(pieces=(tokens,))) for tokens in plan.pieces)
        if not crops:
            return whole
        spaced = [part for index, crop in enumerate(crops) for part in ((between, *crop) if index else crop)]
        return (before, *whole, after_first, *spaced)

    return layout


def grid_of_atoms(start: str, grid: str, row_end: str, column_end: str, end: str) -> Layout:
    """The whole picture first, then its tiles row by row with markers between, as Ovis 2 does."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        parts: list[str | int] = [start, plan.pieces[0], grid]
        for index, tokens in enumerate(plan.pieces[1:]):
            if index:
                parts.append(column_end if index % plan.columns else row_end)
            parts.append(tokens)
        return (*parts, end)

    return layout


def slices(start: str, end: str, slice_start: str, slice_end: str) -> Layout:
    """The whole picture first, then its slices, a line a row, as MiniCPM-V does."""

    def layout(plan: ImagePlan) -> tuple[str | int, ...]:
        parts: list[str | int] = [start, plan.pieces[0], end]
        for index, tokens in enumerate(plan.pieces[1:]):
            if index and index % plan.columns == 0:
                parts.append("\n")
            parts += [slice_start, tokens, slice_end]
        return tuple(parts)

    return layout
