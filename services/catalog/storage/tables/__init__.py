"""The catalog's tables; one file a topic."""

from services.catalog.storage.tables.base import CHASSIS, CatalogTable
from services.catalog.storage.tables.benchmarks import DatasetRow, PerformanceRunRow, ScenarioRow, ScoreRow
from services.catalog.storage.tables.discovery import ModelTaskRow, SeenPriceRow
from services.catalog.storage.tables.governance import LicenseAcceptanceRow, PolicyRow
from services.catalog.storage.tables.hardware import InstanceTypeRow
from services.catalog.storage.tables.lifecycle import AnnouncedChangeRow, NoticeOverrideRow
from services.catalog.storage.tables.models import (
    CollectionRow,
    LicenseTextRow,
    ModelRow,
    ModelTextRow,
    PublisherRow,
    VersionOriginRow,
    VersionRow,
)
from services.catalog.storage.tables.registry import (
    ContentRow,
    ProjectContentRow,
    UploadPartRow,
    UploadRow,
    VersionContentRow,
)
from services.catalog.storage.tables.sources import (
    SeenDeploymentRow,
    SourceModelRow,
    SourceRow,
    SyncRunRow,
)

__all__ = [
    "CHASSIS",
    "AnnouncedChangeRow",
    "CatalogTable",
    "CollectionRow",
    "ContentRow",
    "DatasetRow",
    "InstanceTypeRow",
    "LicenseAcceptanceRow",
    "LicenseTextRow",
    "ModelRow",
    "ModelTaskRow",
    "ModelTextRow",
    "NoticeOverrideRow",
    "PerformanceRunRow",
    "PolicyRow",
    "ProjectContentRow",
    "PublisherRow",
    "ScenarioRow",
    "ScoreRow",
    "SeenDeploymentRow",
    "SeenPriceRow",
    "SourceModelRow",
    "SourceRow",
    "SyncRunRow",
    "UploadPartRow",
    "UploadRow",
    "VersionContentRow",
    "VersionOriginRow",
    "VersionRow",
]
