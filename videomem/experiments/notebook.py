"""How results are shown: as a sentence, in notebooks also with a table, and with `plot()` as a figure."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from videomem.experiments.tables import Table
from videomem.utils.text import printable

if TYPE_CHECKING:
    from videomem.experiments.drawing import Figure


class Overview(NamedTuple):
    """What a notebook shows of a result.

    Attributes:
        sentences: Sentences, the first of which is the most important one.
        table: The table below them.
    """

    sentences: list[str]
    table: Table


class NotebookResult:
    """A result that notebooks show, by functions of it that are named as `module:function`."""

    # By name, because they draw with matplotlib, which a result is created without, and import the result.
    _overview: ClassVar[str]
    _figure: ClassVar[str]

    def __init_subclass__(cls, overview: str = "", figure: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if overview:
            cls._overview, cls._figure = overview, figure
        cls.__repr__ = NotebookResult.__repr__  # type: ignore[method-assign] # A dataclass keeps what its class has.

    def __repr__(self) -> str:
        """The main sentence, instead of all values."""
        sentence = printable(resolve_name(self._overview)(self).sentences[0])
        return f"{type(self).__name__}: {sentence}\nplot() draws it; help() on it lists its attributes"

    def plot(self) -> Figure:
        """Draws the main figure of the result.

        Returns:
            A matplotlib figure, which a notebook shows and `savefig` saves.
        """
        figure: Figure = resolve_name(self._figure)(self)
        return figure

    def _repr_html_(self) -> str:
        from videomem.experiments.html import page

        return page("notebook.html.jinja", overview=resolve_name(self._overview)(self))
