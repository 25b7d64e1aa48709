import pytest

from jaxcnn.research.evaluate_run import FinishedRun
from tests.evaluation.small import quick_compiler


@pytest.fixture(autouse=True)
def _quick_compilation(monkeypatch):
    """Programs of these tests run once or twice: optimising them takes longer than running them."""
    monkeypatch.setattr(
        FinishedRun, "_compile", lambda _, what, lowered: quick_compiler(what, lowered)
    )
