"""The demonstration agent's tools: the time, sums, notes kept in the session's state, and reminders."""

import functools
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated

from agent_framework import FunctionInvocationContext, FunctionTool, tool

from afactors_channels import HostError

from ..current import get_current_turn
from .sums import evaluate

Clock = Callable[[], datetime]

NOTES = "demo_notes"
"""Where the notes are in `AgentSession.state`: a list of strings."""
MOST_NOTES = 100
LONGEST_NOTE = 500
LONGEST_WAIT = 60 * 24 * 366
"""Minutes until the latest reminder."""
REMINDER = "Reminder: "
"""How a reminder begins when it comes."""
ALONE = "I have no calendar here: I remind only where afactors hosts me."


def make_tools(clock: Clock) -> list[FunctionTool]:
    """Make the tools; the first tells the time by `clock`."""

    @tool
    def current_time(zone: Annotated[str, "An IANA time zone or a city: Europe/Paris, Tokyo"]) -> str:
        """Tell the date and time in a time zone."""
        found = find_zone(zone)
        if found is None:
            return f"I know no time zone called {zone!r}. Try one such as Europe/Paris, Tokyo or UTC."
        name, info = found
        return f"In {name} it is {clock().astimezone(info):%H:%M on %A, %d %B %Y}."

    notes = [add_note, list_notes, delete_note]
    return [current_time, calculate, *notes, remind_me, my_reminders, cancel_reminder]


def find_zone(name: str) -> tuple[str, tzinfo] | None:
    """Find a time zone by its IANA name or by its city, in any case; None when there is none."""
    wanted = "_".join(name.split()).casefold()
    if wanted in {"utc", "gmt"}:  # known even where no time zone data is installed
        return "UTC", UTC
    key = _zones().get(wanted)
    return (key, zoneinfo.ZoneInfo(key)) if key else None


@functools.cache
def _zones() -> dict[str, str]:
    """Every time zone of this machine, by its name and by the last part of its name."""
    found: dict[str, str] = {}
    for key in sorted(zoneinfo.available_timezones()):
        found.setdefault(key.casefold(), key)
        found.setdefault(key.casefold().rpartition("/")[2], key)
    return found


@tool
def calculate(expression: Annotated[str, "Numbers with + - * / // % ** and brackets"]) -> str:
    """Work out an arithmetic expression."""
    try:
        return f"{expression} = {evaluate(expression)}"
    except ValueError as error:
        return f"I cannot work out {expression}: {error}."


@tool
def add_note(text: Annotated[str, "What to note down"], context: FunctionInvocationContext) -> str:
    """Add a note to this conversation."""
    notes = _notes(context)
    if len(notes) >= MOST_NOTES:
        return f"You have {MOST_NOTES} notes, and that is all I keep. Delete one first."
    if len(text) > LONGEST_NOTE:
        return f"That is too long for a note: I keep {LONGEST_NOTE} characters."
    _keep(context, [*notes, text])
    return f"Noted as number {len(notes) + 1}: {text}"


@tool
def list_notes(context: FunctionInvocationContext) -> str:
    """List the notes of this conversation."""
    notes = _notes(context)
    if not notes:
        return "There are no notes yet."
    return "Your notes:\n" + "\n".join(f"{n}. {text}" for n, text in enumerate(notes, 1))


@tool
def delete_note(number: Annotated[int, "Its number in the list"], context: FunctionInvocationContext) -> str:
    """Delete one note of this conversation."""
    notes = _notes(context)
    if not 1 <= number <= len(notes):
        return f"There is no note {number}."
    _keep(context, notes[: number - 1] + notes[number:])
    return f"Deleted note {number}: {notes[number - 1]}"


@tool
async def remind_me(
    minutes: Annotated[float, "In how many minutes"], what: Annotated[str, "What to remind the user of"]
) -> str:
    """Remind the user of something later."""
    turn = get_current_turn()
    if turn is None:
        return ALONE
    if not 0 <= minutes <= LONGEST_WAIT or len(what) > LONGEST_NOTE:
        return f"I remind of {LONGEST_NOTE} characters at most, within a year."
    try:
        await turn.schedule(timedelta(minutes=minutes), f"{REMINDER}{what}")
    except HostError as error:
        return f"I cannot do that: {error.message}"
    return (
        f"I will remind you in {minutes:g} minute{'s' * (minutes != 1)}: {what}\n"
        "Where I can write to you first, I will; here it becomes a part of this conversation, which you see when you "
        "look at it again."
    )


@tool
async def my_reminders() -> str:
    """List the reminders that have not come yet."""
    turn = get_current_turn()
    if turn is None:
        return ALONE
    found = await turn.list_reminders()
    lines = (
        f"{n}. {datetime.fromtimestamp(one.due, UTC):%H:%M on %d %B} (UTC): {one.text.removeprefix(REMINDER)}"
        for n, one in enumerate(found, 1)
    )
    return "\n".join(["Your reminders:", *lines]) if found else "There are no reminders."


@tool
async def cancel_reminder(number: Annotated[int, "Its number in the list"]) -> str:
    """Cancel a reminder."""
    turn = get_current_turn()
    if turn is None:
        return ALONE
    found = await turn.list_reminders()
    if not 1 <= number <= len(found):
        return f"There is no reminder {number}."
    await turn.cancel_reminder(found[number - 1].reminder_id)
    return f"Cancelled reminder {number}: {found[number - 1].text.removeprefix(REMINDER)}"


def _notes(context: FunctionInvocationContext) -> list[str]:
    notes: list[str] = context.session.state.get(NOTES, []) if context.session else []
    return notes


def _keep(context: FunctionInvocationContext, notes: list[str]) -> None:
    """Put a new list in the session's state: the old one may be in someone's snapshot."""
    if context.session:
        context.session.state[NOTES] = notes
