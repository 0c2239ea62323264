"""The client's own witness: every call it made, as it saw it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chassis.ids import new_uid


@dataclass
class Call:
    """One call. `request_id` is the client's own name for it, which stands on the usage record."""

    request_id: str
    endpoint: str
    serverless: bool
    answered: bool = False
    record_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    instance_uid: str = ""

    def answer(self, input_tokens: int, output_tokens: int, *, record_id: str = "", instance_uid: str = "") -> None:
        """The whole answer arrived with this usage."""
        self.answered = True
        self.input_tokens, self.output_tokens = input_tokens, output_tokens
        self.record_id, self.instance_uid = record_id, instance_uid


@dataclass
class ClientLog:
    """Calls in the order they were begun."""

    calls: list[Call] = field(default_factory=list)

    def begin(self, endpoint: str, *, serverless: bool) -> Call:
        """Note a call before it is made."""
        call = Call(f"demo-{new_uid()}", endpoint, serverless)
        self.calls.append(call)
        return call

    @property
    def answered(self) -> list[Call]:
        """Calls whose whole answer arrived."""
        return [call for call in self.calls if call.answered]

    def answers_by_instance(self, calls: list[Call]) -> Counter[str]:
        """How many of these calls each instance answered."""
        return Counter(call.instance_uid for call in calls if call.answered)
