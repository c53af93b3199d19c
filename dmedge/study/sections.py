"""The sections of the page, from what the cells found."""

from dmedge.study.context import Study
from dmedge.study.error_section import errors
from dmedge.study.findings import Findings
from dmedge.study.other_sections import attention, comparison, cost, robustness, wishes
from dmedge.study.page import Section
from dmedge.study.task_sections import classification, fusions, modalities, retrieval

ORDER = (classification, retrieval, modalities, fusions, comparison, cost, attention, errors, robustness, wishes)


def sections(study: Study, found: Findings) -> list[Section]:
    """All sections, in the order of the page."""
    return [make(study, found) for make in ORDER]
