"""Names of what the catalog holds."""

from __future__ import annotations

from chassis.names import ResourcePattern

PUBLISHER = ResourcePattern("publishers/{publisher}")
COLLECTION = ResourcePattern("collections/{collection}")
INSTANCE_TYPE = ResourcePattern("instanceTypes/{instance_type}")
MODEL = ResourcePattern("publishers/{publisher}/models/{model}")
VERSION = ResourcePattern("publishers/{publisher}/models/{model}/versions/{version}")
# A project's own models.
OWN_MODEL = ResourcePattern("projects/{project}/models/{model}")
OWN_VERSION = ResourcePattern("projects/{project}/models/{model}/versions/{version}")


def model_named(short: str) -> str:
    """The resource name of what the content calls `PUBLISHER/MODEL`."""
    publisher, _, model = short.partition("/")
    return MODEL.format(publisher=publisher, model=model)


def id_of(model: str) -> str:
    """The last part of a model's name."""
    return model.rpartition("/")[2]


def owner_of(model: str) -> str:
    """The publisher, or the project, in a model's name."""
    return model.split("/")[1]
