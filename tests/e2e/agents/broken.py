"""Things that somebody may try to host by mistake."""

from agent_framework import WorkflowBuilder, WorkflowContext, executor


def number_factory() -> int:
    """A factory of something that is no agent."""
    return 42


def failing_factory() -> object:
    """A factory that fails, and says so in several lines."""
    raise RuntimeError("no database\nat all")


@executor(id="step")
async def step(message: str, context: WorkflowContext) -> None:
    """The one step of a workflow."""


workflow = WorkflowBuilder(start_executor=step).build()
