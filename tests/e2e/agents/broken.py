"""Things that somebody may try to host by mistake."""

from agent_framework import Message, WorkflowBuilder, WorkflowContext, executor


def number_factory() -> int:
    """A factory of something that is no agent."""
    return 42


def failing_factory() -> object:
    """A factory that fails, and says so in several lines."""
    raise RuntimeError("no database\nat all")


@executor(id="step")
async def step(message: str | list[Message], context: WorkflowContext) -> None:
    """The one step of a workflow, which says nothing."""


workflow = WorkflowBuilder(start_executor=step).build()
workflow_as_agent = workflow.as_agent()
