"""What billing refuses."""

from __future__ import annotations

from chassis.errors import Code, Problem


class PriceNotFound(Problem):
    """No price list has a price for it now."""

    code = Code.NOT_FOUND
    reason = "PRICE_NOT_FOUND"


class OfferNotAvailable(Problem):
    """The model or type exists and is not offered this way here."""

    code = Code.FAILED_PRECONDITION
    reason = "OFFER_NOT_AVAILABLE"


class QuoteNotFound(Problem):
    """No such quote in this project."""

    code = Code.NOT_FOUND
    reason = "QUOTE_NOT_FOUND"


class LineNotFound(Problem):
    """The bill of this period has no such line."""

    code = Code.NOT_FOUND
    reason = "LINE_NOT_FOUND"


class PeriodInvalid(Problem):
    """Not a month."""

    code = Code.INVALID_ARGUMENT
    reason = "PERIOD_INVALID"


class RecordInvalid(Problem):
    """A usage record that cannot be true; it is quarantined."""

    code = Code.INVALID_ARGUMENT
    reason = "RECORD_INVALID"


class PriceListInvalid(Problem):
    """A price list file with a wrong field, or one that changed after it was loaded."""

    code = Code.INVALID_ARGUMENT
    reason = "PRICE_LIST_INVALID"


class InstanceFactInvalid(Problem):
    """Facts about one instance that contradict each other."""

    code = Code.INVALID_ARGUMENT
    reason = "INSTANCE_FACT_INVALID"
