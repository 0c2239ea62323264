"""python -m services.inference"""

from __future__ import annotations

from chassis.service import run_service
from services.inference.main import main
from services.inference.settings import InferenceSettings

if __name__ == "__main__":
    settings = InferenceSettings.from_environment()
    run_service("inference", settings, lambda context: main(context, settings))
