"""How results are shown: as a sentence, in notebooks also with a table, and with `plot()` as a figure."""

from __future__ import annotations

from importlib import import_module
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
    """A result that notebooks show; `view` names a module with its functions `overview` and `figure`."""

    _view: ClassVar[str]

    def __init_subclass__(cls, view: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if view:
            cls._view = view
        cls.__repr__ = NotebookResult.__repr__  # type: ignore[method-assign] # A dataclass keeps what its class has.

    def __repr__(self) -> str:
        """The main sentence, instead of all values."""
        sentence = printable(self._of_view("overview").sentences[0])
        return f"{type(self).__name__}: {sentence}\nplot() draws it; help() on it lists its attributes"

    def plot(self) -> Figure:
        """Draws the main figure of the result.

        Returns:
            A matplotlib figure, which a notebook shows and `savefig` saves.
        """
        figure: Figure = self._of_view("figure")
        return figure

    def _repr_html_(self) -> str:
        from videomem.experiments.html import environment

        template = environment().get_template("notebook.html.jinja")
        return template.render(overview=self._of_view("overview"))

    def _of_view(self, name: str) -> Any:
        # By name, because views draw with matplotlib, which a result is created without, and import the result.
        return getattr(import_module(self._view), name)(self)
