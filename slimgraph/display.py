"""Objects that show themselves: a table in the terminal, the same in notebooks."""

from abc import abstractmethod
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from rich.table import Table

MOST_ROWS = 40


class Rows(NamedTuple):
    """A small table: headings, and one tuple of texts per row."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def shortened(self) -> "Rows":
        """Cut a long table, and say so in its last row."""
        if len(self.rows) <= MOST_ROWS:
            return self
        more = f"and {len(self.rows) - MOST_ROWS} more"
        last = (more, *[""] * (len(self.headings) - 1))
        return self._replace(rows=[*self.rows[:MOST_ROWS], last])


class Shown:
    """Gives a class a rich table and an HTML table from one `to_rows`."""

    __slots__ = ()

    @abstractmethod
    def to_rows(self) -> Rows:
        """Return what there is to show."""

    def __rich__(self) -> Table:
        """Return a table for the terminal."""
        shown = self.to_rows().shortened()
        table = Table(title=shown.title, title_justify="left", box=None, header_style="dim")
        for heading in shown.headings:
            table.add_column(heading, overflow="fold")
        for row in shown.rows:
            table.add_row(*(text.replace("[", "\\[") for text in row))
        return table

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        shown = self.to_rows().shortened()
        heads = "".join(f"<th>{escape(heading)}</th>" for heading in shown.headings)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"
            for row in shown.rows
        )
        return f"<table><caption>{escape(shown.title)}</caption><tr>{heads}</tr>{body}</table>"
