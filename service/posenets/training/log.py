"""What is seen of a run while it goes on: a bar, and curves (`tensorboard --logdir FOLDER`)."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from posenets.training.records import BadData


class TrainingLog:
    """Writes named figures against the number of examples seen; a resumed run goes on in it.

    What was logged beyond the examples `seen` at the resume is not shown: it comes again.
    """

    def __init__(self, folder: Path, *, seen: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BadData(
                "--log needs TensorBoard; install it with: pip install 'posegate[log]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=seen + 1 if seen else None)

    def add(self, figures: Mapping[str, float], seen: int) -> None:
        """One point of each figure's curve."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, seen)
        self._writer.flush()


def progress_bar(console: Console) -> Progress:
    """A bar under what is printed, on a terminal only."""
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
