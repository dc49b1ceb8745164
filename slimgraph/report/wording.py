"""Numbers and names as people read them."""

from typing import Any

from rich.cells import cell_len

NOTHING = "\N{EN DASH}"  # for a number that does not exist
TIMES = " \N{MULTIPLICATION SIGN} "
RUNGS = {  # how a model was traced
    1: "by its own Python",
    2: "by its own Python, with opaque parts",
    3: "by torch.export",
}
_UNITS = ("", "k", "M", "G", "T", "P")


def count(number: float | None) -> str:
    """Write a count with three digits: `25.6 M`.

    Args:
        number: The count, or None where there is none.

    Returns:
        The text; a dash for None.

    Example:
        >>> [count(n) for n in (7, 999, 1000, 999_950, 25_557_032)]
        ['7', '999', '1.00 k', '1.00 M', '25.6 M']
    """
    if number is None:
        return NOTHING
    value = float(number)
    for unit in _UNITS:
        # 999.5 already reads as 1.00 of the next unit once it is rounded to three digits.
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            return f"{_three_digits(value)} {unit}" if unit else f"{value:.4g}"
        value /= 1000
    raise AssertionError("the last unit takes every number")


def _three_digits(value: float) -> str:
    for digits, limit in ((2, 9.995), (1, 99.95)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def size(number: int | None) -> str:
    """Write a file size: `1.23 MB`, decimal units."""
    if number is None:
        return NOTHING
    text = count(number)
    return f"{text}B" if " " in text else f"{text} B"


def share(after: float | None, before: float | None) -> str:
    """Write what remains: `49.8 %`; a dash if nothing was compressed or there was nothing."""
    if after is None or not before:
        return NOTHING
    return f"{100 * after / before:.1f} %"


def change(before: int | None, after: int | None) -> str:
    """Write `9.41 k → 5.88 k`, or the first alone if nothing was compressed."""
    return count(before) if after is None else f"{count(before)} → {count(after)}"


def shape(sizes: list[int] | None) -> str:
    """Write a shape, its sizes joined by multiplication signs."""
    return NOTHING if sizes is None else TIMES.join(map(str, sizes)) or "scalar"


def printable(name: str) -> str:
    r"""Escape what would act on a terminal or vanish: controls, line ends, lone surrogates.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def shorten(name: str, width: int) -> str:
    """Cut the middle out of a name that is wider than `width` terminal cells.

    The end says most in a module path, so it keeps the larger part.

    Example:
        >>> shorten("features.denseblock3.denselayer16.conv2", 24)
        'features.…elayer16.conv2'
    """
    name = printable(name)
    if cell_len(name) <= width:
        return name
    head, tail = _cells(name, width * 2 // 5), _cells(name[::-1], (width - 1) - width * 2 // 5)
    return f"{head}…{tail[::-1]}" if width > 1 else "…"[:width]


def _cells(text: str, width: int) -> str:
    used = 0
    for position, character in enumerate(text):
        used += cell_len(character)
        if used > width:
            return text[:position]
    return text


def totals(report: dict[str, Any]) -> list[tuple[str, int, int | None]]:
    """List what is counted: its name, before, after (None if nothing was compressed)."""
    before, after = report["totals"]["before"], report["totals"]["after"] or {}
    names = {"params": "parameters", "macs": "MACs", "channels": "channels"}
    return [(name, before[key], after.get(key)) for key, name in names.items()]


def frozen_share(group: dict[str, Any]) -> str:
    """Write how much of a group is frozen: empty, `all`, or the number of channels."""
    frozen = group["frozen"]
    if group["prunable"] and not frozen:
        return ""
    return "all" if frozen in (0, group["size"]) else str(frozen)


def leaf(part: dict[str, str]) -> str:
    """Name an opaque part of the model and why it is one."""
    return f"{printable(part['module']) or 'the forward'}: {printable(part['reason'])}"


def number(value: float | None) -> str:
    """Write a measured number; `None` where there is none."""
    return NOTHING if value is None else f"{value:.4g}"
