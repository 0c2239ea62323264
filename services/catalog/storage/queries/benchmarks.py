"""Scores, datasets and performance runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, delete, select, type_coerce
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database import UnitOfWork
from services.catalog.storage.queries.pages import table
from services.catalog.storage.tables import DatasetRow, PerformanceRunRow, ScenarioRow, ScoreRow

_SCORE, _RUN, _DATASET = table(ScoreRow), table(PerformanceRunRow), table(DatasetRow)


async def datasets(session: AsyncSession, scenario: str = "") -> list[DatasetRow]:
    """Datasets by id, of one scenario or of all."""
    query = select(DatasetRow).order_by(_DATASET.c.id)
    return list((await session.execute(query.where(_DATASET.c.scenario == scenario) if scenario else query)).scalars())


async def scenario(session: AsyncSession, scenario_id: str) -> ScenarioRow | None:
    """One scenario."""
    query = select(ScenarioRow).where(table(ScenarioRow).c.id == scenario_id)
    return (await session.execute(query)).scalar_one_or_none()


async def scores_page(session: AsyncSession, model: str, after: tuple[str, str], limit: int) -> list[ScoreRow]:
    """Scores of a model after (dataset, id), in that order."""
    dataset, score_id = after
    query = (
        select(ScoreRow)
        .where(
            _SCORE.c.model == model,
            (_SCORE.c.dataset > dataset) | ((_SCORE.c.dataset == dataset) & (_SCORE.c.id > score_id)),
        )
        .order_by(_SCORE.c.dataset, _SCORE.c.id)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def scores_of_models(session: AsyncSession, models: Sequence[str]) -> list[ScoreRow]:
    """Every score of a few models."""
    query = select(ScoreRow).where(_SCORE.c.model.in_(models)).order_by(_SCORE.c.dataset, _SCORE.c.id)
    return list((await session.execute(query)).scalars())


async def scores_on(session: AsyncSession, dataset_ids: Sequence[str]) -> list[ScoreRow]:
    """Every score on some datasets."""
    query = select(ScoreRow).where(_SCORE.c.dataset.in_(dataset_ids)).order_by(_SCORE.c.id)
    return list((await session.execute(query)).scalars())


async def shared_runs(session: AsyncSession, models: Sequence[str] | None = None) -> list[PerformanceRunRow]:
    """Runs that everybody sees, newest first; of some models, or of all."""
    query = select(PerformanceRunRow).where(_RUN.c.project_uid == "").order_by(_RUN.c.run_time.desc(), _RUN.c.id)
    return list((await session.execute(query if models is None else query.where(_RUN.c.model.in_(models)))).scalars())


async def runs_page(
    session: AsyncSession, project_uid: str, model: str, after: tuple[int, str], limit: int
) -> list[PerformanceRunRow]:
    """What a project sees after (run time in Unix microseconds, id), newest first."""
    before_us, run_id = after
    run_us = type_coerce(_RUN.c.run_time, BigInteger)
    query = (
        select(PerformanceRunRow)
        .where(
            _RUN.c.project_uid.in_(("", project_uid)),
            (run_us < before_us) | ((run_us == before_us) & (_RUN.c.id > run_id)),
        )
        .order_by(run_us.desc(), _RUN.c.id)
        .limit(limit)
    )
    return list((await session.execute(query.where(_RUN.c.model == model) if model else query)).scalars())


async def replace_of_origin(uow: UnitOfWork, row_class: Any, origin: str, rows: Sequence[dict[str, Any]]) -> None:
    """Leave exactly these rows of one origin; those that are there already are not touched."""
    rows_table = table(row_class)
    known = {row.id for row in await uow.session.execute(select(rows_table.c.id).where(rows_table.c.origin == origin))}
    wanted = {row["id"]: row for row in rows}
    gone = sorted(known - wanted.keys())
    for start in range(0, len(gone), 500):
        await uow.session.execute(delete(rows_table).where(rows_table.c.id.in_(gone[start : start + 500])))
    if added := [wanted[row_id] for row_id in sorted(wanted.keys() - known)]:
        await uow.session.execute(rows_table.insert(), added)
