"""One colour per group, the same in every format."""

# Neighbours along the network get neighbouring entries, so these differ in lightness as well as
# in hue: they stay apart for readers who see few hues, and visible on white and on black.
PALETTE = (
    "#2f6fd0", "#f0a020", "#0f8a6d", "#e377b4", "#7a4fc9", "#5db7e8", "#c8482a", "#b5b02c",
    "#4a58c4", "#dbb14a", "#3d7f2f", "#f28c6a", "#a03c8c", "#62c4b3", "#9a5a28", "#9aa2dc",
)  # fmt: skip


def group_color(group_id: int) -> str:
    """Return the group's colour as `#rrggbb`; it repeats after `len(PALETTE)` groups."""
    return PALETTE[group_id % len(PALETTE)]
